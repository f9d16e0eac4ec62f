"""Rewrites of a hub model, one in each module; `pipeline.py` lists them in their order."""
