"""Check that a hub model of three networks can be cut, and that what is cut is all there is of it.

`surgery.hub.networks` takes contextnet from the first frame's call, and the flows of the frames as
the runtime makes them. Whatever the second call does otherwise would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import networks, ops, shapes

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel


def check_boundary(model: HubModel, extents: Mapping[str, shapes.Extent]) -> Iterator[str]:
    """Say what is wrong along the cuts of a model of three networks; of another model, nothing."""
    kind = model.metadata.kind
    if kind not in networks.KINDS:
        return
    missing = [name for name in networks.list_boundary(kind) if name not in extents]
    if missing:
        yield f"kind {kind} without {', '.join(missing)}; it is cut along them"
        return
    wanted = networks.Port((networks.KINDS[kind],), Fraction(1, 2))
    reason = wanted.refuse(networks.FLOW, extents[networks.FLOW])
    if reason:
        yield reason
        return
    if model.metadata.timestep == "plane":
        yield "three networks, and timestep 'plane'; they know 'fixed 0.5' alone"
    tensors = model.graph.tensors()
    yield from _check_frame_flows(kind, tensors)
    foreign = list(_check_cuts(kind, tensors))
    yield from foreign or _compare_calls(kind, tensors)


def _check_frame_flows(kind: str, tensors: Mapping[str, gs.Tensor]) -> Iterator[str]:
    """The runtime makes the flow of each frame itself, and in no other way."""
    for frame in range(len(networks.FRAMES)):
        name = networks.name_frame_flow(kind, frame)
        start = frame * networks.FLOW_CHANNELS
        channels = (start, start + networks.FLOW_CHANNELS)
        wanted = "Neg" if kind == "v1" else f"Slice [{channels[0]}:{channels[1]}]"
        if name == networks.FLOW:
            continue
        node = tensors[name].inputs[0]
        found = node.op
        if node.op == "Slice":
            start, end = ops.channel_range(node, networks.KINDS[kind])
            found = f"Slice [{start}:{end}]"
        source = node.inputs[0].name
        if (found, source) != (wanted, networks.FLOW):
            yield f"{name} is {found} of {source}; {wanted} of {networks.FLOW} is expected"


def _check_cuts(kind: str, tensors: Mapping[str, gs.Tensor]) -> Iterator[str]:
    """Each network has to be made of what goes into it alone."""
    for network, calls in networks.list_ports(kind).items():
        for ports, outputs in calls:
            for name in sorted(_find_inputs([tensors[one] for one in outputs], ports)):
                yield f"{network}, to {outputs[0]}: reads {name}; {', '.join(ports)} are accepted"


def _find_inputs(outputs: Sequence[gs.Tensor], ports: Sequence[str]) -> set[str]:
    """What of the whole model's inputs is read on the way to some tensors, but by the ports."""
    found: set[str] = set()
    seen: set[int] = set()
    waiting = list(outputs)
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in seen or tensor.name in ports or _is_constant(tensor):
            continue
        seen.add(id(tensor))
        if not tensor.inputs and not tensor.is_empty():
            found.add(tensor.name)
        waiting += [one for node in tensor.inputs for one in node.inputs]
    return found


def _compare_calls(kind: str, tensors: Mapping[str, gs.Tensor]) -> Iterator[str]:
    """Both frames have to go through one contextnet."""
    first, second = (
        ([tensors[name] for name in ports], [tensors[name] for name in outputs])
        for ports, outputs in networks.list_ports(kind)[networks.CONTEXTNET]
    )
    same = {(id(one), id(other)) for one, other in zip(first[0], second[0], strict=True)}
    ports = {id(tensor) for tensor in (*first[0], *second[0])}
    waiting = list(zip(first[1], second[1], strict=True))
    while waiting:
        one, other = waiting.pop()
        if (id(one), id(other)) in same:
            continue
        same.add((id(one), id(other)))
        if _is_constant(one) and _is_constant(other):
            if not np.array_equal(one.values, other.values):
                yield f"contextnet: {one.name} and {other.name} differ; {_ONE_NETWORK}"
            continue
        if one.is_empty() and other.is_empty():
            continue
        makers = [tensor.inputs[0] for tensor in (one, other) if tensor.inputs]
        if {id(one), id(other)} & ports or len(makers) < 2 or not _do_the_same(*makers):
            yield f"contextnet: {one.name} and {other.name} are made differently; {_ONE_NETWORK}"
            continue
        waiting += zip(makers[0].inputs, makers[1].inputs, strict=True)


_ONE_NETWORK = "both frames have to go through one network"


def _do_the_same(one: gs.Node, other: gs.Node) -> bool:
    return (
        (one.op, one.domain) == (other.op, other.domain)
        and one.attrs == other.attrs
        and len(one.inputs) == len(other.inputs)
    )


def _is_constant(tensor: gs.Tensor) -> bool:
    import onnx_graphsurgeon as gs

    return isinstance(tensor, gs.Constant)
