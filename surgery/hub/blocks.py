"""Find the blocks of a RIFE network in a hub graph: their raw outputs and what leads up to them.

Names tell nothing in a graph that came from elsewhere, so blocks are known by what they do: a
chain of convolutions whose last output is cut up or enlarged, and moves a warp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from surgery.hub import shapes
from surgery.hub.model import is_warp

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MAKERS = ("Conv", "ConvTranspose", "DepthToSpace")
# x and y of both flows, and the mask: what the runtime's TTA reads without looking.
LEAST_CHANNELS = 5
# Vulkan packs channel counts that are multiples of 4, and the TTA shaders read them unpacked.
PACKED = 4
FLOW_ARITHMETIC = ("Slice", "Resize", "Add", "Mul", "Div", "Concat")
# What lies between the input of a block and its raw output.
BODY = (*MAKERS, "PRelu", "LeakyRelu", "Relu", "Add", "Mul")


def find_raw_outputs(graph: gs.Graph, extents: Mapping[str, shapes.Extent]) -> list[gs.Tensor]:
    """The raw output of every block, in the order of a sorted graph.

    A raw output comes straight from a (de)convolution or pixel shuffle, is only sliced or resized
    by its readers, and leads to a warp.
    """
    return [
        node.outputs[0]
        for node in graph.nodes
        if node.op in MAKERS and not node.domain and _is_raw_output(node.outputs[0], extents)
    ]


def rank_raw_outputs(graph: gs.Graph, raw: list[gs.Tensor]) -> list[int]:
    """The block each raw output belongs to, counted from 0: how many blocks come before it.

    An ensemble evaluates each block twice, and neither of the two needs the other.
    """
    chosen = {id(tensor) for tensor in raw}
    depth: dict[int, int] = {}
    ranks = []
    for node in graph.nodes:
        before = max((depth.get(id(tensor), 0) for tensor in node.inputs), default=0)
        for tensor in node.outputs:
            depth[id(tensor)] = before + (id(tensor) in chosen)
            if id(tensor) in chosen:
                ranks.append(before)
    return ranks


def trace_body(raw: gs.Tensor) -> list[gs.Node]:
    """The nodes of the block that makes a raw output, back to what resizes or joins its input."""
    waiting, found = [raw], {}
    while waiting:
        for node in waiting.pop().inputs:
            if node.op in BODY and not node.domain and id(node) not in found:
                found[id(node)] = node
                waiting += node.inputs
    return list(found.values())


def _is_raw_output(tensor: gs.Tensor, extents: Mapping[str, shapes.Extent]) -> bool:
    channels = extents[tensor.name].channels
    if channels < LEAST_CHANNELS or channels % PACKED == 0 or not tensor.outputs:
        return False
    return all(reader.op in ("Slice", "Resize") for reader in tensor.outputs) and _moves(tensor)


def _moves(tensor: gs.Tensor) -> bool:
    """Tell whether a tensor reaches the flow input of a warp through flow arithmetic alone."""
    waiting, seen = [tensor], set()
    while waiting:
        current = waiting.pop()
        for reader in current.outputs:
            if is_warp(reader):
                if current is reader.inputs[1]:
                    return True
            elif id(reader) not in seen and reader.op in FLOW_ARITHMETIC:
                seen.add(id(reader))
                waiting.append(reader.outputs[0])
    return False
