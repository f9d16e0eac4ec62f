"""What one frame costs in ncnn, counted from the graph: memory traffic, peak memory, arithmetic.

The counting rule of the traffic, in fp32, weights left out:

- every layer that the output needs reads its inputs once and writes its outputs once;
- Split and Input cost nothing: copies share memory, and the runtime has put the frames there;
- Crop reads only what it keeps;
- Interp reads at most the taps of its kernel for each value it writes, which is less than its
  input where it shrinks by more than the kernel covers.

A layer that has nothing to do (a Crop that keeps everything, an Interp by 1) counts like any other,
and is counted once more apart: ncnn hands its input on.

It is not what a cache sees, but it orders graphs of one network by their time in a runtime that
is short of bandwidth, as every GPU is with RIFE's shallow full-size layers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgery.errors import FormatError
from surgery.formats.ncnn_bin import list_weights
from surgery.formats.ncnn_layers import BinaryOp, Interp, InterpType, read_int
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.formats.ncnn_shapes import Shape, infer_shapes, infer_shapes_from
from surgery.hub import networks
from surgery.proof.structure import shape_network_inputs

BYTES = 4
OUTPUT = "out0"
# How many input values one output value of an Interp is made of.
TAPS: Mapping[int, int] = {InterpType.NEAREST: 1, InterpType.BILINEAR: 4, InterpType.BICUBIC: 16}
FREE_TYPES = frozenset({"Split", "Input"})
# `support_inplace` in ncnn's layers, as far as a layer alone decides; BinaryOp needs a scalar.
IN_PLACE_TYPES = frozenset({"ReLU", "PReLU", "Sigmoid", "TanH", "Clip", "UnaryOp", "Scale"})
WEIGHING_TYPES = frozenset({"Convolution", "ConvolutionDepthWise", "Deconvolution", "InnerProduct"})
# These hand their input on when there is nothing to do (crop.cpp, interp.cpp, padding.cpp).
IDLE_TYPES = frozenset({"Crop", "Interp", "Padding"})


@dataclass(frozen=True)
class GraphCost:
    """What one frame costs; everything but `layers` and `parameters` depends on its size.

    Attributes:
        width: of the padded frame, in pixels.
        height: of the padded frame, in pixels.
        traffic: bytes read and written, by the rule of this module.
        traffic_by_type: the same for each layer type.
        idle_traffic: what of it belongs to layers that have nothing to do.
        peak: the most bytes of blobs that live at one time in ncnn's light mode, the two frames
            and the timestep included; what convolutions take for themselves comes on top.
        multiply_adds: of convolutions, deconvolutions and inner products.
        parameters: how many numbers the weights hold.
        layers: how many layers there are of each type.
    """

    width: int
    height: int
    traffic: int
    traffic_by_type: Mapping[str, int]
    idle_traffic: int
    peak: int
    multiply_adds: int
    parameters: int
    layers: Mapping[str, int]


def measure_cost(graph: NcnnGraph, width: int, height: int) -> GraphCost:
    """Count what a v4 graph costs for one frame.

    Units: width and height in pixels, padded already.

    Raises:
        FormatError: as `infer_shapes`, and a graph without `out0`.
    """
    return _measure(graph, infer_shapes(graph, width, height), [OUTPUT], (width, height))


def measure_networks_cost(
    graphs: Mapping[str, NcnnGraph], kind: str, width: int, height: int
) -> GraphCost:
    """Count what three networks of a kind (`surgery.hub.networks`) cost for one frame.

    Contextnet, which runs twice, costs twice, and its weights and layers are there once. The
    peak is that of its second run, or of another network.

    Units: width and height in pixels, padded already.

    Raises:
        FormatError: as `infer_shapes_from`, and a graph without one of its outputs.
    """
    traffic: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    layers: Counter[str] = Counter()
    peaks, idle, multiply_adds = [], 0, 0
    features: dict[str, Shape] = {}
    for name, graph in graphs.items():
        inputs = shape_network_inputs(name, kind, features, width, height)
        shapes = infer_shapes_from(graph, inputs)
        outputs = list(networks.INTERFACES[name].outputs)
        one = _measure(graph, shapes, outputs, (width, height))
        held = 0
        if name == networks.CONTEXTNET:
            features = {level: shapes[level] for level in networks.CONTEXT}
            held = _count_held(kind, features, width, height)
        calls = networks.CALLS[name]
        traffic.update({key: calls * cost for key, cost in one.traffic_by_type.items()})
        idle += calls * one.idle_traffic
        multiply_adds += calls * one.multiply_adds
        peaks.append(one.peak + held)
        parameters[name] = one.parameters
        layers.update(one.layers)
    return GraphCost(
        width=width,
        height=height,
        traffic=traffic.total(),
        traffic_by_type=dict(sorted(traffic.items())),
        idle_traffic=idle,
        peak=max(peaks),
        multiply_adds=multiply_adds,
        parameters=parameters.total(),
        layers=dict(sorted(layers.items())),
    )


def _count_held(kind: str, features: Mapping[str, Shape], width: int, height: int) -> int:
    """What the runtime holds beside contextnet, when it runs for the second time.

    That is the other frame, its features, and the flow, where its half was sliced off it.
    """
    inputs = shape_network_inputs(networks.FUSIONNET, kind, features, width, height)
    sliced = networks.KINDS[kind] != networks.FLOW_CHANNELS
    shapes = [inputs["img0"], *features.values(), *([inputs[networks.FLOW]] if sliced else [])]
    return sum(map(_count_bytes, shapes))


def _measure(
    graph: NcnnGraph, shapes: Mapping[str, Shape], outputs: Sequence[str], size: tuple[int, int]
) -> GraphCost:
    running = list_running_layers(graph, *outputs)
    traffic: Counter[str] = Counter()
    idle = 0
    for layer in running:
        cost = count_traffic(layer, shapes)
        traffic[layer.type] += cost
        idle += cost if _is_idle(layer, shapes) else 0
    return GraphCost(
        width=size[0],
        height=size[1],
        traffic=traffic.total(),
        traffic_by_type=dict(sorted(traffic.items())),
        idle_traffic=idle,
        peak=find_peak(running, shapes),
        multiply_adds=sum(count_multiply_adds(layer, shapes) for layer in running),
        parameters=sum(_count_parameters(layer) for layer in graph.layers),
        layers=dict(sorted(Counter(layer.type for layer in graph.layers).items())),
    )


def list_running_layers(graph: NcnnGraph, *outputs: str) -> list[Layer]:
    """The layers that ncnn runs to make some blobs, in the order in which it runs them.

    ncnn goes back from the output, and runs what makes the first input of a layer before what
    makes the second; the order of the file plays no part.

    Raises:
        FormatError: no layer makes an output.

    Source: ncnn net.cpp, `NetPrivate::forward_layer`.
    """
    producers = graph.find_producers()
    for output in outputs:
        if output not in producers:
            raise FormatError(f"no layer makes {output}")
    done: set[str] = set()
    running: list[Layer] = []
    waiting = [producers[output] for output in reversed(outputs)]
    while waiting:
        layer = waiting[-1]
        if done.issuperset(layer.outputs):
            waiting.pop()
            continue
        absent = next((blob for blob in layer.inputs if blob not in done), None)
        if absent is not None:
            waiting.append(producers[absent])
            continue
        waiting.pop()
        done.update(layer.outputs)
        running.append(layer)
    return running


def count_traffic(layer: Layer, shapes: Mapping[str, Shape]) -> int:
    """The bytes that a layer reads and writes, by the rule of this module."""
    if layer.type in FREE_TYPES:
        return 0
    read = sum(_count_bytes(shapes[blob]) for blob in layer.inputs)
    written = sum(_count_bytes(shapes[blob]) for blob in layer.outputs)
    if layer.type == "Crop":
        read = min(read, written)
    elif layer.type == "Interp":
        taps = TAPS[read_int(layer.params, Interp.RESIZE_TYPE)]
        read = min(read, taps * written)
    return read + written


def count_multiply_adds(layer: Layer, shapes: Mapping[str, Shape]) -> int:
    """How many multiplications, each with an addition, a layer's weights take part in."""
    if layer.type not in WEIGHING_TYPES:
        return 0
    weight = list_weights(layer)[0]
    # Every weight is used once at each position that the kernel is laid on: those of the output,
    # or, where it spreads each input value, those of the input.
    blob = layer.inputs[0] if layer.type == "Deconvolution" else layer.outputs[0]
    return math.prod(weight.shape) * math.prod(shapes[blob][1:])


def find_peak(running: Sequence[Layer], shapes: Mapping[str, Shape]) -> int:
    """The most bytes of blobs that live at one time, in ncnn's light mode.

    A blob goes when its reader has run, its memory when nothing shares it any more. Layers that
    can work in place do so in memory that nobody shares, and in a copy of it otherwise. An
    allocator that counts, put into ncnn, finds the same to the byte with packing turned off; with
    packing, a layer that wants its input packed otherwise makes one copy more.

    Source: ncnn net.cpp, `NetPrivate::do_forward_layer`.
    """
    memory: dict[str, str] = {}  # of each blob, by the name of the blob it was made for
    sharers: Counter[str] = Counter()
    live = peak = 0
    for layer in running:
        owner = _find_reused_memory(layer, memory, sharers, shapes)
        for blob in layer.outputs:
            memory[blob] = owner or blob
            sharers[memory[blob]] += 1
            live += 0 if owner else _count_bytes(shapes[blob])
        peak = max(peak, live)
        if layer.type == "Input":
            # The runtime holds its frames until the output is there.
            sharers.update(layer.outputs)
        for blob in layer.inputs:
            sharers[memory[blob]] -= 1
            live -= 0 if sharers[memory[blob]] else _count_bytes(shapes[memory[blob]])
    return peak


def _find_reused_memory(
    layer: Layer, memory: Mapping[str, str], sharers: Mapping[str, int], shapes: Mapping[str, Shape]
) -> str | None:
    """Whose memory the outputs of a layer lie in, None for memory of their own."""
    if not layer.inputs:
        return None
    owner = memory[layer.inputs[0]]
    if layer.type == "Split" or _is_idle(layer, shapes):
        return owner
    return owner if _works_in_place(layer) and sharers[owner] == 1 else None


def _is_idle(layer: Layer, shapes: Mapping[str, Shape]) -> bool:
    return layer.type in IDLE_TYPES and shapes[layer.inputs[0]] == shapes[layer.outputs[0]]


def _works_in_place(layer: Layer) -> bool:
    if layer.type == "BinaryOp":
        return read_int(layer.params, BinaryOp.WITH_SCALAR) != 0
    return layer.type in IN_PLACE_TYPES


def _count_bytes(shape: Shape) -> int:
    return BYTES * math.prod(shape)


def _count_parameters(layer: Layer) -> int:
    return sum(math.prod(array.shape) for array in list_weights(layer))
