"""Multiply where the picture is small: a scalar factor goes behind the Resize that reduces."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def move_scales_down(model: HubModel) -> int:
    """Turn Resize-down(Mul(x, c)) into Mul(Resize-down(x), c).

    There the factor can go into a convolution (`fold_scales`), and the Resize may turn out to be
    one that is there already: an ensemble hands a mask on with both signs.

    Exact when: bilinear interpolation is linear.
    """
    return sum(_move(model.graph, node) for node in list(model.graph.nodes))


def _move(graph: gs.Graph, resize: gs.Node) -> bool:
    mul = edit.producer(resize.inputs[0], "Mul") if resize.op == "Resize" else None
    scaled = ops.scaled_operand(mul) if mul is not None else None
    if mul is None or scaled is None:
        return False
    spec = ops.read_resize(resize)
    if not (spec.is_plain_bilinear and spec.scale_h < 1.0 and spec.scale_w < 1.0):
        log.debug("%s: refused: it does not reduce bilinearly", resize.name)
        return False
    settings = resize.inputs[1:]
    small = edit.add_copy(graph, resize, resize.name, [mul.inputs[scaled], *settings])
    inputs = [small if index == scaled else tensor for index, tensor in enumerate(mul.inputs)]
    moved = edit.add_copy(graph, mul, mul.name, inputs)
    edit.take_output(resize, moved.inputs[0])
    return True
