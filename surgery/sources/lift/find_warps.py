"""Find the warps of a foreign graph and put `rife::Warp` in their place.

Whether a GridSample is a warp is not read off the nodes in front of it, of which there are as many
kinds as exporters, but tried: somewhere before its grid there must be a flow, such that the grid is
that of the pixels moved by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import UnsupportedOp
from surgery.hub import warp
from surgery.hub.model import LEAST_PADDING
from surgery.passes import edit
from surgery.proof.tolerances import WARP_POSITION
from surgery.sources.lift.observe import Observation, Size, compute_part, find_tainted

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

SAMPLER = "GridSample"
PLACEHOLDER = "Pow"
# What GridSample must say to sample as a warp does. Its own defaults are others.
MODES = ("linear", "bilinear")
PADDING = "border"
# A flow has its own channels, and those of the other frame's flow and the mask beside it.
MOST_CHANNELS = 64
# How far back from the grid a flow is looked for.
MOST_STEPS = 64
# No flow arithmetic: what makes a flow lies behind it.
MAKERS = ("Conv", "ConvTranspose", SAMPLER, warp.OP_TYPE)
PROBE_PIXELS = 9.0
SEED = 7


def undo_placeholders(graph: gs.Graph) -> int:
    """Put `rife::Warp` in the place of every power of two computed tensors; returns how many.

    People who convert by way of a power give it as many channels of the flow as the image has, so
    that it broadcasts: the first two are the flow.
    """
    tainted = find_tainted(graph)
    undone = 0
    for node in list(graph.nodes):
        if node.op == PLACEHOLDER and all(one.name in tainted for one in node.inputs):
            image, flow = node.inputs
            cut = edit.add_slice(graph, f"{node.name}.flow", flow, 0, warp.FLOW_CHANNELS)
            _become_warp(node, image, cut)
            undone += 1
    graph.toposort()
    return undone


def replace_samplers(
    graph: gs.Graph, model: onnx.ModelProto, observations: Sequence[Observation]
) -> int:
    """Put `rife::Warp` in the place of every GridSample that is one; returns how many.

    `model` is the graph, exported.

    Raises:
        UnsupportedOp: what samples in another way; all of it is listed, with the reason.
    """
    found: list[tuple[gs.Node, gs.Tensor, int]] = []
    refusals = []
    tainted = find_tainted(graph)
    for node in graph.nodes:
        if node.op != SAMPLER:
            continue
        try:
            flow, channel = _find_flow(graph, node, tainted, model, observations)
            found.append((node, flow, channel))
        except ValueError as reason:
            refusals.append(f"{node.name}: {SAMPLER}: {reason}")
    if refusals:
        raise UnsupportedOp("the hub", refusals)
    for node, flow, channel in found:
        if observations[0].shapes[flow.name][1] != warp.FLOW_CHANNELS:
            end = channel + warp.FLOW_CHANNELS
            flow = edit.add_slice(graph, f"{node.name}.flow", flow, channel, end)
        _become_warp(node, node.inputs[0], flow)
    graph.cleanup().toposort()
    return len(found)


def find_baked_size(
    graph: gs.Graph, model: onnx.ModelProto, observations: Sequence[Observation]
) -> Size | None:
    """Height and width that the normalisation of the first warp was made for; None if it is open.

    A trace that takes the size from Python bakes it in: the graph runs at any size, and samples
    the right places at one.
    """
    tainted = find_tainted(graph)
    sampler = next((node for node in graph.nodes if node.op == SAMPLER), None)
    if sampler is None:
        return None
    grid, observation = sampler.inputs[1], observations[0]
    if grid.name not in tainted:
        return None
    for candidate in _list_candidates(graph, grid, tainted):
        shape = observation.shapes[candidate.name]
        if len(shape) != 4 or shape[2:] != observation.size or shape[1] > MOST_CHANNELS:
            continue
        places = [
            compute_part(
                model, candidate.name, np.full(shape, pixels, np.float32), grid.name, observation
            )
            for pixels in (0.0, 1.0)
        ]
        size = _read_size(places[1] - places[0])
        if size is not None:
            return size
    return None


def _read_size(moved: np.ndarray) -> Size | None:
    """The size for which so many places of -1..1 are one pixel; None for what is no frame's."""
    steps = moved.reshape(-1, warp.FLOW_CHANNELS).mean(axis=0, dtype=np.float64)
    if not (steps > 0).all():
        return None
    width, height = (float(2 / step + 1) for step in steps)
    rounded = round(height), round(width)
    is_whole = max(abs(width - rounded[1]), abs(height - rounded[0])) < WARP_POSITION.bound
    is_padded = all(side and side % LEAST_PADDING == 0 for side in rounded)
    return rounded if is_whole and is_padded else None


def find_constant_grid(graph: gs.Graph) -> Size | None:
    """Height and width of a grid that is a constant, of both axes or of each apart."""
    import onnx_graphsurgeon as gs

    shapes = [
        one.values.shape
        for one in graph.tensors().values()
        if isinstance(one, gs.Constant) and one.values.ndim == 4 and one.values.shape[0] == 1
    ]
    planes = [shape for shape in shapes if shape[1] <= warp.FLOW_CHANNELS]
    height = max((shape[2] for shape in planes), default=1)
    width = max((shape[3] for shape in planes), default=1)
    return (height, width) if min(height, width) >= LEAST_PADDING else None


def _become_warp(node: gs.Node, image: gs.Tensor, flow: gs.Tensor) -> None:
    node.op, node.domain = warp.OP_TYPE, warp.DOMAIN
    node.attrs.clear()
    node.inputs = [image, flow]


def _find_flow(
    graph: gs.Graph,
    node: gs.Node,
    tainted: set[str],
    model: onnx.ModelProto,
    observations: Sequence[Observation],
) -> tuple[gs.Tensor, int]:
    """The tensor that holds the flow, and the channel of its x.

    Raises:
        ValueError: it is no warp; the message says why.
    """
    _check_attributes(node)
    grid = node.inputs[1]
    image_shape, grid_shape = (observations[0].shapes[one.name] for one in node.inputs[:2])
    if len(image_shape) != 4 or grid_shape[-1] != warp.FLOW_CHANNELS:
        raise ValueError(f"a grid of {grid_shape[-1]} coordinates; 2 are accepted")
    if grid_shape[1:3] != image_shape[2:]:
        raise ValueError(
            f"samples {image_shape[2:]} pixels at {grid_shape[1:3]} places; one for each pixel is "
            "accepted"
        )
    if grid.name not in tainted:
        raise ValueError("its grid depends on the size alone; a flow is expected in it")
    nearest = np.inf
    for candidate in _list_candidates(graph, grid, tainted):
        shape = observations[0].shapes[candidate.name]
        if len(shape) != 4 or shape[2:] != image_shape[2:] or shape[1] > MOST_CHANNELS:
            continue
        channel, error = _try_flow(candidate, grid, model, observations)
        nearest = min(nearest, error)
        if channel is not None:
            return candidate, channel
    raise ValueError(
        "its grid is not that of the pixels moved by two channels of one tensor"
        + (f"; the nearest is {nearest:.2g} px off" if np.isfinite(nearest) else "")
    )


def _check_attributes(node: gs.Node) -> None:
    mode = str(node.attrs.get("mode", MODES[0]))
    padding = str(node.attrs.get("padding_mode", "zeros"))
    if mode not in MODES:
        raise ValueError(f"mode={mode}; {' or '.join(MODES)} is accepted")
    if padding != PADDING:
        raise ValueError(f"padding_mode={padding}; {PADDING} is accepted")
    if not node.attrs.get("align_corners", 0):
        raise ValueError("align_corners=0; 1 is accepted")


def _list_candidates(graph: gs.Graph, grid: gs.Tensor, tainted: set[str]) -> Iterator[gs.Tensor]:
    """The tensors that everything in the grid that depends on the frames comes through."""
    order = {id(node): index for index, node in enumerate(graph.nodes)}
    frontier = {grid.name: grid}
    for _ in range(MOST_STEPS):
        if len(frontier) == 1:
            yield next(iter(frontier.values()))
        makers = {name: one.inputs[0] for name, one in frontier.items() if one.inputs}
        if not makers:
            return
        last = max(makers.values(), key=lambda node: order[id(node)])
        if last.op in MAKERS:
            return
        frontier = {name: one for name, one in frontier.items() if makers.get(name) is not last}
        frontier |= {one.name: one for one in last.inputs if one.name in tainted}


def _try_flow(
    candidate: gs.Tensor,
    grid: gs.Tensor,
    model: onnx.ModelProto,
    observations: Sequence[Observation],
) -> tuple[int | None, float]:
    """The channel of x if a tensor is the flow of a grid, and by how many pixels it is not."""
    channels: set[int] = set()
    worst = 0.0
    for observation in observations:
        shape = observation.shapes[candidate.name]
        flow = np.random.default_rng(SEED).uniform(-PROBE_PIXELS, PROBE_PIXELS, shape)
        flow = flow.astype(np.float32)
        places = compute_part(model, candidate.name, flow, grid.name, observation)
        channel, error = _match_places(places, flow)
        worst = max(worst, error)
        channels.add(channel)
    if WARP_POSITION.accepts(worst) and len(channels) == 1:
        return channels.pop(), worst
    return None, worst


def _match_places(places: np.ndarray, flow: np.ndarray) -> tuple[int, float]:
    """Which two channels of a flow move the pixels to places in -1..1, and how far off they are.

    Both are clamped to the picture first: whether a graph clamps as well makes no difference where
    the border is sampled.
    """
    _, channels, height, width = flow.shape
    last_x, last_y = max(width - 1, 1), max(height - 1, 1)
    found_x = np.clip((places[..., 0] + 1) / 2 * last_x, 0, width - 1)
    found_y = np.clip((places[..., 1] + 1) / 2 * last_y, 0, height - 1)
    columns = np.arange(width, dtype=np.float32)
    rows = np.arange(height, dtype=np.float32)[:, np.newaxis]
    best = (0, float("inf"))
    for channel in range(channels - 1):
        x = np.clip(columns + flow[:, channel], 0, width - 1)
        y = np.clip(rows + flow[:, channel + 1], 0, height - 1)
        error = float(max(np.abs(x - found_x).max(), np.abs(y - found_y).max()))
        best = min(best, (channel, error), key=lambda pair: pair[1])
    return best
