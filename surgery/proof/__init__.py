"""Proof: do two results agree, is a graph sound, and could the comparison have told."""
