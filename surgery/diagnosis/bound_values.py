"""Between which numbers the values of a hub graph lie, whatever the frames show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The least and the largest value; infinite where nothing is known."""

    low: float = -math.inf
    high: float = math.inf

    def hull(self, other: Bounds) -> Bounds:
        """The least bounds that hold both."""
        return Bounds(min(self.low, other.low), max(self.high, other.high))


# Frames and timestep: 8-bit levels over 255, and a part of the way (rife.cpp, `process_v4`).
FED = Bounds(0.0, 1.0)
Known = dict[str, Bounds]
Rule = Callable[["gs.Node", list[Bounds], Known], Bounds]


def bound_values(graph: gs.Graph) -> Known:
    """Bounds for every tensor of a sorted hub graph, by name.

    A blend of two pictures by a mask in 0..1 lies between the pictures, in either of the forms
    that it is written in: `a*m + b*(1-m)` and `b + m*(a-b)`.
    """
    known: Known = {tensor.name: FED for tensor in graph.inputs}
    for node in graph.nodes:
        operands = [_read(tensor, known) for tensor in node.inputs if not tensor.is_empty()]
        key = f"{node.domain}::{node.op}" if node.domain else node.op
        rule = RULES.get(key)
        known[node.outputs[0].name] = rule(node, operands, known) if rule else Bounds()
    return known


def _read(tensor: gs.Tensor, known: Known) -> Bounds:
    array = ops.constant(tensor)
    if array is None:
        return known[tensor.name]
    if array.size == 0 or not np.issubdtype(array.dtype, np.number):
        return Bounds()
    return Bounds(float(array.min()), float(array.max()))


def _keep(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    """Resizing and warping average neighbours, slicing picks channels."""
    return operands[0]


def _join(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    joined = operands[0]
    for one in operands[1:]:
        joined = joined.hull(one)
    return joined


def _sigmoid(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    return Bounds(0.0, 1.0)


def _relu(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    return Bounds(max(operands[0].low, 0.0), max(operands[0].high, 0.0))


def _clip(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    low, high = ops.clip_bounds(node)
    return Bounds(
        min(max(operands[0].low, low), high),
        max(min(operands[0].high, high), low),
    )


def _add(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    first, second = operands
    plain = Bounds(first.low + second.low, first.high + second.high)
    blend = _find_blend(node, known)
    return plain if blend is None else blend


def _sub(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    first, second = operands
    return Bounds(first.low - second.high, first.high - second.low)


def _mul(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    first, second = operands
    corners = [
        # Nothing times anything is nothing, also where the other is not bounded.
        0.0 if 0.0 in (one, other) else one * other
        for one in (first.low, first.high)
        for other in (second.low, second.high)
    ]
    return Bounds(min(corners), max(corners))


def _div(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    first, second = operands
    if second.low <= 0.0 <= second.high:
        return Bounds()
    return _mul(node, [first, Bounds(1 / second.high, 1 / second.low)], known)


def _neg(node: gs.Node, operands: list[Bounds], known: Known) -> Bounds:
    return Bounds(-operands[0].high, -operands[0].low)


def _find_blend(node: gs.Node, known: Known) -> Bounds | None:
    """The pictures' bounds if an Add is a blend of two by a mask in 0..1."""
    return _find_weighed_blend(node, known) or _find_factored_blend(node, known)


def _find_weighed_blend(node: gs.Node, known: Known) -> Bounds | None:
    """`a*m + b*(1-m)`."""
    products = [edit.producer(tensor, "Mul") for tensor in node.inputs]
    if any(product is None for product in products):
        return None
    for mask, picture in _pair_operands(products[0]):
        for rest, other in _pair_operands(products[1]):
            is_weight = FED.hull(_read(mask, known)) == FED
            if is_weight and (_is_rest(rest, mask) or _is_rest(mask, rest)):
                return _read(picture, known).hull(_read(other, known))
    return None


def _find_factored_blend(node: gs.Node, known: Known) -> Bounds | None:
    """`b + m*(a-b)`."""
    for index in (0, 1):
        product, base = edit.producer(node.inputs[index], "Mul"), node.inputs[1 - index]
        for mask, difference in _pair_operands(product):
            sub = edit.producer(difference, "Sub")
            if sub is None or FED.hull(_read(mask, known)) != FED:
                continue
            if sub.inputs[1] is base:
                return _read(base, known).hull(_read(sub.inputs[0], known))
    return None


def _pair_operands(product: gs.Node | None) -> list[tuple[gs.Tensor, gs.Tensor]]:
    if product is None:
        return []
    first, second = product.inputs
    return [(first, second), (second, first)]


def _is_rest(tensor: gs.Tensor, mask: gs.Tensor) -> bool:
    """Whether a tensor is 1 minus another."""
    sub = edit.producer(tensor, "Sub")
    return sub is not None and ops.scalar(sub.inputs[0]) == 1.0 and sub.inputs[1] is mask


RULES: dict[str, Rule] = {
    "Add": _add,
    "Clip": _clip,
    "Concat": _join,
    "DepthToSpace": _keep,
    "Div": _div,
    "Identity": _keep,
    "Mul": _mul,
    "Neg": _neg,
    "Relu": _relu,
    "Resize": _keep,
    "Sigmoid": _sigmoid,
    "Slice": _keep,
    "Sub": _sub,
    "rife::Warp": _keep,
}
