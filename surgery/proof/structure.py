"""Faults that no picture shows: read off the graph, whatever its weights are.

A flow of three channels changes no pixel anywhere, one of four is right on a CPU and noise on
Vulkan, and a pair of warps that share one flow looks nearly right wherever little moves. So what
can be known from the graph alone is checked there, on hub models and on ncnn graphs alike.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from surgery.errors import FormatError
from surgery.formats import ncnn_param
from surgery.formats.ncnn_layers import LAYER_TYPES
from surgery.formats.ncnn_param import FaultKind, Layer, NcnnGraph
from surgery.formats.ncnn_shapes import (
    NOMINAL_SIZE,
    V4_CHANNELS,
    Shape,
    infer_shapes,
    infer_shapes_from,
)
from surgery.hub import networks

if TYPE_CHECKING:
    import onnx

WARP_LAYER = "rife.Warp"
WARP_INPUTS = 2
FLOW_CHANNELS = 2
OUTPUT = "out0"
OUTPUT_CHANNELS = 3
FRAMES = ("in0", "in1")
TIMESTEP = "in2"
# No shape: that of a blob which nothing is known to make.
UNKNOWN: Shape = ()


class FindingKind(enum.Enum):
    """Findings that are told apart: those that somebody can mend, or that follow from others."""

    MISSING_SPLIT = enum.auto()
    FLOW_CHANNELS = enum.auto()
    SHAPES = enum.auto()
    OTHER = enum.auto()


@dataclass(frozen=True)
class Finding:
    """One fault of a graph.

    Attributes:
        where: the layer, node, input or output.
        what: what was found and what is expected.
        kind: what sort of fault it is.
    """

    where: str
    what: str
    kind: FindingKind = FindingKind.OTHER

    def __str__(self) -> str:
        """One line for a report."""
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class Step:
    """One computation, of either kind of graph.

    Attributes:
        name: for messages.
        kind: equal for two steps that make the same values of the same inputs; None where a step
            only passes its input on, under all its output names.
        inputs: names of the values it reads.
        outputs: names of the values it makes.
    """

    name: str
    kind: Hashable | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


# ---- ncnn --------------------------------------------------------------------------------------


def check_ncnn_structure(
    graph: NcnnGraph, expected_warps: int, *, has_timestep: bool = True
) -> list[Finding]:
    """Find what is wrong with a v4 ncnn graph; nothing found is a graph that may be run.

    Checked are the blobs (each made before it is read, each read at most once), that all shapes
    fit, the number of warps, that every flow has exactly two channels, that no flow moves both
    frames, and the inputs and the output.

    `has_timestep` tells whether `in2` has to be read: not for a donor of a fixed timestep.
    """
    findings = [*_check_ncnn_graph(graph), *_check_ncnn_inputs(graph, has_timestep)]
    warps = [layer for layer in graph.layers if layer.type == WARP_LAYER]
    findings += _check_warp_count(len(warps), expected_warps)
    try:
        shapes = infer_shapes(graph, NOMINAL_SIZE, NOMINAL_SIZE)
    except FormatError as error:
        return [*findings, _doubt_shapes(str(error))]
    for layer in warps:
        findings += _check_flow(f"{layer.type} {layer.name}", shapes[layer.inputs[1]][0])
    findings += _check_ncnn_output(shapes)
    return findings + _find_shared_ncnn_flows(graph, warps, FRAMES)


def _check_ncnn_graph(graph: NcnnGraph) -> Iterator[Finding]:
    for fault in ncnn_param.check(graph):
        is_split = fault.kind is FaultKind.MISSING_SPLIT
        kind = FindingKind.MISSING_SPLIT if is_split else FindingKind.OTHER
        yield Finding("graph", fault.what, kind)


def _doubt_shapes(reason: str) -> Finding:
    """Shapes that do not fit, or are not known."""
    return Finding("shapes", reason, FindingKind.SHAPES)


def _find_shared_ncnn_flows(
    graph: NcnnGraph, warps: Sequence[Layer], frames: Sequence[str]
) -> list[Finding]:
    flows = [(layer.name, layer.inputs[0], layer.inputs[1]) for layer in warps]
    return find_shared_flows([_to_step(layer) for layer in graph.layers], flows, frames)


def check_networks_structure(
    graphs: Mapping[str, NcnnGraph], kind: str, expected_warps: int
) -> list[Finding]:
    """As `check_ncnn_structure`, for the three networks of a kind (`surgery.hub.networks`)."""
    findings = []
    shapes: dict[str, dict[str, Shape]] = {}
    for name, graph in graphs.items():
        warps = [layer for layer in graph.layers if layer.type == WARP_LAYER]
        inputs = shape_network_inputs(name, kind, shapes.get(networks.CONTEXTNET, {}))
        faults = [*_check_ncnn_graph(graph)]
        faults += _check_network_inputs(graph, inputs)
        if UNKNOWN not in inputs.values():  # of what makes them, it is said
            try:
                shapes[name] = infer_shapes_from(graph, inputs)
            except FormatError as error:
                faults.append(_doubt_shapes(str(error)))
            else:
                faults += _check_network_shapes(name, kind, warps, shapes[name])
                frames = [blob for blob, shape in inputs.items() if shape[0] == OUTPUT_CHANNELS]
                faults += _find_shared_ncnn_flows(graph, warps, frames)
        findings += [replace(fault, where=f"{name}, {fault.where}") for fault in faults]
    return findings + _check_warp_count(count_network_warps(graphs), expected_warps)


def count_network_warps(graphs: Mapping[str, NcnnGraph]) -> int:
    """How many warps three networks take for one frame."""
    return sum(
        networks.CALLS[name] * (layer.type == WARP_LAYER)
        for name, graph in graphs.items()
        for layer in graph.layers
    )


def shape_network_inputs(
    network: str,
    kind: str,
    features: Mapping[str, Shape],
    width: int = NOMINAL_SIZE,
    height: int = NOMINAL_SIZE,
) -> dict[str, Shape]:
    """The shapes of what the runtime feeds one of three networks.

    `features` are the shapes of contextnet's blobs, which fusionnet is fed; what is fed of one
    that is not among them is UNKNOWN.

    Units: width and height of the frames in pixels, padded already.
    """
    frame = (OUTPUT_CHANNELS, height, width)
    flow = (networks.KINDS[kind], height // 2, width // 2)
    if network == networks.FLOWNET:
        return {"input0": frame, "input1": frame}
    if network == networks.CONTEXTNET:
        # In v1 the graph makes the first frame's flow of the second's (rife.cpp).
        fed = networks.FLOWS[1] if kind == "v1" else networks.FLOWS[0]
        return {"input.1": frame, fed: (FLOW_CHANNELS, *flow[1:])}
    made = [features.get(level, UNKNOWN) for level in networks.CONTEXT]
    fed_features = zip(networks.FEATURE_INPUTS, made * len(networks.FRAMES), strict=True)
    return {"img0": frame, "img1": frame, networks.FLOW: flow, **dict(fed_features)}


def _check_network_inputs(graph: NcnnGraph, inputs: Mapping[str, Shape]) -> Iterator[Finding]:
    made = {blob for layer in graph.layers if layer.type == "Input" for blob in layer.outputs}
    read = {blob for layer in graph.layers for blob in layer.inputs}
    for blob in sorted(set(inputs) ^ made):
        kind = "the runtime does not feed it" if blob in made else "the runtime feeds it"
        yield Finding(blob, f"{'an' if blob in made else 'there is no such'} input; {kind}")
    for blob in inputs:
        if blob in made and blob not in read:
            yield Finding(blob, "no layer reads this input")


def _check_network_shapes(
    network: str, kind: str, warps: Sequence[Layer], shapes: Mapping[str, Shape]
) -> Iterator[Finding]:
    for layer in warps:
        yield from _check_flow(f"{layer.type} {layer.name}", shapes[layer.inputs[1]][0])
    wanted: dict[str, Shape | None] = dict.fromkeys(networks.INTERFACES[network].outputs)
    half = NOMINAL_SIZE // 2
    if network == networks.FLOWNET:
        wanted[networks.FLOW] = (networks.KINDS[kind], half, half)
    if network == networks.FUSIONNET:
        wanted = dict.fromkeys(wanted, (OUTPUT_CHANNELS, NOMINAL_SIZE, NOMINAL_SIZE))
    for blob, shape in wanted.items():
        if blob not in shapes:
            yield Finding(blob, "no layer makes this output; the runtime reads it")
        elif shape is not None and shapes[blob] != shape:
            yield Finding(blob, f"has the shape {shapes[blob]}; {shape} is expected")


def _check_ncnn_inputs(graph: NcnnGraph, has_timestep: bool) -> Iterator[Finding]:
    made = {blob for layer in graph.layers if layer.type == "Input" for blob in layer.outputs}
    read = {blob for layer in graph.layers for blob in layer.inputs}
    for blob in (*FRAMES, TIMESTEP) if has_timestep else FRAMES:
        if blob not in made:
            yield Finding(blob, "there is no such input; the runtime feeds it")
        elif blob not in read:
            yield Finding(blob, "no layer reads this input")


def _check_ncnn_output(shapes: Mapping[str, Shape]) -> Iterator[Finding]:
    expected = (OUTPUT_CHANNELS, NOMINAL_SIZE, NOMINAL_SIZE)
    if OUTPUT not in shapes:
        yield Finding(OUTPUT, "no layer makes this output; the runtime reads it")
    elif shapes[OUTPUT] != expected:
        yield Finding(
            OUTPUT,
            f"has the shape {shapes[OUTPUT]} for frames of {NOMINAL_SIZE} x {NOMINAL_SIZE}; "
            f"{expected} is expected",
        )


def _to_step(layer: Layer) -> Step:
    params = tuple(
        (key, tuple(value) if isinstance(value, list) else value)
        for key, value in sorted(layer.params.items())
    )
    kind: Hashable | None = (layer.type, params)
    if layer.type == "Split":
        kind = None
    elif layer.type == "Input" or LAYER_TYPES[layer.type].list_weights(layer.params):
        # Inputs differ, and whether weights do is not asked: each layer of weights is its own.
        kind = (layer.type, *layer.outputs)
    return Step(layer.name, kind, tuple(layer.inputs), tuple(layer.outputs))


# ---- hub ---------------------------------------------------------------------------------------


def check_hub_structure(model: onnx.ModelProto, expected_warps: int) -> list[Finding]:
    """Find what is wrong with a v4 hub model; nothing found is a model that may be translated.

    Checked are the names, types and shapes of inputs and output, the number of warps, that every
    flow has exactly two channels, and that no flow moves both frames. Shapes are those of onnx's
    own inference at one size, through the function body of `rife::Warp`, and so are a second
    opinion on those that the passes go by.
    """
    import onnx

    from surgery.hub import warp

    warps = [
        node
        for node in model.graph.node
        if (node.domain, node.op_type) == (warp.DOMAIN, warp.OP_TYPE)
    ]
    findings = [*_check_hub_inputs(model), *_check_warp_count(len(warps), expected_warps)]
    if any(len(node.input) != WARP_INPUTS for node in warps):
        return [*findings, Finding("graph", f"a warp without its {WARP_INPUTS} inputs")]
    sized = _set_nominal_size(model)
    try:
        onnx.shape_inference.infer_shapes(sized, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        findings.append(_doubt_shapes(" ".join(str(error).split())))
    shapes = _infer_hub_shapes(sized)
    for node in warps:
        shape = shapes.get(node.input[1], ())
        findings += _check_flow(node.name, shape[1] if len(shape) == 4 else None)
    findings += _check_hub_output(model, shapes)
    flows = [(node.name, node.input[0], node.input[1]) for node in warps]
    return findings + find_shared_flows(list(_list_hub_steps(model)), flows)


def _check_hub_inputs(model: onnx.ModelProto) -> Iterator[Finding]:
    import onnx

    found = {value.name: value.type.tensor_type for value in model.graph.input}
    if set(found) != set(V4_CHANNELS):
        yield Finding("inputs", f"{', '.join(found)}; {', '.join(V4_CHANNELS)} are expected")
    for name, channels in V4_CHANNELS.items():
        if name not in found:
            continue
        shape = [size.dim_value for size in found[name].shape.dim]
        if found[name].elem_type != onnx.TensorProto.FLOAT or shape != [1, channels, 0, 0]:
            kind = onnx.TensorProto.DataType.Name(found[name].elem_type)
            yield Finding(
                name,
                f"is {kind} {shape} (0 is any size); FLOAT [1, {channels}, 0, 0] is expected",
            )


def _check_hub_output(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int | None, ...]]
) -> Iterator[Finding]:
    names = [value.name for value in model.graph.output]
    if names != [OUTPUT]:
        yield Finding("outputs", f"{', '.join(names)}; {OUTPUT} is expected")
    elif shapes.get(OUTPUT, ())[:2] != (1, OUTPUT_CHANNELS):
        yield Finding(
            OUTPUT,
            f"has the inferred shape {shapes.get(OUTPUT, ())}; "
            f"(1, {OUTPUT_CHANNELS}, H, W) is expected",
        )


def _set_nominal_size(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for frames of the nominal size, that says nothing of any other shape."""
    import onnx

    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    for value in sized.graph.input:
        for size in value.type.tensor_type.shape.dim[2:]:
            size.dim_value = NOMINAL_SIZE
    for value in sized.graph.output:
        value.type.tensor_type.ClearField("shape")
    return sized


def _infer_hub_shapes(model: onnx.ModelProto) -> dict[str, tuple[int | None, ...]]:
    """The shapes that onnx can infer; None is a size it lost."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        value.name: tuple(
            size.dim_value if size.HasField("dim_value") else None
            for size in value.type.tensor_type.shape.dim
        )
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }


def _list_hub_steps(model: onnx.ModelProto) -> Iterator[Step]:
    for value in model.graph.input:
        yield Step(value.name, ("input", value.name), (), (value.name,))
    for tensor in model.graph.initializer:
        content = (tensor.data_type, tuple(tensor.dims), _digest_tensor(tensor))
        yield Step(tensor.name, ("constant", content), (), (tensor.name,))
    for node in model.graph.node:
        attributes = tuple(
            sorted(
                (each.name, each.SerializeToString(deterministic=True)) for each in node.attribute
            )
        )
        kind = None if node.op_type == "Identity" else (node.domain, node.op_type, attributes)
        yield Step(node.name, kind, tuple(node.input), tuple(node.output))


def _digest_tensor(tensor: onnx.TensorProto) -> str:
    import onnx

    return hashlib.sha256(onnx.numpy_helper.to_array(tensor).tobytes()).hexdigest()


# ---- both --------------------------------------------------------------------------------------


def _check_warp_count(found: int, expected: int) -> list[Finding]:
    if found == expected:
        return []
    return [Finding("graph", f"{found} warps; the donor calls {expected}")]


def _check_flow(where: str, channels: int | None) -> list[Finding]:
    if channels == FLOW_CHANNELS:
        return []
    found = "an unknown number of" if channels is None else str(channels)
    what = f"its flow has {found} channels; exactly {FLOW_CHANNELS} are expected"
    return [Finding(where, what, FindingKind.FLOW_CHANNELS)]


def find_shared_flows(
    steps: Sequence[Step], warps: Sequence[tuple[str, str, str]], inputs: Sequence[str] = FRAMES
) -> list[Finding]:
    """Find flows that move both frames: the pair of warps of a block then has lost one flow.

    Every warp of RIFE moves one frame, or features of one frame, by a flow of its own direction.

    `warps` lists each warp's name, image and flow; `inputs` are the names of the frames. Two
    flows are the same when they are computed by the same steps from the same values, however many
    copies of the steps there are.
    """
    values = number_values(steps)
    frames = _trace_frames(steps, inputs)
    users: dict[int, dict[str, str]] = {}
    findings = []
    for name, image, flow in warps:
        moved = frames.get(image, frozenset())
        if len(moved) != 1 or flow not in values:
            continue
        (frame,) = moved
        others = users.setdefault(values[flow], {})
        for other_frame, other in others.items():
            if other_frame != frame:
                findings.append(
                    Finding(name, f"moves {frame} by the flow by which {other} moves {other_frame}")
                )
        others.setdefault(frame, name)
    return findings


def number_values(steps: Sequence[Step]) -> dict[str, int]:
    """A number for every value of a graph; equal for values that are sure to be equal."""
    numbers: dict[str, int] = {}
    known: dict[Hashable, int] = {}
    for step in steps:
        for name in step.inputs:
            # What no step makes is a value of its own.
            numbers.setdefault(name, known.setdefault(name, len(known)))
        inputs = tuple(numbers[name] for name in step.inputs)
        for index, name in enumerate(step.outputs):
            if step.kind is None:
                numbers[name] = inputs[0]
            else:
                numbers[name] = known.setdefault((step.kind, inputs, index), len(known))
    return numbers


def _trace_frames(steps: Sequence[Step], inputs: Sequence[str]) -> dict[str, frozenset[str]]:
    """Which of the two frames each value depends on."""
    frames = {frame: frozenset([frame]) for frame in inputs}
    for step in steps:
        found = frozenset().union(*(frames.get(name, frozenset()) for name in step.inputs))
        for name in step.outputs:
            frames.setdefault(name, found)
    return frames
