"""Lift a model in a process of its own: what strangers wrote is run, and may crash or not end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery import errors
from surgery.engines.child import Task, run_worker
from surgery.errors import EngineDied, SurgeryError, UnsupportedOp
from surgery.hub.model import HubModel, from_onnx

if TYPE_CHECKING:
    import onnx

WORKER = "surgery.sources.lift.lift_worker"
MODEL = "model"
LABEL = "label"
REFUSAL = "refusal"
# The largest RIFE takes half a minute on one core.
TIME_LIMIT = 600.0


def lift_apart(model: onnx.ModelProto, *, label: str, time_limit: float = TIME_LIMIT) -> HubModel:
    """As `surgery.sources.from_onnx.lift_model`, in a process with bounded time and memory.

    Memory is bounded on Linux alone.

    Units: time_limit in seconds.

    Raises:
        HubError: as `lift_model`; also for a model that takes more memory than a RIFE does.
        UnsupportedOp, ProofFailed: as `lift_model`.
        EngineDied: the process took too much time, or crashed, which may be the machine's fault.
    """
    import onnx

    task = Task({LABEL: label}, {MODEL: np.frombuffer(model.SerializeToString(), np.uint8)})
    try:
        outcome = run_worker(WORKER, task, engine="lifting", time_limit=time_limit)
    except EngineDied as error:
        raise EngineDied(
            f"{label} was not lifted, which takes running it in onnxruntime: {error}; where that "
            "comes again, export the model again, with height and width open"
        ) from error
    if REFUSAL in outcome.facts:
        raise read_refusal(outcome.facts[REFUSAL])
    lifted = onnx.ModelProto.FromString(outcome.arrays[MODEL].tobytes())
    return from_onnx(lifted)


def write_refusal(error: SurgeryError) -> dict[str, Any]:
    """An error as facts that JSON can say."""
    facts: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    if isinstance(error, UnsupportedOp):
        facts |= {"target": error.target, "refusals": error.refusals}
    return facts


def read_refusal(facts: Mapping[str, Any]) -> SurgeryError:
    """The error that `write_refusal` wrote."""
    if facts["kind"] == UnsupportedOp.__name__:
        return UnsupportedOp(facts["target"], facts["refusals"])
    kind: type[SurgeryError] = getattr(errors, facts["kind"])
    return kind(facts["message"])
