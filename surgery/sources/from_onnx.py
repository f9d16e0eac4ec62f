"""Lift an ONNX file that others wrote to the hub: its warps, spelled out, become `rife::Warp`."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.errors import HubError, ProofFailed
from surgery.hub.model import (
    DONOR_FACTS,
    KEY_PREFIX,
    OPSET,
    V4_INPUTS,
    V4_OUTPUT,
    HubMetadata,
    HubModel,
)
from surgery.hub.verify import verify_hub
from surgery.proof.compare import compare, judge
from surgery.proof.tolerances import EXACT_REWRITE
from surgery.sources.describe_blocks import describe_blocks
from surgery.sources.lift.find_warps import (
    find_baked_size,
    find_constant_grid,
    replace_samplers,
    undo_placeholders,
)
from surgery.sources.lift.observe import (
    Observation,
    Size,
    choose_sizes,
    export,
    make_inputs,
    observe,
    pack_inputs,
    run_once,
)
from surgery.sources.lift.open_foreign import open_foreign
from surgery.sources.lift.say_in_dialect import say_in_dialect
from surgery.sources.lift.unpack_inputs import unpack_inputs

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

EXPORTER = "lifted from ONNX"


def lift_model(model: onnx.ModelProto, *, label: str) -> HubModel:
    """Lift an ONNX model that is in memory.

    The result is compared with the model in onnxruntime at one or two small sizes. What strangers
    wrote is lifted in a process of its own: `surgery.sources.lift.lift_apart`.

    Outside that proof lie that inputs without the hub's names are frames and timestep in the
    order of the file; for a file in fp16 the rounding, as it is run in fp32; and for powers of
    two tensors what they compute, which is no warp.

    Args:
        model: it is not changed.
        label: what to call the donor in the metadata.

    Raises:
        HubError: what is in it is no RIFE of one network.
        UnsupportedOp: nodes that the hub cannot express, or that only look like a warp; all of
            them are listed, with the reason.
        ProofFailed: the hub model does not compute what the file does.
    """
    graph = open_foreign(model)
    holds_half = _holds_half(model)
    original = export(graph) if holds_half else model
    unpacked = unpack_inputs(graph)
    placeholders = undo_placeholders(graph)
    exported = export(graph)
    observations = _observe(graph, exported, choose_sizes(unpacked.size))
    samplers = replace_samplers(graph, exported, observations)
    if not placeholders + samplers:
        raise HubError("the model has no GridSample and no power of two tensors, so no warp")
    say_in_dialect(graph, observations)
    lifted = _close(graph, observations[0])
    facts = describe_blocks(lifted)
    known = _read_facts(model)
    lifted.replace_metadata(
        **facts
        | {
            "donor": label,
            "exporter": EXPORTER,
            "weights_sha256": _fingerprint(lifted.graph),
            "folded_betas": not _has_betas(lifted.graph),
            "tools": (f"onnx {onnx.__version__}",),
        }
        | known
    )
    notes = []
    if placeholders:
        notes.append(f"{placeholders} powers of two tensors were read as the placeholders of warps")
    if holds_half:
        notes.append("the file is fp16: its weights are rounded, and computed with in fp32")
    lifted.replace_metadata(baked=(*lifted.metadata.baked, *notes))
    closed = lifted.to_onnx()
    verify_hub(closed)
    for one in observations:
        expected = one.output
        if not placeholders:
            expected = run_once(original, pack_inputs(unpacked, one.size))
        _prove(closed, expected, one.size)
    return lifted


def _holds_half(model: onnx.ModelProto) -> bool:
    """Whether anything in a model is fp16, which lifting widens."""
    half = onnx.TensorProto.FLOAT16
    nodes = [node for part in (model.graph, *model.functions) for node in part.node]
    types = [
        *(one.type.tensor_type.elem_type for one in model.graph.input),
        *(one.data_type for one in model.graph.initializer),
        *(one.t.data_type for node in nodes for one in node.attribute),
        *(one.i for node in nodes for one in node.attribute if one.name == "to"),
    ]
    return half in types


def _observe(
    graph: gs.Graph, exported: onnx.ModelProto, sizes: tuple[Size, ...]
) -> tuple[Observation, ...]:
    """Observe at some sizes, or at the one that a trace has baked into the graph's grid."""
    constant = find_constant_grid(graph)
    if constant is not None:
        sizes = (constant,)
    observations = observe(graph, exported, sizes)
    baked = find_baked_size(graph, exported, observations)
    if baked is None or baked in [one.size for one in observations]:
        return observations
    return observe(graph, exported, (baked,))


def _close(graph: gs.Graph, observation: Observation) -> HubModel:
    """Give a lifted graph the hub's output, and the inputs of the hub alone."""
    if len(graph.outputs) != 1:
        raise HubError(f"{len(graph.outputs)} outputs; one, the frame, is accepted")
    fed = [one.name for one in graph.inputs if one.name not in V4_INPUTS and one.outputs]
    if fed:
        raise HubError(f"{', '.join(fed)} is read by more than warps; a grid is for warps alone")
    graph.inputs = [one for one in graph.inputs if one.name in V4_INPUTS]
    (output,) = graph.outputs
    output.name, output.dtype = V4_OUTPUT, np.dtype(np.float32)
    output.shape = [1, observation.output.shape[1], "H", "W"]
    for tensor in graph.inputs:
        tensor.shape = [1, V4_INPUTS[tensor.name], "H", "W"]
    graph.opset = OPSET
    graph.name = "rife"
    return HubModel(graph, HubMetadata())


def _read_facts(model: onnx.ModelProto) -> dict[str, Any]:
    """What a file says of its own, when this project lowered it."""
    properties = {one.key: one.value for one in model.metadata_props}
    if KEY_PREFIX + "kind" not in properties:
        return {}
    facts = dataclasses.asdict(HubMetadata.from_properties(properties))
    return {name: facts[name] for name in (*DONOR_FACTS, "padding", "scale_list") if facts[name]}


def _has_betas(graph: gs.Graph) -> bool:
    """Whether a convolution is still multiplied channel by channel."""
    from surgery.hub import ops

    arrays = (ops.constant(node.inputs[1]) for node in graph.nodes if node.op == "Mul")
    return any(array is not None and array.size > 1 for array in arrays)


def _fingerprint(graph: gs.Graph) -> str:
    """Hash the values of all weights, in the order of the graph."""
    from surgery.hub import ops

    digest = hashlib.sha256()
    for node in graph.nodes:
        for tensor in node.inputs[1:]:
            array = ops.constant(tensor)
            if array is not None:
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _prove(closed: onnx.ModelProto, expected: np.ndarray, size: Size) -> None:
    """Compare a lifted model with what its original gives.

    Raises:
        ProofFailed: they differ.
    """
    found = run_once(closed, make_inputs(size, tuple(V4_INPUTS)))
    verdict = judge(compare(expected, found), EXACT_REWRITE)
    if not verdict.passed:
        raise ProofFailed(
            f"the lifted model differs from its original at {size[1]}x{size[0]}: {verdict.sentence}"
        )
