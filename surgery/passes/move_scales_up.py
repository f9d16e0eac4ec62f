"""Multiply where the picture is small: a scalar factor goes before the Resize that enlarges."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def move_scales_up(model: HubModel) -> int:
    """Turn Mul(Resize-up(x), c) into Resize-up(Mul(x, c)).

    Exact when: bilinear interpolation is linear, and the Mul is the Resize's only reader.
    """
    moved = 0
    for node in list(model.graph.nodes):
        moved += _move(model.graph, node)
    return moved


def _move(graph: gs.Graph, mul: gs.Node) -> bool:
    scaled = ops.scaled_operand(mul)
    if scaled is None:
        return False
    resize = edit.producer(mul.inputs[scaled], "Resize")
    if resize is None:
        return False
    spec = ops.read_resize(resize)
    if not (spec.is_plain_bilinear and spec.scale_h > 1.0 and spec.scale_w > 1.0):
        log.debug("%s: refused: %s does not enlarge bilinearly", mul.name, resize.name)
        return False
    if not edit.is_read_only_by(graph, resize.outputs[0], mul):
        log.debug("%s: refused: %s has other readers", mul.name, resize.name)
        return False
    inputs = list(mul.inputs)
    inputs[scaled] = resize.inputs[0]
    resize.inputs[0] = edit.add_copy(graph, mul, mul.name, inputs)
    edit.take_output(mul, resize)
    return True
