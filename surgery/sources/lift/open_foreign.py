"""Open an ONNX file that others wrote, and bring what writers do differently to one form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import inliner

from surgery.errors import HubError, UnsupportedOp
from surgery.hub.verify import is_hub
from surgery.passes import edit
from surgery.sources.name_modules import name_after_modules
from surgery.sources.tidy_export import tidy_export

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# Slice and Clip have their bounds, and Resize its scales, as inputs since then.
OLDEST_OPSET = 11
MAX_REASON_CHARACTERS = 300
STANDARD_DOMAINS = ("", "ai.onnx")
HALF, FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


def open_foreign(model: onnx.ModelProto) -> gs.Graph:
    """Open a model whose warps are spelled out; the model itself is not changed.

    Functions are inlined, constants become initializers, every node gets a name after its torch
    module where it tells one, and fp16 becomes fp32.

    Raises:
        HubError: the model is a hub model already, or too old.
        UnsupportedOp: operators beyond ONNX's own.
    """
    import onnx_graphsurgeon as gs

    try:
        onnx.checker.check_model(model)
        copy = inliner.inline_local_functions(model)
    # The checker's own error, and those of C++ behind both.
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:MAX_REASON_CHARACTERS]
        raise HubError(f"not a legal ONNX model: {reason}; export it again") from error
    if is_hub(model):
        raise HubError(
            "the model has rife::Warp already, so there is nothing to lift: 'surgery translate', "
            "'surgery optimize' and 'surgery lower' take it as it is"
        )
    foreign = [node for node in copy.graph.node if node.domain not in STANDARD_DOMAINS]
    if foreign:
        named = [f"{node.name}: {node.domain}::{node.op_type}" for node in foreign]
        raise UnsupportedOp("the hub", [f"{one}; ONNX's own are accepted" for one in named])
    versions = [one.version for one in copy.opset_import if one.domain in STANDARD_DOMAINS]
    opset = max(versions, default=0)
    if opset < OLDEST_OPSET:
        raise HubError(f"opset {opset}; {OLDEST_OPSET} or newer is accepted: export it again")
    _refuse_inner_graphs(copy)
    name_after_modules(copy)
    tidy_export(copy)
    graph = gs.import_onnx(copy)
    for node in graph.nodes:
        node.domain = None
    _widen(graph)
    try:
        return graph.cleanup().toposort()
    except gs.OnnxGraphSurgeonException as error:
        raise HubError(
            "the graph runs in a circle, or makes one value twice; a graph that onnx.checker "
            "accepts can be lifted"
        ) from error


def _refuse_inner_graphs(model: onnx.ModelProto) -> None:
    """Refuse loops and branches: what they read is not seen, and how long they run is not known."""
    inner = [
        f"{node.name}: {node.op_type} holds a graph of its own; straight graphs are accepted"
        for node in model.graph.node
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
    ]
    if inner:
        raise UnsupportedOp("the hub", inner)


def _widen(graph: gs.Graph) -> None:
    """Turn fp16 into fp32: the hub computes in fp32, and targets round for themselves."""
    import onnx_graphsurgeon as gs

    for tensor in graph.tensors().values():
        if tensor.dtype != np.float16:
            continue
        if isinstance(tensor, gs.Constant):
            tensor.values = tensor.values.astype(np.float32)
        else:
            tensor.dtype = np.dtype(np.float32)
    for node in graph.nodes:
        if node.op == "Cast" and node.attrs["to"] == HALF:
            node.attrs["to"] = FLOAT
    for tensor in graph.inputs:
        for reader in list(tensor.outputs):
            if reader.op == "Cast" and reader.attrs["to"] == FLOAT:
                edit.replace_uses(reader.outputs[0], tensor)
