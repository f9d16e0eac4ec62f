"""Check that what an ONNX file holds can be read: tensors as large as they say, all in the file.

ONNX's own checker looks at neither; readers then fail far from the cause, or allocate what a few
bytes claim.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

if TYPE_CHECKING:
    import onnx

MAX_RANK = 16
MAX_NAME_CHARACTERS = 200  # of what messages repeat


def check_content(model: onnx.ModelProto) -> list[str]:
    """What cannot be read of a model, as sentences; empty for one that holds all it says."""
    faults = [f"{place} is not UTF-8" for place in _find_broken_text(model)]
    for graph in list_graphs(model):
        faults += [f"sparse tensor {one.values.name!r}" for one in graph.sparse_initializer]
        for one in graph.initializer:
            faults += _check_tensor(one, one.name[:MAX_NAME_CHARACTERS])
    for node in list_nodes(model):
        for attribute in node.attribute:
            name = f"{node.name or node.op_type}, attribute {attribute.name}"[:MAX_NAME_CHARACTERS]
            faults += _check_strings(attribute, name)
            if attribute.HasField("t"):
                faults += _check_tensor(attribute.t, name)
            for one in attribute.tensors:
                faults += _check_tensor(one, name)
    return faults


def list_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model and the graphs inside of its nodes."""
    yield model.graph
    for node in list_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def list_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a model, of its functions, and of the graphs inside of nodes."""
    waiting = [*model.graph.node, *(node for one in model.functions for node in one.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting += graph.node


def _find_broken_text(message: Message) -> Iterator[str]:
    """Fields of text that protobuf gives as bytes, since they are none; at any depth."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        for field, value in one.ListFields():
            values = [value] if isinstance(value, (str, bytes, Message)) else value
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                waiting += values
            elif field.type == FieldDescriptor.TYPE_STRING and bytes in map(type, values):
                yield f"{one.DESCRIPTOR.name}.{field.name}"


def _check_strings(attribute: onnx.AttributeProto, name: str) -> Iterator[str]:
    for text in (attribute.s, *attribute.strings):
        try:
            text.decode()
        except UnicodeDecodeError:
            yield f"{name}: a string that is not UTF-8"


def _check_tensor(tensor: onnx.TensorProto, name: str) -> Iterator[str]:
    import onnx
    from onnx import numpy_helper

    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        yield (
            f"tensor {name!r} lies in external data; save the model as one file: "
            "torch.onnx.export(..., external_data=False), or onnx.save(onnx.load(path), path)"
        )
        return
    if len(tensor.dims) > MAX_RANK or any(size < 0 for size in tensor.dims):
        yield f"tensor {name!r} has the shape {list(tensor.dims)[: MAX_RANK + 1]}"
        return
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (KeyError, ValueError):
        yield f"tensor {name!r} is of the unknown type {tensor.data_type}"
        return
    count = math.prod(tensor.dims)
    if count > tensor.ByteSize() * 8:
        yield f"tensor {name!r} claims {count} numbers, and holds {tensor.ByteSize()} bytes"
        return
    try:
        array = numpy_helper.to_array(tensor)
    # numpy and onnx raise many kinds for data of the wrong length.
    except Exception as error:
        yield f"tensor {name!r}, {list(tensor.dims)} of {dtype}, cannot be read: {error}"
        return
    if array.dtype.kind not in "fiub" and array.dtype.name != "bfloat16":
        yield f"tensor {name!r} is of {array.dtype}; numbers are accepted"
