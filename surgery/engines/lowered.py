"""Lowered models in a bare onnxruntime, fed as the hosts of their layouts feed them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from surgery.engines import Sample
from surgery.engines.frames import check_sample, crop_frame, network_inputs, pad_frame
from surgery.engines.onnxruntime import OnnxRuntimeEngine, first_line, refuse_timestep
from surgery.errors import EngineError

if TYPE_CHECKING:
    import onnxruntime as ort

Feed = dict[str, np.ndarray]


class LoweredEngine(OnnxRuntimeEngine):
    """Run a lowered model that kept the hub's metadata.

    Attributes:
        name: what messages and reports call the engine.
    """

    def __init__(self, model: bytes, layout: str) -> None:
        """Prepare; `layout` is a key of `FEEDS`.

        Raises:
            EngineError: there is no such layout.
        """
        if layout not in FEEDS:
            raise EngineError(f"layout {layout[:40]!r}; accepted: {', '.join(FEEDS)}")
        super().__init__(model, "function")
        self.name = f"onnxruntime, layout {layout}"
        self._layout = layout

    def _compute(self, session: ort.InferenceSession, sample: Sample) -> np.ndarray:
        refuse_timestep(self._metadata, sample)
        check_sample(sample)
        inputs = FEEDS[self._layout](sample, self._metadata.padding)
        try:
            (frame,) = session.run(None, inputs)
        # onnxruntime's exceptions share no base class but Exception.
        except Exception as error:
            raise EngineError(f"{self.name} failed: {first_line(error)}") from error
        return crop_frame(frame, *sample.in0.shape[-2:])


def feed_v1(sample: Sample, padding: int) -> Feed:
    """The 11 channels of `vsmlrt-v1`: padded frames, timestep, places in -1..1 and their steps.

    Source: vs-mlrt scripts/vsmlrt.py, `RIFEMerge`.
    """
    in0, in1 = pad_frame(sample.in0, padding), pad_frame(sample.in1, padding)
    height, width = in0.shape[-2:]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    planes = [sample.timestep, x, y, 2 / (width - 1), 2 / (height - 1)]
    shaped = [np.broadcast_to(np.float32(plane), (1, 1, height, width)) for plane in planes]
    return {"input": np.concatenate([in0, in1, *shaped], axis=1, dtype=np.float32)}


def feed_v2(sample: Sample, padding: int) -> Feed:
    """The 7 channels of `vsmlrt-v2`: frames as they are, and the timestep.

    Source: vs-mlrt scripts/vsmlrt.py, `RIFEMerge`.
    """
    plane = np.full((1, 1, *sample.in0.shape[-2:]), sample.timestep, np.float32)
    return {"input": np.concatenate([sample.in0, sample.in1, plane], axis=1)}


FEEDS: Mapping[str, Callable[[Sample, int], Feed]] = {
    "plain": network_inputs,
    "vsmlrt-v1": feed_v1,
    "vsmlrt-v2": feed_v2,
}
