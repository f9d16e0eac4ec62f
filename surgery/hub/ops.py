"""Read the nodes of a hub graph: attributes with ONNX's defaults applied, constants as numbers.

Passes and targets read nodes through these functions alone, so that both of torch's exporters,
which write different subsets of the defaults, look the same to them.

Source of the defaults: ONNX operator documentation, opset 18.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

CHANNEL_AXIS = 1
# ONNX writes "to the end" as any large number; torch's exporters use these.
TO_THE_END = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class ConvSpec:
    """A Conv or ConvTranspose in two dimensions; pads are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    group: int
    output_padding: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ResizeSpec:
    """A Resize by fixed factors of height and width."""

    scale_h: float
    scale_w: float
    mode: str
    coordinates: str
    antialias: bool

    @property
    def is_plain_bilinear(self) -> bool:
        """Half-pixel bilinear without antialiasing: what torch's interpolate does here."""
        return (
            self.mode == "linear"
            and self.coordinates in ("half_pixel", "pytorch_half_pixel")
            and not self.antialias
        )


@dataclasses.dataclass(frozen=True)
class SliceSpec:
    """A Slice of one axis with step 1; `end` is TO_THE_END where it is open."""

    axis: int
    start: int
    end: int


def constant(tensor: gs.Tensor | None) -> np.ndarray | None:
    """Return the array of a constant tensor, None for anything computed or absent."""
    import onnx_graphsurgeon as gs

    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None


def scalar(tensor: gs.Tensor | None) -> float | None:
    """Return the number that a one-element constant holds, None for anything else."""
    array = constant(tensor)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def optional_input(node: gs.Node, index: int) -> gs.Tensor | None:
    """Return an input, None where it is left out (absent or with an empty name)."""
    if index >= len(node.inputs) or node.inputs[index].is_empty():
        return None
    return node.inputs[index]


def data_inputs(node: gs.Node) -> list[gs.Tensor]:
    """Return the inputs that are computed, in order."""
    return [t for t in node.inputs if constant(t) is None and not t.is_empty()]


def is_power_of_two(value: float) -> bool:
    """Tell whether a factor changes only the exponent (its sign may be negative)."""
    return value != 0.0 and math.isfinite(value) and abs(math.frexp(value)[0]) == 0.5


def scaled_operand(node: gs.Node) -> int | None:
    """Return which input of a Mul by a scalar constant is the computed one; None for others."""
    if node.op != "Mul" or node.domain:
        return None
    for index in (0, 1):
        if scalar(node.inputs[1 - index]) is not None and constant(node.inputs[index]) is None:
            return index
    return None


def read_conv(node: gs.Node) -> ConvSpec:
    """Read a Conv or ConvTranspose whose weight is a constant of rank 4, and its bias too.

    Raises:
        ValueError: the node is not a plain two-dimensional convolution.
    """
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 4:
        raise ValueError("weight is not a constant of rank 4")
    bias = optional_input(node, 2)
    if bias is not None and constant(bias) is None:
        raise ValueError("bias is computed; a constant is accepted")
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    if auto_pad not in ("NOTSET", "VALID"):
        raise ValueError(f"auto_pad={auto_pad}; explicit pads are accepted")
    if node.attrs.get("output_shape"):
        raise ValueError("output_shape is set; pads and output_padding are accepted")
    top, left, bottom, right = _ints(node, "pads", (0, 0, 0, 0))
    kernel_h, kernel_w = weight.shape[2:]
    return ConvSpec(
        kernel=(int(kernel_h), int(kernel_w)),
        strides=_pair(node, "strides", 1),
        pads=(top, left, bottom, right),
        dilations=_pair(node, "dilations", 1),
        group=int(node.attrs.get("group", 1)),
        output_padding=_pair(node, "output_padding", 0),
    )


def read_resize(node: gs.Node) -> ResizeSpec:
    """Read a Resize by constant scales of rank 4.

    Raises:
        ValueError: sizes are given instead, batch or channels are resized, or the scales mean
            something else (other axes, a region of interest).
    """
    scales = constant(optional_input(node, 2))
    if scales is None or scales.shape != (4,):
        raise ValueError("scales are not a constant of four numbers")
    if scales[0] != 1 or scales[1] != 1:
        raise ValueError(f"scales={scales.tolist()}; batch and channels must keep their size")
    if not (np.isfinite(scales).all() and scales.min() > 0):
        raise ValueError(f"scales={scales.tolist()}; factors above 0 are accepted")
    if list(node.attrs.get("axes") or range(4)) != [0, 1, 2, 3]:
        raise ValueError(f"axes={list(node.attrs['axes'])}; all four in order are accepted")
    coordinates = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    if coordinates == "tf_crop_and_resize":
        raise ValueError(f"{coordinates}; a Resize of the whole picture is accepted")
    return ResizeSpec(
        scale_h=float(scales[2]),
        scale_w=float(scales[3]),
        mode=str(node.attrs.get("mode", "nearest")),
        coordinates=coordinates,
        antialias=bool(node.attrs.get("antialias", 0)),
    )


def read_slice(node: gs.Node) -> SliceSpec:
    """Read a Slice of one axis with step 1.

    Raises:
        ValueError: several axes, a step, or bounds that are computed.
    """
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    axes, steps = constant(optional_input(node, 3)), constant(optional_input(node, 4))
    if starts is None or ends is None or starts.size != 1 or ends.size != 1:
        raise ValueError("starts and ends are not constants of one number each")
    if axes is None or axes.size != 1:
        raise ValueError("axes is not a constant of one number")
    if steps is not None and steps.reshape(-1)[0] != 1:
        raise ValueError(f"steps={steps.tolist()}; 1 is accepted")
    return SliceSpec(
        axis=int(axes.reshape(-1)[0]),
        start=int(starts.reshape(-1)[0]),
        end=min(int(ends.reshape(-1)[0]), TO_THE_END),
    )


def channel_range(node: gs.Node, channels: int) -> tuple[int, int]:
    """Return start and end of a Slice of so many channels, both counted from the front.

    Raises:
        ValueError: as `read_slice`, or another axis is sliced.
    """
    spec = read_slice(node)
    if spec.axis not in (CHANNEL_AXIS, CHANNEL_AXIS - 4):
        raise ValueError(f"axis={spec.axis}; slices of channels are accepted")
    start, end, _ = slice(spec.start, spec.end).indices(channels)
    return start, end


def clip_bounds(node: gs.Node) -> tuple[float, float]:
    """Return the bounds of a Clip; an absent one is infinite.

    Raises:
        ValueError: a bound is computed.
    """
    return (_clip_bound(node, 1, -np.inf), _clip_bound(node, 2, np.inf))


def _clip_bound(node: gs.Node, index: int, absent: float) -> float:
    tensor = optional_input(node, index)
    if tensor is None:
        return absent
    bound = scalar(tensor)
    if bound is None:
        raise ValueError("a bound is computed; constants are accepted")
    return bound


def leaky_slope(node: gs.Node) -> float:
    """Return the slope of a LeakyRelu; ONNX's default is 0.01."""
    return float(node.attrs.get("alpha", 0.01))


def concat_axis(node: gs.Node) -> int:
    """Return the axis of a Concat, counted from the front for tensors of rank 4."""
    axis = int(node.attrs["axis"])
    return axis + 4 if axis < 0 else axis


def pixel_shuffle_factor(node: gs.Node) -> int:
    """Return the block size of a DepthToSpace in torch's order.

    Raises:
        ValueError: the mode is not CRD, which is what torch's pixel_shuffle is.
    """
    mode = str(node.attrs.get("mode", "DCR"))
    if mode != "CRD":
        raise ValueError(f"mode={mode}; CRD (torch's pixel_shuffle) is accepted")
    return int(node.attrs["blocksize"])


def torch_module(node_name: str) -> str:
    """Return the torch module that a node came from, empty for the network itself."""
    return node_name.strip("/").rpartition("/")[0]


def _pair(node: gs.Node, name: str, default: int) -> tuple[int, int]:
    first, second = _ints(node, name, (default, default))
    return first, second


def _ints(node: gs.Node, name: str, default: Sequence[int]) -> tuple[int, ...]:
    values = tuple(int(v) for v in node.attrs.get(name) or default)
    if len(values) != len(default):
        raise ValueError(f"{name}={list(values)}; {len(default)} numbers are accepted")
    return values
