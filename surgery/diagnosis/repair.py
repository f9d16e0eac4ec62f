"""Repair a model folder by way of the hub, and prove that nothing else changed.

Import reads what was meant, and translation writes it as every runtime wants it: constants folded
into convolutions, flows named, Splits made, 1x1 kernels widened.
"""

from __future__ import annotations

import copy
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from surgery.diagnosis.bound_values import bound_values
from surgery.diagnosis.examine import MISSING_BIN, Examination, Fault, mend_values
from surgery.engines import Sample
from surgery.engines.ncnn import NcnnEngine
from surgery.errors import ProofFailed, SurgeryError
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.formats.ncnn_shapes import infer_channels
from surgery.formats.ncnn_splits import insert_splits
from surgery.hub import warp
from surgery.hub.model import V4_OUTPUT
from surgery.passes import edit
from surgery.progress import Progress, silent
from surgery.proof.compare import Comparison, compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.structure import WARP_LAYER
from surgery.proof.tolerances import NCNN_FP16_WEIGHTS, NCNN_FP32, Tolerance
from surgery.sources.from_ncnn import import_graph
from surgery.targets.folder_names import V4
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn

if TYPE_CHECKING:
    from surgery.hub.model import HubModel


SEED = 5
TIMESTEP = 0.3
# Two paddings by one, so that height and width differ.
PROOF_SIDES = (2, 1)


@dataclasses.dataclass(frozen=True)
class Repair:
    """A repaired model, proven.

    Attributes:
        made: the model, not written yet.
        exact: the original against the repaired model, both with fp32 weights.
        rounded: the original against the model as it was made; None when that has fp32 weights.
    """

    made: NcnnModel
    exact: Comparison
    rounded: Comparison | None


def repair(examination: Examination, options: NcnnOptions, progress: Progress = silent) -> Repair:
    """Repair what was examined.

    Raises:
        SurgeryError: it is a folder of three networks, or a fault that nobody can mend is left
            (missing weights, layers unknown to the hub); the message lists those.
        RuntimeRefused: the runtime that was asked for cannot run the model even so.
        ProofFailed: the repaired model does not compute what the original does.
    """
    if examination.kind != V4:
        raise SurgeryError(
            f"{examination.folder} holds three networks; --fix repairs a folder of one, and "
            "'surgery convert' makes a new folder of this one"
        )
    hopeless = [one for one in examination.faults if _is_hopeless(one)]
    hopeless = [one for one in hopeless if one.kind == MISSING_BIN] or hopeless
    if examination.graph is None or hopeless:
        listed = "\n".join(f"  {one.kind}: {one.what}" for one in hopeless)
        raise SurgeryError(f"{examination.folder} cannot be repaired:\n{listed}")
    graph = copy.deepcopy(examination.graph)
    mend_values(graph)
    progress("repairing")
    hub = import_graph(graph, label=examination.folder)
    clipped = _clip_output(hub)
    made = make_ncnn(hub, options)
    progress("proving")
    exact, rounded = _prove(graph, made, clipped)
    return Repair(made, exact, rounded)


def _is_hopeless(fault: Fault) -> bool:
    """A folder's name is no fault of what is in it: the repaired one gets another."""
    return not (fault.repairable or fault.harmless or fault.kind == "folder name")


def _clip_output(hub: HubModel) -> bool:
    """Clip what can go below 0; whether that was needed."""
    graph = hub.graph
    if bound_values(graph.toposort())[V4_OUTPUT].low >= 0:
        return False
    (output,) = graph.outputs
    import onnx_graphsurgeon as gs

    inner = gs.Variable(f"{V4_OUTPUT}:open", np.dtype(np.float32))
    output.inputs[0].outputs = [inner]
    bounds = [
        edit.make_constant(f"/{V4_OUTPUT}/Clip.{name}", np.asarray(value, np.float32))
        for name, value in (("min", 0.0), ("max", 1.0))
    ]
    edit.add_node(graph, f"/{V4_OUTPUT}/Clip", "Clip", [inner, *bounds], output=output)
    return True


def _prove(
    graph: NcnnGraph, made: NcnnModel, clipped: bool
) -> tuple[Comparison, Comparison | None]:
    """Compare original and repaired model in ncnn.

    The original runs as it was meant: the same layers and weights, with what would crash or be
    misread mended in the least way.

    Raises:
        ProofFailed: they differ.
    """
    padding = made.metadata.padding
    width, height = (padding * count for count in PROOF_SIDES)
    samples = make_samples([(width, height)], [TIMESTEP], SEED)
    with tempfile.TemporaryDirectory(prefix="surgery-") as scratch:
        expected = _run(_make_safe(graph), Path(scratch, "original"), samples, padding)
        if clipped:
            expected = np.clip(expected, 0.0, 1.0)
        found = _run(made.graph, Path(scratch, "exact"), samples, padding)
        exact = _judge(expected, found, NCNN_FP32)
        if not made.options.fp16:
            return exact, None
        half = _run(made.graph, Path(scratch, "half"), samples, padding, fp16=True)
        return exact, _judge(expected, half, NCNN_FP16_WEIGHTS)


def _run(
    graph: NcnnGraph, folder: Path, samples: Sequence[Sample], padding: int, fp16: bool = False
) -> np.ndarray:
    write_model(folder, graph, fp16=fp16)
    (frame,) = NcnnEngine(folder, padding).run(samples)
    return frame


def _judge(expected: np.ndarray, found: np.ndarray, tolerance: Tolerance) -> Comparison:
    comparison = compare(expected, found)
    verdict = judge(comparison, tolerance)
    if not verdict.passed:
        raise ProofFailed(f"the repaired model differs from the original: {verdict.sentence}")
    return comparison


def _make_safe(graph: NcnnGraph) -> NcnnGraph:
    """The least change that lets plain ncnn run a graph as it was meant."""
    safe = copy.deepcopy(graph)
    channels = infer_channels(safe)
    layers: list[Layer] = []
    for layer in safe.layers:
        is_power = (
            layer.type == "BinaryOp"
            and len(layer.inputs) == 2
            and (ncnn.read_int(layer.params, ncnn.BinaryOp.OP_TYPE) == ncnn.BinaryOpType.POW)
        )
        if is_power:
            layer.type, layer.params = WARP_LAYER, {}
        if layer.type == WARP_LAYER and channels[layer.inputs[1]] > warp.FLOW_CHANNELS:
            layers.append(_cut_flow(layer))
        layers.append(layer)
    safe.layers[:] = layers
    insert_splits(safe)
    return safe


def _cut_flow(layer: Layer) -> Layer:
    """A Crop of the two channels that rife.Warp reads, put in front of it (warp.cpp)."""
    flow = f"{layer.name}.flow"
    bounds: dict[int, ncnn.ParamValue] = {
        int(ncnn.Crop.STARTS): [0],
        int(ncnn.Crop.ENDS): [warp.FLOW_CHANNELS],
        int(ncnn.Crop.AXES): [0],
    }
    crop = Layer("Crop", flow, [layer.inputs[1]], [flow], bounds)
    layer.inputs[1] = flow
    return crop
