"""Bring the graphs of torch's two exporters to one form, without touching what they compute.

Constants become initializers, identities of constants go, initializers that nobody reads go, and
so does everything that describes the machine: stack traces, doc strings, exporter metadata.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

RANK = 4  # of every tensor in a network of frames


def tidy_export(model: onnx.ModelProto) -> None:
    """Tidy a fresh export in place."""
    graph = model.graph
    _hoist_constants(graph)
    _bypass_constant_identities(graph)
    _join_means(graph)
    _drop_unread_initializers(graph)
    _drop_descriptions(model)
    # Order of initializers differs from exporter to exporter, and from run to run in older ones.
    ordered = sorted(graph.initializer, key=lambda tensor: tensor.name)
    del graph.initializer[:]
    graph.initializer.extend(ordered)


def _hoist_constants(graph: onnx.GraphProto) -> None:
    kept = []
    for node in graph.node:
        if node.op_type != "Constant" or node.domain:
            kept.append(node)
            continue
        graph.initializer.append(_read_constant(node))
    _replace_nodes(graph, kept)


def _read_constant(node: onnx.NodeProto) -> onnx.TensorProto:
    (attribute,) = node.attribute
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        array = numpy_helper.to_array(value)
    else:  # value_float, value_floats, value_int, value_ints
        array = np.asarray(value, np.float32 if "float" in attribute.name else np.int64)
    # ascontiguousarray would make a list of one of a number, which Gather tells apart.
    return numpy_helper.from_array(np.asarray(array, order="C"), node.output[0])


def _bypass_constant_identities(graph: onnx.GraphProto) -> None:
    """The TorchScript exporter writes equal parameters once and an Identity for each twin."""
    constants = {tensor.name for tensor in graph.initializer}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        origin = source.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type == "Identity" and origin in constants:
            source[node.output[0]] = origin
        else:
            kept.append(node)
    for node in kept:
        node.input[:] = [source.get(name, name) for name in node.input]
    _replace_nodes(graph, kept)


def _join_means(graph: onnx.GraphProto) -> None:
    """The mean of each row, and then of what is left, is the mean of each channel.

    RIFE 1.x writes it so; ReduceMean over one axis of height and width is no part of the hub.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    means = {
        node.output[0]: (node, sorted(axis % RANK for axis in constants[node.input[1]].tolist()))
        for node in graph.node
        if node.op_type == "ReduceMean" and len(node.input) > 1 and node.input[1] in constants
    }
    for node, axes in means.values():
        inner, inner_axes = means.get(node.input[0], (node, []))
        if sorted({*axes, *inner_axes}) == [2, 3] and all(map(_keeps_axes, (node, inner))):
            node.op_type = "GlobalAveragePool"
            node.input[:] = [inner.input[0]]
            del node.attribute[:]
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    kept = [node for node in graph.node if node.op_type != "ReduceMean" or node.output[0] in read]
    _replace_nodes(graph, kept)


def _keeps_axes(mean: onnx.NodeProto) -> bool:
    return all(attribute.i == 1 for attribute in mean.attribute if attribute.name == "keepdims")


def _drop_unread_initializers(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    read |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _drop_descriptions(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    del graph.metadata_props[:]
    del graph.value_info[:]
    graph.doc_string = ""
    graph.name = "rife"
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
