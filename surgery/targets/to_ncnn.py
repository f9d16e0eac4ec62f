"""Translate a hub graph to an ncnn graph: one table, one small function for each operator.

The result is plain: one layer for each node, blobs read as often as the hub reads them. What
ncnn wants beyond that (Split, fused activations, `flowN` names) is made by
`surgery.targets.legalise`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import UnsupportedOp
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.hub import ops, shapes
from surgery.hub.model import HubModel

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# ncnn has no batch: axis 0 of a blob is the channel.
NCNN_CHANNEL_AXIS = 0


@dataclasses.dataclass
class Translation:
    """What the functions of the table share: the layers so far and the extents of the hub."""

    extents: dict[str, shapes.Extent]
    layers: list[Layer] = dataclasses.field(default_factory=list)

    def emit(
        self,
        kind: str,
        node: gs.Node,
        params: dict[int, ncnn.ParamValue] | None = None,
        weights: dict[str, np.ndarray] | None = None,
        inputs: list[str] | None = None,
    ) -> None:
        """Append the layer of a node; its inputs are the computed ones unless given."""
        if inputs is None:
            inputs = [tensor.name for tensor in ops.data_inputs(node)]
        self.layers.append(
            Layer(
                kind,
                layer_name(node.name),
                inputs,
                [tensor.name for tensor in node.outputs],
                {int(key): value for key, value in (params or {}).items()},
                weights or {},
            )
        )


Translator = Callable[[Translation, "gs.Node"], None]


def translate_graph(model: HubModel, blob_names: Mapping[str, str] | None = None) -> NcnnGraph:
    """Translate an open hub model; reads no file and imports no torch.

    Args:
        model: the hub model.
        blob_names: hub tensors whose blobs get a name that a host looks for (`flow0`).

    Raises:
        UnsupportedOp: nodes that ncnn cannot express, all of them, each with what was found,
            what is accepted and the torch module it came from.
    """
    graph = model.graph.toposort()
    translation = Translation(shapes.infer_extents(graph))
    for tensor in graph.inputs:
        translation.layers.append(Layer("Input", tensor.name, [], [tensor.name]))
    refusals = []
    for node in graph.nodes:
        key = f"{node.domain}::{node.op}" if node.domain else node.op
        translator = TRANSLATORS.get(key, _refuse_operator)
        try:
            translator(translation, node)
        except ValueError as reason:
            module = ops.torch_module(node.name) or "the network itself"
            refusals.append(f"{node.name}: {key}: {reason} (torch module: {module})")
    if refusals:
        raise UnsupportedOp("to_ncnn", refusals)
    outputs = {tensor.name for tensor in graph.outputs}
    return _rename_blobs(NcnnGraph(translation.layers), dict(blob_names or {}), outputs)


def layer_name(node_name: str) -> str:
    """Name a layer after its node; the torch module stays readable in front of the slash."""
    return node_name.strip("/").replace(" ", "_")


def _rename_blobs(graph: NcnnGraph, names: dict[str, str], outputs: set[str]) -> NcnnGraph:
    """Name every blob after the layer that makes it; inputs and outputs keep their names."""
    for layer in graph.layers:
        kept = layer.type == "Input" or not outputs.isdisjoint(layer.outputs)
        for blob in layer.outputs:
            names.setdefault(blob, blob if kept else layer.name)
    for layer in graph.layers:
        layer.inputs = [names[blob] for blob in layer.inputs]
        layer.outputs = [names[blob] for blob in layer.outputs]
    return graph


def _refuse_operator(to: Translation, node: gs.Node) -> None:
    raise ValueError(f"to_ncnn accepts {', '.join(TRANSLATORS)}")


def _convolution(to: Translation, node: gs.Node) -> None:
    spec = ops.read_conv(node)
    weight = np.asarray(ops.constant(node.inputs[1]), np.float32)
    if to.extents[node.inputs[0].name].height == shapes.ONE_PIXEL:
        _inner_product(to, node, spec, weight)
        return
    if spec.group == 1:
        params = _window(ncnn.Convolution, spec, node, weight)
        to.emit("Convolution", node, params, _weights(node, weight))
        return
    params = _window(ncnn.ConvolutionDepthWise, spec, node, weight)
    params[ncnn.ConvolutionDepthWise.GROUP] = spec.group
    to.emit("ConvolutionDepthWise", node, params, _weights(node, weight))


def _inner_product(to: Translation, node: gs.Node, spec: ops.ConvSpec, weight: np.ndarray) -> None:
    """A convolution of one pixel: what ncnn pools globally has one axis left."""
    if spec.group != 1:
        raise ValueError(f"group={spec.group} on one pixel; to_ncnn accepts 1")
    if spec.kernel != (1, 1):
        kernel = "x".join(map(str, spec.kernel))
        raise ValueError(f"a kernel of {kernel} on one pixel; to_ncnn accepts 1x1")
    params: dict[int, ncnn.ParamValue] = {
        ncnn.InnerProduct.NUM_OUTPUT: len(weight),
        ncnn.InnerProduct.BIAS_TERM: int(ops.optional_input(node, 2) is not None),
        ncnn.InnerProduct.WEIGHT_COUNT: int(weight.size),
    }
    params = _without_defaults(params, ncnn.InnerProduct)
    to.emit("InnerProduct", node, params, _weights(node, weight.reshape(len(weight), -1)))


def _global_average(to: Translation, node: gs.Node) -> None:
    to.emit(
        "Pooling",
        node,
        {
            ncnn.Pooling.POOLING_TYPE: ncnn.PoolingType.AVERAGE,
            ncnn.Pooling.GLOBAL_POOLING: 1,
        },
    )


def _deconvolution(to: Translation, node: gs.Node) -> None:
    spec = ops.read_conv(node)
    if spec.group != 1:
        raise ValueError(f"group={spec.group}; to_ncnn accepts 1")
    if spec.output_padding != (0, 0):
        raise ValueError(f"output_padding={spec.output_padding}; to_ncnn accepts none")
    # torch and ONNX hold in, out; ncnn holds out, in (neither flips the kernel).
    weight = np.asarray(ops.constant(node.inputs[1]), np.float32).transpose(1, 0, 2, 3)
    params = _window(ncnn.Deconvolution, spec, node, weight)
    to.emit("Deconvolution", node, params, _weights(node, weight))


def _weights(node: gs.Node, weight: np.ndarray) -> dict[str, np.ndarray]:
    bias = ops.constant(ops.optional_input(node, 2))
    weights = {"weight": np.ascontiguousarray(weight)}
    if bias is not None:
        weights["bias"] = np.asarray(bias, np.float32)
    return weights


def _window(
    keys: type[ncnn.Convolution] | type[ncnn.ConvolutionDepthWise] | type[ncnn.Deconvolution],
    spec: ops.ConvSpec,
    node: gs.Node,
    weight: np.ndarray,
) -> dict[int, ncnn.ParamValue]:
    """The parameters that the three convolutions share, without those that ncnn implies."""
    top, left, bottom, right = spec.pads
    params: dict[int, ncnn.ParamValue] = {
        keys.NUM_OUTPUT: len(weight),
        keys.KERNEL_W: spec.kernel[1],
        keys.KERNEL_H: spec.kernel[0],
        keys.DILATION_W: spec.dilations[1],
        keys.DILATION_H: spec.dilations[0],
        keys.STRIDE_W: spec.strides[1],
        keys.STRIDE_H: spec.strides[0],
        keys.PAD_LEFT: left,
        keys.PAD_RIGHT: right,
        keys.PAD_TOP: top,
        keys.PAD_BOTTOM: bottom,
        keys.BIAS_TERM: 0 if ops.constant(ops.optional_input(node, 2)) is None else 1,
        keys.WEIGHT_COUNT: int(weight.size),
    }
    return _without_defaults(params, keys)


def _without_defaults(
    params: dict[int, ncnn.ParamValue], keys: type[ncnn.ParamId]
) -> dict[int, ncnn.ParamValue]:
    """Drop what ncnn assumes anyway, so that a .param stays readable."""
    kept = dict(params)
    # From the back: a key follows only keys that come before it.
    for key in reversed(keys):
        given = kept.pop(key, None)
        if given is not None and given != ncnn.read_int(kept, key):
            kept[key] = given
    return kept


def _interp(to: Translation, node: gs.Node) -> None:
    spec = ops.read_resize(node)
    if not spec.is_plain_bilinear:
        raise ValueError(
            f"mode={spec.mode}, {spec.coordinates}, antialias={spec.antialias}; "
            "to_ncnn accepts linear, half_pixel, without antialias"
        )
    to.emit(
        "Interp",
        node,
        {
            ncnn.Interp.RESIZE_TYPE: ncnn.InterpType.BILINEAR,
            ncnn.Interp.HEIGHT_SCALE: spec.scale_h,
            ncnn.Interp.WIDTH_SCALE: spec.scale_w,
        },
    )


def _crop(to: Translation, node: gs.Node) -> None:
    spec = ops.read_slice(node)
    channels = to.extents[node.inputs[0].name].channels
    start, end, _ = slice(spec.start, spec.end).indices(channels)
    to.emit(
        "Crop",
        node,
        {
            ncnn.Crop.STARTS: [start],
            ncnn.Crop.ENDS: [end],
            ncnn.Crop.AXES: [NCNN_CHANNEL_AXIS],
        },
    )


def _concat(to: Translation, node: gs.Node) -> None:
    if len(ops.data_inputs(node)) != len(node.inputs):
        raise ValueError("a constant is concatenated; to_ncnn accepts computed tensors")
    to.emit("Concat", node, {ncnn.Concat.AXIS: NCNN_CHANNEL_AXIS})


def _pixel_shuffle(to: Translation, node: gs.Node) -> None:
    factor = ops.pixel_shuffle_factor(node)
    to.emit("PixelShuffle", node, {ncnn.PixelShuffle.UPSCALE_FACTOR: factor})


def _binary(direct: ncnn.BinaryOpType, reverse: ncnn.BinaryOpType) -> Translator:
    """Translate a binary operator: two blobs, a blob and a scalar, or a blob and MemoryData."""

    def emit_binary(to: Translation, node: gs.Node) -> None:
        computed = ops.data_inputs(node)
        if len(computed) == 2:
            to.emit("BinaryOp", node, {ncnn.BinaryOp.OP_TYPE: direct})
            return
        constant_first = ops.constant(node.inputs[0]) is not None
        constant = np.asarray(ops.constant(node.inputs[0 if constant_first else 1]), np.float32)
        operator = reverse if constant_first else direct
        params: dict[int, ncnn.ParamValue] = {ncnn.BinaryOp.OP_TYPE: operator}
        if constant.size == 1:
            number = float(constant.reshape(-1)[0])
            params |= {ncnn.BinaryOp.WITH_SCALAR: 1, ncnn.BinaryOp.B: number}
            to.emit("BinaryOp", node, params)
            return
        blob = _memory_data(to, node, constant)
        to.emit("BinaryOp", node, params, inputs=[computed[0].name, blob])

    return emit_binary


def _memory_data(to: Translation, node: gs.Node, constant: np.ndarray) -> str:
    """Emit a constant with one number for each channel, as torch has it: [1,C,1,1]."""
    channels = constant.size
    if constant.shape[-2:] != (1, 1) or constant.shape[-3] != channels:
        raise ValueError(f"a constant of shape {constant.shape}; to_ncnn accepts [1,C,1,1]")
    name = f"{layer_name(node.name)}.constant"
    to.layers.append(
        Layer(
            "MemoryData",
            name,
            [],
            [name],
            {ncnn.MemoryData.W: 1, ncnn.MemoryData.H: 1, ncnn.MemoryData.C: channels},
            {"data": constant.reshape(channels, 1, 1)},
        )
    )
    return name


def _neg(to: Translation, node: gs.Node) -> None:
    to.emit(
        "BinaryOp",
        node,
        {
            ncnn.BinaryOp.OP_TYPE: ncnn.BinaryOpType.MUL,
            ncnn.BinaryOp.WITH_SCALAR: 1,
            ncnn.BinaryOp.B: -1.0,
        },
    )


def _relu(to: Translation, node: gs.Node) -> None:
    to.emit("ReLU", node)


def _leaky_relu(to: Translation, node: gs.Node) -> None:
    to.emit("ReLU", node, {ncnn.ReLU.SLOPE: ops.leaky_slope(node)})


def _prelu(to: Translation, node: gs.Node) -> None:
    slope = ops.constant(node.inputs[1])
    if slope is None:
        raise ValueError("the slope is computed; to_ncnn accepts a constant")
    channels = to.extents[node.inputs[0].name].channels
    if slope.size not in (1, channels):
        raise ValueError(f"{slope.size} slopes for {channels} channels; one for each, or one")
    if slope.size == 1:
        # A leaky ReLU with a number that was learnt, which a convolution can apply.
        to.emit("ReLU", node, {ncnn.ReLU.SLOPE: float(slope.reshape(-1)[0])})
        return
    to.emit(
        "PReLU",
        node,
        {ncnn.PReLU.NUM_SLOPE: int(slope.size)},
        {"slope": np.asarray(slope, np.float32).reshape(-1)},
    )


def _sigmoid(to: Translation, node: gs.Node) -> None:
    to.emit("Sigmoid", node)


def _clip(to: Translation, node: gs.Node) -> None:
    low, high = ops.clip_bounds(node)
    params: dict[int, ncnn.ParamValue] = {}
    # An open bound is ncnn's default; it cannot write infinities.
    if np.isfinite(low):
        params[ncnn.Clip.MIN] = low
    if np.isfinite(high):
        params[ncnn.Clip.MAX] = high
    to.emit("Clip", node, params)


def _warp(to: Translation, node: gs.Node) -> None:
    to.emit("rife.Warp", node)


_OP = ncnn.BinaryOpType

TRANSLATORS: dict[str, Translator] = {
    "Add": _binary(_OP.ADD, _OP.ADD),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "ConvTranspose": _deconvolution,
    "DepthToSpace": _pixel_shuffle,
    "Div": _binary(_OP.DIV, _OP.RDIV),
    "GlobalAveragePool": _global_average,
    "LeakyRelu": _leaky_relu,
    "Mul": _binary(_OP.MUL, _OP.MUL),
    "Neg": _neg,
    "PRelu": _prelu,
    "Relu": _relu,
    "Resize": _interp,
    "Sigmoid": _sigmoid,
    "Slice": _crop,
    "Sub": _binary(_OP.SUB, _OP.RSUB),
    "rife::Warp": _warp,
}
