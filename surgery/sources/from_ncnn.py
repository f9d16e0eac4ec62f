"""Import a model folder of rife-ncnn-vulkan, whoever made it, to the hub."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from surgery.errors import FormatError, HubError
from surgery.formats.ncnn_bin import read_weights
from surgery.formats.ncnn_folder import NETWORK, read_param_text
from surgery.formats.ncnn_param import NcnnGraph, parse_with_faults
from surgery.formats.ncnn_shapes import NOMINAL_SIZE, infer_shapes
from surgery.hub import blocks, shapes
from surgery.hub.model import OPSET, V4_INPUTS, V4_OUTPUT, HubMetadata, HubModel
from surgery.hub.verify import verify_hub
from surgery.passes import edit
from surgery.sources.import_layers import LayerImport, import_layers

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    Body = list[gs.Node]

# What every runtime pads to at least (rife.cpp).
LEAST_PADDING = 32
# A block halves its input twice behind its resize.
BLOCK_STRIDE = 4
# The network that only a folder of three has (rife.cpp, `RIFE::load`).
SECOND_NETWORK = "contextnet.param"
EXPORTER = "imported from ncnn"
# The name in front of every block's layers, as torch's exporters write it.
BLOCK_MODULE = "block{}"
ENCODER_MODULE = "encode"


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
    return import_graph(graph, label=folder.name, notes=faults)


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
    model.graph.cleanup().toposort()
    extents = shapes.infer_extents(model.graph)
    bodies = _find_bodies(model.graph, extents)
    model.replace_metadata(
        timestep="plane" if _reads_timestep(model) else "fixed 0.5",
        padding=_find_padding(extents),
        scale_list=_find_scales(bodies, extents),
        warps=sum(1 for _ in model.warps()),
        donor=label,
        exporter=EXPORTER,
        ensemble=any(len(twins) > 1 for twins in bodies.values()),
        folded_betas=not importing.constants,
        weights_sha256=_fingerprint(graph),
        baked=(*notes, *importing.notes),
        tools=(f"onnx {onnx.__version__}",),
    )
    _name_modules(model.graph, bodies)
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


def _reads_timestep(model: HubModel) -> bool:
    return any(tensor.name == "in2" and tensor.outputs for tensor in model.graph.inputs)


def _find_bodies(graph: gs.Graph, extents: dict[str, shapes.Extent]) -> dict[int, list[Body]]:
    """The nodes of each block, by its number; twice for each block of an ensemble."""
    raw = blocks.find_raw_outputs(graph, extents)
    bodies: dict[int, list[Body]] = {}
    for tensor, rank in zip(raw, blocks.rank_raw_outputs(graph, raw), strict=True):
        bodies.setdefault(rank, []).append(blocks.trace_body(tensor))
    return bodies


def _name_modules(graph: gs.Graph, bodies: dict[int, list[Body]]) -> None:
    """Put the block in front of the name of each of its nodes, and what is left in the encoder.

    Names that hold a module already, as those that this project writes do, stay.
    """
    for rank, twins in bodies.items():
        for node in (node for body in twins for node in body):
            _put_in_module(graph, node, BLOCK_MODULE.format(rank))
    if bodies:
        for node in graph.nodes:
            if node.op in blocks.MAKERS:
                _put_in_module(graph, node, ENCODER_MODULE)


def _put_in_module(graph: gs.Graph, node: gs.Node, module: str) -> None:
    if "/" not in node.name.strip("/"):
        node.name = edit.free_name(graph, f"/{module}{node.name}")


def _find_padding(extents: dict[str, shapes.Extent]) -> int:
    """The multiple of which height and width must be, for every tensor to have a whole size."""
    sizes = {part.denominator for one in extents.values() for part in (one.height, one.width)}
    return math.lcm(LEAST_PADDING, *sizes)


def _find_scales(
    bodies: dict[int, list[Body]], extents: dict[str, shapes.Extent]
) -> tuple[float, ...]:
    """Read the donor's divisors off the blocks: each works at a quarter of its resized input."""
    smallest = (
        min(extents[tensor.name].height for node in twins[0] for tensor in node.outputs)
        for _, twins in sorted(bodies.items())
    )
    return tuple(float(1 / (height * BLOCK_STRIDE)) for height in smallest)


def _fingerprint(graph: NcnnGraph) -> str:
    """Hash names, shapes and values of all weights."""
    digest = hashlib.sha256()
    for layer in graph.layers:
        for name, array in sorted(layer.weights.items()):
            digest.update(f"{layer.name} {name} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
