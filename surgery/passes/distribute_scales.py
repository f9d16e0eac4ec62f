"""Scale the terms of a sum instead of the sum, where each scale can vanish in a convolution."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def distribute_scales(model: HubModel) -> int:
    """Turn (Slice(a) + Slice(b)) * 2^k into Slice(a) * 2^k + Slice(b) * 2^k.

    A block's raw output is sliced, and `fold_scales` lets its convolution scale the slice.

    Exact when: the factor is a power of two, which changes only exponents; the sum and the slices
    have no other reader.
    """
    return sum(_distribute(model.graph, node) for node in list(model.graph.nodes))


def _distribute(graph: gs.Graph, mul: gs.Node) -> bool:
    scaled = ops.scaled_operand(mul)
    if scaled is None or edit.is_output(graph, mul.outputs[0]):
        return False
    add = edit.producer(mul.inputs[scaled], "Add")
    if add is None:
        return False
    factor = ops.scalar(mul.inputs[1 - scaled])
    if factor is None or not ops.is_power_of_two(factor):
        log.debug("%s: refused: %s is no power of two", mul.name, factor)
        return False
    if not edit.is_read_only_by(graph, add.outputs[0], mul):
        log.debug("%s: refused: the sum has other readers", mul.name)
        return False
    cuts = [edit.producer(tensor, "Slice") for tensor in add.inputs]
    if any(cut is None or not edit.is_read_only_by(graph, cut.outputs[0], add) for cut in cuts):
        log.debug("%s: refused: it scales no sum of two slices", mul.name)
        return False
    constant = mul.inputs[1 - scaled]
    terms = [edit.add_copy(graph, mul, mul.name, [term, constant]) for term in add.inputs]
    add.inputs = terms
    return edit.bypass(graph, mul, add.outputs[0])
