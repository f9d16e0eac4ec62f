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


def fold_scales(model: HubModel) -> int:
    """Fold Mul(x, 2^k) into output channels of the Conv before it, or input channels behind it.

    Before: Conv, perhaps DepthToSpace, a Slice whose channels nothing else reads, then the Mul.
    Behind: the Mul, perhaps one Concat, then Conv, each the other's only reader.

    Exact when: the factor is a power of two, which changes only exponents, bit for bit (in fp16
    weights too, but for numbers below 6e-5, which lose their last bits).
    """
    folded = 0
    for node in list(model.graph.nodes):
        scaled = ops.scaled_operand(node)
        if scaled is None:
            continue
        factor = ops.scalar(node.inputs[1 - scaled])
        if factor is None or not ops.is_power_of_two(factor):
            log.debug("%s: refused: %s is no power of two", node.name, factor)
            continue
        data = node.inputs[scaled]
        if _fold_before(model.graph, node, data, factor) or _fold_behind(
            model.graph, node, data, factor
        ):
            folded += 1
    return folded


def _fold_before(graph: gs.Graph, mul: gs.Node, data: gs.Tensor, factor: float) -> bool:
    if not edit.is_read_only_by(graph, data, mul):
        return False
    cut = edit.producer(data, "Slice")
    raw = cut.inputs[0] if cut is not None else data
    shuffle = edit.producer(raw, "DepthToSpace")
    conv = edit.producer(shuffle.inputs[0] if shuffle is not None else raw, "Conv", "ConvTranspose")
    if conv is None or ops.read_conv(conv).group != 1:
        return False
    if shuffle is not None and not edit.is_read_only_by(graph, conv.outputs[0], shuffle):
        return False
    if cut is None:
        if not edit.is_read_only_by(graph, raw, mul):
            return False
        rows = slice(None)
    else:
        if not _reads_alone(graph, cut):
            log.debug("%s: refused: other readers take the same channels", mul.name)
            return False
        spec = ops.read_slice(cut)
        block = ops.pixel_shuffle_factor(shuffle) ** 2 if shuffle is not None else 1
        rows = slice(spec.start * block, spec.end * block)
    _scale_outputs(conv, rows, factor)
    return edit.bypass(graph, mul, data)


def _reads_alone(graph: gs.Graph, cut: gs.Node) -> bool:
    """Tell whether no other reader of the blob that is cut takes channels that `cut` takes."""
    raw = cut.inputs[0]
    if edit.is_output(graph, raw):
        return False
    mine = ops.read_slice(cut)
    for reader in raw.outputs:
        if reader is cut:
            continue
        if reader.op != "Slice":
            return False
        other = ops.read_slice(reader)
        if other.start < mine.end and mine.start < other.end:
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


def _fold_behind(graph: gs.Graph, mul: gs.Node, data: gs.Tensor, factor: float) -> bool:
    reader = edit.sole_consumer(graph, mul.outputs[0])
    if reader is None:
        return False
    extents = shapes.infer_extents(graph.toposort())
    start = 0
    scaled = mul.outputs[0]
    if reader.op == "Concat":
        parts = list(reader.inputs)
        start = sum(extents[part.name].channels for part in parts[: parts.index(scaled)])
        concat, reader = reader, edit.sole_consumer(graph, reader.outputs[0])
        if reader is None:
            log.debug("%s: refused: %s has several readers", mul.name, concat.name)
            return False
    if reader.op != "Conv" or ops.read_conv(reader).group != 1:
        return False
    weight = np.array(ops.constant(reader.inputs[1]))
    weight[:, start : start + extents[scaled.name].channels] *= np.float32(factor)
    reader.inputs[1] = edit.make_constant(f"{reader.name}.weight", weight)
    return edit.bypass(graph, mul, data)
