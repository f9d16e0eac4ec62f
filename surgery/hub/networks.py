"""The three networks of RIFE 1 to 3: one hub model to everybody, cut into three to be rewritten.

A hub model of kind `v1` or `v2` has the frames and the output of any other, so that whatever reads
hub models reads it. Inside, what rife-ncnn-vulkan carries from network to network has names, and
along them it is cut:

    flownet(in0, in1) -> flow                           half size, half-size pixels
    contextnet(in0, flow of in0) -> f1.0 ... f4.0       features of the first frame, warped
    contextnet(in1, flow of in1) -> f1.1 ... f4.1       the same network for the second
    fusionnet(in0, in1, flow, f1.0 ... f4.1) -> out0

The kinds are the runtime's modes: in `v2` the flow has four channels, two for each frame; in `v1`
it has two, and the second frame's flow is its negation.

Source: rife-ncnn-vulkan rife.cpp, `RIFE::process` and `RIFE::process_cpu`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import HubError
from surgery.hub import ops, shapes
from surgery.hub.model import OPSET, V4_INPUTS, V4_OUTPUT, HubMetadata, HubModel

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# The names of what goes into a network, and of what comes out.
Ends = tuple[Sequence[str], Sequence[str]]
# The kinds of three networks, and how many channels the flow has there.
KINDS: Mapping[str, int] = {"v1": 2, "v2": 4}
FLOWNET, CONTEXTNET, FUSIONNET = "flownet", "contextnet", "fusionnet"
NETWORKS = (FLOWNET, CONTEXTNET, FUSIONNET)
# How often each runs for one frame.
CALLS: Mapping[str, int] = {FLOWNET: 1, CONTEXTNET: 2, FUSIONNET: 1}
# Contextnet halves its input five times, and every runtime pads three networks to it (rife.cpp).
PADDING = 32
# In a model's metadata: the networks know no other.
TIMESTEP = "fixed 0.5"
FRAMES = ("in0", "in1")
FLOW = "flow"
# The flow of each frame, where it has a tensor of its own.
FLOWS = ("flow.0", "flow.1")
# What contextnet makes, and its name for each frame; the runtime numbers both on, from 3 to 10.
CONTEXT = ("f1", "f2", "f3", "f4")
FEATURES = tuple(tuple(f"{level}.{frame}" for level in CONTEXT) for frame in (0, 1))
FEATURE_INPUTS = tuple(str(3 + index) for index in range(2 * len(CONTEXT)))
# What fusionnet is given beside the frames.
FUSED = (FLOW, *FEATURES[0], *FEATURES[1])
FRAME_CHANNELS, FLOW_CHANNELS = 3, 2


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of one of the three networks.

    Attributes:
        channels: how many are accepted; empty for any number.
        part: its size as a part of the frame's; None for any.
    """

    channels: tuple[int, ...] = ()
    part: Fraction | None = None

    def refuse(self, name: str, extent: shapes.Extent) -> str:
        """Say why a tensor cannot stand here; empty where it can."""
        sizes = {self.part, extent.height, extent.width} if self.part else {extent.height}
        if len(sizes) == 1 and extent.channels in (self.channels or (extent.channels,)):
            return ""
        accepted = " or ".join(map(str, self.channels)) or "any number of"
        return (
            f"{name} is {extent.channels} channels at {extent.height} x {extent.width} of the "
            f"frame's size; {accepted} channels{f' at {self.part} of it' if self.part else ''} "
            "is expected"
        )


@dataclasses.dataclass(frozen=True)
class Interface:
    """What one of the three networks takes and gives, by the runtime's names, in order."""

    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]


_FRAME = Port((FRAME_CHANNELS,), Fraction(1))
_BOTH_FLOWS = Port(tuple(KINDS.values()), Fraction(1, 2))
_ONE_FLOW = Port((FLOW_CHANNELS,), Fraction(1, 2))
INTERFACES: Mapping[str, Interface] = {
    FLOWNET: Interface({"input0": _FRAME, "input1": _FRAME}, {FLOW: _BOTH_FLOWS}),
    CONTEXTNET: Interface({"input.1": _FRAME, "flow.0": _ONE_FLOW}, dict.fromkeys(CONTEXT, Port())),
    FUSIONNET: Interface(
        {
            "img0": _FRAME,
            "img1": _FRAME,
            FLOW: _BOTH_FLOWS,
            **dict.fromkeys(FEATURE_INPUTS, Port()),
        },
        {"output": _FRAME},
    ),
}


def name_frame_flow(kind: str, frame: int) -> str:
    """The tensor of a hub model that holds the flow of one frame."""
    return FLOW if kind == "v1" and frame == 0 else FLOWS[frame]


def list_boundary(kind: str) -> tuple[str, ...]:
    """All that has a name of its own inside a hub model of three networks."""
    flows = (name_frame_flow(kind, frame) for frame in range(len(FRAMES)))
    return (*FUSED, *(name for name in flows if name != FLOW))


def list_ports(kind: str) -> dict[str, list[Ends]]:
    """What goes in and out of each network inside a hub model, for each of its calls."""
    calls: list[Ends] = [
        ((frame, name_frame_flow(kind, index)), FEATURES[index])
        for index, frame in enumerate(FRAMES)
    ]
    return {
        FLOWNET: [(FRAMES, (FLOW,))],
        CONTEXTNET: calls,
        FUSIONNET: [((*FRAMES, *FUSED), (V4_OUTPUT,))],
    }


def cut_networks(model: HubModel) -> dict[str, HubModel]:
    """Cut a hub model of three networks; each of them is a model of its own, named by its kind.

    The model is left as it is, and has to be a legal one. Contextnet is what the first frame goes
    through; `surgery.hub.check_boundary` has seen that the second goes through the same.
    """
    extents = shapes.infer_extents(model.graph.toposort())
    return {
        name: _cut_out(model, name, extents, *calls[0])
        for name, calls in list_ports(model.metadata.kind).items()
    }


def _cut_out(
    model: HubModel,
    network: str,
    extents: Mapping[str, shapes.Extent],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> HubModel:
    graph = model.graph.copy()
    tensors = graph.tensors()
    interface = INTERFACES[network]
    cut = [(tensors[name], extents[name]) for name in inputs]
    graph.inputs, graph.outputs = [], [tensors[name] for name in outputs]
    for (tensor, extent), name in zip(cut, interface.inputs, strict=True):
        tensor.inputs.clear()
        graph.inputs.append(set_port(tensor, name, extent))
    for tensor, name in zip(graph.outputs, interface.outputs, strict=True):
        tensor.name, tensor.shape = name, None
    graph.cleanup().toposort()
    cut_out = HubModel(graph, dataclasses.replace(model.metadata, kind=network))
    cut_out.replace_metadata(warps=sum(1 for _ in cut_out.warps()))
    return cut_out


def set_port(tensor: gs.Tensor, name: str, extent: shapes.Extent) -> gs.Tensor:
    """Give a tensor the name and the shape of an input or output.

    Raises:
        HubError: as `surgery.hub.shapes.name_sizes`.
    """
    try:
        sizes = shapes.name_sizes(extent)
    except HubError as error:
        raise HubError(f"{name}: {error}") from error
    tensor.name, tensor.dtype = name, np.dtype(np.float32)
    tensor.shape = [1, extent.channels, *sizes]
    return tensor


def join_networks(networks: Mapping[str, HubModel], metadata: HubMetadata) -> HubModel:
    """Join three networks to one hub model, the counterpart of `cut_networks`.

    The networks are left as they are. `metadata` is the model's, its kind included, but for what
    the networks tell better: the number of warps, and whether betas are folded.
    """
    import onnx_graphsurgeon as gs

    inputs = {
        name: gs.Variable(name, np.dtype(np.float32), [1, channels, "H", "W"])
        for name, channels in V4_INPUTS.items()
    }
    output = gs.Variable(V4_OUTPUT, np.dtype(np.float32), [1, FRAME_CHANNELS, "H", "W"])
    graph = gs.Graph(inputs=list(inputs.values()), outputs=[output], name="rife", opset=OPSET)
    inner: dict[str, gs.Tensor] = {name: gs.Variable(name) for name in FUSED}
    frames = [inputs[name] for name in FRAMES]
    flows = _split_flow(graph, inner[FLOW], metadata.kind)
    features = [[inner[name] for name in names] for names in FEATURES]
    contextnet = networks[CONTEXTNET]
    _append(graph, networks[FLOWNET], frames, [inner[FLOW]], {})
    weights: dict[int, gs.Tensor] = {}
    for frame, flow, made in zip(frames, flows, features, strict=True):
        _append(graph, contextnet, [frame, flow], made, weights)
    _append(graph, networks[FUSIONNET], [*frames, *inner.values()], [output], {})
    joined = HubModel(graph.cleanup().toposort(), metadata)
    joined.replace_metadata(
        warps=sum(1 for _ in joined.warps()),
        folded_betas=any(one.metadata.folded_betas for one in networks.values()),
    )
    return joined


def _split_flow(graph: gs.Graph, flow: gs.Tensor, kind: str) -> list[gs.Tensor]:
    """The flows of the two frames, as the runtime makes them."""
    import onnx_graphsurgeon as gs

    made: list[gs.Tensor] = []
    for frame, name in enumerate(FLOWS):
        if name_frame_flow(kind, frame) == FLOW:
            made.append(flow)
            continue
        made.append(gs.Variable(name, np.dtype(np.float32)))
        if kind == "v1":
            graph.nodes.append(gs.Node("Neg", f"/{name}/Neg", inputs=[flow], outputs=[made[-1]]))
            continue
        start = frame * FLOW_CHANNELS
        bounds = [
            gs.Constant(f"/{name}/Slice.{what}", np.asarray([value], np.int64))
            for what, value in (
                ("start", start),
                ("end", start + FLOW_CHANNELS),
                ("axis", ops.CHANNEL_AXIS),
            )
        ]
        graph.nodes.append(
            gs.Node("Slice", f"/{name}/Slice", inputs=[flow, *bounds], outputs=[made[-1]])
        )
    return made


def _append(
    graph: gs.Graph,
    network: HubModel,
    inputs: Sequence[gs.Tensor],
    outputs: Sequence[gs.Tensor],
    constants: dict[int, gs.Tensor],
) -> None:
    """Append copies of a network's nodes, between these tensors.

    `constants` are the copies made before: what contextnet does twice, it does with one set of
    weights.
    """
    import onnx_graphsurgeon as gs

    own = network.graph.toposort()
    taken = {node.name for node in graph.nodes}
    made: dict[int, gs.Tensor] = {
        id(old): new
        for old, new in zip((*own.inputs, *own.outputs), (*inputs, *outputs), strict=True)
    }
    for node in own.nodes:
        name = _free_name(node.name, network.metadata.kind, taken)
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                # Exporters share equal weights between networks; a copy has a name of its own.
                own_name = f"{network.metadata.kind}:{tensor.name}"
                constants.setdefault(id(tensor), gs.Constant(own_name, tensor.values))
            elif tensor.is_empty():
                made[id(tensor)] = gs.Variable.empty()
        for index, tensor in enumerate(node.outputs):
            made.setdefault(id(tensor), gs.Variable(f"{name}:{index}", np.dtype(np.float32)))
        known = made | constants
        graph.nodes.append(
            gs.Node(
                node.op,
                name,
                dict(node.attrs),
                [known[id(tensor)] for tensor in node.inputs],
                [known[id(tensor)] for tensor in node.outputs],
                domain=node.domain,
            )
        )


def _free_name(name: str, network: str, taken: set[str]) -> str:
    """A name below the network's own, with a number where that is taken."""
    if not name.startswith((f"/{network}.", f"/{network}/")):
        name = f"/{network}/{name.strip('/')}"
    free, count = name, 0
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free
