"""onnx's own reference implementation, with the numpy definition of `rife::Warp`.

It is slow, and independent of every optimised runtime: the one to ask when two engines disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs
from surgery.engines.onnxruntime import refuse_timestep
from surgery.errors import EngineError
from surgery.hub import warp
from surgery.hub.model import V4_OUTPUT, HubMetadata, read_onnx

if TYPE_CHECKING:
    import onnx


class ReferenceEngine:
    """Run a hub model in `onnx.reference`. Small frames only: a convolution takes seconds."""

    name = "onnx reference"

    def __init__(self, model: onnx.ModelProto | Path) -> None:
        """Prepare a model, given as a file or open.

        Raises:
            HubError: the file is no hub model.
        """
        from onnx.reference import ReferenceEvaluator

        proto = read_onnx(model) if isinstance(model, Path) else model
        properties = {entry.key: entry.value for entry in proto.metadata_props}
        self._metadata = HubMetadata.from_properties(properties)
        # The new operator takes precedence over the body, whose GridSample mode is refused.
        self._evaluator = ReferenceEvaluator(proto, new_ops=[warp.reference_op()])

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, not clamped.

        Raises:
            EngineError: the sample does not fit, or an operator failed.
        """
        return [self._run_one(sample) for sample in samples]

    def _run_one(self, sample: Sample) -> np.ndarray:
        refuse_timestep(self._metadata, sample)
        inputs = network_inputs(sample, self._metadata.padding)
        try:
            (frame,) = self._evaluator.run([V4_OUTPUT], inputs)
        # Any operator raises what it likes: NotImplementedError, ValueError, TypeError.
        except Exception as error:
            raise EngineError(f"{self.name} failed: {error}") from error
        height, width = sample.in0.shape[-2:]
        return crop_frame(np.asarray(frame), height, width)
