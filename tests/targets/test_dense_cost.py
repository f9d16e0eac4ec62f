from __future__ import annotations

import numpy as np
import onnx

from surgery.hub.model import HubMetadata, HubModel, from_onnx
from surgery.hub.warp import warp_function
from surgery.passes.ungroup_convolutions import ungroup_convolutions
from surgery.targets.dense_cost import SIZE, DenseCost, measure_dense_cost

CHANNELS, GROUPS = 8, 2
TEXT = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
grouped (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
{
    [stem] x = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (in0, stem_weight)
    [conv] y = Conv <pads = [1, 1, 1, 1], group = 2> (x, weight)
    [shuffle] z = DepthToSpace <blocksize = 2, mode = "CRD"> (y)
    [last] out0 = Conv <pads = [1, 1, 1, 1]> (z, last_weight)
}
"""
SHAPES = {
    "stem_weight": (CHANNELS, 3, 3, 3),
    "weight": (CHANNELS, CHANNELS // GROUPS, 3, 3),
    "last_weight": (3, CHANNELS // 4, 3, 3),
}


def make_model() -> HubModel:
    model = onnx.parser.parse_model(TEXT)
    for name, shape in SHAPES.items():
        array = np.full(shape, 0.1, np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.functions.append(warp_function())
    onnx.helper.set_model_props(model, HubMetadata().to_properties())
    return from_onnx(model)


def count_parameters(model: HubModel) -> int:
    return sum(int(node.inputs[1].values.size) for node in model.graph.nodes if node.op == "Conv")


def test_the_zeros_are_counted_where_the_convolutions_are() -> None:
    model = make_model()
    before = count_parameters(model)
    cost = measure_dense_cost(model)
    assert cost is not None
    ungroup_convolutions(model)
    assert cost.convolutions == 1
    assert cost.parameters == count_parameters(model) - before == 288
    # At half height and half width, each weight meets a quarter of the pixels.
    assert cost.multiply_adds == 288 * SIZE[0] * SIZE[1] // 4


def test_a_network_without_groups_costs_nothing() -> None:
    model = make_model()
    ungroup_convolutions(model)
    assert measure_dense_cost(model) is None


def test_the_cost_is_said_in_bytes_and_multiply_adds() -> None:
    sentence = DenseCost(32, 3_000_000, 7_000_000_000).describe(2)
    assert "32 grouped convolutions" in sentence
    assert "6.0 MB of zeros more, 7.0 G multiply-adds more at 1920x1152" in sentence
