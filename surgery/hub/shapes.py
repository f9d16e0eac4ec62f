"""Channels and relative size of every tensor in a hub graph.

ONNX's own inference loses height and width at the first Resize of a symbolic size, and with them
what passes need to know: whether two tensors have the same size. Here a size is a fraction of the
input's, exact because every factor is a power of two or a small ratio.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import HubError
from surgery.hub import ops

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# Scales arrive as float32; no sensible one has a larger denominator.
MAX_DENOMINATOR = 4096
# What the size of an input is called that is a part of the frame's: `H/2`. All others are whole.
_PART = re.compile(r"[HW]/(\d+)")
# Of one pixel, whatever the frame's size is: what a global pooling leaves.
ONE_PIXEL = Fraction(0)


@dataclasses.dataclass(frozen=True)
class Extent:
    """Channels, and height and width as fractions of the frame's; ONE_PIXEL is one pixel."""

    channels: int
    height: Fraction
    width: Fraction

    def scaled(self, factor_h: Fraction, factor_w: Fraction) -> Extent:
        """The same channels at another size."""
        return Extent(self.channels, self.height * factor_h, self.width * factor_w)


Rule = Callable[["gs.Node", list[Extent]], Extent]


def infer_extents(graph: gs.Graph) -> dict[str, Extent]:
    """Infer the extent of every computed tensor, by name.

    The graph must be in topological order. Constants have no extent: their shapes are known.

    Raises:
        HubError: an operator is not part of the hub dialect, or operands do not fit together.
    """
    extents = {
        tensor.name: Extent(
            int(tensor.shape[ops.CHANNEL_AXIS]), *(_read_part(size) for size in tensor.shape[2:])
        )
        for tensor in graph.inputs
    }
    for node in graph.nodes:
        key = f"{node.domain}::{node.op}" if node.domain else node.op
        rule = RULES.get(key)
        if rule is None:
            raise HubError(f"{node.name}: {key}; a hub model is made of {', '.join(RULES)}")
        operands = [extents[t.name] for t in ops.data_inputs(node)]
        if not operands:
            raise HubError(f"{node.name}: {key} of constants alone; fold it into one constant")
        try:
            extents[node.outputs[0].name] = rule(node, operands)
        except ValueError as error:
            raise HubError(f"{node.name}: {error}") from error
    return extents


def find_multiple(extents: Mapping[str, Extent]) -> int:
    """The multiple of which height and width must be, for every tensor to have a whole size."""
    sizes = {part.denominator for one in extents.values() for part in (one.height, one.width)}
    return math.lcm(*sizes)


def name_sizes(extent: Extent) -> list[str]:
    """Call the height and width of an input by its part of the frame: `H/2`, `W/2`.

    Raises:
        HubError: a side is no whole part of the frame's.
    """
    return [_name_size("H", extent.height), _name_size("W", extent.width)]


def _name_size(side: str, part: Fraction) -> str:
    if part.numerator != 1:
        found = "one pixel" if part == ONE_PIXEL else f"{part} of the frame's size"
        raise HubError(f"{found} at an input or output; the whole size, or 1/n of it, is accepted")
    return side if part == 1 else f"{side}/{part.denominator}"


def _read_part(size: object) -> Fraction:
    match = _PART.fullmatch(size) if isinstance(size, str) else None
    return Fraction(1, int(match[1])) if match else Fraction(1)


def exact_fraction(factor: float) -> Fraction:
    """Read a float32 factor as the small fraction that it stands for."""
    return Fraction(factor).limit_denominator(MAX_DENOMINATOR)


def _same(node: gs.Node, operands: list[Extent]) -> Extent:
    return operands[0]


def _broadcast(node: gs.Node, operands: list[Extent]) -> Extent:
    largest = max(operands, key=lambda extent: extent.height)
    sizes = {(extent.height, extent.width) for extent in operands if extent.height != ONE_PIXEL}
    if len(sizes) > 1:
        raise ValueError(f"operands of different sizes {sorted(map(str, sizes))}")
    channels = max(extent.channels for extent in operands)
    for tensor in node.inputs:
        array = ops.constant(tensor)
        if array is not None:
            channels = max(channels, _constant_channels(array))
    if any(extent.channels not in (1, channels) for extent in operands):
        raise ValueError(f"channels {[extent.channels for extent in operands]} do not broadcast")
    return dataclasses.replace(largest, channels=channels)


def _constant_channels(array: np.ndarray) -> int:
    """Channels of a constant that is a number, or one for each channel."""
    if array.ndim > 4 or array.size != (array.shape[-3] if array.ndim >= 3 else 1):
        raise ValueError(
            f"a constant of shape {list(array.shape)}; one number, or [1,C,1,1], is accepted"
        )
    return int(array.size)


def _clip(node: gs.Node, operands: list[Extent]) -> Extent:
    ops.clip_bounds(node)  # refuses computed ones
    return operands[0]


def _conv(node: gs.Node, operands: list[Extent]) -> Extent:
    spec = ops.read_conv(node)
    weight = ops.constant(node.inputs[1])
    assert weight is not None  # read_conv has checked it
    if operands[0].channels != weight.shape[1] * spec.group:
        raise ValueError(
            f"{operands[0].channels} channels go into weights for {weight.shape[1] * spec.group}"
        )
    for kernel, dilation, stride, padded in _sides(spec):
        # floor((size + padded - reach - 1) / stride) + 1 is size / stride for these alone.
        reach = dilation * (kernel - 1)
        if not reach + 1 - stride <= padded <= reach:
            raise ValueError(
                f"kernel {kernel}, stride {stride}, dilation {dilation} with padding {padded} in "
                f"all; {reach + 1 - stride} to {reach}, which gives size / stride, is accepted"
            )
    halves = Fraction(1, spec.strides[0]), Fraction(1, spec.strides[1])
    if max(spec.strides) > 1:
        _refuse_one_pixel(operands[0])
    return dataclasses.replace(operands[0].scaled(*halves), channels=int(weight.shape[0]))


def _conv_transpose(node: gs.Node, operands: list[Extent]) -> Extent:
    _refuse_one_pixel(operands[0])
    spec = ops.read_conv(node)
    weight = ops.constant(node.inputs[1])
    assert weight is not None  # read_conv has checked it
    if operands[0].channels != weight.shape[0]:
        raise ValueError(f"{operands[0].channels} channels go into weights for {weight.shape[0]}")
    for (kernel, dilation, stride, padded), extra in zip(
        _sides(spec), spec.output_padding, strict=True
    ):
        if dilation * (kernel - 1) + 1 + extra - padded != stride:
            raise ValueError(
                f"kernel {kernel}, stride {stride}, dilation {dilation} with padding {padded} in "
                "all gives another size than size * stride"
            )
    grown = operands[0].scaled(Fraction(spec.strides[0]), Fraction(spec.strides[1]))
    return dataclasses.replace(grown, channels=int(weight.shape[1]) * spec.group)


def _refuse_one_pixel(extent: Extent) -> None:
    if ONE_PIXEL in (extent.height, extent.width):
        raise ValueError("changes the size of one pixel, which a global average leaves")


def _sides(spec: ops.ConvSpec) -> list[tuple[int, int, int, int]]:
    """Kernel, dilation, stride and padding in all, of height and of width."""
    top, left, bottom, right = spec.pads
    padded = (top + bottom, left + right)
    return list(zip(spec.kernel, spec.dilations, spec.strides, padded, strict=True))


def _resize(node: gs.Node, operands: list[Extent]) -> Extent:
    _refuse_one_pixel(operands[0])
    spec = ops.read_resize(node)
    factors = exact_fraction(spec.scale_h), exact_fraction(spec.scale_w)
    if not all(factors):
        raise ValueError(f"scales {spec.scale_h:g} x {spec.scale_w:g} leave nothing")
    return operands[0].scaled(*factors)


def _slice(node: gs.Node, operands: list[Extent]) -> Extent:
    channels = operands[0].channels
    start, end = ops.channel_range(node, channels)
    if end <= start:
        raise ValueError(f"[{start}:{end}] of {channels} channels is empty")
    return dataclasses.replace(operands[0], channels=end - start)


def _concat(node: gs.Node, operands: list[Extent]) -> Extent:
    if ops.concat_axis(node) != ops.CHANNEL_AXIS:
        raise ValueError(f"axis={node.attrs['axis']}; concatenation of channels is accepted")
    if len(operands) != len(node.inputs):
        raise ValueError("an operand is a constant, whose size is fixed")
    if len({(extent.height, extent.width) for extent in operands}) > 1:
        raise ValueError("operands of different sizes")
    return dataclasses.replace(operands[0], channels=sum(e.channels for e in operands))


def _depth_to_space(node: gs.Node, operands: list[Extent]) -> Extent:
    _refuse_one_pixel(operands[0])
    factor = ops.pixel_shuffle_factor(node)
    channels, rest = divmod(operands[0].channels, factor * factor)
    if rest:
        raise ValueError(f"{operands[0].channels} channels are no multiple of {factor * factor}")
    grown = operands[0].scaled(Fraction(factor), Fraction(factor))
    return dataclasses.replace(grown, channels=channels)


def _global_average(node: gs.Node, operands: list[Extent]) -> Extent:
    return Extent(operands[0].channels, ONE_PIXEL, ONE_PIXEL)


def _warp(node: gs.Node, operands: list[Extent]) -> Extent:
    image, flow = operands
    if flow.channels != 2:
        raise ValueError(f"the flow has {flow.channels} channels; exactly 2 are accepted")
    if (image.height, image.width) != (flow.height, flow.width):
        raise ValueError("image and flow differ in size")
    return image


RULES: dict[str, Rule] = {
    "Add": _broadcast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": _broadcast,
    "GlobalAveragePool": _global_average,
    "Identity": _same,
    "LeakyRelu": _same,
    "Mul": _broadcast,
    "Neg": _same,
    "PRelu": _same,
    "Relu": _same,
    "Resize": _resize,
    "Sigmoid": _same,
    "Slice": _slice,
    "Sub": _broadcast,
    "rife::Warp": _warp,
}
