"""The process in which `surgery.sources.lift.lift_apart` lifts a model."""

from __future__ import annotations

import numpy as np
import onnx

from surgery.engines.child import Outcome, Task, serve
from surgery.errors import SurgeryError
from surgery.sources.from_onnx import lift_model
from surgery.sources.lift.lift_apart import LABEL, MODEL, REFUSAL, write_refusal


def work(task: Task) -> Outcome:
    """Lift the model; what is wrong with it is told as it would be in the caller's process."""
    model = onnx.ModelProto.FromString(task.arrays[MODEL].tobytes())
    try:
        closed = lift_model(model, label=task.facts[LABEL]).to_onnx()
    except SurgeryError as error:
        return Outcome({REFUSAL: write_refusal(error)}, {})
    written = closed.SerializeToString(deterministic=True)
    return Outcome({}, {MODEL: np.frombuffer(written, np.uint8)})


if __name__ == "__main__":
    serve(work)
