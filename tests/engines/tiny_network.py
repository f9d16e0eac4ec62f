"""A small network with one warp, as a hub model, as an ncnn folder and as plain numpy."""

from __future__ import annotations

import numpy as np
import onnx

from surgery.engines import Sample
from surgery.hub.model import HubMetadata
from surgery.hub.warp import warp_function

PADDING = 32
# The flow is linear in the frames: these weights give up to some pixels that vary across the frame.
FLOW_GAIN = 6.0
_HUB_TEXT = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
tiny (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
{
    [join] x = Concat <axis = 1> (in0, in1, in2)
    [conv] flow = Conv <pads = [1, 1, 1, 1]> (x, weight, bias)
    [warp] out0 = rife.Warp (in0, flow)
}
"""


def make_flow_weights() -> tuple[np.ndarray, np.ndarray]:
    """Kernel [2,7,3,3] and bias [2] of the convolution that makes the flow."""
    generator = np.random.default_rng(5)
    weight = generator.uniform(-1, 1, (2, 7, 3, 3)).astype(np.float32) * FLOW_GAIN / 9
    return weight, np.array([1.25, -2.5], np.float32)


def make_sample(height: int, width: int, timestep: float = 0.25, seed: int = 0) -> Sample:
    """Two noisy frames on the 8-bit grid."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 256, (2, 1, 3, height, width)).astype(np.float32)
    return Sample(levels[0] / 255, levels[1] / 255, timestep)


def make_hub(**changes: object) -> onnx.ModelProto:
    """The network as a hub model, with some metadata changed."""
    model = onnx.parser.parse_model(_HUB_TEXT)
    for name, values in zip(("weight", "bias"), make_flow_weights(), strict=True):
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model.functions.append(warp_function())
    metadata = HubMetadata(padding=PADDING, warps=1, **changes)  # type: ignore[arg-type]
    onnx.helper.set_model_props(model, metadata.to_properties())
    return model
