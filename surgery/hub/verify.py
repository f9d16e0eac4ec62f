"""Decide whether an ONNX model is a legal hub model, and say everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import HubError
from surgery.hub import model as hub_model
from surgery.hub import networks, ops, shapes, warp
from surgery.hub.check_boundary import check_boundary

if TYPE_CHECKING:
    import onnx

KINDS = ("v4", *networks.KINDS)
# How many numbers for each pixel of the frame one tensor may hold, and all of them together: hub
# models run in this process, which a stranger's must not fill. Measured: at most 208 and 3279
# (4.26.heavy, and 4.24 with its ensemble, both at --scale 2).
MOST_NUMBERS, MOST_NUMBERS_IN_ALL = 2**12, 2**16
# What one pixel is of the frame, at most.
LARGEST_PIXEL = Fraction(1, 1024)


def is_hub(model: onnx.ModelProto) -> bool:
    """Whether a model is meant for the hub, legal or not: it has nodes of `rife::Warp`'s domain."""
    return any(node.domain == warp.DOMAIN for node in model.graph.node)


def read_hub(path: Path) -> onnx.ModelProto:
    """Read a file that has to be a hub model.

    Raises:
        HubError: it is absent, no ONNX, no hub model, or not a legal one.
    """
    model = hub_model.read_onnx(path)
    require_hub(model, path)
    return model


def require_hub(model: onnx.ModelProto, path: Path) -> None:
    """Refuse what was read from a file, by the file's name, if it is no legal hub model.

    Raises:
        HubError: it is none.
    """
    try:
        hub_model.HubMetadata.from_properties({p.key: p.value for p in model.metadata_props})
        if not is_hub(model):
            raise HubError(
                "plain ONNX, whose warps are GridSample; a hub model has rife::Warp: "
                "export the donor without --no-custom-warp, or make one of it with 'surgery lift'"
            )
        verify_hub(model)
    except HubError as error:
        raise HubError(f"{path}: {error}") from error


def verify_hub(model: onnx.ModelProto) -> None:
    """Verify a closed hub model: its opsets, ONNX's checker, then the dialect.

    Nodes that lead to no output count for nothing: a warp that nobody reads is none.

    Raises:
        HubError: the model is not legal; the message lists every fault.
    """
    import onnx

    faults = _check_opsets(model)
    if faults:
        _refuse(faults)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise HubError(f"not a legal ONNX model: {error}") from error
    faults = [*_check_body(model), *_check_names(model)]
    if faults:
        _refuse(faults)
    opened = hub_model.from_onnx(model)
    opened.graph.cleanup()
    verify_open(opened)


def verify_open(model: hub_model.HubModel) -> None:
    """Verify a hub model that is open: interface, operators, extents, warps.

    This is what runs after every pass; it reads no weights.

    Raises:
        HubError: the model is not legal; the message lists every fault.
    """
    model.graph.toposort()
    faults = _check_interface(model)
    if faults:
        _refuse(faults)
    extents = shapes.infer_extents(model.graph)  # refuses operators, sizes and flows
    if model.metadata.kind in networks.NETWORKS:
        faults += _check_ports(model, extents)
    else:
        faults += [*_check_output(extents), *_check_padding(model, extents)]
        faults += [*_check_in2(model), *check_boundary(model, extents)]
    faults += _check_numbers(extents)
    faults += _check_precision(model)
    found = sum(1 for _ in model.warps())
    if found != model.metadata.warps:
        faults.append(f"{found} rife::Warp nodes; the donor calls {model.metadata.warps} warps")
    if faults:
        _refuse(faults)


def _refuse(faults: list[str]) -> None:
    raise HubError("not a legal hub model:\n" + "\n".join(f"  {fault}" for fault in faults))


def _check_opsets(model: onnx.ModelProto) -> list[str]:
    wanted = {"": hub_model.OPSET, warp.DOMAIN: warp.VERSION}
    found = {opset.domain: opset.version for opset in model.opset_import}
    return [] if found == wanted else [f"opsets {found}; exactly {wanted} are accepted"]


def _check_body(model: onnx.ModelProto) -> list[str]:
    bodies = [(f.domain, f.name) for f in model.functions]
    if bodies != [(warp.DOMAIN, warp.OP_TYPE)]:
        return [f"local functions {bodies}; exactly the body of rife::Warp is expected"]
    return []


def _check_names(model: onnx.ModelProto) -> list[str]:
    names = [node.name for node in model.graph.node]
    if len(set(names)) == len(names) and all(names):
        return []
    doubles = sorted({name for name in names if names.count(name) > 1})
    return [f"nodes without a name of their own: {doubles or 'nameless ones'}"]


def _check_interface(model: hub_model.HubModel) -> list[str]:
    metadata = model.metadata
    if metadata.kind in networks.NETWORKS:
        return _check_names_of_ports(model)
    if metadata.kind not in KINDS:
        return [f"kind {metadata.kind!r}; accepted: {', '.join(KINDS)}"]
    faults = [
        f"{tensor.name} has the shape {tensor.shape}; [1,C,H,W] is expected"
        for tensor in model.graph.inputs
        if tensor.shape is None or len(tensor.shape) != 4
    ]
    if not 1 <= metadata.padding <= hub_model.MAX_PADDING:
        faults.append(f"padding {metadata.padding}; 1 to {hub_model.MAX_PADDING} is accepted")
    if metadata.timestep not in hub_model.TIMESTEPS:
        accepted = ", ".join(hub_model.TIMESTEPS)
        faults.append(f"timestep {metadata.timestep!r}; accepted: {accepted}")
    if faults:
        return faults
    inputs = {t.name: t.shape[ops.CHANNEL_AXIS] for t in model.graph.inputs}
    outputs = [t.name for t in model.graph.outputs]
    if inputs != hub_model.V4_INPUTS:
        faults.append(f"inputs {inputs}; {hub_model.V4_INPUTS} (name: channels) are expected")
    if outputs != [hub_model.V4_OUTPUT]:
        faults.append(f"outputs {outputs}; ['{hub_model.V4_OUTPUT}'] is expected")
    for tensor in model.graph.inputs:
        if str(tensor.dtype) != "float32" or tensor.shape[0] != 1:
            faults.append(f"{tensor.name} is {tensor.dtype} {tensor.shape}; float32 [1,C,H,W] is")
        if any(not isinstance(size, str) for size in tensor.shape[2:]):
            faults.append(f"{tensor.name} has the fixed size {tensor.shape[2:]}; H and W are free")
    return faults


def _check_output(extents: Mapping[str, shapes.Extent]) -> list[str]:
    output = extents[hub_model.V4_OUTPUT]
    if output == shapes.Extent(3, Fraction(1), Fraction(1)):
        return []
    return [
        f"out0 has {output.channels} channels at {output.height} x {output.width} "
        "of the input's size; 3 channels at full size are expected"
    ]


def _check_padding(model: hub_model.HubModel, extents: Mapping[str, shapes.Extent]) -> list[str]:
    """A size that is no whole part of the frame's is rounded, and corrupts memory in ncnn."""
    needed = shapes.find_multiple(extents)
    if model.metadata.padding % needed == 0:
        return []
    return [
        f"padding {model.metadata.padding}; its graph works at sizes that need a multiple of "
        f"{needed}"
    ]


def _check_numbers(extents: Mapping[str, shapes.Extent]) -> Iterator[str]:
    """Refuse sizes that no RIFE has: a few bytes can ask for any."""
    numbers = {
        name: one.channels * (one.height * one.width or LARGEST_PIXEL)
        for name, one in extents.items()
    }
    largest = max(numbers, key=lambda name: numbers[name])
    if numbers[largest] > MOST_NUMBERS:
        one = extents[largest]
        yield (
            f"{largest} has {one.channels} channels at {one.height} x {one.width} of the input's "
            f"size; {MOST_NUMBERS} numbers for each pixel of the frame are accepted"
        )
    elif sum(numbers.values()) > MOST_NUMBERS_IN_ALL:
        yield (
            f"its tensors hold {round(sum(numbers.values()))} numbers for each pixel of the frame; "
            f"{MOST_NUMBERS_IN_ALL} are accepted"
        )


def _check_names_of_ports(model: hub_model.HubModel) -> list[str]:
    interface = networks.INTERFACES[model.metadata.kind]
    found = [[tensor.name for tensor in model.graph.inputs]]
    found.append([tensor.name for tensor in model.graph.outputs])
    wanted = [list(interface.inputs), list(interface.outputs)]
    return [] if found == wanted else [f"inputs and outputs {found}; {wanted} are expected"]


def _check_ports(model: hub_model.HubModel, extents: Mapping[str, shapes.Extent]) -> Iterator[str]:
    interface = networks.INTERFACES[model.metadata.kind]
    for name, port in {**interface.inputs, **interface.outputs}.items():
        if reason := port.refuse(name, extents[name]):
            yield reason


def _check_precision(model: hub_model.HubModel) -> list[str]:
    """Passes fold constants into one another; all floats are of one precision."""
    import numpy as np
    import onnx_graphsurgeon as gs

    return [
        f"{node.name} reads a constant of {tensor.dtype}; float32 is accepted"
        for node in model.graph.nodes
        for tensor in node.inputs
        if isinstance(tensor, gs.Constant)
        and np.issubdtype(tensor.dtype, np.floating)
        and tensor.dtype != np.float32
    ]


def _check_in2(model: hub_model.HubModel) -> list[str]:
    """A float timestep in a trace leaves `in2` unread, and the model deaf to it."""
    read = any(t.name == "in2" and t.outputs for t in model.graph.inputs)
    if model.metadata.timestep == "plane" and not read:
        return ["in2 is read by no node: the timestep was baked into the graph"]
    return []
