"""Import a model folder of rife-ncnn-vulkan, whoever made it, to the hub.

Of RIFE 1 to 3 that is a folder of three networks, which become one hub model.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.errors import FormatError
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_bin import read_weights
from surgery.formats.ncnn_folder import (
    NETWORK,
    holds_three_networks,
    read_param_text,
    require_files,
)
from surgery.formats.ncnn_param import Layer, NcnnGraph, parse_with_faults
from surgery.formats.ncnn_shapes import NOMINAL_SIZE, Shape, infer_shapes_from
from surgery.hub import networks
from surgery.hub.model import DONOR_FACTS, OPSET, V4_INPUTS, V4_OUTPUT, HubMetadata, HubModel
from surgery.hub.shapes import Extent
from surgery.hub.verify import verify_hub
from surgery.passes import edit
from surgery.proof.forms import find_kind, read_facts
from surgery.proof.structure import shape_network_inputs
from surgery.sources.describe_blocks import describe_blocks
from surgery.sources.import_layers import LayerImport, import_layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# What a folder of this project says of itself, and no graph tells.
KEPT = (*DONOR_FACTS, "scale_list")
EXPORTER = "imported from ncnn"
# With which scalar an operation negates.
NEGATING_SCALARS: Mapping[int, float] = {
    ncnn.BinaryOpType.MUL: -1.0,
    ncnn.BinaryOpType.DIV: -1.0,
    ncnn.BinaryOpType.RSUB: 0.0,
}


def import_folder(folder: Path) -> HubModel:
    """Import a folder of one network or of three, with its weights.

    Read as ncnn reads it: faults of the text that ncnn survives, and what it ignores, are repaired
    and noted in the metadata.

    Raises:
        FormatError: a file is missing or breaks its format, or a `.bin` does not fit.
        UnsupportedOp: layers that the hub cannot express; all of them are listed.
        HubError: what came out is not a legal hub model.
    """
    is_of_three = holds_three_networks(folder)
    require_files(folder, networks.NETWORKS if is_of_three else (NETWORK,))
    if is_of_three:
        read = {name: _read_network(folder, name) for name in networks.NETWORKS}
        graphs = {name: graph for name, (graph, _) in read.items()}
        notes = [f"{name}: {note}" for name, (_, notes) in read.items() for note in notes]
        model = import_networks(graphs, label=folder.name, notes=notes)
    else:
        graph, notes = _read_network(folder, NETWORK)
        model = import_graph(graph, label=folder.name, notes=notes)
    _take_facts(model, read_facts(folder).get("model", {}))
    return model


def _read_network(folder: Path, network: str) -> tuple[NcnnGraph, list[str]]:
    """A network with its weights, and what had to be repaired to read it."""
    path = folder / f"{network}.param"
    graph, faults = parse_with_faults(read_param_text(path), path.name)
    weights = folder / f"{network}.bin"
    read = read_weights(graph, weights)
    if read.trailing_bytes:
        raise FormatError(
            f"{weights}: {read.trailing_bytes} bytes are left after the last layer, so it was not "
            "made for this .param; find the .bin that was, or have 'surgery doctor --fix' cut it: "
            "ncnn reads the first bytes"
        )
    return graph, [str(fault) for fault in faults]


def _take_facts(model: HubModel, facts: Mapping[str, Any]) -> None:
    """Take what a folder of this project says of its donor, where the graph agrees with it."""
    given: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in dataclasses.fields(HubMetadata)
        if (value := facts.get(field.name)) is not None
    }
    known = HubMetadata(**given)
    needed = model.metadata.padding
    if known.warps != model.metadata.warps or (known.padding % needed and needed % known.padding):
        return
    model.replace_metadata(**{name: getattr(known, name) for name in KEPT if getattr(known, name)})


def import_graph(graph: NcnnGraph, *, label: str, notes: Sequence[str] = ()) -> HubModel:
    """Import a v4 graph whose layers hold their weights.

    Args:
        graph: the layers; it is not changed.
        label: what to call the donor in the metadata.
        notes: what is known to be odd about it already.

    Raises:
        FormatError: shapes that do not fit each other, or inputs that no v4 runtime feeds.
        UnsupportedOp: layers that the hub cannot express; all of them are listed.
        HubError: what came out is not a legal hub model.
    """
    frame = {name: (count, NOMINAL_SIZE, NOMINAL_SIZE) for name, count in V4_INPUTS.items()}
    made, importing = _build_graph(graph, frame, [V4_OUTPUT])
    model = HubModel(made, HubMetadata())
    model.replace_metadata(
        **describe_blocks(model),
        donor=label,
        exporter=EXPORTER,
        folded_betas=not importing.constants,
        weights_sha256=_fingerprint(graph),
        baked=(*notes, *importing.notes),
        tools=(f"onnx {onnx.__version__}",),
    )
    verify_hub(model.to_onnx())
    return model


def import_networks(
    graphs: Mapping[str, NcnnGraph], *, label: str, notes: Sequence[str] = ()
) -> HubModel:
    """Import the graphs of three networks, by the names of their files, as `import_graph` does one.

    Raises:
        FormatError: shapes that do not fit each other, or inputs that the runtime does not feed.
        UnsupportedOp: layers that the hub cannot express; all of one network are listed.
        HubError: what came out is not a legal hub model.
    """
    kind = find_kind(graphs[networks.CONTEXTNET])
    parts: dict[str, HubModel] = {}
    said = list(notes)
    features: dict[str, Shape] = {}
    for name in networks.NETWORKS:
        graph = graphs[name]
        inputs = shape_network_inputs(name, kind, features)
        if name == networks.CONTEXTNET:
            features = infer_shapes_from(graph, inputs)
            graph = _read_flow_directly(graph)
            inputs = {
                blob: inputs.get(blob, inputs.get(networks.FLOWS[1], ()))
                for blob in networks.INTERFACES[name].inputs
            }
        made, importing = _build_graph(graph, inputs, list(networks.INTERFACES[name].outputs))
        if name == networks.FLOWNET:
            _refuse_other_flow(made.outputs[0], kind)
        parts[name] = HubModel(made, HubMetadata(kind=name))
        said += [f"{name}: {note}" for note in importing.notes]
    fingerprints = "".join(_fingerprint(graphs[name]) for name in networks.NETWORKS)
    metadata = HubMetadata(
        kind=kind,
        timestep=networks.TIMESTEP,
        padding=networks.PADDING,
        donor=label,
        exporter=EXPORTER,
        weights_sha256=hashlib.sha256(fingerprints.encode()).hexdigest(),
        baked=tuple(said),
        tools=(f"onnx {onnx.__version__}",),
    )
    model = networks.join_networks(parts, metadata)
    verify_hub(model.to_onnx())
    return model


def _refuse_other_flow(flow: gs.Tensor, kind: str) -> None:
    """Refuse a flownet of one kind beside a contextnet of the other."""
    channels, expected = flow.shape[1], networks.KINDS[kind]
    if channels != expected:
        raise FormatError(
            f"flownet: flow has {channels} channels; contextnet is of {kind}, where {expected} "
            "are expected"
        )


def _read_flow_directly(contextnet: NcnnGraph) -> NcnnGraph:
    """A contextnet whose flow is an input: in `v1` it is the negation of one.

    Source: rife-ncnn-vulkan rife.cpp, which feeds the first frame's flow behind the negation.
    """
    first, second = networks.FLOWS
    negations = [layer for layer in contextnet.layers if first in layer.outputs]
    if [layer.type for layer in negations] == ["Input"]:
        return contextnet
    if len(negations) != 1 or not _negates(negations[0], second):
        found = " and ".join(f"{one.type} {one.name}" for one in negations) or "nothing"
        raise FormatError(
            f"contextnet: {found} makes {first}; accepted is the negation of {second}: a UnaryOp "
            "neg, or a BinaryOp with a scalar, times -1, divided by -1 or subtracted from 0"
        )
    layers = []
    for layer in contextnet.layers:
        if layer is negations[0]:
            continue
        is_flow = layer.type == "Input" and layer.outputs == [second]
        layers.append(Layer("Input", first, [], [first]) if is_flow else layer)
    return NcnnGraph(layers)


def _negates(layer: Layer, blob: str) -> bool:
    if layer.inputs != [blob]:
        return False
    if layer.type == "UnaryOp":
        return ncnn.read_int(layer.params, ncnn.UnaryOp.OP_TYPE) == ncnn.UnaryOpType.NEG
    if layer.type != "BinaryOp" or not ncnn.read_int(layer.params, ncnn.BinaryOp.WITH_SCALAR):
        return False
    kind = ncnn.read_int(layer.params, ncnn.BinaryOp.OP_TYPE)
    return NEGATING_SCALARS.get(kind) == ncnn.read_float(layer.params, ncnn.BinaryOp.B)


def _build_graph(
    ncnn_graph: NcnnGraph, inputs: Mapping[str, Shape], outputs: Sequence[str]
) -> tuple[gs.Graph, LayerImport]:
    """The hub graph of ncnn's; `inputs` are the shapes of its inputs for NOMINAL_SIZE."""
    import onnx_graphsurgeon as gs

    fed = [
        networks.set_port(gs.Variable(name), name, _find_extent(shape))
        for name, shape in inputs.items()
    ]
    graph = gs.Graph(inputs=fed, name="rife", opset=OPSET)
    blob_shapes = infer_shapes_from(ncnn_graph, inputs)
    lacking = [name for name in outputs if name not in blob_shapes]
    if lacking:
        raise FormatError(f"no layer makes {', '.join(lacking)}, which the runtime reads")
    importing = import_layers(ncnn_graph, graph, fed, blob_shapes)
    for name in outputs:
        made = importing.tensors[name]
        output = networks.set_port(gs.Variable(name), name, _find_extent(blob_shapes[name]))
        if made.outputs or not made.inputs:
            edit.add_node(graph, f"/{name}", "Identity", [made], output=output)
        else:
            made.inputs[0].outputs = [output]
        graph.outputs.append(output)
    return graph, importing


def _find_extent(shape: Shape) -> Extent:
    """Of a blob, by its shape for frames of NOMINAL_SIZE.

    Raises:
        FormatError: it has no height and width.
    """
    if len(shape) != 3:
        raise FormatError(
            f"a blob of the shape {shape} stands between networks; planes are expected"
        )
    channels, height, width = shape
    return Extent(channels, Fraction(height, NOMINAL_SIZE), Fraction(width, NOMINAL_SIZE))


def _fingerprint(graph: NcnnGraph) -> str:
    """Hash names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for layer in graph.layers:
        for name, array in sorted(layer.weights.items()):
            digest.update(f"{layer.name} {name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
