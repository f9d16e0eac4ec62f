"""Find the raw output of every block, the edges that rife-ncnn-vulkan's TTA averages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.hub import shapes
from surgery.hub.model import HubModel, is_warp

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

MAKERS = ("Conv", "ConvTranspose", "DepthToSpace")
# x and y of both flows, and the mask: what the runtime's TTA reads without looking.
LEAST_CHANNELS = 5
# Vulkan packs channel counts that are multiples of 4, and the TTA shaders read them unpacked.
PACKED = 4


def name_flows(model: HubModel) -> dict[str, str]:
    """Map the tensor of each block's raw output to `flow0`, `flow1`, ...

    A raw output comes straight from a (de)convolution or pixel shuffle, is only sliced or resized
    by its readers, and leads to a warp. Returns nothing unless there is exactly one for each
    entry of the scale list: half of the names would average half of the flows.

    Source: rife-ncnn-vulkan rife.cpp, `process_v4`, which injects the averaged blobs by name.
    """
    graph = model.graph.toposort()
    extents = shapes.infer_extents(graph)
    found = [
        node.outputs[0].name
        for node in graph.nodes
        if node.op in MAKERS and not node.domain and _is_raw_output(node.outputs[0], extents)
    ]
    if len(found) != len(model.metadata.scale_list):
        return {}
    return {name: f"flow{index}" for index, name in enumerate(found)}


def _is_raw_output(tensor: gs.Tensor, extents: dict[str, shapes.Extent]) -> bool:
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
            elif id(reader) not in seen and _is_flow_arithmetic(reader):
                seen.add(id(reader))
                waiting.append(reader.outputs[0])
    return False


def _is_flow_arithmetic(node: gs.Node) -> bool:
    return node.op in ("Slice", "Resize", "Add", "Mul", "Div", "Concat")
