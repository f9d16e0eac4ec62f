"""Describe a hub graph that came without its source: blocks, scales, padding, module names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from surgery.hub import blocks, shapes
from surgery.hub.model import LEAST_PADDING, HubModel
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    Body = list[gs.Node]
    Bodies = dict[int, list[Body]]

# A block halves its input twice behind its resize.
BLOCK_STRIDE = 4
# The names in front of layers, as torch's exporters write them.
BLOCK_MODULE = "block{}"
ENCODER_MODULE = "encode"


def describe_blocks(model: HubModel) -> dict[str, Any]:
    """What the metadata can say of a graph from the graph alone; its nodes get module names.

    Returns values for `timestep`, `padding`, `scale_list`, `warps` and `ensemble`. Names that hold
    a module already, as those of torch's exporters and of this project do, stay.
    """
    graph = model.graph.cleanup().toposort()
    extents = shapes.infer_extents(graph)
    bodies = _find_bodies(graph, extents)
    _name_modules(graph, bodies)
    reads_timestep = any(tensor.name == "in2" and tensor.outputs for tensor in graph.inputs)
    return {
        "timestep": "plane" if reads_timestep else "fixed 0.5",
        "padding": math.lcm(LEAST_PADDING, shapes.find_multiple(extents)),
        "scale_list": _find_scales(bodies, extents),
        "warps": sum(1 for _ in model.warps()),
        "ensemble": any(len(twins) > 1 for twins in bodies.values()),
    }


def _find_bodies(graph: gs.Graph, extents: Mapping[str, shapes.Extent]) -> Bodies:
    """The nodes of each block, by its number; twice for each block of an ensemble."""
    raw = blocks.find_raw_outputs(graph, extents)
    bodies: Bodies = {}
    for tensor, rank in zip(raw, blocks.rank_raw_outputs(graph, raw), strict=True):
        bodies.setdefault(rank, []).append(blocks.trace_body(tensor))
    return bodies


def _name_modules(graph: gs.Graph, bodies: Bodies) -> None:
    """Put the block in front of the name of each of its nodes; what is left is the encoder's."""
    for rank, twins in bodies.items():
        for node in (node for body in twins for node in body):
            _put_in_module(graph, node, BLOCK_MODULE.format(rank))
    if bodies:
        for node in graph.nodes:
            if node.op in blocks.MAKERS:
                _put_in_module(graph, node, ENCODER_MODULE)


def _put_in_module(graph: gs.Graph, node: gs.Node, module: str) -> None:
    if "/" not in node.name.strip("/"):
        node.name = edit.free_name(graph, f"/{module}{node.name}")


def _find_scales(bodies: Bodies, extents: Mapping[str, shapes.Extent]) -> tuple[float, ...]:
    """Read the donor's divisors off the blocks: each works at a quarter of its resized input."""
    smallest = (
        min(extents[tensor.name].height for node in twins[0] for tensor in node.outputs)
        for _, twins in sorted(bodies.items())
    )
    return tuple(float(1 / (height * BLOCK_STRIDE)) for height in smallest)
