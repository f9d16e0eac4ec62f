"""Import a model folder of rife-ncnn-vulkan, whoever made it, to the hub."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from surgery.errors import FormatError, HubError
from surgery.formats.ncnn_bin import read_weights
from surgery.formats.ncnn_folder import NETWORK, read_param_text
from surgery.formats.ncnn_param import NcnnGraph, parse_with_faults
from surgery.formats.ncnn_shapes import NOMINAL_SIZE, infer_shapes
from surgery.hub.model import OPSET, V4_INPUTS, V4_OUTPUT, HubMetadata, HubModel
from surgery.hub.verify import verify_hub
from surgery.passes import edit
from surgery.proof.forms import read_facts
from surgery.sources.describe_blocks import describe_blocks
from surgery.sources.import_layers import LayerImport, import_layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# What a folder of this project says of its donor, and no graph tells.
KEPT = (
    "donor",
    "version",
    "architecture",
    "weights",
    "weights_sha256",
    "source_sha256",
    "scale_list",
    "baked",
)
# The network that only a folder of three has (rife.cpp, `RIFE::load`).
SECOND_NETWORK = "contextnet.param"
EXPORTER = "imported from ncnn"


def import_folder(folder: Path) -> HubModel:
    """Import a folder of one network, with its weights.

    Read as ncnn reads it: faults of the text that ncnn survives, and what it ignores, are repaired
    and noted in the metadata.

    Raises:
        FormatError: a file is missing or breaks its format, or the `.bin` does not fit.
        UnsupportedOp: layers that the hub cannot express; all of them are listed.
        HubError: what came out is not a legal hub model.
    """
    if (folder / SECOND_NETWORK).exists():
        raise HubError(
            f"{folder.name} holds three networks (RIFE 1 to 3); a folder of one, RIFE 4, is "
            "accepted"
        )
    path = folder / f"{NETWORK}.param"
    graph, faults = parse_with_faults(read_param_text(path), path.name)
    weights = folder / f"{NETWORK}.bin"
    read = read_weights(graph, weights)
    if read.trailing_bytes:
        raise FormatError(
            f"{weights}: {read.trailing_bytes} bytes are left after the last layer, so it was not "
            "made for this .param; find the .bin that was"
        )
    model = import_graph(graph, label=folder.name, notes=faults)
    _take_facts(model, read_facts(folder).get("model", {}))
    return model


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
    made, importing = _build_graph(graph)
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


def _build_graph(ncnn_graph: NcnnGraph) -> tuple[gs.Graph, LayerImport]:
    import onnx_graphsurgeon as gs

    inputs = [
        gs.Variable(name, np.dtype(np.float32), [1, channels, "H", "W"])
        for name, channels in V4_INPUTS.items()
    ]
    graph = gs.Graph(inputs=inputs, name="rife", opset=OPSET)
    blob_shapes = infer_shapes(ncnn_graph, NOMINAL_SIZE, NOMINAL_SIZE)
    if V4_OUTPUT not in blob_shapes:
        raise FormatError(f"no layer makes {V4_OUTPUT}, which the runtime reads")
    importing = import_layers(ncnn_graph, graph, inputs, blob_shapes)
    made = importing.tensors[V4_OUTPUT]
    output = gs.Variable(V4_OUTPUT, np.dtype(np.float32), [1, 3, "H", "W"])
    if made.outputs or any(made is tensor for tensor in inputs):
        edit.add_node(graph, f"/{V4_OUTPUT}", "Identity", [made], output=output)
    else:
        made.inputs[0].outputs = [output]
    graph.outputs = [output]
    return graph, importing


def _fingerprint(graph: NcnnGraph) -> str:
    """Hash names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for layer in graph.layers:
        for name, array in sorted(layer.weights.items()):
            digest.update(f"{layer.name} {name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
