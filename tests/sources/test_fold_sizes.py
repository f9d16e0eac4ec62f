from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser
from onnx.reference import ReferenceEvaluator

from surgery.sources.fold_sizes import fold_sizes

HALF = """
<ir_version: 10, opset_import: ["" : 18]>
half (float[1, 6, H, W] x) => (float[1, C, H, W] y)
<int64 one = {1}, int64 two = {2}, int64[1] axis = {1}, int64[1] zero = {0}>
{
    shape = Shape (x)
    channels = Gather <axis = 0> (shape, one)
    half = Div (channels, two)
    end = Unsqueeze (half, zero)
    y = Slice (x, zero, end, axis)
}
"""
WIDTH = HALF.replace("int64 one = {1}", "int64 one = {3}")
ZEROS = """
<ir_version: 10, opset_import: ["" : 18]>
zeros (float[1, 6, H, W] x) => (float[1, 6, H, W] y)
{
    shape = Shape (x)
    zeros = ConstantOfShape (shape)
    moved = Cast <to = 1> (zeros)
    y = Add (x, moved)
}
"""


def _run(model: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(1).random((1, 6, 4, 5), np.float32)
    results: Any = ReferenceEvaluator(model).run(None, {"x": x})
    return np.asarray(results[0])


def _fold(text: str) -> tuple[onnx.ModelProto, int]:
    """Fold, and see that the result is what it was, to the last bit."""
    model = parser.parse_model(text)
    expected = _run(model)
    count = fold_sizes(model)
    onnx.checker.check_model(model)
    assert np.array_equal(_run(model), expected)
    return model, count


def test_half_of_a_known_number_of_channels_is_a_number() -> None:
    model, count = _fold(HALF)
    assert count == 3
    assert [node.op_type for node in model.graph.node] == ["Slice"]
    assert fold_sizes(model) == 0


def test_half_of_a_free_width_stays_a_computation() -> None:
    model, count = _fold(WIDTH)
    assert count == 0
    assert "Shape" in [node.op_type for node in model.graph.node]


def test_zeros_shaped_like_a_tensor_need_no_shape() -> None:
    model, count = _fold(ZEROS)
    assert count == 2
    assert [node.op_type for node in model.graph.node] == ["Mul", "Identity", "Add"]
    assert fold_sizes(model) == 0


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("ConstantOfShape (", "ConstantOfShape <value = float[1] {2.0}> (", "ConstantOfShape"),
        ("moved = Cast <to = 1> (zeros)", "moved = Cast <to = 1> (half)", "Cast"),
    ],
)
def test_other_values_and_other_types_stay(old: str, new: str, left: str) -> None:
    text = ZEROS.replace(old, new)
    text = text.replace("    moved", "    half = Cast <to = 10> (zeros)\n    moved", 1)
    model, _ = _fold(text)
    assert left in [node.op_type for node in model.graph.node]


def test_weights_are_no_sizes() -> None:
    weight = onnx.helper.make_tensor("w", TensorProto.FLOAT, [2], [1.0, 2.0])
    node = onnx.helper.make_node("Mul", ["w", "w"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [], [onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])], [weight]
    )
    assert fold_sizes(onnx.helper.make_model(graph)) == 0
