"""What an engine that runs in a child process measured besides its frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from surgery.engines import Sample
from surgery.engines.child import Outcome
from surgery.engines.frames import crop_frame
from surgery.errors import EngineError


@dataclass(frozen=True)
class Recording:
    """One run over some samples.

    Attributes:
        frames: float32 [1,3,H,W] for each sample.
        blobs: for each sample the blobs that were asked for, with a batch axis, at padded size.
        seconds: how long each sample took; loading the model and copying frames are left out.
        load_seconds: how long loading the model took, without starting the process.
        peak_bytes: the most memory that the process held; None where nothing tells.
    """

    frames: list[np.ndarray]
    blobs: list[dict[str, np.ndarray]]
    seconds: list[float]
    load_seconds: float
    peak_bytes: int | None


def name_array(index: int, blob: str) -> str:
    """The name under which a sample's array travels to the worker and back."""
    return f"{index}/{blob}"


def read_recording(
    outcome: Outcome, samples: Sequence[Sample], engine: str, output: str, blobs: Sequence[str] = ()
) -> Recording:
    """Take apart what a worker handed back, with the frames cropped to their samples.

    Raises:
        EngineError: a frame has not the shape of a frame.
    """
    arrays = outcome.arrays
    frames = [
        _crop_output(arrays[name_array(index, output)], sample, engine)
        for index, sample in enumerate(samples)
    ]
    return Recording(
        frames=frames,
        blobs=[_take_blobs(arrays, index, blobs) for index in range(len(samples))],
        seconds=list(outcome.facts["seconds"])[: len(samples)],
        load_seconds=outcome.facts["load_seconds"],
        peak_bytes=outcome.facts["peak_bytes"],
    )


def _crop_output(array: np.ndarray, sample: Sample, engine: str) -> np.ndarray:
    height, width = sample.in0.shape[-2:]
    is_frame = array.ndim == 4 and array.shape[:2] == (1, 3)
    if not is_frame or array.shape[2] < height or array.shape[3] < width:
        raise EngineError(
            f"{engine} gave an output of shape {array.shape} for frames of {width} x {height}; "
            "[1, 3, H, W] of the padded size is expected"
        )
    return crop_frame(array, height, width)


def _take_blobs(
    arrays: Mapping[str, np.ndarray], index: int, blobs: Sequence[str]
) -> dict[str, np.ndarray]:
    return {blob: arrays[name_array(index, blob)] for blob in blobs}
