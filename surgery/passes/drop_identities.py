"""Drop nodes that return what they are given."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def drop_identities(model: HubModel) -> int:
    """Drop Identity, x1, /1, +0, -0 and Resize by 1.

    One that makes an output of the graph leaves that to the maker of its input, unless there is
    none or others read it.

    Exact when: always; each returns its input bit for bit, but for the sign of a zero.
    """
    dropped = 0
    for node in list(model.graph.nodes):
        source = _passed_through(node)
        if source is None:
            continue
        if edit.bypass(model.graph, node, source) or edit.move_output(model.graph, node, source):
            dropped += 1
        else:
            log.debug("%s: refused: an output of the graph is all that it makes", node.name)
    return dropped


def _passed_through(node: gs.Node) -> gs.Tensor | None:
    if node.op == "Identity":
        return node.inputs[0]
    if node.op == "Resize":
        spec = ops.read_resize(node)
        return node.inputs[0] if spec.scale_h == spec.scale_w == 1.0 else None
    if node.op in ("Mul", "Add"):
        neutral = 1.0 if node.op == "Mul" else 0.0
        for operand, other in ((0, 1), (1, 0)):
            if ops.scalar(node.inputs[operand]) == neutral:
                return node.inputs[other]
    if node.op in ("Div", "Sub"):
        neutral = 1.0 if node.op == "Div" else 0.0
        if ops.scalar(node.inputs[1]) == neutral:
            return node.inputs[0]
    return None
