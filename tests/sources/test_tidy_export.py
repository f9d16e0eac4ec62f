from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from surgery.sources.tidy_export import tidy_export

VALUES = np.array([1.5, -2.5], np.float32)


def _make_model(
    nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray] | None = None
) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in ("x", "y"))
    tensors = [numpy_helper.from_array(v, n) for n, v in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "main_graph", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def _initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value": numpy_helper.from_array(VALUES)}, VALUES),
        ({"value_floats": [1.5, -2.5]}, VALUES),
        ({"value_float": 1.5}, np.float32(1.5)),
        ({"value_int": 7}, np.int64(7)),
        ({"value_ints": [7, 8]}, np.array([7, 8], np.int64)),
    ],
)
def test_constants_become_initializers(attributes: dict[str, Any], expected: np.ndarray) -> None:
    constant = helper.make_node("Constant", [], ["c"], **attributes)
    model = _make_model([constant, helper.make_node("Sum", ["x", "c"], ["y"])])
    tidy_export(model)
    (value,) = _initializers(model).values()
    assert [node.op_type for node in model.graph.node] == ["Sum"]
    assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(value, expected)


def test_a_constant_of_another_domain_stays() -> None:
    constant = helper.make_node("Constant", [], ["c"], domain="other")
    model = _make_model([constant, helper.make_node("Sum", ["x", "c"], ["y"])])
    tidy_export(model)
    assert [node.op_type for node in model.graph.node] == ["Constant", "Sum"]


def test_identities_of_constants_go_and_those_of_computed_tensors_stay() -> None:
    nodes = [
        helper.make_node("Identity", ["weight"], ["twin"]),
        helper.make_node("Identity", ["twin"], ["twin_of_twin"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Sum", ["same", "twin_of_twin"], ["y"]),
    ]
    model = _make_model(nodes, {"weight": VALUES})
    tidy_export(model)
    assert [node.op_type for node in model.graph.node] == ["Identity", "Sum"]
    assert list(model.graph.node[1].input) == ["same", "weight"]


def test_initializers_that_nobody_reads_go_and_the_rest_is_in_order() -> None:
    nodes = [helper.make_node("Sum", ["x", "b", "a"], ["y"])]
    model = _make_model(nodes, {"b": VALUES, "unread": VALUES, "a": VALUES})
    tidy_export(model)
    assert list(_initializers(model)) == ["a", "b"]


def test_nothing_that_describes_the_machine_is_left() -> None:
    path = "/home/somebody/secret/IFNet.py"
    node = helper.make_node("Sum", ["x", "weight"], ["y"], doc_string=path)
    model = _make_model([node], {"weight": VALUES})
    model.doc_string = model.graph.doc_string = path
    model.graph.value_info.append(model.graph.input[0])
    described = (
        model,
        model.graph,
        model.graph.node[0],
        model.graph.input[0],
        model.graph.output[0],
        model.graph.initializer[0],
    )
    for item in described:
        item.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=path)
    assert path.encode() in model.SerializeToString()
    tidy_export(model)
    assert b"somebody" not in model.SerializeToString()
    assert model.graph.name == "rife"
    onnx.checker.check_model(model)


def _mean(data: str, made: str, axis: int, keepdims: int = 1) -> onnx.NodeProto:
    return helper.make_node("ReduceMean", [data, f"axis{axis}"], [made], keepdims=keepdims)


AXES = {f"axis{axis}": np.array([axis], np.int64) for axis in (-1, 1, 2, 3)}


@pytest.mark.parametrize("last", [3, -1])
def test_the_mean_of_rows_and_then_of_columns_is_that_of_a_channel(last: int) -> None:
    model = _make_model([_mean("x", "rows", last), _mean("rows", "y", 2)], AXES)
    tidy_export(model)
    (node,) = model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == (
        "GlobalAveragePool",
        ["x"],
        ["y"],
    )
    assert not model.graph.initializer


@pytest.mark.parametrize(
    "second", [_mean("rows", "y", 1), _mean("rows", "y", 3), _mean("rows", "y", 2, keepdims=0)]
)
def test_another_mean_stays(second: onnx.NodeProto) -> None:
    model = _make_model([_mean("x", "rows", 3), second], AXES)
    tidy_export(model)
    assert [node.op_type for node in model.graph.node] == ["ReduceMean", "ReduceMean"]
