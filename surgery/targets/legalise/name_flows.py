"""Find the raw output of every block, the edges that rife-ncnn-vulkan's TTA averages."""

from __future__ import annotations

from surgery.hub import blocks, shapes
from surgery.hub.model import HubModel


def name_flows(model: HubModel) -> dict[str, str]:
    """Map the tensor of each block's raw output to `flow0`, `flow1`, ...

    Returns nothing unless there is exactly one for each entry of the scale list: half of the
    names would average half of the flows.

    Source: rife-ncnn-vulkan rife.cpp, `process_v4`, which injects the averaged blobs by name.
    """
    graph = model.graph.toposort()
    found = blocks.find_raw_outputs(graph, shapes.infer_extents(graph))
    if len(found) != len(model.metadata.scale_list):
        return {}
    return {tensor.name: f"flow{index}" for index, tensor in enumerate(found)}
