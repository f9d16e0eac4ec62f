from __future__ import annotations

import numpy as np
import onnx
import pytest

from surgery.hub.model import HubMetadata, HubModel, from_onnx
from surgery.hub.warp import warp_function
from surgery.targets.legalise.name_flows import name_flows

CHANNELS = 5
# One block: its raw output at full size, cut up, moves a warp.
TEXT = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
block (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<int64[1] first = {0}, int64[1] last = {2}, int64[1] channels = {1}>
{
    [join] x = Concat <axis = 1> (in0, in1, in2)
    [last] raw = Conv <pads = [1, 1, 1, 1]> (x, weight)
    [slice] flow = Slice (raw, first, last, channels)
    [warp] out0 = rife.Warp (in0, flow)
}
"""


def make_model(blocks: int = 1, channels: int = CHANNELS) -> HubModel:
    model = onnx.parser.parse_model(TEXT)
    weight = np.full((channels, 7, 3, 3), 0.1, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "weight"))
    model.functions.append(warp_function())
    metadata = HubMetadata(scale_list=(1.0,) * blocks, warps=1)
    onnx.helper.set_model_props(model, metadata.to_properties())
    return from_onnx(model)


@pytest.mark.parametrize("channels", [5, 6, 7, 13])
def test_the_raw_output_of_a_block_is_named(channels: int) -> None:
    assert name_flows(make_model(channels=channels)) == {"raw": "flow0"}


@pytest.mark.parametrize("channels", [4, 8, 12, 16])
def test_what_vulkan_would_pack_is_not_named(channels: int) -> None:
    assert name_flows(make_model(channels=channels)) == {}


def test_half_of_the_blocks_get_no_names() -> None:
    assert name_flows(make_model(blocks=2)) == {}
