"""Write every `rife::Warp` as what plain ONNX has: a grid, a Transpose, a GridSample."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import UnsupportedOp
from surgery.hub import shapes
from surgery.hub.model import is_warp
from surgery.targets.lowering.nodes import FLOAT, Nodes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Size = tuple[Fraction, Fraction]

HEIGHT_AXIS, WIDTH_AXIS = 2, 3
# From operator set 20 on, GridSample calls bilinear sampling of pictures what Resize calls it.
LINEAR_SINCE = 20


@dataclasses.dataclass(frozen=True)
class Grid:
    """Where the pixels of a picture are, and how far apart.

    Attributes:
        places: x and y of every pixel in -1..1; broadcasts to [1,2,H,W], or x [1,1,1,W] and
            y [1,1,H,1] apart.
        steps: 2 / (W - 1) and 2 / (H - 1), each broadcasting to [1,1,H,W].
    """

    places: tuple[gs.Tensor, gs.Tensor]
    steps: tuple[gs.Tensor, gs.Tensor]


def lower_warps(
    graph: gs.Graph,
    sizes: Mapping[str, Size],
    opset: int,
    given: Grid | None = None,
) -> int:
    """Replace every warp; returns how many.

    Exact when: the flow is finite. In float32 the position is computed from normalised numbers,
    which moves it by some 1e-5 pixels.

    Args:
        graph: the hub graph, without warps afterwards.
        sizes: height and width of each warp's image, as fractions of the frame's, by node name.
        opset: the operator set that the nodes are to belong to.
        given: the grid of full-size frames, where the host feeds it; None to compute each.

    Raises:
        UnsupportedOp: a warp of another size than that of the given grid.
    """
    warps = [node for node in graph.nodes if is_warp(node)]
    full_size = (Fraction(1), Fraction(1))
    grids: dict[Size, Grid] = {} if given is None else {full_size: given}
    refusals = []
    for node in warps:
        size = sizes[node.name]
        if size not in grids and given is not None:
            refusals.append(f"{node.name}: warps at {size[0]} of the size; the layout feeds 1")
            continue
        if size not in grids:
            grids[size] = _compute_grid(graph, node.inputs[0], f"grid{len(grids)}")
        _replace(graph, node, grids[size], opset)
    if refusals:
        raise UnsupportedOp("this layout", refusals)
    return len(warps)


def measure_warps(graph: gs.Graph) -> dict[str, Size]:
    """The size of each warp's image in a hub graph; see `lower_warps`."""
    extents = shapes.infer_extents(graph)
    images = {node.name: extents[node.inputs[0].name] for node in graph.nodes if is_warp(node)}
    return {name: (extent.height, extent.width) for name, extent in images.items()}


def _compute_grid(graph: gs.Graph, image: gs.Tensor, name: str) -> Grid:
    columns, step_x = _compute_axis(Nodes(graph, f"{name}.x"), image, WIDTH_AXIS, (1, 1, 1, -1))
    rows, step_y = _compute_axis(Nodes(graph, f"{name}.y"), image, HEIGHT_AXIS, (1, 1, -1, 1))
    return Grid((columns, rows), (step_x, step_y))


def _compute_axis(
    nodes: Nodes, image: gs.Tensor, axis: int, shape: tuple[int, ...]
) -> tuple[gs.Tensor, gs.Tensor]:
    """The places of one axis, from its middle outwards so that both ends are exact."""
    one, two = nodes.constant(1), nodes.constant(2)
    size = nodes.add("Cast", [nodes.measure(image, axis)], to=FLOAT)
    last = nodes.add("Sub", [size, one])
    # A single row or column lies in the middle, wherever the flow points.
    span = nodes.add("Max", [last, one])
    numbers = nodes.add("Range", [nodes.constant(0), size, one])
    centred = nodes.add("Sub", [nodes.add("Mul", [numbers, two]), last])
    places = nodes.add("Div", [centred, span])
    flat = nodes.constant(shape, np.int64)
    return nodes.add("Reshape", [places, flat]), nodes.add("Div", [two, span])


def _replace(graph: gs.Graph, node: gs.Node, grid: Grid, opset: int) -> None:
    nodes = Nodes(graph, node.name.strip("/"))
    image, flow = node.inputs
    places = []
    for channel, (start, step) in enumerate(zip(grid.places, grid.steps, strict=True)):
        component = nodes.slice_channels(flow, channel, channel + 1)
        places.append(nodes.add("Add", [nodes.add("Mul", [component, step]), start]))
    joined = nodes.add("Concat", places, axis=1)
    positions = nodes.add("Transpose", [joined], perm=[0, 2, 3, 1])
    sampled = nodes.add(
        "GridSample",
        [image, positions],
        mode="linear" if opset >= LINEAR_SINCE else "bilinear",
        padding_mode="border",
        align_corners=1,
    )
    output = node.outputs[0]
    node.outputs.clear()
    made = sampled.inputs[0]
    made.outputs.clear()
    made.outputs.append(output)
