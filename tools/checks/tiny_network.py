"""A legal hub model that is small enough to be converted and proven in seconds.

It has what stock networks have: two blocks at two scales, a beta, a residual, a deconvolution, a
shuffle, slices, warps and a blend.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from surgery.hub.model import HubMetadata, HubModel, from_onnx
from surgery.hub.warp import warp_function

SEED = 1
TINY = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
tiny (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<
  WEIGHTS,
  int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, int64[1] five = {5},
  int64[1] axis = {1}, float two_f = {2}, float one = {1},
  float[4] down = {1, 1, 0.5, 0.5}, float[4] up = {1, 1, 2, 2}
>
{
  frames = Concat <axis = 1> (in0, in1, in2)
  small = Resize <mode = "linear"> (frames, , down)
  half = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (small, w0, b0)
  quarter = Conv <pads = [1, 1, 1, 1]> (half, w1, b0)
  scaled = Mul (quarter, beta)
  sum = Add (scaled, half)
  act = LeakyRelu <alpha = 0.2> (sum)
  wide = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (act, w2)
  raw0 = DepthToSpace <blocksize = 2, mode = "CRD"> (wide)
  part0 = Slice (raw0, zero, four, axis)
  flow0 = Mul (part0, two_f)
  mask0 = Slice (raw0, four, five, axis)
  to0 = Slice (flow0, zero, two, axis)
  to1 = Slice (flow0, two, four, axis)
  warped0 = rife.Warp (in0, to0)
  warped1 = rife.Warp (in1, to1)
  all = Concat <axis = 1> (warped0, warped1, in2, mask0, flow0)
  half1 = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (all, w3, b0)
  act1 = PRelu (half1, slope1)
  raw1 = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (act1, w4)
  part1 = Slice (raw1, zero, four, axis)
  bit1 = Slice (raw1, four, five, axis)
  flow1 = Add (flow0, part1)
  mask1 = Add (mask0, bit1)
  last0 = Slice (flow1, zero, two, axis)
  last1 = Slice (flow1, two, four, axis)
  end0 = rife.Warp (in0, last0)
  end1 = rife.Warp (in1, last1)
  m = Sigmoid (mask1)
  rest = Sub (one, m)
  left = Mul (end0, m)
  right = Mul (end1, rest)
  out0 = Add (left, right)
}
"""
WIDTH = 4
METADATA = HubMetadata(padding=32, scale_list=(2.0, 1.0), warps=4, donor="tiny", baked=("none",))


def make_hub(width: int = WIDTH) -> HubModel:
    """Make the model; the same every time. 1000 channels take 36 MB of weights."""
    shapes = _list_shapes(width)
    declared = ", ".join(f"float[{','.join(map(str, one))}] {name}" for name, one in shapes.items())
    model = onnx.parser.parse_model(TINY.replace("WEIGHTS", declared))
    random = np.random.default_rng(SEED)
    for node in model.graph.node:
        node.name = f"/block{int('1' in node.output[0])}/{node.output[0]}"
    for name, shape in shapes.items():
        values = random.normal(0.0, 0.3, shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.functions.append(warp_function())
    onnx.helper.set_model_props(model, METADATA.to_properties())
    return from_onnx(model)


def _list_shapes(width: int) -> Mapping[str, tuple[int, ...]]:
    return {
        "w0": (width, 7, 3, 3),
        "b0": (width,),
        "w1": (width, width, 3, 3),
        "beta": (1, width, 1, 1),
        "w2": (width, 20, 4, 4),
        "w3": (width, 12, 3, 3),
        "w4": (width, 5, 4, 4),
        "slope1": (width, 1, 1),
    }
