from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from surgery.hub.check_content import check_content, list_graphs, list_nodes


def _weight(model: onnx.ModelProto) -> TensorProto:
    return next(one for one in model.graph.initializer if one.name == "w")


def _add_attribute(model: onnx.ModelProto, attribute: onnx.AttributeProto) -> None:
    model.graph.node[0].attribute.append(attribute)


def _move_outside(model: onnx.ModelProto) -> None:
    tensor = _weight(model)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    tensor.ClearField("raw_data")


def _move_outside_in_a_node(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(np.ones(1, np.float32), "t")
    tensor.external_data.add(key="location", value="/etc/passwd")
    _add_attribute(model, onnx.helper.make_attribute("value", tensor))


def _nest_bad_tensor(model: onnx.ModelProto) -> None:
    graph = onnx.helper.make_graph([], "inner", [], [])
    graph.initializer.add(name="deep", dims=[2**40], data_type=TensorProto.FLOAT)
    _add_attribute(model, onnx.helper.make_attribute("body", graph))


def _claim(*dims: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        _weight(model).dims[:] = dims

    return change


def _set_type(data_type: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        _weight(model).data_type = data_type

    return change


def _break_text(model: onnx.ModelProto) -> None:
    model.ParseFromString(
        model.SerializeToString().replace(b"/block/frames", b"/block/\xff\xfe\xfdmes")
    )


def _break_attribute(model: onnx.ModelProto) -> None:
    _add_attribute(model, onnx.AttributeProto(name="mode", s=b"\xff"))


def _add_sparse(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().values.name = "holes"


def _put_words(model: onnx.ModelProto) -> None:
    words = TensorProto(name="words", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"])
    model.graph.initializer.append(words)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_move_outside, "tensor 'w' lies in external data"),
        (_move_outside_in_a_node, "attribute value' lies in external data"),
        (_nest_bad_tensor, "tensor 'deep' claims 1099511627776 numbers"),
        (_claim(5, 7, 3, 3, 2**40), "tensor 'w' claims"),
        (_claim(5, -7), "tensor 'w' has the shape [5, -7]"),
        (_claim(*[1] * 99), "tensor 'w' has the shape [1, 1"),
        (_claim(5, 7, 3, 4), "tensor 'w', [5, 7, 3, 4] of float32, cannot be read"),
        (_claim(5, 0), "tensor 'w', [5, 0] of float32, cannot be read"),
        (_set_type(999), "tensor 'w' is of the unknown type 999"),
        (_break_text, "is not UTF-8"),
        (_break_attribute, "a string that is not UTF-8"),
        (_add_sparse, "sparse tensor 'holes'"),
        (_put_words, "numbers are accepted"),
    ],
)
def test_what_cannot_be_read_is_told(
    closed: onnx.ModelProto, change: Callable[[onnx.ModelProto], None], fault: str
) -> None:
    assert check_content(closed) == []
    change(closed)
    faults = check_content(closed)
    assert len(faults) == 1
    assert fault in faults[0]


def test_typed_fields_are_read_as_well_as_bytes(closed: onnx.ModelProto) -> None:
    values = onnx.helper.make_tensor("typed", TensorProto.FLOAT16, [3], [0.5, 1.0, 2.0])
    closed.graph.initializer.append(values)
    assert check_content(closed) == []
    del closed.graph.initializer[-1].int32_data[1:]
    (fault,) = check_content(closed)
    assert "tensor 'typed', [3] of float16, cannot be read" in fault


def test_graphs_and_nodes_are_found_at_any_depth(closed: onnx.ModelProto) -> None:
    nodes, graphs = len(list(list_nodes(closed))), len(list(list_graphs(closed)))
    inner = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["a"], ["b"])], "inner", [], [])
    outer = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    middle = onnx.helper.make_graph([outer], "middle", [], [])
    _add_attribute(closed, onnx.helper.make_attribute("body", middle))
    assert len(list(list_nodes(closed))) == nodes + 3
    assert len(list(list_graphs(closed))) == graphs + 3
