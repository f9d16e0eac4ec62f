"""The commands of `tools/bench.py`, one module each."""
