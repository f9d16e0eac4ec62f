"""Resize before concatenating, so that what is concatenated is small."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def move_resizes_up(model: HubModel) -> int:
    """Turn Resize-down(Concat(a, b)) into Concat(Resize-down(a), Resize-down(b)).

    Exact when: the Resize is bilinear in height and width, which treats every channel alike.
    """
    moved = 0
    for node in list(model.graph.nodes):
        if node.op == "Resize":
            moved += _move(model.graph, node)
    return moved


def _move(graph: gs.Graph, resize: gs.Node) -> bool:
    concat = edit.producer(resize.inputs[0], "Concat")
    if concat is None:
        return False
    try:
        spec = ops.read_resize(resize)
    except ValueError as reason:
        log.debug("%s: refused: %s", resize.name, reason)
        return False
    if not (spec.scale_h < 1.0 and spec.scale_w < 1.0):
        log.debug("%s: refused: it enlarges, and would do so once for each part", resize.name)
        return False
    if not edit.is_read_only_by(graph, concat.outputs[0], resize):
        log.debug("%s: refused: the Concat has other readers", resize.name)
        return False
    parts = [
        edit.add_copy(graph, resize, resize.name, [part, *resize.inputs[1:]])
        for part in concat.inputs
    ]
    concat.inputs = parts
    edit.take_output(resize, concat)
    return True
