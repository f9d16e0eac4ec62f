from __future__ import annotations

import onnx
import pytest

from surgery.diagnosis.bound_values import Bounds, bound_values
from surgery.hub.model import HubMetadata, from_onnx
from surgery.hub.warp import warp_function

HEAD = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
bounded (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<float[1] one = {1}, float[1] two = {2}, float[1] half = {0.5}, float[1] zero = {0}>
{
    [squash] m = Sigmoid (in2)
    [rest] r = Sub (one, m)
    [outside] n = Mul (in2, two)
"""


def bound_output(body: str) -> Bounds:
    model = onnx.parser.parse_model(HEAD + body + "\n}")
    model.functions.append(warp_function())
    onnx.helper.set_model_props(model, HubMetadata().to_properties())
    return bound_values(from_onnx(model).graph.toposort())["out0"]


@pytest.mark.parametrize(
    ("body", "low", "high"),
    [
        ("[a] x = Mul (in0, m) [b] y = Mul (r, in1) [c] out0 = Add (x, y)", 0, 1),
        ("[a] x = Sub (in0, in1) [b] y = Mul (m, x) [c] out0 = Add (y, in1)", 0, 1),
        ("[a] x = Sub (in0, in1) [b] y = Mul (x, m) [c] out0 = Add (in1, y)", 0, 1),
        # The base is not what was subtracted.
        ("[a] x = Sub (in0, in1) [b] y = Mul (m, x) [c] out0 = Add (y, in0)", -1, 2),
        # The weight goes beyond 1.
        ("[a] x = Sub (in0, in1) [b] y = Mul (n, x) [c] out0 = Add (y, in1)", -2, 3),
        # Two weights that are no parts of one.
        ("[a] x = Mul (in0, m) [b] y = Mul (m, in1) [c] out0 = Add (x, y)", 0, 2),
        ("[a] out0 = Sub (in0, in1)", -1, 1),
        ("[a] x = Neg (in0) [b] out0 = Relu (x)", 0, 0),
        ("[a] x = Sub (in0, in1) [b] out0 = Clip (x, zero)", 0, 1),
        ("[a] x = Sub (in0, half) [b] out0 = Div (x, two)", -0.25, 0.25),
        ("[a] out0 = rife.Warp (in0, in2)", 0, 1),
    ],
)
def test_bounds_are_those_of_interval_arithmetic_and_of_blends(
    body: str, low: float, high: float
) -> None:
    assert bound_output(body) == Bounds(low, high)


def test_nothing_is_known_of_a_quotient_by_what_may_be_zero() -> None:
    assert bound_output("[a] out0 = Div (in0, in1)") == Bounds()
