"""Compute everything once: merge equal nodes, and equal constants."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel


def merge_duplicates(model: HubModel) -> int:
    """Merge constants with equal bytes, then nodes with equal operator, attributes and inputs.

    Exact when: always; every operator of the hub is a pure function.
    """
    _merge_constants(model.graph)
    model.graph.toposort()
    merged = 0
    first: dict[tuple[object, ...], gs.Node] = {}
    for node in list(model.graph.nodes):
        attributes = json.dumps(node.attrs, sort_keys=True, default=repr)
        # An input that is left out is an empty tensor of its own at every node.
        inputs = tuple(None if tensor.is_empty() else id(tensor) for tensor in node.inputs)
        key = (node.domain, node.op, attributes, inputs)
        twin = first.setdefault(key, node)
        if twin is not node:
            merged += edit.bypass(model.graph, node, twin.outputs[0])
    return merged


def _merge_constants(graph: gs.Graph) -> None:
    """Sharing a constant changes no node, so it is not counted as an edit."""
    import onnx_graphsurgeon as gs

    first: dict[tuple[object, ...], gs.Constant] = {}
    for node in graph.nodes:
        for index, tensor in enumerate(node.inputs):
            # Empty optional inputs are Variables and stay as they are.
            if isinstance(tensor, gs.Constant):
                values = tensor.values
                key = (str(values.dtype), values.shape, values.tobytes())
                node.inputs[index] = first.setdefault(key, tensor)
