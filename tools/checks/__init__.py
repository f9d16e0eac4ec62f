"""The commands of `tools/check.py`, one module each."""
