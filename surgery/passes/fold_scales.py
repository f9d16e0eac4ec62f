"""Fold a scalar factor of a power of two into the convolution before or behind it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops, shapes
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)
Extents = dict[str, shapes.Extent]

# Resolutions differ by less; a larger factor, or its inverse, could leave float's normal range.
LARGEST_FACTOR = 2.0**14


def fold_scales(model: HubModel) -> int:
    """Fold Mul(x, 2^k) into output channels of the Conv before it, or input channels behind it.

    Before: Conv, perhaps DepthToSpace, a Slice whose channels nothing else reads, then the Mul.
    Behind: the Mul, perhaps one Concat, then Conv, each the other's only reader.

    Exact when: the factor is a power of two, which changes only exponents, bit for bit (in fp16
    weights too, but for numbers below 6e-5, which lose their last bits).
    """
    # No edit makes a tensor, so the extents hold to the end.
    extents = shapes.infer_extents(model.graph)
    folded = 0
    for node in list(model.graph.nodes):
        scaled = ops.scaled_operand(node)
        if scaled is None:
            continue
        factor = ops.scalar(node.inputs[1 - scaled])
        if factor is None or not ops.is_power_of_two(factor):
            log.debug("%s: refused: %s is no power of two", node.name, factor)
            continue
        if not 1 / LARGEST_FACTOR <= abs(factor) <= LARGEST_FACTOR:
            log.debug("%s: refused: %g could overflow or vanish", node.name, factor)
            continue
        if edit.is_output(model.graph, node.outputs[0]):
            log.debug("%s: refused: it makes an output of the graph", node.name)
            continue
        data = node.inputs[scaled]
        folded += _fold_before(model.graph, node, data, factor, extents) or _fold_behind(
            model.graph, node, data, factor, extents
        )
    return folded


def _fold_before(
    graph: gs.Graph, mul: gs.Node, data: gs.Tensor, factor: float, extents: Extents
) -> bool:
    if not edit.is_read_only_by(graph, data, mul):
        log.debug("%s: refused: what it scales has other readers", mul.name)
        return False
    cut = edit.producer(data, "Slice")
    raw = cut.inputs[0] if cut is not None else data
    shuffle = edit.producer(raw, "DepthToSpace")
    conv = edit.producer(shuffle.inputs[0] if shuffle is not None else raw, "Conv", "ConvTranspose")
    if conv is None:
        return False
    if ops.read_conv(conv).group != 1:
        log.debug("%s: refused: %s has groups", mul.name, conv.name)
        return False
    if shuffle is not None and not edit.is_read_only_by(graph, conv.outputs[0], shuffle):
        log.debug("%s: refused: %s has other readers", mul.name, conv.name)
        return False
    channels = extents[raw.name].channels
    start, end = 0, channels
    if cut is not None:
        if not _reads_alone(graph, cut, channels):
            log.debug("%s: refused: other readers take the same channels", mul.name)
            return False
        start, end = ops.channel_range(cut, channels)
    block = ops.pixel_shuffle_factor(shuffle) ** 2 if shuffle is not None else 1
    rows = slice(start * block, end * block)
    _scale_outputs(conv, rows, factor)
    return edit.bypass(graph, mul, data)


def _reads_alone(graph: gs.Graph, cut: gs.Node, channels: int) -> bool:
    """Tell whether no other reader of the blob that is cut takes channels that `cut` takes."""
    raw = cut.inputs[0]
    if edit.is_output(graph, raw):
        return False
    start, end = ops.channel_range(cut, channels)
    for reader in raw.outputs:
        if reader is cut:
            continue
        if reader.op != "Slice":
            return False
        other_start, other_end = ops.channel_range(reader, channels)
        if other_start < end and start < other_end:
            return False
    return True


def _scale_outputs(conv: gs.Node, rows: slice, factor: float) -> None:
    weight = np.array(ops.constant(conv.inputs[1]))
    if conv.op == "Conv":
        weight[rows] *= np.float32(factor)
    else:
        weight[:, rows] *= np.float32(factor)
    conv.inputs[1] = edit.make_constant(f"{conv.name}.weight", weight)
    bias = ops.constant(ops.optional_input(conv, 2))
    if bias is not None:
        bias = np.array(bias)
        bias[rows] *= np.float32(factor)
        conv.inputs[2] = edit.make_constant(f"{conv.name}.bias", bias)


def _fold_behind(
    graph: gs.Graph, mul: gs.Node, data: gs.Tensor, factor: float, extents: Extents
) -> bool:
    reader = edit.sole_consumer(graph, mul.outputs[0])
    if reader is None:
        log.debug("%s: refused: it has several readers", mul.name)
        return False
    start = 0
    scaled = mul.outputs[0]
    if reader.op == "Concat":
        parts = list(reader.inputs)
        start = sum(extents[part.name].channels for part in parts[: parts.index(scaled)])
        concat, reader = reader, edit.sole_consumer(graph, reader.outputs[0])
        if reader is None:
            log.debug("%s: refused: %s has several readers", mul.name, concat.name)
            return False
    if reader.op != "Conv":
        return False
    if ops.read_conv(reader).group != 1:
        log.debug("%s: refused: %s has groups", mul.name, reader.name)
        return False
    weight = np.array(ops.constant(reader.inputs[1]))
    weight[:, start : start + extents[scaled.name].channels] *= np.float32(factor)
    reader.inputs[1] = edit.make_constant(f"{reader.name}.weight", weight)
    return edit.bypass(graph, mul, data)
