"""`surgery.proof.blame`: one change at a time, and the first that changes the frame is to blame."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from surgery.engines import Engine, Sample
from surgery.engines.ncnn import NcnnEngine
from surgery.errors import EngineDied, EngineError, SurgeryError
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.proof import blame as module
from surgery.proof.blame import (
    RUNTIME_CPU,
    RUNTIME_GPU,
    TOLERANCES,
    VULKAN_FP16,
    VULKAN_FP32,
    Trial,
    assign,
    blame,
    try_engine,
)
from surgery.proof.compare import compare, judge
from surgery.proof.forms import FolderForm
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import NCNN_VULKAN_FP32, RUNTIME_CPU_FP16_WEIGHTS
from surgery.proof.validate import Exhibit, Row

NO_VULKAN = "there is no Vulkan device"


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """One convolution of both frames, whose first two channels warp the first frame."""
    generator = np.random.default_rng(5)
    weight = generator.uniform(-0.7, 0.7, (5, 7, 3, 3)).astype(np.float32)
    convolution: dict[int, ncnn.ParamValue] = {
        ncnn.Convolution.NUM_OUTPUT: 5,
        ncnn.Convolution.KERNEL_W: 3,
        ncnn.Convolution.PAD_LEFT: 1,
        ncnn.Convolution.WEIGHT_COUNT: weight.size,
    }
    crop: dict[int, ncnn.ParamValue] = {
        ncnn.Crop.STARTS: [0],
        ncnn.Crop.ENDS: [2],
        ncnn.Crop.AXES: [0],
    }
    graph = NcnnGraph(
        [
            *(Layer("Input", name, [], [name]) for name in ("in0", "in1", "in2")),
            Layer("Split", "split", ["in0"], ["in0_joined", "in0_warped"]),
            Layer("Concat", "join", ["in0_joined", "in1", "in2"], ["x"]),
            Layer("Convolution", "conv", ["x"], ["y"], convolution, {"weight": weight}),
            Layer("Crop", "crop", ["y"], ["flow"], crop),
            Layer("rife.Warp", "warp", ["in0_warped", "flow"], ["out0"]),
        ]
    )
    write_model(tmp_path / "tiny", graph, fp16=False)
    return tmp_path / "tiny"


class _Engine:
    """Gives a frame that is known, or refuses."""

    name = "engine"
    device = "Card"
    largest: Mapping[str, float] = {}

    def __init__(self, frame: np.ndarray | None) -> None:
        self._frame = frame

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        if self._frame is None:
            raise EngineError("engine is not installed; run: pip install engine")
        return [self._frame]


def _make(frame: np.ndarray | None) -> Callable[[], Engine]:
    return lambda: _Engine(frame)


def _try(**passed: bool | None) -> dict[str, Trial]:
    names = {"fp32": VULKAN_FP32, "fp16": VULKAN_FP16, "cpu": RUNTIME_CPU, "gpu": RUNTIME_GPU}
    return {names[key]: Trial(names[key], value, "words") for key, value in passed.items()}


@pytest.mark.parametrize(
    ("trials", "party", "words"),
    [
        (_try(fp32=True, fp16=True, cpu=True, gpu=True), "nobody", "the model is right"),
        (_try(fp32=False, fp16=False, cpu=True, gpu=False), "driver", "this driver is not: Card"),
        (_try(fp32=True, fp16=False, cpu=True, gpu=False), "fp16", "too large or too fine"),
        (_try(fp32=True, fp16=True, cpu=False, gpu=False), "runtime", "take another build"),
        (_try(fp32=True, fp16=True, cpu=True, gpu=False), "runtime", "the warp shader"),
    ],
)
def test_the_first_change_that_fails_is_to_blame(
    trials: dict[str, Trial], party: str, words: str
) -> None:
    found = assign(trials, model_passed=True, device="Card")
    assert found.party == party
    assert words in found.sentence
    assert found.trials == tuple(trials.values())


def test_a_wrong_model_is_blamed_before_any_driver() -> None:
    found = assign(_try(fp32=False), model_passed=False)
    assert found.party == "model"
    assert "no driver has a part" in found.sentence


def test_what_could_not_be_tried_is_told_and_blamed_on_nobody() -> None:
    found = assign(_try(fp32=None, cpu=True), model_passed=True, device="Card")
    assert found.party == "nobody"
    assert f"not tried: {VULKAN_FP32} (words)" in found.sentence


def test_a_blob_beyond_fp16_is_named() -> None:
    found = assign(
        _try(fp32=True, fp16=False), model_passed=True, device="Card", overflow="blob: reaches 7e4"
    )
    assert "blob: reaches 7e4" in found.sentence


def test_an_engine_passes_fails_or_is_not_there() -> None:
    samples = make_samples([(64, 64)], [0.5], 1)
    wanted = samples[0].draw_truth()
    for name in TOLERANCES:
        assert try_engine(name, _make(wanted), samples, wanted).passed is True
        wrong = wanted + np.float32(0.1)
        assert try_engine(name, _make(wrong), samples, wanted).passed is False
        absent = try_engine(name, _make(None), samples, wanted)
        assert absent.passed is None
        assert "pip install" in absent.words


def test_an_engine_that_dies_has_failed() -> None:
    samples = make_samples([(64, 64)], [0.5], 1)

    def die() -> Engine:
        raise EngineDied("engine crashed (SIGSEGV)")

    trial = try_engine(VULKAN_FP32, die, samples, samples[0].draw_truth())
    assert trial.passed is False
    found = assign({VULKAN_FP32: trial}, model_passed=True, device="Card")
    assert found.party == "driver"
    assert "crashed (SIGSEGV)" in found.sentence


class _Half(FolderForm):
    """A folder with fp16 weights that nothing is read from."""

    is_fp16 = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.padding = folder, 32


def _fail(wanted: np.ndarray, sample: Sample) -> Exhibit:
    comparison = compare(wanted, 1 - wanted)
    verdict = judge(comparison, RUNTIME_CPU_FP16_WEIGHTS)
    row = Row("r", "torch", 96, 64, 0.75, comparison, RUNTIME_CPU_FP16_WEIGHTS, verdict)
    return Exhibit(row, sample, wanted, None)


@pytest.mark.parametrize(
    ("cost", "party", "words"),
    [
        (0.05, "weights", "at 96x64, t=0.75 rounding its weights to fp16 costs more"),
        (0.0, "nobody", "what failed at 96x64, t=0.75 did not fail again"),
    ],
)
def test_the_sample_that_failed_is_the_one_that_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cost: float, party: str, words: str
) -> None:
    (sample,) = make_samples([(96, 64)], [0.75], 1)
    plain = sample.draw_truth()
    tried: list[Sample] = []

    class Engine(_Engine):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__(plain)

        def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
            tried.extend(samples)
            return super().run(samples)

    monkeypatch.setattr(module, "NcnnEngine", Engine)
    monkeypatch.setattr(module, "RifeNcnnVulkanEngine", Engine)
    failure = _fail(plain + np.float32(cost), sample)
    found = blame(_Half(tmp_path), model_passed=True, failure=failure)
    assert found.party == party
    assert words in found.sentence
    assert tried == [sample] * 5


def test_a_wrong_model_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr(module, "NcnnEngine", refuse)
    form = FolderForm.__new__(FolderForm)
    assert blame(form, model_passed=False).party == "model"


def _require_vulkan(folder: Path, samples: Sequence[Sample]) -> NcnnEngine:
    if importlib.util.find_spec("ncnn") is None:
        pytest.skip("ncnn is not installed: pip install ncnn")
    engine = NcnnEngine(folder, 32, vulkan=0)
    try:
        engine.run(samples)
    except EngineError as error:
        if NO_VULKAN in str(error):
            pytest.skip("no Vulkan device")
        raise
    return engine


def test_ncnn_on_vulkan_agrees_with_the_cpu_in_fp32_and_nearly_in_fp16(tiny_folder: Path) -> None:
    samples = make_samples([(64, 64)], [0.25], 1)
    engine = _require_vulkan(tiny_folder, samples)
    assert engine.device
    (wanted,) = NcnnEngine(tiny_folder, 32).run(samples)
    (full,) = engine.run(samples)
    (half,) = NcnnEngine(tiny_folder, 32, vulkan=0, half=True).run(samples)
    assert NCNN_VULKAN_FP32.accepts(float(np.abs(full - wanted).max()))
    # Were fp16 not asked for in truth, both would agree alike.
    assert float(np.abs(half - wanted).max()) > 4 * float(np.abs(full - wanted).max())


def test_a_vulkan_device_that_is_not_there_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(SurgeryError, match="there is no Vulkan device 99; this machine has"):
        NcnnEngine(tiny_folder, 32, vulkan=99).run(make_samples([(64, 64)], [0.25], 1))
