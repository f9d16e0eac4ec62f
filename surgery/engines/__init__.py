"""Engines: everything that computes a frame, behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Sample:
    """What one frame is computed from.

    Shapes: `in0` and `in1` float32 [1,3,H,W] in 0..1, RGB; any H and W.

    Attributes:
        in0: the frame at time 0.
        in1: the frame at time 1.
        timestep: the time of the wanted frame, between 0 and 1, both excluded.
    """

    in0: np.ndarray
    in1: np.ndarray
    timestep: float


class Engine(Protocol):
    """Computes frames. Pads to what its model needs and crops the result."""

    name: str

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample.

        Raises:
            EngineError: the engine is not installed, did not run, or died.
        """
        ...
