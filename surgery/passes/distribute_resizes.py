"""Resize the terms of a sum instead of the sum, where each term has a small original."""

from __future__ import annotations

import logging
from fractions import Fraction
from typing import TYPE_CHECKING

from surgery.hub import ops, shapes
from surgery.passes import edit
from surgery.passes.compose_resizes import composed_scale

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def distribute_resizes(model: HubModel) -> int:
    """Turn Resize-down(a + b) into Resize-down(a) + Resize-down(b), all the way to the terms.

    The flow of a block is the sum of what earlier blocks found, each enlarged from its own small
    size. Reduced for the next block, every term composes with its enlargement
    (`compose_resizes`), so the sum can be formed without reading anything at full size.

    Exact when: bilinear interpolation is linear. Done only where every term composes and fewer
    bytes move.
    """
    extents = shapes.infer_extents(model.graph)
    distributed = 0
    for node in list(model.graph.nodes):
        if node.op == "Resize" and node.inputs[0].name in extents:
            distributed += _distribute(model.graph, node, extents)
    return distributed


def _distribute(graph: gs.Graph, down: gs.Node, extents: dict[str, shapes.Extent]) -> bool:
    if edit.producer(down.inputs[0], "Add") is None:
        return False
    if edit.is_output(graph, down.outputs[0]):
        log.debug("%s: refused: it makes an output of the graph", down.name)
        return False
    terms = _terms(down.inputs[0])
    ups = [edit.producer(term, "Resize") for term in terms]
    spec = ops.read_resize(down)
    if any(up is None or composed_scale(ops.read_resize(up), spec) is None for up in ups):
        log.debug("%s: refused: not every term is an enlargement that composes", down.name)
        return False
    originals = [up.inputs[0].name for up in ups if up is not None]
    if any(name not in extents for name in originals):  # made a moment ago; the next run meets it
        return False
    sources = [extents[name] for name in originals]
    if not _pays(extents[down.inputs[0].name], extents[down.outputs[0].name], sources):
        log.debug("%s: refused: %d terms would move more bytes", down.name, len(terms))
        return False
    total, *rest = (
        edit.add_copy(graph, down, down.name, [term, *down.inputs[1:]]) for term in terms
    )
    for index, term in enumerate(rest):
        total = edit.add_node(graph, f"{down.name}.sum{index}", "Add", [total, term])
    return edit.bypass(graph, down, total)


def _terms(tensor: gs.Tensor) -> list[gs.Tensor]:
    add = edit.producer(tensor, "Add")
    if add is None:
        return [tensor]
    return [term for operand in add.inputs for term in _terms(operand)]


def _pays(full: shapes.Extent, small: shapes.Extent, sources: list[shapes.Extent]) -> bool:
    """Compare bytes moved: one Resize of the sum, or a Resize for each term and their sums."""
    direct = _area(full) + _area(small)
    resizes = sum(_area(source) + _area(small) for source in sources)
    sums = 3 * _area(small) * (len(sources) - 1)
    return resizes + sums < direct


def _area(extent: shapes.Extent) -> Fraction:
    return extent.channels * extent.height * extent.width
