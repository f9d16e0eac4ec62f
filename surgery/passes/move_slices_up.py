"""Slice first: what is not read needs no work."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

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
            moved += _move(model.graph, node, extents)
    return moved


def _move(graph: gs.Graph, node: gs.Node, extents: dict[str, shapes.Extent]) -> bool:
    if edit.is_output(graph, node.outputs[0]):
        log.debug("%s: refused: it makes an output of the graph", node.name)
        return False
    channels = extents[node.inputs[0].name].channels
    start, end = ops.channel_range(node, channels)
    if (start, end) == (0, channels):
        return edit.bypass(graph, node, node.inputs[0])
    source = edit.producer(node.inputs[0])
    if source is None or source.domain:
        return False
    if source.op == "Slice":
        data = source.inputs[0]
        if data.name not in extents:  # made a moment ago; the next run meets it
            return False
        offset, _ = ops.channel_range(source, extents[data.name].channels)
        sliced = edit.add_slice(graph, node.name, data, offset + start, offset + end)
        return edit.bypass(graph, node, sliced)
    if source.op == "Resize" or ops.scaled_operand(source) is not None:
        data = ops.data_inputs(source)[0]
        sliced = edit.add_slice(graph, node.name, data, start, end)
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
