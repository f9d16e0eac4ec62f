"""The few graph edits that passes are written with: rewire, add a node, name a constant."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.hub import ops

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def replace_uses(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old` read `new`."""
    for node in list(old.outputs):
        for index, tensor in enumerate(node.inputs):
            if tensor is old:
                node.inputs[index] = new


def is_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """Tell whether a tensor is an output of the graph."""
    return any(tensor is output for output in graph.outputs)


def sole_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """Return the only node that reads a tensor, None when there are several or it is an output."""
    if len(tensor.outputs) != 1 or is_output(graph, tensor):
        return None
    return tensor.outputs[0]


def is_read_only_by(graph: gs.Graph, tensor: gs.Tensor, reader: gs.Node) -> bool:
    """Tell whether `reader` is the only one that reads a tensor, which is no output either."""
    return sole_consumer(graph, tensor) is reader


def producer(tensor: gs.Tensor, *operators: str) -> gs.Node | None:
    """Return the node that makes a tensor, when it is one of `operators` (any when none given)."""
    if len(tensor.inputs) != 1:
        return None
    node = tensor.inputs[0]
    return node if not operators or (node.op in operators and not node.domain) else None


def add_node(
    graph: gs.Graph,
    name: str,
    operator: str,
    inputs: list[gs.Tensor],
    attributes: dict[str, Any] | None = None,
    output: gs.Tensor | None = None,
) -> gs.Tensor:
    """Append a node under a name of its own and return its (new, unless given) output."""
    import onnx_graphsurgeon as gs

    name = free_name(graph, name)
    if output is None:
        output = gs.Variable(_free_tensor_name(graph, f"{name}:0"), dtype=np.float32)
    graph.nodes.append(
        gs.Node(operator, name, attrs=dict(attributes or {}), inputs=inputs, outputs=[output])
    )
    return output


def add_copy(graph: gs.Graph, node: gs.Node, name: str, inputs: list[gs.Tensor]) -> gs.Tensor:
    """Append a copy of a node that reads other inputs and return its output."""
    return add_node(graph, name, node.op, inputs, node.attrs)


def free_name(graph: gs.Graph, wanted: str) -> str:
    """Return `wanted`, with the lowest number behind it that makes it unique among nodes."""
    return _first_free(wanted, {node.name for node in graph.nodes})


def _free_tensor_name(graph: gs.Graph, wanted: str) -> str:
    """A tensor keeps its name when another node takes it over, so nodes do not tell."""
    return _first_free(wanted, {t.name for node in graph.nodes for t in node.outputs})


def _first_free(wanted: str, taken: set[str]) -> str:
    if wanted not in taken:
        return wanted
    count = 1
    while f"{wanted}_{count}" in taken:
        count += 1
    return f"{wanted}_{count}"


def make_constant(name: str, values: np.ndarray) -> gs.Constant:
    """Make a constant; equal ones are shared again by `merge_duplicates`.

    Its contents are part of its name until the model is closed (`HubModel.to_onnx` names every
    constant after its reader), so an edited constant never meets its older self under one name.
    """
    import onnx_graphsurgeon as gs

    values = np.ascontiguousarray(values)
    digest = hashlib.sha256(values.tobytes()).hexdigest()[:12]
    return gs.Constant(f"{name}.{digest}", values)


def take_output(old: gs.Node, new: gs.Node) -> None:
    """Let `new` produce what `old` produced, under the same tensor (graph outputs included)."""
    tensor = old.outputs[0]
    old.outputs.clear()
    new.outputs.clear()
    new.outputs.append(tensor)


def bypass(graph: gs.Graph, node: gs.Node, source: gs.Tensor) -> bool:
    """Let the consumers of a node read `source` instead; False when its output is the graph's."""
    if is_output(graph, node.outputs[0]):
        return False
    replace_uses(node.outputs[0], source)
    return True


def move_output(graph: gs.Graph, node: gs.Node, source: gs.Tensor) -> bool:
    """Let the maker of `source` make the output of a node that passes `source` through.

    False when nothing makes `source`, an input of the graph, or others need it under its own name.
    """
    maker = producer(source)
    if maker is None or not is_read_only_by(graph, source, node):
        return False
    (output,) = node.outputs
    node.outputs.clear()
    maker.outputs[maker.outputs.index(source)] = output
    return True


def select_output_channels(conv: gs.Node, order: np.ndarray) -> None:
    """Let a Conv without groups compute the given output channels, in the given order."""
    for index in (1, 2):
        old = ops.constant(ops.optional_input(conv, index))
        if old is not None:
            conv.inputs[index] = make_constant(f"{conv.name}.selected", old[order])


def add_slice(graph: gs.Graph, name: str, data: gs.Tensor, start: int, end: int) -> gs.Tensor:
    """Append a Slice of the channels start to end (exclusive) and return its output."""
    name = free_name(graph, name)
    return add_node(graph, name, "Slice", [data, *_slice_bounds(name, start, end)])


def set_slice(node: gs.Node, start: int, end: int) -> None:
    """Let a Slice take the channels start to end (exclusive) of what it reads."""
    node.inputs = [node.inputs[0], *_slice_bounds(node.name, start, end)]


def _slice_bounds(name: str, start: int, end: int) -> list[gs.Constant]:
    return [
        make_constant(f"{name}.{what}", np.asarray([value], np.int64))
        for what, value in (("start", start), ("end", end), ("axis", ops.CHANNEL_AXIS))
    ]
