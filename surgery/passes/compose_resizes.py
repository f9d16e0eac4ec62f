"""One Resize for two: up by u, then down by d, is up by u/d."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.hub.ops import ResizeSpec
from surgery.hub.shapes import exact_fraction
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def compose_resizes(model: HubModel) -> int:
    """Turn Resize-down by d of Resize-up by u into Resize-up by u/d.

    Exact when: both are half-pixel bilinear, d is even and u/d is even. Enlarging gives a
    piecewise linear function whose bends lie at the centres of the small pixels, and reducing by
    an even d takes the mean of two neighbours. Their middle is (2k+1)d = (2c+1)u away from a bend
    c only for an odd u/d, so with an even one the mean of the two is the function itself. For
    u = d the bend lies exactly in the middle: up 2, down 2 is no identity.
    """
    composed = 0
    for node in list(model.graph.nodes):
        if node.op == "Resize":
            composed += _compose(model.graph, node)
    return composed


def _compose(graph: gs.Graph, down: gs.Node) -> bool:
    up = edit.producer(down.inputs[0], "Resize")
    if up is None:
        return False
    scale = composed_scale(ops.read_resize(up), ops.read_resize(down))
    if scale is None:
        log.debug("%s: refused: not the same function as one Resize of %s", down.name, up.name)
        return False
    if edit.is_output(graph, down.outputs[0]):
        log.debug("%s: refused: it makes an output of the graph", down.name)
        return False
    name = edit.free_name(graph, down.name)
    scales = edit.make_constant(f"{name}.scales", np.asarray([1, 1, scale, scale], np.float32))
    output = edit.add_node(graph, name, "Resize", [up.inputs[0], up.inputs[1], scales], up.attrs)
    return edit.bypass(graph, down, output)


def composed_scale(up: ResizeSpec, down: ResizeSpec) -> float | None:
    """The factor of the one Resize that equals two, None where there is no such factor."""
    if not (up.is_plain_bilinear and down.is_plain_bilinear):
        return None
    if up.scale_h != up.scale_w or down.scale_h != down.scale_w:
        return None
    u, d = exact_fraction(up.scale_h), 1 / exact_fraction(down.scale_h)
    ratio = u / d
    even = all(factor.denominator == 1 and factor % 2 == 0 for factor in (u, d, ratio))
    return float(ratio) if even else None
