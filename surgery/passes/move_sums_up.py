"""Add up first, then resize once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops, shapes
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def move_sums_up(model: HubModel) -> int:
    """Turn Resize-up(a) + Resize-up(b) into Resize-up(a + b), where both enlarge alike.

    An ensemble averages what a block finds in both directions after it has resized both.

    Exact when: bilinear interpolation is linear, and the sum is the only reader of both.
    """
    extents = shapes.infer_extents(model.graph)
    return sum(_move(model.graph, node, extents) for node in list(model.graph.nodes))


def _move(graph: gs.Graph, add: gs.Node, extents: dict[str, shapes.Extent]) -> bool:
    if add.op != "Add" or len(ops.data_inputs(add)) != 2:
        return False
    first, second = (edit.producer(tensor, "Resize") for tensor in add.inputs)
    if first is None or second is None or first is second:
        return False
    spec = ops.read_resize(first)
    if not (spec.is_plain_bilinear and spec.scale_h > 1.0 and spec.scale_w > 1.0):
        log.debug("%s: refused: %s does not enlarge bilinearly", add.name, first.name)
        return False
    if ops.read_resize(second) != spec:
        log.debug("%s: refused: %s and %s differ", add.name, first.name, second.name)
        return False
    if not all(edit.is_read_only_by(graph, one.outputs[0], add) for one in (first, second)):
        log.debug("%s: refused: what it adds up has other readers", add.name)
        return False
    summands = [first.inputs[0], second.inputs[0]]
    # One made a moment ago has no extent yet; the next run meets it.
    if len({extents.get(tensor.name) for tensor in summands}) != 1:
        log.debug("%s: refused: its summands differ in size or channels", add.name)
        return False
    first.inputs[0] = edit.add_copy(graph, add, add.name, summands)
    edit.take_output(add, first)
    return True
