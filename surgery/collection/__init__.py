"""Many models at once: `collect` converts and proves them, `score` measures them on real footage.

Both cut their work into tasks of pure functions and hand them to one crew (`crew.py`), on this
machine or on a cluster that exists.
"""
