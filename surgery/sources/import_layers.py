"""Turn ncnn layers into hub nodes: one table, one small function for each layer type.

The counterpart of `surgery.targets.to_ncnn`. What the other writers of `.param` do differently
(Eltwise with coefficients, activations fused into convolutions, a Slice for several Crops) ends
up as the same few hub operators.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import FormatError, UnsupportedOp
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_layers import read_float, read_floats, read_int, read_ints
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.formats.ncnn_shapes import Shape
from surgery.hub import ops, warp
from surgery.passes import edit
from surgery.passes.edit import add_slice

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# In an ncnn blob (c, h, w) the channel is axis 0, or -3.
NCNN_CHANNEL_AXES = (0, -3)
HEIGHT, WIDTH = 1, 2


@dataclasses.dataclass
class LayerImport:
    """What the functions of the table share.

    Attributes:
        graph: the hub graph so far.
        shapes: the shape of every blob at one size of the frames.
        tensors: the hub tensor of each blob that is computed.
        constants: the values of each blob that is not, in ncnn's shape.
        notes: what was read otherwise than written, in words.
    """

    graph: gs.Graph
    shapes: Mapping[str, Shape]
    tensors: dict[str, gs.Tensor] = dataclasses.field(default_factory=dict)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def read(self, blob: str) -> gs.Tensor:
        """The hub tensor of a blob.

        Raises:
            ValueError: the blob is a constant, where a computed one is needed.
        """
        if blob in self.constants:
            raise ValueError(f"reads the constant {blob}; a computed blob is accepted")
        return self.tensors[blob]

    def emit(
        self,
        layer: Layer,
        operator: str,
        inputs: list[gs.Tensor],
        attributes: dict[str, object] | None = None,
        part: str = "",
    ) -> gs.Tensor:
        """Append a node named after the layer, or a part of it, and return its output."""
        name = f"{_node_name(layer)}.{part}" if part else _node_name(layer)
        return edit.add_node(self.graph, name, operator, inputs, attributes)

    def emit_scaled(self, layer: Layer, data: gs.Tensor, factor: float) -> gs.Tensor:
        """Append a Mul by a number; none for 1."""
        if factor == 1.0:
            return data
        return self.emit(layer, "Mul", [data, _number(layer, factor)], part="weigh")

    def answer(self, layer: Layer, *tensors: gs.Tensor) -> None:
        """Say which tensors stand for the blobs that a layer makes."""
        self.tensors.update(zip(layer.outputs, tensors, strict=True))


Importer = Callable[[LayerImport, Layer], None]


def import_layers(
    ncnn_graph: NcnnGraph, graph: gs.Graph, inputs: Sequence[gs.Tensor], shapes: Mapping[str, Shape]
) -> LayerImport:
    """Append the nodes of every layer to an empty hub graph.

    Args:
        ncnn_graph: layers with their weights, each blob made before it is read.
        graph: takes the nodes.
        inputs: the hub tensors of the Input layers, by the names of their blobs.
        shapes: of every blob, at any one size that suits the network.

    Raises:
        UnsupportedOp: layers that the hub cannot express, all of them, each with what was found
            and what is accepted.
    """
    importing = LayerImport(graph, shapes, {tensor.name: tensor for tensor in inputs})
    refusals = []
    for layer in ncnn_graph.layers:
        try:
            IMPORTERS.get(layer.type, _refuse_type)(importing, layer)
        except (ValueError, FormatError) as reason:
            refusals.append(f"{layer.type} {layer.name}: {reason}")
            # Its readers are looked at all the same: one run lists everything.
            for blob in layer.outputs:
                importing.tensors[blob] = edit.make_constant(blob, np.zeros(0, np.float32))
    if refusals:
        raise UnsupportedOp("the hub", refusals)
    return importing


def _node_name(layer: Layer) -> str:
    return "/" + layer.name.strip("/")


def _number(layer: Layer, value: float) -> gs.Tensor:
    return edit.make_constant(f"{_node_name(layer)}.number", np.asarray(value, np.float32))


def _refuse_type(importing: LayerImport, layer: Layer) -> None:
    raise ValueError(f"import accepts {', '.join(IMPORTERS)}")


# ---- layers that move values -------------------------------------------------------------------


def _input(importing: LayerImport, layer: Layer) -> None:
    """Its tensor is there already."""


def _pass_on(importing: LayerImport, layer: Layer) -> None:
    """Split makes copies for ncnn's memory alone; Cast and Packing change how values are kept."""
    (blob,) = layer.inputs
    if blob in importing.constants:
        importing.constants.update(dict.fromkeys(layer.outputs, importing.constants[blob]))
        return
    importing.answer(layer, *[importing.read(blob)] * len(layer.outputs))


def _memory_data(importing: LayerImport, layer: Layer) -> None:
    importing.constants[layer.outputs[0]] = layer.weights["data"]


def _reshape_constant(importing: LayerImport, layer: Layer) -> None:
    blob = layer.inputs[0]
    if blob not in importing.constants:
        raise ValueError("reshapes a computed blob; import accepts constants")
    shape = importing.shapes[layer.outputs[0]]
    importing.constants[layer.outputs[0]] = importing.constants[blob].reshape(shape)


def _concat(importing: LayerImport, layer: Layer) -> None:
    _require_channels(read_int(layer.params, ncnn.Concat.AXIS))
    inputs = [importing.read(blob) for blob in layer.inputs]
    importing.answer(layer, importing.emit(layer, "Concat", inputs, {"axis": ops.CHANNEL_AXIS}))


def _slice(importing: LayerImport, layer: Layer) -> None:
    _require_channels(read_int(layer.params, ncnn.Slice.AXIS))
    data = importing.read(layer.inputs[0])
    start = 0
    for blob in layer.outputs:
        # The shapes have shared out the channels already.
        end = start + importing.shapes[blob][0]
        importing.tensors[blob] = add_slice(importing.graph, _node_name(layer), data, start, end)
        start = end


def _crop(importing: LayerImport, layer: Layer) -> None:
    if len(layer.inputs) != 1:
        raise ValueError("crops to the size of a second blob; import accepts a range of channels")
    data = importing.read(layer.inputs[0])
    before, after = (importing.shapes[blob] for blob in (layer.inputs[0], layer.outputs[0]))
    if before[1:] != after[1:]:
        raise ValueError("cuts height or width; import accepts a range of channels")
    start = _crop_start(layer, before[0])
    sliced = add_slice(importing.graph, _node_name(layer), data, start, start + after[0])
    importing.answer(layer, sliced)


def _crop_start(layer: Layer, channels: int) -> int:
    starts = read_ints(layer.params, ncnn.Crop.STARTS)
    axes = read_ints(layer.params, ncnn.Crop.AXES) or list(range(len(starts)))
    if not starts:
        return read_int(layer.params, ncnn.Crop.C_OFFSET)
    for start, axis in zip(starts, axes, strict=True):
        if axis in NCNN_CHANNEL_AXES:
            return start if start >= 0 else start + channels
    return 0


def _require_channels(axis: int) -> None:
    if axis not in NCNN_CHANNEL_AXES:
        raise ValueError(f"axis {axis}; import accepts 0, the channels")


def _pixel_shuffle(importing: LayerImport, layer: Layer) -> None:
    if read_int(layer.params, ncnn.PixelShuffle.MODE) != ncnn.PixelShuffleMode.TORCH:
        raise ValueError("the mode is OpenCV's; import accepts 0, torch's")
    factor = read_int(layer.params, ncnn.PixelShuffle.UPSCALE_FACTOR)
    data = importing.read(layer.inputs[0])
    attributes: dict[str, object] = {"blocksize": factor, "mode": "CRD"}
    importing.answer(layer, importing.emit(layer, "DepthToSpace", [data], attributes))


def _interp(importing: LayerImport, layer: Layer) -> None:
    kind = read_int(layer.params, ncnn.Interp.RESIZE_TYPE)
    if kind != ncnn.InterpType.BILINEAR:
        raise ValueError(f"resize type {kind}; import accepts 2, bilinear")
    if read_int(layer.params, ncnn.Interp.ALIGN_CORNER):
        raise ValueError("align_corner is set; import accepts half-pixel centres")
    if read_int(layer.params, ncnn.Interp.OUTPUT_HEIGHT) and len(layer.inputs) == 1:
        raise ValueError("a fixed output size; import accepts scales, which suit any frame")
    before, after = (importing.shapes[blob] for blob in (layer.inputs[0], layer.outputs[0]))
    scales = np.asarray([1, 1, *(after[axis] / before[axis] for axis in (HEIGHT, WIDTH))])
    importing.answer(layer, _emit_resize(importing, layer, scales.astype(np.float32)))


def _emit_resize(importing: LayerImport, layer: Layer, scales: np.ndarray) -> gs.Tensor:
    import onnx_graphsurgeon as gs

    inputs = [
        importing.read(layer.inputs[0]),
        gs.Variable.empty(),
        edit.make_constant(f"{_node_name(layer)}.scales", scales),
    ]
    attributes: dict[str, object] = {
        "mode": "linear",
        "coordinate_transformation_mode": "half_pixel",
    }
    return importing.emit(layer, "Resize", inputs, attributes)


def _padding(importing: LayerImport, layer: Layer) -> None:
    if importing.shapes[layer.inputs[0]] != importing.shapes[layer.outputs[0]]:
        raise ValueError("pads its input; import accepts padding inside convolutions")
    _pass_on(importing, layer)


# ---- convolutions and activations --------------------------------------------------------------


def _convolution(importing: LayerImport, layer: Layer) -> None:
    attributes = _window(layer, ncnn.Convolution)
    if read_float(layer.params, ncnn.Convolution.PAD_VALUE) != 0.0:
        raise ValueError("pads with another value than 0; import accepts 0")
    _emit_convolution(importing, layer, "Conv", layer.weights["weight"], attributes)


def _grouped_convolution(importing: LayerImport, layer: Layer) -> None:
    attributes = _window(layer, ncnn.ConvolutionDepthWise)
    attributes["group"] = read_int(layer.params, ncnn.ConvolutionDepthWise.GROUP)
    if read_float(layer.params, ncnn.ConvolutionDepthWise.PAD_VALUE) != 0.0:
        raise ValueError("pads with another value than 0; import accepts 0")
    _emit_convolution(importing, layer, "Conv", layer.weights["weight"], attributes)


def _inner_product(importing: LayerImport, layer: Layer) -> None:
    """Of the one pixel that a global pooling leaves: a convolution of 1x1."""
    shape = importing.shapes[layer.inputs[0]]
    if len(shape) != 1:
        raise ValueError(
            f"reads a blob of {len(shape)} axes; import accepts what was pooled to one"
        )
    weight = layer.weights["weight"][:, :, np.newaxis, np.newaxis]
    attributes: dict[str, object] = {"kernel_shape": [1, 1], "group": 1}
    _emit_convolution(importing, layer, "Conv", weight, attributes)


def _pooling(importing: LayerImport, layer: Layer) -> None:
    kind = read_int(layer.params, ncnn.Pooling.POOLING_TYPE)
    is_global = read_int(layer.params, ncnn.Pooling.GLOBAL_POOLING)
    if kind != ncnn.PoolingType.AVERAGE or not is_global:
        raise ValueError("pools windows, or their largest; import accepts the mean of a channel")
    data = importing.read(layer.inputs[0])
    importing.answer(layer, importing.emit(layer, "GlobalAveragePool", [data]))


def _deconvolution(importing: LayerImport, layer: Layer) -> None:
    ids = ncnn.Deconvolution
    if read_int(layer.params, ids.OUTPUT_W) or read_int(layer.params, ids.OUTPUT_H):
        raise ValueError("a fixed output size; import accepts pads, which suit any frame")
    attributes = _window(layer, ids)
    extra = [read_int(layer.params, key) for key in (ids.OUTPUT_PAD_BOTTOM, ids.OUTPUT_PAD_RIGHT)]
    if any(extra):
        attributes["output_padding"] = extra
    # ncnn holds out, in; torch and ONNX hold in, out (neither flips the kernel).
    weight = layer.weights["weight"].transpose(1, 0, 2, 3)
    _emit_convolution(importing, layer, "ConvTranspose", weight, attributes)


def _window(
    layer: Layer,
    ids: type[ncnn.Convolution] | type[ncnn.ConvolutionDepthWise] | type[ncnn.Deconvolution],
) -> dict[str, object]:
    if not layer.weights:
        raise ValueError("its weights arrive as inputs; import accepts weights of its own")
    pads = [
        read_int(layer.params, key)
        for key in (ids.PAD_TOP, ids.PAD_LEFT, ids.PAD_BOTTOM, ids.PAD_RIGHT)
    ]
    if min(pads) < 0:
        raise ValueError(f"pads {pads} that depend on the size; import accepts numbers from 0")
    pairs = {
        "kernel_shape": (ids.KERNEL_H, ids.KERNEL_W),
        "strides": (ids.STRIDE_H, ids.STRIDE_W),
        "dilations": (ids.DILATION_H, ids.DILATION_W),
    }
    attributes: dict[str, object] = {
        name: [read_int(layer.params, key) for key in keys] for name, keys in pairs.items()
    }
    return attributes | {"pads": pads, "group": 1}


def _emit_convolution(
    importing: LayerImport,
    layer: Layer,
    operator: str,
    weight: np.ndarray,
    attributes: dict[str, object],
) -> None:
    name = _node_name(layer)
    inputs = [importing.read(layer.inputs[0]), edit.make_constant(f"{name}.weight", weight)]
    if "bias" in layer.weights:
        inputs.append(edit.make_constant(f"{name}.bias", layer.weights["bias"]))
    made = importing.emit(layer, operator, inputs, attributes)
    importing.answer(layer, _activate(importing, layer, made))


def _activate(importing: LayerImport, layer: Layer, data: gs.Tensor) -> gs.Tensor:
    """The activation that ncnn applies inside a convolution, as a node of its own."""
    kind = read_int(layer.params, ncnn.Convolution.ACTIVATION_TYPE)
    if kind == ncnn.Activation.NONE:
        return data
    params = read_floats(layer.params, ncnn.Convolution.ACTIVATION_PARAMS)
    if kind not in ACTIVATIONS:
        accepted = ", ".join(f"{one.value} {one.name.lower()}" for one in ACTIVATIONS)
        raise ValueError(f"activation {kind}; import accepts {accepted}")
    operator, count, read = ACTIVATIONS[ncnn.Activation(kind)]
    if len(params) != count:
        raise ValueError(f"{len(params)} parameters of its activation; {count} expected")
    bounds, attributes = read(layer, params)
    return importing.emit(layer, operator, [data, *bounds], attributes, part="activation")


Operands = tuple[list["gs.Tensor"], dict[str, object]]


def _read_nothing(layer: Layer, params: list[float]) -> Operands:
    return [], {}


def _read_slope(layer: Layer, params: list[float]) -> Operands:
    return [], {"alpha": params[0]}


def _read_bounds(layer: Layer, params: list[float]) -> Operands:
    import onnx_graphsurgeon as gs

    # An open bound is ncnn's largest number.
    return [
        gs.Variable.empty() if abs(bound) >= ncnn.FLOAT32_MAX else _number(layer, bound)
        for bound in params
    ], {}


# The hub's operator, how many parameters ncnn gives it, and what they become.
ACTIVATIONS: dict[ncnn.Activation, tuple[str, int, Callable[[Layer, list[float]], Operands]]] = {
    ncnn.Activation.RELU: ("Relu", 0, _read_nothing),
    ncnn.Activation.LEAKY_RELU: ("LeakyRelu", 1, _read_slope),
    ncnn.Activation.CLIP: ("Clip", 2, _read_bounds),
    ncnn.Activation.SIGMOID: ("Sigmoid", 0, _read_nothing),
}


def _relu(importing: LayerImport, layer: Layer) -> None:
    data = importing.read(layer.inputs[0])
    slope = read_float(layer.params, ncnn.ReLU.SLOPE)
    attributes: dict[str, object] = {"alpha": slope} if slope else {}
    operator = "LeakyRelu" if slope else "Relu"
    importing.answer(layer, importing.emit(layer, operator, [data], attributes))


def _prelu(importing: LayerImport, layer: Layer) -> None:
    slope = layer.weights["slope"].reshape(-1, 1, 1)
    constant = edit.make_constant(f"{_node_name(layer)}.slope", slope)
    importing.answer(
        layer, importing.emit(layer, "PRelu", [importing.read(layer.inputs[0]), constant])
    )


def _sigmoid(importing: LayerImport, layer: Layer) -> None:
    importing.answer(layer, importing.emit(layer, "Sigmoid", [importing.read(layer.inputs[0])]))


def _clip(importing: LayerImport, layer: Layer) -> None:
    low = read_float(layer.params, ncnn.Clip.MIN)
    high = read_float(layer.params, ncnn.Clip.MAX)
    data = importing.read(layer.inputs[0])
    importing.answer(layer, _emit_clip(importing, layer, data, low, high))


def _emit_clip(
    importing: LayerImport, layer: Layer, data: gs.Tensor, low: float, high: float
) -> gs.Tensor:
    bounds, _ = _read_bounds(layer, [low, high])
    return importing.emit(layer, "Clip", [data, *bounds])


# ---- arithmetic --------------------------------------------------------------------------------

_OP = ncnn.BinaryOpType
# The hub's operator, and whether the operands change places.
OPERATORS: dict[ncnn.BinaryOpType, tuple[str, bool]] = {
    _OP.ADD: ("Add", False),
    _OP.SUB: ("Sub", False),
    _OP.MUL: ("Mul", False),
    _OP.DIV: ("Div", False),
    _OP.RSUB: ("Sub", True),
    _OP.RDIV: ("Div", True),
}
COMMUTATIVE = ("Add", "Mul")
LIMITS = (_OP.MAX, _OP.MIN)


def _binary_op(importing: LayerImport, layer: Layer) -> None:
    kind = _OP(read_int(layer.params, ncnn.BinaryOp.OP_TYPE))
    with_scalar = read_int(layer.params, ncnn.BinaryOp.WITH_SCALAR)
    if with_scalar and kind in LIMITS:
        _limit(importing, layer, kind)
        return
    if kind is _OP.POW and not with_scalar:
        _warp(importing, layer)
        importing.notes.append(f"{layer.name}: a power of two blobs is the placeholder of a warp")
        return
    if kind not in OPERATORS:
        accepted = ", ".join(one.name.lower() for one in OPERATORS)
        raise ValueError(
            f"operation {kind.name.lower()}; import accepts {accepted}, max or min with a scalar, "
            "and a power of two blobs, which stands for a warp"
        )
    operator, is_reversed = OPERATORS[kind]
    operands = _read_operands(importing, layer)
    if is_reversed:
        operands.reverse()
    if operator in COMMUTATIVE and ops.constant(operands[0]) is not None:
        # The passes look for constants in second place.
        operands.reverse()
    importing.answer(layer, importing.emit(layer, operator, operands))


def _limit(importing: LayerImport, layer: Layer, kind: ncnn.BinaryOpType) -> None:
    bound = read_float(layer.params, ncnn.BinaryOp.B)
    low, high = -ncnn.FLOAT32_MAX, ncnn.FLOAT32_MAX
    low, high = (bound, high) if kind is _OP.MAX else (low, bound)
    data = importing.read(layer.inputs[0])
    importing.answer(layer, _emit_clip(importing, layer, data, low, high))


def _read_operands(importing: LayerImport, layer: Layer) -> list[gs.Tensor]:
    if read_int(layer.params, ncnn.BinaryOp.WITH_SCALAR):
        number = _number(layer, read_float(layer.params, ncnn.BinaryOp.B))
        return [importing.read(layer.inputs[0]), number]
    if all(blob in importing.constants for blob in layer.inputs):
        raise ValueError("computes with constants alone; import accepts a computed blob")
    return [_read_operand(importing, layer, blob) for blob in layer.inputs]


def _read_operand(importing: LayerImport, layer: Layer, blob: str) -> gs.Tensor:
    if blob not in importing.constants:
        return importing.read(blob)
    array = importing.constants[blob]
    channels = importing.shapes[layer.outputs[0]][0]
    if array.size == 1:
        array = array.reshape(())
    elif array.shape in ((channels,), (channels, 1, 1)):
        # A vector that fits the channels is broadcast along them (binaryop.cpp).
        array = array.reshape(1, channels, 1, 1)
    else:
        raise ValueError(
            f"a constant of the shape {array.shape} with {channels} channels; import accepts one "
            "number, or one for each channel"
        )
    return edit.make_constant(f"{_node_name(layer)}.constant", np.asarray(array, np.float32))


def _eltwise(importing: LayerImport, layer: Layer) -> None:
    kind = read_int(layer.params, ncnn.Eltwise.OP_TYPE)
    operators = {int(ncnn.EltwiseType.PROD): "Mul", int(ncnn.EltwiseType.SUM): "Add"}
    if kind not in operators:
        raise ValueError(f"operation {kind}; import accepts 0 prod and 1 sum")
    coefficients = read_floats(layer.params, ncnn.Eltwise.COEFFS)
    if kind == ncnn.EltwiseType.PROD or not coefficients:
        coefficients = [1.0] * len(layer.inputs)
    terms = [
        importing.emit_scaled(layer, importing.read(blob), coefficient)
        for blob, coefficient in zip(layer.inputs, coefficients, strict=True)
    ]
    total = terms[0]
    for term in terms[1:]:
        total = importing.emit(layer, operators[kind], [total, term])
    importing.answer(layer, total)


def _unary_op(importing: LayerImport, layer: Layer) -> None:
    kind = read_int(layer.params, ncnn.UnaryOp.OP_TYPE)
    data = importing.read(layer.inputs[0])
    if kind == ncnn.UnaryOpType.NEG:
        importing.answer(layer, importing.emit(layer, "Neg", [data]))
    elif kind == ncnn.UnaryOpType.SQUARE:
        importing.answer(layer, importing.emit(layer, "Mul", [data, data]))
    else:
        raise ValueError(f"operation {kind}; import accepts 1 neg and 4 square")


def _scale(importing: LayerImport, layer: Layer) -> None:
    if "scale" not in layer.weights:
        raise ValueError("its factors arrive as an input; import accepts factors of its own")
    scaled = importing.read(layer.inputs[0])
    for operator, name in (("Mul", "scale"), ("Add", "bias")):
        if name in layer.weights:
            array = layer.weights[name].reshape(1, -1, 1, 1)
            constant = edit.make_constant(f"{_node_name(layer)}.{name}", array)
            scaled = importing.emit(layer, operator, [scaled, constant])
    importing.answer(layer, scaled)


# ---- the warp ----------------------------------------------------------------------------------


def _warp(importing: LayerImport, layer: Layer) -> None:
    """rife.Warp reads channels 0 and 1 of its flow, however many there are (warp.cpp)."""
    image, flow = (importing.read(blob) for blob in layer.inputs)
    channels = importing.shapes[layer.inputs[1]][0]
    if channels < warp.FLOW_CHANNELS:
        raise ValueError(f"its flow has {channels} channel(s); 2 or more are accepted")
    if channels > warp.FLOW_CHANNELS:
        importing.notes.append(f"{layer.name}: 2 of the {channels} channels of its flow are read")
        flow = add_slice(importing.graph, _node_name(layer), flow, 0, warp.FLOW_CHANNELS)
    warped = importing.emit(layer, warp.OP_TYPE, [image, flow])
    warped.inputs[0].domain = warp.DOMAIN
    importing.answer(layer, warped)


IMPORTERS: dict[str, Importer] = {
    "BinaryOp": _binary_op,
    "Cast": _pass_on,
    "Clip": _clip,
    "Concat": _concat,
    "Convolution": _convolution,
    "ConvolutionDepthWise": _grouped_convolution,
    "Crop": _crop,
    "Deconvolution": _deconvolution,
    "Eltwise": _eltwise,
    "ExpandDims": _reshape_constant,
    "InnerProduct": _inner_product,
    "Input": _input,
    "Interp": _interp,
    "MemoryData": _memory_data,
    "PReLU": _prelu,
    "Packing": _pass_on,
    "Padding": _padding,
    "PixelShuffle": _pixel_shuffle,
    "Pooling": _pooling,
    "ReLU": _relu,
    "Reshape": _reshape_constant,
    "Scale": _scale,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Split": _pass_on,
    "Squeeze": _reshape_constant,
    "UnaryOp": _unary_op,
    "rife.Warp": _warp,
}
