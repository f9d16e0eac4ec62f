"""Compute in fp16, but for where the warps sample: positions stay in fp32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import UnsupportedOp
from surgery.hub import ops
from surgery.passes import edit
from surgery.targets.lowering.nodes import FLOAT, HALF

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# A convolution's output is what fp16 makes of it; sums, factors and sizes of flows are not.
COARSE = ("Conv", "ConvTranspose", "DepthToSpace", "PRelu", "LeakyRelu", "Relu", "Sigmoid")
SAMPLER = "GridSample"
# Inputs that ONNX wants in float32, whatever the data is.
ALWAYS_FLOAT = {"Resize": (1, 2)}


def halve_precision(graph: gs.Graph) -> int:
    """Let every node compute in fp16 that no position of a GridSample depends on through sums.

    The samplers themselves take fp32 pictures, and inputs and outputs of the graph stay fp32: a
    grid that is an input has steps of 1/1000, which is the whole of fp16. Returns the number of
    nodes that compute in fp16.

    Raises:
        UnsupportedOp: weights that are not finite in fp16; all of them are listed.
    """
    fine = _find_fine(graph)
    coarse = [node for node in graph.nodes if id(node) not in fine and _computes_floats(node)]
    chosen = {id(node) for node in coarse}
    casts: dict[tuple[int, int], gs.Tensor] = {}
    refusals: list[str] = []
    for node in list(graph.nodes):
        if not _computes_floats(node):
            continue
        is_coarse = id(node) in chosen
        for index, tensor in enumerate(node.inputs):
            if tensor.is_empty() or tensor.dtype not in (np.float32, np.float16):
                continue
            if index in ALWAYS_FLOAT.get(node.op, ()):
                continue
            node.inputs[index] = _convert(graph, tensor, is_coarse, chosen, casts, refusals)
    if refusals:
        raise UnsupportedOp("fp16", refusals)
    _finish(graph, coarse)
    return len(coarse)


def _find_fine(graph: gs.Graph) -> set[int]:
    """The samplers, and what leads up to their positions without a convolution."""
    fine: set[int] = set()
    waiting: list[gs.Tensor] = []
    for node in graph.nodes:
        if node.op == SAMPLER:
            fine.add(id(node))
            waiting.append(node.inputs[1])
    while waiting:
        for node in waiting.pop().inputs:
            if node.op not in COARSE and id(node) not in fine:
                fine.add(id(node))
                waiting += ops.data_inputs(node)
    return fine


def _computes_floats(node: gs.Node) -> bool:
    return node.outputs[0].dtype == np.float32 and node.op not in ("Cast", "Range")


def _convert(
    graph: gs.Graph,
    tensor: gs.Tensor,
    to_half: bool,
    chosen: set[int],
    casts: dict[tuple[int, int], gs.Tensor],
    refusals: list[str],
) -> gs.Tensor:
    """The tensor in the precision that its reader computes in."""
    array = ops.constant(tensor)
    is_half = array is None and bool(tensor.inputs) and id(tensor.inputs[0]) in chosen
    if is_half == to_half:
        return tensor
    key = (id(tensor), HALF if to_half else FLOAT)
    if key not in casts:
        if array is not None:
            casts[key] = _round_constant(tensor, array, refusals)
        else:
            casts[key] = _add_cast(graph, tensor, key[1])
    return casts[key]


def _round_constant(tensor: gs.Tensor, array: np.ndarray, refusals: list[str]) -> gs.Tensor:
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float16)
    if not np.isfinite(rounded).all():
        refusals.append(f"{tensor.name}: {np.abs(array).max():g} is beyond fp16; 65504 is accepted")
    return edit.make_constant(f"{tensor.name}.half", rounded)


def _add_cast(graph: gs.Graph, tensor: gs.Tensor, to: int) -> gs.Tensor:
    made = edit.add_node(graph, f"/{tensor.name.strip('/')}/Cast", "Cast", [tensor], {"to": to})
    made.dtype = np.dtype(np.float16 if to == HALF else np.float32)
    return made


def _finish(graph: gs.Graph, coarse: list[gs.Node]) -> None:
    """Say what the outputs of fp16 nodes hold; the graph's own outputs are cast back."""
    for node in coarse:
        (output,) = node.outputs
        if edit.is_output(graph, output):
            import onnx_graphsurgeon as gs

            inner = gs.Variable(f"{output.name}:half", np.dtype(np.float16))
            node.outputs = [inner]
            name = f"/{output.name}/Cast"
            edit.add_node(graph, name, "Cast", [inner], {"to": FLOAT}, output=output)
        else:
            output.dtype = np.dtype(np.float16)
