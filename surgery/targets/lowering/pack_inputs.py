"""The layouts of plain ONNX: three inputs, or the one input that vs-mlrt and VSGAN feed.

Sources: vs-mlrt scripts/vsmlrt.py, `RIFE` and `RIFEMerge`: v1 feeds frames, timestep, grids and
steps as 11 channels and pads outside; v2 feeds frames and timestep as 7 and lets the model pad.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub.model import V4_OUTPUT
from surgery.passes import edit
from surgery.targets.lowering.lower_warps import HEIGHT_AXIS, WIDTH_AXIS, Grid
from surgery.targets.lowering.nodes import Nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

INPUT, OUTPUT = "input", "output"
FRAME_CHANNELS = 3
# Where the frames and the timestep are, in both packed layouts.
PLACES = {"in0": (0, 3), "in1": (3, 6), "in2": (6, 7)}
GRID_X, GRID_Y, STEP_X, STEP_Y = ((start, start + 1) for start in (7, 8, 9, 10))
V1_CHANNELS, V2_CHANNELS = 11, 7

Packer = Callable[["gs.Graph", int], Grid | None]


def keep_inputs(graph: gs.Graph, padding: int) -> Grid | None:
    """The layout `plain`: in0, in1, in2 and out0, padded outside."""
    return None


def pack_v1(graph: gs.Graph, padding: int) -> Grid | None:
    """One input of 11 channels, padded outside; the grid is among them."""
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    packed, nodes = _add_input(graph, V1_CHANNELS)
    for name, place in PLACES.items():
        edit.replace_uses(inputs[name], nodes.slice_channels(packed, *place))
    _rename_output(graph)
    x, y, step_x, step_y = (
        nodes.slice_channels(packed, *place) for place in (GRID_X, GRID_Y, STEP_X, STEP_Y)
    )
    return Grid((x, y), (step_x, step_y))


def pack_v2(graph: gs.Graph, padding: int) -> Grid | None:
    """One input of 7 channels of any size, padded with zeros and cropped inside."""
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    packed, nodes = _add_input(graph, V2_CHANNELS)
    pads = _compute_pads(nodes, packed, padding)
    frames = nodes.slice_channels(packed, 0, PLACES["in1"][1])
    padded = nodes.add("Pad", [frames, pads], mode="constant")
    for name in ("in0", "in1"):
        edit.replace_uses(inputs[name], nodes.slice_channels(padded, *PLACES[name]))
    # The timestep is the same everywhere, beyond the frame as well.
    timestep = nodes.slice_channels(packed, *PLACES["in2"])
    edit.replace_uses(inputs["in2"], nodes.add("Pad", [timestep, pads], mode="edge"))
    _crop_output(graph, nodes, packed)
    return None


def _add_input(graph: gs.Graph, channels: int) -> tuple[gs.Tensor, Nodes]:
    """Take the hub's inputs away from a graph and give it a packed one, which nobody reads yet."""
    import onnx_graphsurgeon as gs

    packed = gs.Variable(INPUT, np.dtype(np.float32), [1, channels, "H", "W"])
    graph.inputs = [packed]
    return packed, Nodes(graph, "layout")


def _rename_output(graph: gs.Graph) -> None:
    (output,) = graph.outputs
    output.name = OUTPUT


def _compute_pads(nodes: Nodes, packed: gs.Tensor, padding: int) -> gs.Tensor:
    """The eight numbers of Pad: what is missing to a multiple, at the bottom and at the right."""
    multiple = nodes.constant(padding, np.int64)
    missing = []
    for axis in (HEIGHT_AXIS, WIDTH_AXIS):
        size = nodes.measure(packed, axis)
        # Mod takes the sign of the divisor, as Python does.
        rest = nodes.add("Mod", [nodes.add("Neg", [size], np.int64), multiple], np.int64)
        missing.append(nodes.add("Reshape", [rest, nodes.constant([1], np.int64)], np.int64))
    return nodes.add("Concat", [nodes.constant([0] * 6, np.int64), *missing], np.int64, axis=0)


def _crop_output(graph: gs.Graph, nodes: Nodes, packed: gs.Tensor) -> None:
    """Crop to the input's size, in a way that shape inference sees through.

    Hosts infer the output's size from the graph before they run it. They lose it at Pad and Slice,
    whose bounds are computed. A Reshape that moves nothing says batch and channels again, and a
    part of the input that is added, times 0, says height and width.
    """
    import onnx_graphsurgeon as gs

    (old,) = graph.outputs
    old.name = f"{V4_OUTPUT}:padded"
    ends = [
        nodes.add("Reshape", [nodes.measure(packed, axis), nodes.constant([1], np.int64)], np.int64)
        for axis in (HEIGHT_AXIS, WIDTH_AXIS)
    ]
    bounds = [
        nodes.constant([0, 0], np.int64),
        nodes.add("Concat", ends, np.int64, axis=0),
        nodes.constant([HEIGHT_AXIS, WIDTH_AXIS], np.int64),
    ]
    cropped = nodes.add("Slice", [old, *bounds])
    # 0 keeps an axis, -1 takes what is left.
    shaped = nodes.add("Reshape", [cropped, nodes.constant([1, FRAME_CHANNELS, 0, -1], np.int64)])
    nothing = nodes.add("Mul", [nodes.slice_channels(packed, 0, FRAME_CHANNELS), nodes.constant(0)])
    output = gs.Variable(OUTPUT, np.dtype(np.float32), [1, FRAME_CHANNELS, "H", "W"])
    edit.add_node(graph, "/layout/Add", "Add", [shaped, nothing], output=output)
    graph.outputs = [output]


LAYOUTS: dict[str, Packer] = {"plain": keep_inputs, "vsmlrt-v1": pack_v1, "vsmlrt-v2": pack_v2}
