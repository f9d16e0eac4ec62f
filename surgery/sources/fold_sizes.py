"""Evaluate what a trace recorded about sizes that are known: `x.shape[1] // 2` is a number.

Sources that take both frames in one tensor split it at half its channels, and the TorchScript
exporter records how that half is computed. Zeros shaped like a tensor become that tensor times 0,
whatever its height and width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

# What exporters compute sizes with; everything else is no arithmetic on sizes.
SIZE_OPERATORS = frozenset(
    (
        *("Constant", "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze"),
        *("Concat", "Gather", "Slice", "Add", "Sub", "Mul", "Div", "Mod"),
    )
)
SIZE_TYPES = (np.int32, np.int64)


def fold_sizes(model: onnx.ModelProto) -> int:
    """Fold sizes in a fresh export, in place; returns how many values were folded."""
    shapes = _infer_shapes(model)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    partly: dict[str, list[int | None]] = {}
    folded: dict[str, np.ndarray] = {}
    for node in model.graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            partly[node.output[0]] = shapes[node.input[0]]
        value = _evaluate(node, known, partly)
        if value is not None:
            known[node.output[0]] = value
            if node.op_type != "Constant":
                folded[node.output[0]] = value
    others = _turn_zeros(model) + _turn_idle_casts(model)
    _replace_by_initializers(model.graph, folded)
    return len(folded) + others


def _infer_shapes(model: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Sizes by tensor, None where they are free."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
    }


def _evaluate(
    node: onnx.NodeProto,
    known: dict[str, np.ndarray],
    partly: dict[str, list[int | None]],
) -> np.ndarray | None:
    """The value of a node that computes a size; None when it does not, or is not known."""
    if node.op_type not in SIZE_OPERATORS or node.domain:
        return None
    if node.op_type == "Gather" and node.input[0] in partly and node.input[1] in known:
        return _gather(partly[node.input[0]], known[node.input[1]])
    if not all(name in known and _is_size(known[name]) for name in node.input if name):
        return None
    given = {name: known[name] for name in node.input if name}
    results: Any = ReferenceEvaluator(node).run(None, given)
    result = np.asarray(results[0])
    return result if node.op_type == "Constant" or _is_size(result) else None


def _gather(sizes: Sequence[int | None], index: np.ndarray) -> np.ndarray | None:
    taken = [sizes[int(one)] for one in index.reshape(-1)]
    if any(size is None for size in taken):
        return None
    return np.array(taken, np.int64).reshape(index.shape)


def _is_size(value: np.ndarray) -> bool:
    return value.dtype in SIZE_TYPES and value.ndim <= 1


def _turn_zeros(model: onnx.ModelProto) -> int:
    """ConstantOfShape(Shape(x)) of zeros -> x * 0."""
    shaped = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Shape"}
    count = 0
    for node in model.graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shaped:
            continue
        value = [numpy_helper.to_array(attribute.t) for attribute in node.attribute]
        if value and np.any(value[0]):
            continue
        zero = f"{node.output[0]}.zero"
        model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), zero))
        node.op_type = "Mul"
        node.input[:] = [shaped[node.input[0]], zero]
        del node.attribute[:]
        count += 1
    return count


def _turn_idle_casts(model: onnx.ModelProto) -> int:
    """Cast of a tensor to the type that it has -> Identity; `x.to(device)` leaves one."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info)}
    count = 0
    for node in model.graph.node:
        if node.op_type == "Cast" and types.get(node.input[0]) == node.attribute[0].i:
            node.op_type = "Identity"
            del node.attribute[:]
            count += 1
    return count


def _replace_by_initializers(graph: onnx.GraphProto, folded: dict[str, np.ndarray]) -> None:
    kept = [node for node in graph.node if node.output[0] not in folded]
    read = {name for node in kept for name in node.input}
    # What only sizes read goes with them.
    kept = [node for node in kept if node.op_type != "Shape" or node.output[0] in read]
    copies = []
    for node in kept:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copies.append(copy)
    del graph.node[:]
    graph.node.extend(copies)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in folded.items()
        if name in read
    )
