from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from surgery.engines import Sample
from surgery.engines.frames import network_inputs
from surgery.engines.ncnn import NcnnEngine
from surgery.errors import EngineDied, EngineError
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_layers import BinaryOp, ParamValue
from surgery.formats.ncnn_param import Layer
from surgery.proof.tolerances import KERNEL_FP32

if TYPE_CHECKING:
    from tests.engines.conftest import TinyNetwork

MakeSample = Callable[..., Sample]
PADDING = 32

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ncnn") is None, reason="ncnn is not installed: pip install ncnn"
)


def test_ncnn_agrees_with_the_definition(
    folder: Path, network: TinyNetwork, make_sample: MakeSample
) -> None:
    samples = [make_sample(40, 50), make_sample(64, 32, 0.75), make_sample(1, 1)]
    recording = NcnnEngine(folder, PADDING).record(samples)
    for frame, sample in zip(recording.frames, samples, strict=True):
        assert frame.shape == sample.in0.shape
        assert frame.dtype == np.float32
        assert KERNEL_FP32.accepts(float(abs(frame - network.compute_frame(sample)).max()))
    assert len(recording.seconds) == len(samples)
    assert recording.load_seconds > 0
    assert all(seconds > 0 for seconds in recording.seconds)
    assert recording.peak_bytes is None or recording.peak_bytes > 2**20
    assert recording.blobs == [{}, {}, {}]


def test_the_flow_of_the_test_network_is_worth_warping_by(
    folder: Path, make_sample: MakeSample
) -> None:
    engine = NcnnEngine(folder, PADDING, blobs=("flow",))
    (blobs,) = engine.record([make_sample(64, 64)]).blobs
    assert np.median(abs(blobs["flow"])) > 0.5
    assert blobs["flow"].std(axis=(2, 3)).min() > 0.5


def test_blobs_come_at_padded_size(
    folder: Path, network: TinyNetwork, make_sample: MakeSample
) -> None:
    samples = [make_sample(40, 50), make_sample(20, 20)]
    # in0 is the first layer's: what ncnn's light mode frees first.
    engine = NcnnEngine(folder, PADDING, blobs=("in0", "flow0", "flow"))
    recording = engine.record(samples)
    for blobs, sample in zip(recording.blobs, samples, strict=True):
        inputs = network_inputs(sample, PADDING)
        expected = network.compute_flow(**inputs)
        assert np.array_equal(blobs["in0"], inputs["in0"])
        assert KERNEL_FP32.accepts(float(abs(blobs["flow0"] - expected).max()))
        assert np.array_equal(blobs["flow"], blobs["flow0"][:, :2])
    plain = NcnnEngine(folder, PADDING).run(samples)
    assert all(map(np.array_equal, recording.frames, plain))


def test_no_samples_give_no_frames(folder: Path) -> None:
    assert NcnnEngine(folder, PADDING).run([]) == []


def test_an_unknown_blob_is_an_error(folder: Path, make_sample: MakeSample) -> None:
    engine = NcnnEngine(folder, PADDING, blobs=("flow9",))
    with pytest.raises(EngineError, match="the graph has no blob flow9"):
        engine.run([make_sample(32, 32)])


def test_an_unknown_layer_is_an_error(folder: Path, make_sample: MakeSample) -> None:
    replace_text(folder, "rife.Warp ", "Mystery ")
    with pytest.raises(EngineError, match="built without the layer type Mystery"):
        NcnnEngine(folder, PADDING).run([make_sample(32, 32)])


def test_weights_that_end_early_are_an_error(folder: Path, make_sample: MakeSample) -> None:
    weights = folder / "flownet.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EngineError, match=r"\.bin ends before the weights of layer conv"):
        NcnnEngine(folder, PADDING).run([make_sample(32, 32)])


def test_an_input_that_nobody_feeds_is_an_error(folder: Path, make_sample: MakeSample) -> None:
    replace_text(folder, "in2", "in3")
    with pytest.raises(EngineError, match=r"the input\(s\) in3; a v4 model has in0, in1, in2"):
        NcnnEngine(folder, PADDING).run([make_sample(32, 32)])


def test_a_flow_of_more_channels_is_an_error(folder: Path, make_sample: MakeSample) -> None:
    # Every runtime takes it on CPU, and misreads it on Vulkan.
    replace_text(folder, "-23310=1,2", "-23310=1,4")
    with pytest.raises(EngineError, match=r"\[C, H, W\]|\[N,2,H,W\]"):
        NcnnEngine(folder, PADDING).run([make_sample(32, 32)])


def test_a_missing_file_is_told_at_once(folder: Path) -> None:
    (folder / "flownet.bin").unlink()
    with pytest.raises(EngineError, match=r"has no flownet\.bin"):
        NcnnEngine(folder, PADDING)


def test_an_output_of_another_shape_is_an_error(folder: Path, make_sample: MakeSample) -> None:
    # The blobs out0 and flow0 trade their names: the output has five channels.
    swapped = {"out0": "other", "flow0": "out0"}
    for old, new in swapped.items():
        replace_text(folder, old, new)
    with pytest.raises(EngineError, match=r"shape \(1, 5, 32, 32\) for frames of 30 x 20"):
        NcnnEngine(folder, PADDING).run([make_sample(20, 30)])


def test_a_run_that_takes_too_long_is_an_error(folder: Path, make_sample: MakeSample) -> None:
    engine = NcnnEngine(folder, PADDING, time_limit=0.01)
    with pytest.raises(EngineError, match=r"ended after 0\.01 s without a result"):
        engine.run([make_sample(32, 32)])


def replace_text(folder: Path, old: str, new: str) -> None:
    param = folder / "flownet.param"
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new))


def test_the_largest_magnitude_of_every_blob_is_measured_when_asked_for(
    folder: Path, make_sample: MakeSample
) -> None:
    # The smallest frame is the one that is measured.
    samples = [make_sample(64, 64), make_sample(20, 20)]
    engine = NcnnEngine(folder, PADDING, blobs=("flow0", "flow"), ranges=True)
    blobs = engine.record(samples).blobs[1]
    assert {"in0", "x", "flow0", "flow", "out0"} <= set(engine.largest)
    for name, blob in blobs.items():
        assert engine.largest[name] == float(abs(blob).max())
    plain = NcnnEngine(folder, PADDING)
    plain.run(samples)
    assert plain.largest == {}


def test_a_package_that_is_missing_is_no_death(
    folder: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match="ncnn is not installed") as caught:
        NcnnEngine(folder, PADDING).run([make_sample(32, 32)])
    assert not isinstance(caught.value, EngineDied)


def test_large_frames_are_measured_in_their_middle(folder: Path, make_sample: MakeSample) -> None:
    sample = make_sample(640, 512)
    sample.in0[...] = 0.25
    sample.in0[0, 0, 320, 256] = 0.875
    sample.in0[..., :64, :] = 0.9375
    engine = NcnnEngine(folder, PADDING, ranges=True)
    recording = engine.record([sample])
    assert engine.largest["in0"] == 0.875
    # Of that sample nothing else is told.
    assert len(recording.frames) == len(recording.seconds) == 1
    assert recording.frames[0].shape == sample.in0.shape


def test_a_layer_that_works_in_place_may_read_an_input(
    tmp_path: Path, network: TinyNetwork, make_sample: MakeSample
) -> None:
    graph = network.make_ncnn()
    scaled: dict[int, ParamValue] = {BinaryOp.OP_TYPE: 2, BinaryOp.WITH_SCALAR: 1, BinaryOp.B: 1.0}
    graph.layers.insert(4, Layer("BinaryOp", "scaled", ["in0_warped"], ["scaled"], scaled))
    graph.layers[-1].inputs[0] = "scaled"
    write_model(tmp_path / "model", graph, fp16=False)
    sample = make_sample(40, 50)
    (frame,) = NcnnEngine(tmp_path / "model", PADDING).run([sample])
    assert KERNEL_FP32.accepts(float(abs(frame - network.compute_frame(sample)).max()))
