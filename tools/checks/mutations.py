"""Faults to plant in a converted model, each a small edit of an ncnn graph.

Every operator is one function that edits the graph at one layer; `OPERATORS` says which layers it
fits. The layer is the one that a search for the fault has to name.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_layers import ParamValue
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.proof.structure import FLOW_CHANNELS, WARP_LAYER

CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Deconvolution")
CHANGED_SLOPE = 0.05
CHANGED_BIAS = 0.2
CHANGED_FACTOR = 1.25
FROZEN_TIMESTEP = 0.5
# Takes blobs beyond fp16's 65504 and leaves weights below it; a power of two: fp32 loses nothing.
OVERFLOWING = 2.0**18

Apply = Callable[[NcnnGraph, Layer, np.random.Generator], None]
Fits = Callable[[NcnnGraph, Layer], bool]


@dataclasses.dataclass(frozen=True)
class Operator:
    """A kind of fault.

    Attributes:
        fits: whether it can be planted at a layer.
        apply: plants it, in place.
    """

    fits: Fits
    apply: Apply


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One fault at one layer of one model."""

    version: str
    operator: str
    layer: str

    @property
    def name(self) -> str:
        """What results are kept under."""
        return f"{self.version} {self.operator} {self.layer}"

    def plant(self, graph: NcnnGraph) -> NcnnGraph:
        """A copy of `graph` with the fault."""
        mutated = copy_graph(graph)
        layer = next(one for one in mutated.layers if one.name == self.layer)
        OPERATORS[self.operator].apply(mutated, layer, self.make_generator())
        return mutated

    def make_generator(self) -> np.random.Generator:
        """Random numbers that depend on nothing but the mutant."""
        return np.random.default_rng(list(self.name.encode()))


def copy_graph(graph: NcnnGraph) -> NcnnGraph:
    """A graph that can be edited; arrays are shared, so they are replaced and never written."""
    return NcnnGraph(
        [
            dataclasses.replace(
                layer,
                inputs=list(layer.inputs),
                outputs=list(layer.outputs),
                params=copy.deepcopy(layer.params),
                weights=dict(layer.weights),
            )
            for layer in graph.layers
        ]
    )


def list_mutants(version: str, graph: NcnnGraph, count: int, seed: int) -> list[Mutant]:
    """Choose mutants of a model: every operator in turn, at layers drawn at random."""
    generator = np.random.default_rng([seed, *version.encode()])
    sites = {
        name: iter(generator.permutation([one.name for one in graph.layers if fits(graph, one)]))
        for name, fits in ((name, operator.fits) for name, operator in OPERATORS.items())
    }
    chosen: list[Mutant] = []
    while len(chosen) < count and sites:
        for name in list(sites):
            layer = next(sites[name], None)
            if layer is None:
                del sites[name]
            elif len(chosen) < count:
                chosen.append(Mutant(version, name, str(layer)))
    return chosen


# ---- what fits ---------------------------------------------------------------------------------


def _is(*types: str) -> Fits:
    return lambda graph, layer: layer.type in types


def _has_bias(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type in CONVOLUTIONS and "bias" in layer.weights


def _has_beta(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type in CONVOLUTIONS and ".convblock." in layer.name


def _is_square(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type in CONVOLUTIONS and len(set(layer.weights["weight"].shape[:2])) == 1


def _is_spread(graph: NcnnGraph, layer: Layer) -> bool:
    """A kernel of several taps in both directions."""
    return layer.type in CONVOLUTIONS and min(layer.weights["weight"].shape[2:]) > 1


def _is_padded_evenly(graph: NcnnGraph, layer: Layer) -> bool:
    return (
        layer.type in ("Convolution", "ConvolutionDepthWise")
        and ncnn.read_int(layer.params, ncnn.Convolution.PAD_LEFT) == 1
        and ncnn.read_int(layer.params, ncnn.Convolution.PAD_RIGHT) == 1
    )


def _is_sliced_evenly(graph: NcnnGraph, layer: Layer) -> bool:
    sizes = _slice_sizes(layer)
    return len(set(sizes)) < len(sizes)


def _is_sliced(graph: NcnnGraph, layer: Layer) -> bool:
    sizes = _slice_sizes(layer)
    return len(sizes) > 1 and FLOW_CHANNELS in sizes[:-1]


def _is_factor(graph: NcnnGraph, layer: Layer) -> bool:
    """A scalar that multiplies."""
    return (
        layer.type == "BinaryOp"
        and bool(ncnn.read_int(layer.params, ncnn.BinaryOp.WITH_SCALAR))
        and ncnn.read_int(layer.params, ncnn.BinaryOp.OP_TYPE) == ncnn.BinaryOpType.MUL
    )


def _is_binary(*types: ncnn.BinaryOpType) -> Fits:
    def fits(graph: NcnnGraph, layer: Layer) -> bool:
        operation = ncnn.read_int(layer.params, ncnn.BinaryOp.OP_TYPE) if _binary(layer) else -1
        return operation in types

    return fits


def _binary(layer: Layer) -> bool:
    return layer.type == "BinaryOp" and len(layer.inputs) == 2


def _is_leaky(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type in ("ReLU", "PReLU") or _fused_slope(layer) is not None


def _joins_timestep(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type == "Concat" and _timestep_index(graph, layer) is not None


def _has_other_frame(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type == WARP_LAYER and _trace(graph, layer.inputs[0]) in ("in0", "in1")


def _has_pair(graph: NcnnGraph, layer: Layer) -> bool:
    return layer.type == WARP_LAYER and _find_partner(graph, layer) is not None


# ---- operators ---------------------------------------------------------------------------------


def swap_crops(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Exchange two parts of a Slice that have the same size."""
    sizes = _slice_sizes(layer)
    pairs = [
        (first, second)
        for first in range(len(sizes))
        for second in range(first + 1, len(sizes))
        if sizes[first] == sizes[second]
    ]
    first, second = pairs[generator.integers(len(pairs))]
    outputs = layer.outputs
    outputs[first], outputs[second] = outputs[second], outputs[first]


def shift_crop(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Cut a flow one channel too late."""
    index = _draw_flow(layer, generator)
    _cut_apart(graph, layer, index, (1, 1))


def widen_crop(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Give a flow a third channel, which no sampler reads."""
    index = _draw_flow(layer, generator)
    _cut_apart(graph, layer, index, (0, 1))


def swap_flow_axes(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Exchange x and y of the flow at one warp."""
    parts = [f"{layer.name}.x", f"{layer.name}.y"]
    _put_before(graph, layer, Layer("Slice", f"{layer.name}.cut", [layer.inputs[1]], parts))
    cut = graph.layers[graph.layers.index(layer) - 1]
    cut.params[int(ncnn.Slice.SLICES)] = [1, 1]
    swapped = f"{layer.name}.swapped"
    _put_before(graph, layer, Layer("Concat", swapped, parts[::-1], [swapped]))
    layer.inputs[1] = swapped


def halve_flow(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Forget a factor of two in the flow at one warp."""
    _scale_input(graph, layer, 1, 0.5)


def bypass_warp(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Let the image through as it is."""
    layer.type = "BinaryOp"
    layer.inputs = layer.inputs[:1]
    layer.params = _scalar(ncnn.BinaryOpType.MUL, 1.0)


def take_other_frame(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Warp the other frame."""
    other = {"in0": "in1", "in1": "in0"}[_trace(graph, layer.inputs[0])]
    layer.inputs[0] = _read_again(graph, other, layer)


def share_flow(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Move one frame by the flow of the other."""
    partner = _find_partner(graph, layer)
    assert partner is not None  # as `_has_pair` has found
    layer.inputs[1] = _read_again(graph, _trace(graph, partner.inputs[1]), layer)


def change_beta(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Scale one output channel of a ResConv, as another beta would."""
    _scale_channels(layer, [_draw_channel(layer, generator)], CHANGED_FACTOR)


def drop_beta(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Undo a beta of 0.8 in every channel."""
    _scale_channels(layer, slice(None), 1 / 0.8)


def change_bias(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Change one bias."""
    bias = layer.weights["bias"].copy()
    bias[_draw_channel(layer, generator)] += CHANGED_BIAS
    layer.weights["bias"] = bias


def drop_bias(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Leave all biases of a layer out."""
    layer.weights["bias"] = np.zeros_like(layer.weights["bias"])


def change_weight(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Move one weight by the deviation of all of them."""
    weight = layer.weights["weight"].copy()
    weight[tuple(generator.integers(weight.shape))] += weight.std()
    layer.weights["weight"] = weight


def transpose_kernel(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Exchange rows and columns of every kernel."""
    layer.weights["weight"] = np.ascontiguousarray(layer.weights["weight"].swapaxes(2, 3))


def transpose_channels(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Exchange inputs and outputs of a weight."""
    layer.weights["weight"] = np.ascontiguousarray(layer.weights["weight"].swapaxes(0, 1))


def flip_kernel(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Convolve where the original correlates."""
    layer.weights["weight"] = np.ascontiguousarray(layer.weights["weight"][:, :, ::-1, ::-1])


def swap_channels(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Exchange two output channels, weights and biases."""
    count = len(layer.weights["weight"])
    order = np.arange(count)
    first, second = generator.choice(count, 2, replace=False)
    order[[first, second]] = order[[second, first]]
    layer.weights = {name: array[order] for name, array in layer.weights.items()}


def move_padding(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Pad two columns at the right in place of one on either side."""
    keys = ncnn.Convolution
    top = ncnn.read_int(layer.params, keys.PAD_TOP)
    layer.params |= {
        int(keys.PAD_LEFT): 0,
        int(keys.PAD_RIGHT): 2,
        int(keys.PAD_TOP): top,
        int(keys.PAD_BOTTOM): top,
    }


def change_scale(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Change the number that a blob is multiplied by."""
    layer.params[int(ncnn.BinaryOp.B)] = (
        ncnn.read_float(layer.params, ncnn.BinaryOp.B) * CHANGED_FACTOR
    )


def drop_scale(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Multiply by one."""
    layer.params[int(ncnn.BinaryOp.B)] = 1.0


def change_concat_order(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Exchange two neighbours of a Concat that are not the same blob."""
    first = int(generator.integers(len(layer.inputs) - 1))
    inputs = layer.inputs
    inputs[first], inputs[first + 1] = inputs[first + 1], inputs[first]


def change_interp_factor(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Resize twice as far."""
    for key in (ncnn.Interp.HEIGHT_SCALE, ncnn.Interp.WIDTH_SCALE):
        layer.params[int(key)] = 2 * ncnn.read_float(layer.params, key)


def resize_to_nearest(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Do not interpolate."""
    layer.params[int(ncnn.Interp.RESIZE_TYPE)] = int(ncnn.InterpType.NEAREST)


def align_corners(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Put the outer pixels' middles on one another."""
    layer.params[int(ncnn.Interp.ALIGN_CORNER)] = 1


def change_slope(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Give an activation another slope below zero."""
    if layer.type == "PReLU":
        layer.weights["slope"] = layer.weights["slope"] + np.float32(CHANGED_SLOPE)
    elif layer.type == "ReLU":
        slope = ncnn.read_float(layer.params, ncnn.ReLU.SLOPE)
        layer.params[int(ncnn.ReLU.SLOPE)] = slope + CHANGED_SLOPE
    else:
        slope = _fused_slope(layer) or 0.0
        layer.params[int(ncnn.Convolution.ACTIVATION_PARAMS)] = [slope + CHANGED_SLOPE]


def drop_activation(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Let values below zero through."""
    if layer.type == "PReLU":
        layer.weights["slope"] = np.ones_like(layer.weights["slope"])
    elif layer.type == "ReLU":
        layer.params[int(ncnn.ReLU.SLOPE)] = 1.0
    else:
        del layer.params[int(ncnn.Convolution.ACTIVATION_TYPE)]
        layer.params.pop(int(ncnn.Convolution.ACTIVATION_PARAMS), None)


def negate_mask(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Change the mask's sign, which exchanges the two frames in the blend."""
    _scale_input(graph, layer, 0, -1.0)


def swap_operands(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Subtract the other way round."""
    layer.inputs.reverse()


def replace_sum(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Subtract where the original adds."""
    layer.params[int(ncnn.BinaryOp.OP_TYPE)] = int(ncnn.BinaryOpType.SUB)


def freeze_timestep(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Let one block see the middle of the interval, whatever is asked."""
    index = _timestep_index(graph, layer)
    assert index is not None  # as `_joins_timestep` has found
    _scale_input(graph, layer, index, 0.0)
    frozen = f"{layer.inputs[index]}.frozen"
    params = _scalar(ncnn.BinaryOpType.ADD, FROZEN_TIMESTEP)
    _put_before(graph, layer, Layer("BinaryOp", frozen, [layer.inputs[index]], [frozen], params))
    layer.inputs[index] = frozen


def shuffle_otherwise(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Shuffle pixels in the order of other frameworks."""
    layer.params[int(ncnn.PixelShuffle.MODE)] = int(ncnn.PixelShuffleMode.OPENCV)


def overflow_blob(graph: NcnnGraph, layer: Layer, generator: np.random.Generator) -> None:
    """Blow a blob up beyond fp16, and undo it behind: fp32 shows nothing of it."""
    (blob,) = layer.outputs
    large, restored = f"{blob}.large", f"{blob}.restored"
    layer.outputs = [large]
    down = Layer(
        "BinaryOp", restored, [large], [blob], _scalar(ncnn.BinaryOpType.MUL, 1 / OVERFLOWING)
    )
    graph.layers.insert(graph.layers.index(layer) + 1, down)
    _scale_channels(layer, slice(None), OVERFLOWING)


# ---- edits -------------------------------------------------------------------------------------


def _slice_sizes(layer: Layer) -> list[int]:
    return ncnn.read_ints(layer.params, ncnn.Slice.SLICES) if layer.type == "Slice" else []


def _draw_flow(layer: Layer, generator: np.random.Generator) -> int:
    sizes = _slice_sizes(layer)[:-1]  # behind the last part there is no further channel
    return int(generator.choice([i for i, size in enumerate(sizes) if size == FLOW_CHANNELS]))


def _draw_channel(layer: Layer, generator: np.random.Generator) -> int:
    return int(generator.integers(len(layer.weights["weight"])))


def _cut_apart(graph: NcnnGraph, layer: Layer, index: int, moved: tuple[int, int]) -> None:
    """Make a Slice's part of its own a Crop whose start and end are moved."""
    start = sum(_slice_sizes(layer)[:index])
    end = start + _slice_sizes(layer)[index]
    blob = layer.outputs[index]
    layer.outputs[index] = f"{blob}.unread"
    copies = [f"{layer.inputs[0]}.copy{number}" for number in range(2)]
    _put_before(graph, layer, Layer("Split", f"{layer.name}.split", layer.inputs, copies))
    layer.inputs = copies[:1]
    params: dict[int, ParamValue] = {
        int(ncnn.Crop.STARTS): [start + moved[0]],
        int(ncnn.Crop.ENDS): [end + moved[1]],
        int(ncnn.Crop.AXES): [0],
    }
    crop = Layer("Crop", blob, copies[1:], [blob], params)
    graph.layers.insert(graph.layers.index(layer) + 1, crop)


def _put_before(graph: NcnnGraph, layer: Layer, new: Layer) -> None:
    graph.layers.insert(graph.layers.index(layer), new)


def _scale_input(graph: NcnnGraph, layer: Layer, index: int, factor: float) -> None:
    scaled = f"{layer.name}.scaled"
    params = _scalar(ncnn.BinaryOpType.MUL, factor)
    _put_before(graph, layer, Layer("BinaryOp", scaled, [layer.inputs[index]], [scaled], params))
    layer.inputs[index] = scaled


def _scalar(operation: ncnn.BinaryOpType, number: float) -> dict[int, ParamValue]:
    return {
        int(ncnn.BinaryOp.OP_TYPE): int(operation),
        int(ncnn.BinaryOp.WITH_SCALAR): 1,
        int(ncnn.BinaryOp.B): number,
    }


def _scale_channels(layer: Layer, channels: list[int] | slice, factor: float) -> None:
    for name, array in layer.weights.items():
        scaled = array.copy()
        scaled[channels] *= np.float32(factor)
        layer.weights[name] = scaled


def _fused_slope(layer: Layer) -> float | None:
    """The slope of a leaky activation that a convolution applies."""
    if layer.type not in CONVOLUTIONS:
        return None
    kind = ncnn.read_int(layer.params, ncnn.Convolution.ACTIVATION_TYPE)
    if kind != ncnn.Activation.LEAKY_RELU:
        return None
    return ncnn.read_floats(layer.params, ncnn.Convolution.ACTIVATION_PARAMS)[0]


def _trace(graph: NcnnGraph, blob: str) -> str:
    """The blob that Splits made this one from."""
    makers = graph.find_producers()
    while makers[blob].type == "Split":
        blob = makers[blob].inputs[0]
    return blob


def trace_source(graph: NcnnGraph, blob: str) -> str:
    """The blob that this one was made from by Splits and resizes alone."""
    makers = graph.find_producers()
    while makers[blob].type in ("Split", "Interp"):
        blob = makers[blob].inputs[0]
    return blob


def _read_again(graph: NcnnGraph, blob: str, reader: Layer) -> str:
    """A further copy of a blob, from the Split that shares it out or from a new one."""
    copy_name = f"{blob}.for.{reader.name}"
    for layer in graph.layers:
        if layer.type == "Split" and layer.inputs == [blob]:
            layer.outputs.append(copy_name)
            return copy_name
    (first,) = (one for one in graph.layers if blob in one.inputs)
    kept = f"{blob}.kept"
    first.inputs[first.inputs.index(blob)] = kept
    maker = graph.find_producers()[blob]
    split = Layer("Split", f"{blob}.split", [blob], [kept, copy_name])
    graph.layers.insert(graph.layers.index(maker) + 1, split)
    return copy_name


def _timestep_index(graph: NcnnGraph, layer: Layer) -> int | None:
    for index, blob in enumerate(layer.inputs):
        if _trace(graph, blob) == "in2":
            return index
    return None


def _find_partner(graph: NcnnGraph, layer: Layer) -> Layer | None:
    """An earlier warp of the other frame, by another flow."""
    if not _has_other_frame(graph, layer):
        return None
    frame, flow = (_trace(graph, blob) for blob in layer.inputs)
    for other in _list_before(graph, layer):
        if other.type == WARP_LAYER and _has_other_frame(graph, other):
            other_frame, other_flow = (_trace(graph, blob) for blob in other.inputs)
            if other_frame != frame and other_flow != flow:
                return other
    return None


def _list_before(graph: NcnnGraph, layer: Layer) -> Iterator[Layer]:
    """The layers before one, the nearest first."""
    index = next(i for i, one in enumerate(graph.layers) if one is layer)
    return reversed(graph.layers[:index])


OPERATORS: Mapping[str, Operator] = {
    operator.__name__: Operator(fits, operator)
    for fits, operator in (
        (_is_sliced_evenly, swap_crops),
        (_is_sliced, shift_crop),
        (_is_sliced, widen_crop),
        (_is(WARP_LAYER), swap_flow_axes),
        (_is(WARP_LAYER), halve_flow),
        (_is(WARP_LAYER), bypass_warp),
        (_has_other_frame, take_other_frame),
        (_has_pair, share_flow),
        (_has_beta, change_beta),
        (_has_beta, drop_beta),
        (_has_bias, change_bias),
        (_has_bias, drop_bias),
        (_is(*CONVOLUTIONS), change_weight),
        (_is_spread, transpose_kernel),
        (_is_square, transpose_channels),
        (_is_spread, flip_kernel),
        (_is(*CONVOLUTIONS), swap_channels),
        (_is_padded_evenly, move_padding),
        (_is_factor, change_scale),
        (_is_factor, drop_scale),
        (_is("Concat"), change_concat_order),
        (_is("Interp"), change_interp_factor),
        (_is("Interp"), resize_to_nearest),
        (_is("Interp"), align_corners),
        (_is_leaky, change_slope),
        (_is_leaky, drop_activation),
        (_is("Sigmoid"), negate_mask),
        (_is_binary(ncnn.BinaryOpType.SUB), swap_operands),
        (_is_binary(ncnn.BinaryOpType.ADD), replace_sum),
        (_joins_timestep, freeze_timestep),
        (_is("PixelShuffle"), shuffle_otherwise),
        (_is("Convolution"), overflow_blob),
    )
}
