"""The shape of every blob of an ncnn graph, by the arithmetic of ncnn's own layers.

A shape lists its axes outermost first, as numpy does: (c, h, w) for a frame or features, (h, w) and
(w,) for what has lost its channels. Batches do not exist in ncnn.

Source: `src/layer/<layer>.cpp` of ncnn, `forward`; `LAYER_TYPES` names the file of each layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations

import numpy as np

from surgery.errors import FormatError
from surgery.formats import ncnn_layers as layers
from surgery.formats.ncnn_layers import Params, read_float, read_int, read_ints
from surgery.formats.ncnn_param import Layer, NcnnGraph

Shape = tuple[int, ...]
Rule = Callable[[Layer, Sequence[Shape]], Sequence[Shape]]
OneRule = Callable[[Params, Shape], Shape]

# What a v4 runtime feeds: two frames and the timestep as a plane (rife-ncnn-vulkan rife.cpp).
V4_CHANNELS: Mapping[str, int] = {"in0": 3, "in1": 3, "in2": 1}
# Both sides of the frame that stands for all frames: any padding that RIFE knows divides it.
NOMINAL_SIZE = 1024
# ncnn counts the numbers along an axis in an int (mat.h).
LONGEST_AXIS = 2**31 - 1


def infer_shapes(graph: NcnnGraph, width: int, height: int) -> dict[str, Shape]:
    """The shape of every blob of a v4 network, by name, at one size of its frames.

    Units: width and height in pixels, padded already.

    Raises:
        FormatError: a layer of an unknown type, or shapes that do not fit each other; the message
            names the layer.
    """
    return infer_shapes_from(
        graph, {name: (count, height, width) for name, count in V4_CHANNELS.items()}
    )


def infer_channels(graph: NcnnGraph) -> dict[str, int]:
    """How many channels every blob of a v4 network has, by name, whatever the size.

    A blob that has lost its channels counts its outermost axis.

    Raises:
        FormatError: as `infer_shapes`.
    """
    shapes = infer_shapes(graph, NOMINAL_SIZE, NOMINAL_SIZE)
    return {blob: shape[0] for blob, shape in shapes.items()}


def infer_shapes_from(graph: NcnnGraph, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of every blob of any network, by name, given those of its inputs.

    Raises:
        FormatError: an input that is not given, and as `infer_shapes`.
    """
    shapes: dict[str, Shape] = {}
    for layer in graph.layers:
        try:
            found = _infer_layer(layer, shapes, inputs)
        except FormatError as error:
            raise FormatError(f"{layer.type} {layer.name}: {error}") from error
        shapes.update(zip(layer.outputs, found, strict=True))
    return shapes


def _infer_layer(
    layer: Layer, shapes: Mapping[str, Shape], inputs: Mapping[str, Shape]
) -> Sequence[Shape]:
    if layer.type == "Input":
        return [_take_input(blob, inputs) for blob in layer.outputs]
    rule = RULES.get(layer.type)
    if rule is None:
        raise FormatError(f"the shape it makes is not known; known are {', '.join(sorted(RULES))}")
    least, most = layers.LAYER_TYPES[layer.type].inputs
    if not least <= len(layer.inputs) <= most:
        accepted = f"{least}" if least == most else f"{least} to {most}"
        raise FormatError(f"{len(layer.inputs)} inputs; {accepted} are accepted")
    absent = [blob for blob in layer.inputs if blob not in shapes]
    if absent:
        raise FormatError(f"reads {absent[0]}, which no layer before it makes")
    found = rule(layer, [shapes[blob] for blob in layer.inputs])
    if len(found) != len(layer.outputs):
        raise FormatError(f"{len(layer.outputs)} outputs; {len(found)} are expected")
    if not all(1 <= size <= LONGEST_AXIS for shape in found for size in shape):
        raise FormatError(
            f"makes the shape {list(found)}; every axis must be at least 1 and at most "
            f"{LONGEST_AXIS}"
        )
    return found


def _take_input(blob: str, inputs: Mapping[str, Shape]) -> Shape:
    if blob not in inputs:
        raise FormatError(f"no runtime feeds {blob!r}; known are {', '.join(inputs)}")
    return inputs[blob]


# ---- rules of many layers ----------------------------------------------------------------------


def _one(rule: OneRule) -> Rule:
    """A rule for layers of one input and one output."""

    def apply(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
        if len(shapes) != 1:
            raise FormatError(f"{len(shapes)} inputs; the shape is known for 1")
        return [rule(layer.params, shapes[0])]

    return apply


def _keep(params: Params, shape: Shape) -> Shape:
    return shape


def _split(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    return [shapes[0]] * len(layer.outputs)


def _scale(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    count = read_int(layer.params, layers.Scale.SCALE_COUNT)
    if count not in (layers.SCALE_FROM_INPUT, shapes[0][0]):
        raise FormatError(f"{count} scales for {shapes[0][0]} channels")
    return shapes[:1]


def _prelu(params: Params, shape: Shape) -> Shape:
    count = read_int(params, layers.PReLU.NUM_SLOPE)
    if count not in (1, shape[0]):
        raise FormatError(f"{count} slopes for {shape[0]} channels; 1 or one each is accepted")
    return shape


def _memory_data(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    (data,) = layers.LAYER_TYPES["MemoryData"].list_weights(layer.params)
    return [data.shape]


def _require_planes(shape: Shape) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise FormatError(f"the input has the shape {shape}; (c, h, w) is accepted")
    return shape[0], shape[1], shape[2]


def _find_axis(axis: int, shape: Shape) -> int:
    found = axis + len(shape) if axis < 0 else axis
    if not 0 <= found < len(shape):
        raise FormatError(f"axis {axis} of a blob of the shape {shape}")
    return found


# ---- joining and cutting -----------------------------------------------------------------------


def _concat(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    axis = _find_axis(read_int(layer.params, layers.Concat.AXIS), shapes[0])
    rests = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    if len(rests) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise FormatError(f"the shapes {list(shapes)} do not join along axis {axis}")
    return [_replace(shapes[0], axis, sum(shape[axis] for shape in shapes))]


def _slice(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    (shape,) = shapes
    axis = _find_axis(read_int(layer.params, layers.Slice.AXIS), shape)
    indices = read_ints(layer.params, layers.Slice.INDICES)
    sizes = read_ints(layer.params, layers.Slice.SLICES)
    count = len(layer.outputs)
    if indices:
        bounds = [index + shape[axis] if index < 0 else index for index in indices[: count - 1]]
        starts, ends = [0, *bounds], [*bounds, shape[axis]]
        parts = [end - start for start, end in zip(starts, ends, strict=True)]
    else:
        parts = _share_out(sizes, shape[axis], count)
    if sum(parts) > shape[axis]:
        raise FormatError(f"slices of {parts} from {shape[axis]} along axis {axis}")
    return [_replace(shape, axis, part) for part in parts]


def _share_out(sizes: Sequence[int], total: int, count: int) -> list[int]:
    """The sizes of slices; each that is to be found out takes an even part of what is left."""
    if len(sizes) != count:
        raise FormatError(f"{len(sizes)} slice sizes for {count} outputs")
    parts: list[int] = []
    for index, size in enumerate(sizes):
        left = total - sum(parts)
        parts.append(left // (count - index) if size == layers.SLICE_EVENLY else size)
    return parts


def _crop(params: Params, shape: Shape) -> Shape:
    starts = read_ints(params, layers.Crop.STARTS)
    ends = read_ints(params, layers.Crop.ENDS)
    if not starts or not ends:
        return _crop_by_offsets(params, shape)
    axes = read_ints(params, layers.Crop.AXES) or list(range(len(shape)))
    if not len(starts) == len(ends) == len(axes):
        raise FormatError(f"{len(starts)} starts and {len(ends)} ends for {len(axes)} axes")
    for start, end, number in zip(starts, ends, axes, strict=True):
        axis = _find_axis(number, shape)
        shape = _replace(shape, axis, _crop_axis(start, end, shape[axis]))
    return shape


def _crop_axis(start: int, end: int, size: int) -> int:
    """How much is left of an axis; unlike Python, ncnn takes an end of 0 for the axis's own."""
    start = 0 if start == layers.ALL_OF_IT else start
    end = size if end == layers.ALL_OF_IT else end
    return min(size, end if end > 0 else size + end) - (start if start >= 0 else size + start)


def _crop_by_offsets(params: Params, shape: Shape) -> Shape:
    ids = layers.Crop
    every = {
        "w": (ids.W_OFFSET, ids.W_OFFSET2, ids.OUT_W),
        "h": (ids.H_OFFSET, ids.H_OFFSET2, ids.OUT_H),
        "d": (ids.D_OFFSET, ids.D_OFFSET2, ids.OUT_D),
        "c": (ids.C_OFFSET, ids.C_OFFSET2, ids.OUT_C),
    }
    cut = []
    for name, size in zip(AXIS_NAMES[len(shape)], shape, strict=True):
        before, after, wanted = (read_int(params, param) for param in every[name])
        left = size - before - after
        cut.append(left if wanted == layers.ALL_OF_IT else min(wanted, left))
    return tuple(cut)


def _replace(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])


# ---- convolutions and windows ------------------------------------------------------------------


def _convolution(params: Params, shape: Shape) -> Shape:
    return _convolve(params, shape, 1)


def _grouped_convolution(params: Params, shape: Shape) -> Shape:
    return _convolve(params, shape, read_int(params, layers.ConvolutionDepthWise.GROUP))


def _convolve(params: Params, shape: Shape, group: int) -> Shape:
    """Both convolutions have the same keys; see `ncnn_layers`."""
    ids = layers.Convolution
    channels, height, width = _require_planes(shape)
    _match_weights("Convolution" if group == 1 else "ConvolutionDepthWise", params, channels, group)
    rows = _slide(
        height,
        _extent(params, ids.KERNEL_H, ids.DILATION_H),
        read_int(params, ids.STRIDE_H),
        (read_int(params, ids.PAD_TOP), read_int(params, ids.PAD_BOTTOM)),
    )
    columns = _slide(
        width,
        _extent(params, ids.KERNEL_W, ids.DILATION_W),
        read_int(params, ids.STRIDE_W),
        (read_int(params, ids.PAD_LEFT), read_int(params, ids.PAD_RIGHT)),
    )
    return read_int(params, ids.NUM_OUTPUT), rows, columns


def _deconvolution(params: Params, shape: Shape) -> Shape:
    ids = layers.Deconvolution
    channels, height, width = _require_planes(shape)
    _match_weights("Deconvolution", params, channels, 1)
    wanted = read_int(params, ids.OUTPUT_H), read_int(params, ids.OUTPUT_W)
    pads = [
        read_int(params, pad) for pad in (ids.PAD_TOP, ids.PAD_BOTTOM, ids.PAD_LEFT, ids.PAD_RIGHT)
    ]
    # deconvolution.cpp looks at the wanted size only where no side is cut.
    if min(wanted) > 0 and max(pads) <= 0:
        return read_int(params, ids.NUM_OUTPUT), *wanted
    pads = [max(pad, 0) for pad in pads]
    rows = (height - 1) * read_int(params, ids.STRIDE_H) - pads[0] - pads[1]
    rows += _extent(params, ids.KERNEL_H, ids.DILATION_H)
    columns = (width - 1) * read_int(params, ids.STRIDE_W) - pads[2] - pads[3]
    columns += _extent(params, ids.KERNEL_W, ids.DILATION_W)
    return (
        read_int(params, ids.NUM_OUTPUT),
        rows + read_int(params, ids.OUTPUT_PAD_BOTTOM),
        columns + read_int(params, ids.OUTPUT_PAD_RIGHT),
    )


def _match_weights(kind: str, params: Params, channels: int, group: int) -> None:
    arrays = layers.LAYER_TYPES[kind].list_weights(params)
    if not arrays:
        raise FormatError("its weights arrive as inputs; weights of its own are accepted")
    expected = arrays[0].shape[1] * group
    if expected != channels:
        raise FormatError(f"{channels} channels go into weights for {expected}")


def _extent(params: Params, kernel: layers.ParamId, dilation: layers.ParamId) -> int:
    """How many input values a kernel spans."""
    return read_int(params, dilation) * (read_int(params, kernel) - 1) + 1


def _slide(size: int, window: int, stride: int, pads: tuple[int, int]) -> int:
    """How many steps a window has along an axis."""
    if stride < 1:
        raise FormatError(f"a stride of {stride}; 1 or more is accepted")
    if pads[0] in (layers.PAD_SAME_UPPER, layers.PAD_SAME_LOWER):
        return (size - 1) // stride + 1
    room = size + max(pads[0], 0) + max(pads[1], 0) - window
    return room // stride + 1


def _inner_product(params: Params, shape: Shape) -> Shape:
    output = read_int(params, layers.InnerProduct.NUM_OUTPUT)
    (weight, *_) = layers.LAYER_TYPES["InnerProduct"].list_weights(params)
    expected = weight.shape[1]
    if len(shape) == 2 and shape[1] == expected:
        return shape[0], output
    if math.prod(shape) != expected:
        raise FormatError(f"{math.prod(shape)} values go into weights for {expected}")
    return (output,)


def _pooling(params: Params, shape: Shape) -> Shape:
    ids = layers.Pooling
    channels, height, width = _require_planes(shape)
    if read_int(params, ids.GLOBAL_POOLING):
        return (channels,)
    if read_int(params, ids.ADAPTIVE_POOLING):
        wanted = read_int(params, ids.OUT_H), read_int(params, ids.OUT_W)
        rows, columns = (
            size if target == layers.ALL_OF_IT else target
            for size, target in zip((height, width), wanted, strict=True)
        )
        return channels, rows, columns
    mode = read_int(params, ids.PAD_MODE)
    pads = [
        read_int(params, pad) for pad in (ids.PAD_TOP, ids.PAD_BOTTOM, ids.PAD_LEFT, ids.PAD_RIGHT)
    ]
    rows = _pool(height, read_int(params, ids.KERNEL_H), read_int(params, ids.STRIDE_H), mode, pads)
    columns = _pool(
        width, read_int(params, ids.KERNEL_W), read_int(params, ids.STRIDE_W), mode, pads[2:]
    )
    return channels, rows, columns


def _pool(size: int, window: int, stride: int, mode: int, pads: Sequence[int]) -> int:
    modes = layers.PoolingPadMode
    if mode not in tuple(modes) or stride < 1:
        raise FormatError(f"padding mode {mode} with a stride of {stride}")
    if mode == modes.FULL:
        # A last, incomplete window is filled up.
        return -((window - size - pads[0] - pads[1]) // stride) + 1
    if mode == modes.VALID:
        return (size + pads[0] + pads[1] - window) // stride + 1
    return (size - 1) // stride + 1


def _padding(params: Params, shape: Shape) -> Shape:
    ids = layers.Padding
    # In a blob of four axes the outermost one is left alone, in a smaller one those that it lacks.
    pairs = ((ids.FRONT, ids.BEHIND), (ids.TOP, ids.BOTTOM), (ids.LEFT, ids.RIGHT))
    added = [read_int(params, first) + read_int(params, last) for first, last in pairs]
    added = [0, *added][-len(shape) :]
    return tuple(size + more for size, more in zip(shape, added, strict=True))


# ---- resizing ----------------------------------------------------------------------------------


def _interp(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    shape = shapes[0]
    height, width = (1, 1) if len(shape) == 1 else shape[-2:]
    if len(shapes) == 2:
        rows, columns = shapes[1][-2:] if len(shapes[1]) > 1 else (1, shapes[1][0])
    else:
        rows = read_int(layer.params, layers.Interp.OUTPUT_HEIGHT)
        columns = read_int(layer.params, layers.Interp.OUTPUT_WIDTH)
        if rows == 0 or columns == 0:
            rows = _stretch(height, read_float(layer.params, layers.Interp.HEIGHT_SCALE))
            columns = _stretch(width, read_float(layer.params, layers.Interp.WIDTH_SCALE))
    if len(shape) == 2:
        return [(height, columns)]
    return [(shape[0], rows, columns)]


def _stretch(size: int, factor: float) -> int:
    """interp.cpp multiplies in float and cuts the fraction off."""
    with np.errstate(over="ignore", invalid="ignore"):
        stretched = np.float32(size) * np.float32(factor)
    if not abs(stretched) <= LONGEST_AXIS:  # it may be no number
        raise FormatError(
            f"stretches {size} by {factor:g}; {LONGEST_AXIS} is the most there can be"
        )
    return int(stretched)


def _pixel_shuffle(params: Params, shape: Shape) -> Shape:
    channels, height, width = _require_planes(shape)
    factor = read_int(params, layers.PixelShuffle.UPSCALE_FACTOR)
    if factor < 1 or channels % factor**2:
        raise FormatError(f"{channels} channels do not divide by {factor} x {factor}")
    return channels // factor**2, height * factor, width * factor


# ---- operands ----------------------------------------------------------------------------------


def _binary_op(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if read_int(layer.params, layers.BinaryOp.WITH_SCALAR):
        return shapes[:1]
    if len(shapes) != 2:
        raise FormatError(f"{len(shapes)} operands and no scalar; 2 operands are expected")
    first, second = shapes
    rank = max(len(first), len(second))
    first, second = _expand(first, second, rank), _expand(second, first, rank)
    if any(1 not in pair and pair[0] != pair[1] for pair in zip(first, second, strict=True)):
        raise FormatError(f"the shapes {list(shapes)} do not broadcast")
    return [tuple(max(pair) for pair in zip(first, second, strict=True))]


def _expand(shape: Shape, other: Shape, rank: int) -> Shape:
    """Axes that ncnn adds: inside, but outside for a vector that is no match for the channels."""
    missing = (1,) * (rank - len(shape))
    if missing and len(shape) == 1 and shape[0] != other[0]:
        return missing + shape
    return shape + missing


def _eltwise(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    if len(set(shapes)) > 1:
        raise FormatError(f"operands of the shapes {list(shapes)}; Eltwise does not broadcast")
    return shapes[:1]


def _warp(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    image, flow = shapes
    if _require_planes(image)[1:] != _require_planes(flow)[1:]:
        raise FormatError(f"an image of the shape {image} and a flow of {flow} differ in size")
    return [image]


def _grid_sample(layer: Layer, shapes: Sequence[Shape]) -> Sequence[Shape]:
    image, grid = (_require_planes(shape) for shape in shapes)
    is_fused = read_int(layer.params, layers.GridSample.PERMUTE_FUSION)
    return [(image[0], *(grid[1:] if is_fused else grid[:2]))]


# ---- axes --------------------------------------------------------------------------------------

AXIS_NAMES: Mapping[int, str] = {1: "w", 2: "hw", 3: "chw", 4: "cdhw"}


def _flatten(params: Params, shape: Shape) -> Shape:
    return (math.prod(shape),)


def _reshape(params: Params, shape: Shape) -> Shape:
    ids = layers.Reshape
    every = {name: getattr(ids, name.upper()) for name in "whdc"}
    wanted = {name: read_int(params, key) for name, key in every.items()}
    # reshape.cpp looks for the axes in the order w, h, c, d and stops at the first that is absent.
    present = [wanted[name] != layers.RESHAPE_ABSENT for name in "whcd"]
    rank = present.index(False) if False in present else len(present)
    if rank == 0:
        raise FormatError("a shape that is not written in w, h, d and c")
    old = dict(zip(AXIS_NAMES[len(shape)], shape, strict=True))
    sizes = [
        old.get(name, 1) if wanted[name] == layers.RESHAPE_KEEP else wanted[name]
        for name in AXIS_NAMES[rank]
    ]
    known = math.prod(size for size in sizes if size != layers.RESHAPE_INFER)
    found = tuple(math.prod(shape) // known if size < 0 else size for size in sizes)
    if math.prod(found) != math.prod(shape):
        raise FormatError(f"{shape} does not reshape to {found}")
    return found


def _permute(params: Params, shape: Shape) -> Shape:
    """The orders are the permutations of the axes, outermost first, in lexicographic order."""
    order = read_int(params, layers.Permute.ORDER_TYPE)
    every = list(permutations(shape))
    if not 0 <= order < len(every):
        raise FormatError(f"order {order} of {len(shape)} axes; 0 to {len(every) - 1} exist")
    return every[order]


def _reduction(params: Params, shape: Shape) -> Shape:
    ids = layers.Reduction
    axes = read_ints(params, ids.AXES)
    reduced = {_find_axis(axis, shape) for axis in axes}
    if read_int(params, ids.REDUCE_ALL) or not axes:
        reduced = set(range(len(shape)))
    if read_int(params, ids.KEEP_DIMS):
        return tuple(1 if axis in reduced else size for axis, size in enumerate(shape))
    return tuple(size for axis, size in enumerate(shape) if axis not in reduced) or (1,)


def _expand_dims(params: Params, shape: Shape) -> Shape:
    added = read_ints(params, layers.ExpandDims.AXES)
    rank = len(shape) + len(added)
    if not added or rank > max(AXIS_NAMES):
        raise FormatError(f"axes {added} added to a blob of the shape {shape}")
    positions = {axis + rank if axis < 0 else axis for axis in added}
    sizes = iter(shape)
    return tuple(1 if axis in positions else next(sizes) for axis in range(rank))


def _squeeze(params: Params, shape: Shape) -> Shape:
    ids = layers.Squeeze
    axes = read_ints(params, ids.AXES)
    names = AXIS_NAMES[len(shape)]
    if axes:
        dropped = {names[_find_axis(axis, shape)] for axis in axes}
    else:
        flags = {"w": ids.W, "h": ids.H, "d": ids.D, "c": ids.C}
        dropped = {name for name, flag in flags.items() if read_int(params, flag)}
    kept = [
        size for name, size in zip(names, shape, strict=True) if size != 1 or name not in dropped
    ]
    return tuple(kept) or (1,)


def _tile(params: Params, shape: Shape) -> Shape:
    repeats = read_ints(params, layers.Tile.REPEATS)
    if not repeats:
        axis = _find_axis(read_int(params, layers.Tile.AXIS), shape)
        return _replace(shape, axis, shape[axis] * read_int(params, layers.Tile.TILES))
    rank = max(len(shape), len(repeats))
    sizes = (1,) * (rank - len(shape)) + shape
    times = [1] * (rank - len(repeats)) + repeats
    return tuple(size * count for size, count in zip(sizes, times, strict=True))


RULES: Mapping[str, Rule] = {
    "MemoryData": _memory_data,
    "Split": _split,
    "Concat": _concat,
    "Slice": _slice,
    "Crop": _one(_crop),
    "Convolution": _one(_convolution),
    "ConvolutionDepthWise": _one(_grouped_convolution),
    "Deconvolution": _one(_deconvolution),
    "InnerProduct": _one(_inner_product),
    "Pooling": _one(_pooling),
    "Padding": _one(_padding),
    "Interp": _interp,
    "PixelShuffle": _one(_pixel_shuffle),
    "BinaryOp": _binary_op,
    "UnaryOp": _one(_keep),
    "Eltwise": _eltwise,
    "ReLU": _one(_keep),
    "PReLU": _one(_prelu),
    "Sigmoid": _one(_keep),
    "TanH": _one(_keep),
    "Clip": _one(_keep),
    "Flatten": _one(_flatten),
    "Packing": _one(_keep),
    "Cast": _one(_keep),
    "Tile": _one(_tile),
    "ExpandDims": _one(_expand_dims),
    "Squeeze": _one(_squeeze),
    "Reshape": _one(_reshape),
    "Permute": _one(_permute),
    "Reduction": _one(_reduction),
    "Scale": _scale,
    "GridSample": _grid_sample,
    "rife.Warp": _warp,
}
