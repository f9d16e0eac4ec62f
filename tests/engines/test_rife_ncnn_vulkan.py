"""The real runtime. CPU and Vulkan each skip, visibly, where the machine cannot run them."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs
from surgery.engines.ncnn import NcnnEngine
from surgery.engines.rife_ncnn_vulkan import CPU, INSTALL, RifeNcnnVulkanEngine
from surgery.engines.rife_ncnn_vulkan_worker import explain_import, refuse_missing_device
from surgery.errors import EngineError
from surgery.hub.warp import warp_reference
from surgery.proof.compare import compare, judge
from surgery.proof.tolerances import RUNTIME_CPU_FP32, RUNTIME_VULKAN

if TYPE_CHECKING:
    from tests.engines.conftest import TinyNetwork

MakeSample = Callable[..., Sample]
PADDING = 32
LEVELS = 255
VULKAN = 0
TOLERANCES = {CPU: RUNTIME_CPU_FP32, VULKAN: RUNTIME_VULKAN}


def test_the_runtime_agrees_with_the_definition_and_with_ncnn(
    folder: Path, network: TinyNetwork, make_sample: MakeSample, gpu: int
) -> None:
    # Neither size is a multiple of the padding, and none is a square once it is padded.
    samples = [make_sample(40, 90), make_sample(50, 20, 0.75)]
    recording = RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu).record(samples)
    floats = NcnnEngine(folder, PADDING).run(samples)
    for frame, same, sample in zip(recording.frames, floats, samples, strict=True):
        expect_agreement(network.compute_frame(sample), frame, gpu)
        expect_agreement(same, frame, gpu)
        assert frame.dtype == np.float32
        levels = frame * LEVELS
        assert np.allclose(levels, np.round(levels), rtol=0, atol=1e-4)
    assert len(recording.seconds) == len(samples)
    assert recording.load_seconds > 0
    assert recording.peak_bytes is None or recording.peak_bytes > 2**20


def test_each_part_of_a_sample_matters(
    folder: Path, network: TinyNetwork, make_sample: MakeSample, gpu: int
) -> None:
    # Each of these faults is far above the tolerances, so the comparison would show it.
    right = make_sample(32, 64)
    wrong = {
        "timestep": Sample(right.in0, right.in1, 0.75),
        "order": Sample(right.in1, right.in0, right.timestep),
        "channels": Sample(right.in0[:, ::-1], right.in1[:, ::-1], right.timestep),
    }
    engine = RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu)
    truth = network.compute_frame(right)
    for frame in engine.run(list(wrong.values())):
        assert not judge(compare(truth, frame), TOLERANCES[gpu]).passed


@pytest.mark.parametrize("padding", [16, 64, 96, 128])
def test_any_padding_is_done_by_hand(
    padding: int, folder: Path, network: TinyNetwork, make_sample: MakeSample, gpu: int
) -> None:
    sample = make_sample(20, 40)
    (frame,) = RifeNcnnVulkanEngine(folder, padding, gpu=gpu).run([sample])
    # A model that needs 16 gets the 32 that the runtime pads to at least.
    expect_agreement(network.compute_frame(sample, max(padding, 32)), frame, gpu)


def test_the_padding_by_the_runtime_is_the_same_on_vulkan(
    folder: Path, make_sample: MakeSample, vulkan: int
) -> None:
    for padding in (32, 64):
        samples = [make_sample(33, 65), make_sample(20, 90)]
        by_hand = RifeNcnnVulkanEngine(folder, padding, gpu=vulkan)
        by_runtime = RifeNcnnVulkanEngine(folder, padding, gpu=vulkan, pad_by_hand=False)
        assert all(map(np.array_equal, by_hand.run(samples), by_runtime.run(samples)))


def test_names_of_parent_folders_do_not_count(
    tmp_path: Path, folder: Path, network: TinyNetwork, make_sample: MakeSample, gpu: int
) -> None:
    misleading = tmp_path / "rife-v2" / "rife-v4.26" / "rife-v3.1"
    misleading.parent.mkdir(parents=True)
    folder.rename(misleading)
    sample = make_sample(20, 40)
    (frame,) = RifeNcnnVulkanEngine(misleading, PADDING, gpu=gpu).run([sample])
    expect_agreement(network.compute_frame(sample), frame, gpu)


def test_tta_averages_the_flows_of_eight_orientations(
    folder: Path, network: TinyNetwork, make_sample: MakeSample, gpu: int
) -> None:
    sample = make_sample(20, 50)
    inputs = network_inputs(sample, PADDING)
    flow = average_turned_flows(network, inputs)
    expected = crop_frame(warp_reference(inputs["in0"], flow[:, :2]), 20, 50)
    (frame,) = RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu, tta=True).run([sample])
    expect_agreement(expected, frame, gpu)
    assert not judge(compare(network.compute_frame(sample), frame), TOLERANCES[gpu]).passed


def test_temporal_tta_averages_with_the_way_back(
    folder: Path, network: TinyNetwork, make_sample: MakeSample, gpu: int
) -> None:
    sample = make_sample(20, 50)
    inputs = network_inputs(sample, PADDING)
    there = network.compute_flow(**inputs)
    back = network.compute_flow(inputs["in1"], inputs["in0"], 1 - inputs["in2"])
    to_in0 = (there[:, 0:2] + back[:, 2:4]) / 2
    to_in1 = (there[:, 2:4] + back[:, 0:2]) / 2
    pair = warp_reference(inputs["in0"], to_in0) + warp_reference(inputs["in1"], to_in1)
    (frame,) = RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu, tta_temporal=True).run([sample])
    expect_agreement(crop_frame(pair / 2, 20, 50), frame, gpu)


def test_an_unknown_layer_is_an_error(folder: Path, make_sample: MakeSample, gpu: int) -> None:
    replace_text(folder, "rife.Warp ", "Mystery ")
    with pytest.raises(EngineError, match="built without the layer type Mystery"):
        RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu).run([make_sample(32, 32)])


def test_weights_that_end_early_are_an_error(
    folder: Path, make_sample: MakeSample, gpu: int
) -> None:
    weights = folder / "flownet.bin"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(EngineError, match=r"\.bin ends before the weights of layer conv"):
        RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu).run([make_sample(32, 32)])


def test_a_graph_without_an_output_is_an_error(
    folder: Path, make_sample: MakeSample, gpu: int
) -> None:
    # A crash on CPU, a black frame on Vulkan.
    replace_text(folder, "out0", "output")
    with pytest.raises(EngineError, match="the graph has no blob out0"):
        RifeNcnnVulkanEngine(folder, PADDING, gpu=gpu).run([make_sample(32, 32)])


def test_a_device_that_is_not_there_is_an_error(
    folder: Path, make_sample: MakeSample, device_count: int
) -> None:
    # The runtime itself would compute on the CPU and say nothing.
    engine = RifeNcnnVulkanEngine(folder, PADDING, gpu=device_count)
    with pytest.raises(EngineError, match=rf"no Vulkan device {device_count}; .*-1 for the CPU"):
        engine.run([make_sample(32, 32)])


def test_a_machine_without_vulkan_is_an_error(
    folder: Path,
    make_sample: MakeSample,
    device_count: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(variable, str(tmp_path / "none.json"))
    with pytest.raises(EngineError, match=r"none was found.*libvulkan1 mesa-vulkan-drivers"):
        RifeNcnnVulkanEngine(folder, PADDING, gpu=VULKAN).run([make_sample(32, 32)])
    # The CPU does without.
    assert len(RifeNcnnVulkanEngine(folder, PADDING).run([make_sample(32, 32)])) == 1


def test_a_run_that_takes_too_long_is_an_error(
    folder: Path, make_sample: MakeSample, device_count: int
) -> None:
    engine = RifeNcnnVulkanEngine(folder, PADDING, time_limit=0.01)
    with pytest.raises(EngineError, match=r"ended after 0\.01 s without a result"):
        engine.run([make_sample(32, 32)])


def test_a_missing_package_is_told_with_the_command_that_installs_it(
    folder: Path, make_sample: MakeSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineError) as caught:
        RifeNcnnVulkanEngine(folder, PADDING).run([make_sample(32, 32)])
    assert "pip install --no-deps rife-ncnn-vulkan-python-tntwise" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("libvulkan.so.1: cannot open shared object file", "libvulkan1 mesa-vulkan-drivers"),
        ("No module named 'rife_ncnn_vulkan_python'", INSTALL),
        ("No module named 'cv2'", "pip install opencv-python-headless"),
    ],
)
def test_each_failing_import_has_its_advice(message: str, advice: str) -> None:
    assert message in explain_import(message)
    assert advice in explain_import(message)


def test_devices_are_counted_from_0() -> None:
    refuse_missing_device(0, CPU)
    refuse_missing_device(2, 1)
    accepted = {
        (0, 0): "none was found; -1, the CPU, is accepted",
        (1, 5): "5; 0 is accepted here, and -1 for the CPU",
        (2, 2): "2; 0 to 1 is accepted here",
        (2, -2): "-2; 0 to 1 is accepted here",
    }
    for (devices, gpu), words in accepted.items():
        with pytest.raises(EngineError) as refusal:
            refuse_missing_device(devices, gpu)
        assert f"no Vulkan device {gpu}" in str(refusal.value)
        assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("gpu", "padding", "reason"),
    [(CPU, 32, "wrong frames on CPU"), (VULKAN, 128, "pads to 32 or 64: pad by hand")],
)
def test_paddings_that_the_runtime_gets_wrong_are_refused(
    folder: Path, gpu: int, padding: int, reason: str
) -> None:
    with pytest.raises(EngineError, match=reason):
        RifeNcnnVulkanEngine(folder, padding, gpu=gpu, pad_by_hand=False)


def test_a_missing_file_is_told_at_once(folder: Path) -> None:
    (folder / "flownet.param").unlink()
    with pytest.raises(EngineError, match=r"has no flownet\.param"):
        RifeNcnnVulkanEngine(folder, PADDING)


def expect_agreement(expected: np.ndarray, frame: np.ndarray, gpu: int) -> None:
    verdict = judge(compare(expected, frame), TOLERANCES[gpu])
    assert verdict.passed, verdict.sentence


def average_turned_flows(network: TinyNetwork, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The mean of the flows of all eight orientations, each turned back."""
    flows = []
    for is_transposed, step_y, step_x in itertools.product((False, True), (1, -1), (1, -1)):
        axes = (0, 1, 3, 2) if is_transposed else (0, 1, 2, 3)
        turned = {
            name: array.transpose(axes)[:, :, ::step_y, ::step_x] for name, array in inputs.items()
        }
        flow = network.compute_flow(**turned)[:, :4, ::step_y, ::step_x].transpose(axes)
        flow = flow * np.tile([step_x, step_y], 2).reshape(1, 4, 1, 1).astype(np.float32)
        flows.append(flow[:, [1, 0, 3, 2]] if is_transposed else flow)
    mean: np.ndarray = np.stack(flows).mean(axis=0, dtype=np.float32)
    return mean


def replace_text(folder: Path, old: str, new: str) -> None:
    param = folder / "flownet.param"
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new))
