"""Slice first: what is not read needs no work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops, shapes
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def move_slices_up(model: HubModel) -> int:
    """Move a Slice of channels before the Resize or the scalar Mul that it reads.

    Also: a Slice of a Slice becomes one; a Slice that takes everything goes; a Slice that falls
    on whole parts of a Concat reads those parts.

    Exact when: the operator in between treats every channel alike.
    """
    extents = shapes.infer_extents(model.graph)
    moved = 0
    for node in list(model.graph.nodes):
        if node.op == "Slice" and node.inputs[0].name in extents:
            moved += _move(model.graph, node, extents[node.inputs[0].name].channels)
    return moved


def _move(graph: gs.Graph, node: gs.Node, channels: int) -> bool:
    spec = ops.read_slice(node)
    start, end, _ = slice(spec.start, spec.end).indices(channels)
    if (start, end) == (0, channels):
        return edit.bypass(graph, node, node.inputs[0])
    source = edit.producer(node.inputs[0])
    if source is None or source.domain:
        return False
    if source.op == "Slice":
        offset = ops.read_slice(source).start
        sliced = add_slice(graph, node.name, source.inputs[0], offset + start, offset + end)
        return edit.bypass(graph, node, sliced)
    if source.op == "Resize" or ops.scaled_operand(source) is not None:
        data = ops.data_inputs(source)[0]
        sliced = add_slice(graph, node.name, data, start, end)
        inputs = [sliced if tensor is data else tensor for tensor in source.inputs]
        return edit.bypass(graph, node, edit.add_copy(graph, source, source.name, inputs))
    if source.op == "Concat":
        return _take_parts(graph, node, source, start, end)
    log.debug("%s: refused: it reads a %s", node.name, source.op)
    return False


def _take_parts(graph: gs.Graph, node: gs.Node, concat: gs.Node, start: int, end: int) -> bool:
    model_extents = shapes.infer_extents(graph.toposort())
    offset = 0
    chosen = []
    for part in concat.inputs:
        channels = model_extents[part.name].channels
        if start <= offset and offset + channels <= end:
            chosen.append(part)
        elif offset < end and start < offset + channels:
            log.debug("%s: refused: it cuts a part of the Concat", node.name)
            return False
        offset += channels
    if len(chosen) == 1:
        return edit.bypass(graph, node, chosen[0])
    joined = edit.add_copy(graph, concat, concat.name, chosen)
    return edit.bypass(graph, node, joined)


def add_slice(graph: gs.Graph, name: str, data: gs.Tensor, start: int, end: int) -> gs.Tensor:
    """Append a Slice of the channels start to end (exclusive) and return its output."""
    name = edit.free_name(graph, name)
    bounds = [
        edit.make_constant(f"{name}.{what}", np.asarray([value], np.int64))
        for what, value in (("start", start), ("end", end), ("axis", ops.CHANNEL_AXIS))
    ]
    return edit.add_node(graph, name, "Slice", [data, *bounds])
