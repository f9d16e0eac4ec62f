"""Blend two frames with one multiplication."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def factor_blend(model: HubModel) -> int:
    """Turn a*m + b*(1-m) into b + (a-b)*m.

    Exact when: the products and 1-m have no other reader; equal in real arithmetic.
    """
    return sum(_factor(model.graph, node) for node in list(model.graph.nodes))


def _factor(graph: gs.Graph, add: gs.Node) -> bool:
    if add.op != "Add":
        return False
    products = [edit.producer(tensor, "Mul") for tensor in add.inputs]
    if any(
        product is None or not edit.is_read_only_by(graph, product.outputs[0], add)
        for product in products
    ):
        log.debug("%s: refused: it adds no two products that it alone reads", add.name)
        return False
    for first, second in ((products[0], products[1]), (products[1], products[0])):
        assert first is not None  # seen to above
        assert second is not None
        for index, tensor in enumerate(second.inputs):
            mask = _complemented(graph, tensor, second)
            if mask is None or not any(mask is t for t in first.inputs):
                continue
            a = first.inputs[1] if first.inputs[0] is mask else first.inputs[0]
            b = second.inputs[1 - index]
            if ops.constant(a) is not None and ops.constant(b) is not None:
                log.debug("%s: refused: both of what it blends are constants", add.name)
                return False
            _rebuild(graph, add, first, (a, b, mask))
            return True
    return False


def _complemented(graph: gs.Graph, tensor: gs.Tensor, reader: gs.Node) -> gs.Tensor | None:
    """The m of a tensor that is 1-m."""
    sub = edit.producer(tensor, "Sub")
    if sub is None or ops.scalar(sub.inputs[0]) != 1.0:
        return None
    if not edit.is_read_only_by(graph, tensor, reader):
        log.debug("%s: refused: 1-m has other readers", sub.name)
        return None
    return sub.inputs[1]


def _rebuild(
    graph: gs.Graph, add: gs.Node, product: gs.Node, parts: tuple[gs.Tensor, gs.Tensor, gs.Tensor]
) -> None:
    a, b, mask = parts
    difference = edit.add_node(graph, f"{add.name}.difference", "Sub", [a, b])
    product.inputs = [difference, mask]
    add.inputs = [product.outputs[0], b]
