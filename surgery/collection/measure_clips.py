"""The tasks of `score`: run one contender on some clips, and measure its frames or hand them back.

Frames are measured as the benchmarks of the field do: rounded to 8 bits, PSNR of a peak of 1 for
each frame, and the mean of those.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgery.collection.contenders import Contender, open_engine
from surgery.collection.datasets import Clip, Picture, load_picture, measure_picture
from surgery.engines import Engine, Sample
from surgery.engines.frames import from_8bit, to_8bit
from surgery.errors import SurgeryError
from surgery.proof.compare import measure_ssim

# What a frame without any error counts as; infinity has no mean.
EXACT_PSNR = 100.0
# The time that a model without a timestep makes the frame of.
MIDDLE = 0.5


@dataclass(frozen=True)
class Figure:
    """One frame of one contender.

    Attributes:
        timestep: between 0 and 1.
        psnr: in dB, of a peak of 1.
        ssim: mean structural similarity of the three colours.
    """

    timestep: float
    psnr: float
    ssim: float


@dataclass(frozen=True)
class Trial:
    """What a worker is asked for: a contender on some clips."""

    contender: Contender
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Measured:
    """What a worker measured.

    Attributes:
        figures: for each clip a figure for each of its timesteps; none where it cannot be read.
        faults: why not, by the clip's name.
    """

    figures: list[list[Figure]]
    faults: dict[str, str]


def measure_clips(trial: Trial) -> Measured:
    """Run and measure.

    Raises:
        SurgeryError: the contender cannot be opened, or its engine does not run.
    """
    faults = {clip.name: fault for clip in trial.clips if (fault := find_fault(clip))}
    readable = tuple(clip for clip in trial.clips if clip.name not in faults)
    frames_of = run_clips(Trial(trial.contender, readable)) if readable else []
    found = {
        clip.name: [
            measure_frame(timestep, to_8bit(load_picture(picture)), frame)
            for (timestep, picture), frame in zip(
                list_truths(trial.contender, clip), frames, strict=True
            )
        ]
        for clip, frames in zip(readable, frames_of, strict=True)
    }
    return Measured([found.get(clip.name, []) for clip in trial.clips], faults)


def find_fault(clip: Clip) -> str:
    """Why a clip cannot be measured: a picture is absent or broken, or of another size."""
    if clip.fault:
        return clip.fault
    try:
        for picture in clip.pictures:
            load_picture(picture)
        return find_odd_size(clip)
    except SurgeryError as error:
        return str(error)


def find_odd_size(clip: Clip) -> str:
    """Which picture of a clip is of another size than most; empty where all are of one.

    Raises:
        SurgeryError: a file is absent or no picture.
    """
    sizes = [measure_picture(picture) for picture in clip.pictures]
    ((usual, _), *others) = Counter(sizes).most_common()
    if not others:
        return ""
    times = (0, *(timestep for timestep, _ in clip.truths), 1)
    odd, like = (
        next(place for place, size in enumerate(sizes) if (size == usual) is is_usual)
        for is_usual in (False, True)
    )
    (one, other) = (
        f"{_name(clip.pictures[place], times[place])} is {width}x{height}"
        for place in (odd, like)
        for width, height in [sizes[place]]
    )
    return f"{one}, and {other}; pictures of one size are accepted"


def _name(picture: Picture, timestep: float) -> str:
    return picture.name if isinstance(picture, Path) else f"the frame at t = {timestep:g}"


def run_clips(trial: Trial) -> list[list[np.ndarray]]:
    """The frames of a contender, uint8 [H,W,3]: for each clip one for each of its timesteps.

    Raises:
        SurgeryError: as `measure_clips`; also for a clip with a fault.
    """
    engine = open_engine(trial.contender)
    samples = [_list_samples(trial.contender, clip) for clip in trial.clips]
    frames = iter(_run(engine, [one for clip in samples for one in clip]))
    return [[to_8bit(next(frames)) for _ in clip] for clip in samples]


def _run(engine: Engine, samples: Sequence[Sample]) -> list[np.ndarray]:
    if not hasattr(engine, "flows"):
        return engine.run(samples)
    # Torch keeps the flows of a run, many times what a frame holds: one by one.
    return [frame for sample in samples for frame in engine.run([sample])]


def list_truths(contender: Contender, clip: Clip) -> list[tuple[float, Picture]]:
    """Those true frames of a clip that a contender can be asked for."""
    return [
        (timestep, picture)
        for timestep, picture in clip.truths
        if not contender.fixed_timestep or timestep == MIDDLE
    ]


def _list_samples(contender: Contender, clip: Clip) -> list[Sample]:
    in0, in1 = load_picture(clip.in0), load_picture(clip.in1)
    return [Sample(in0, in1, timestep) for timestep, _ in list_truths(contender, clip)]


def measure_frame(timestep: float, truth: np.ndarray, frame: np.ndarray) -> Figure:
    """Compare a frame with the true one.

    Shapes: both uint8 [H,W,3].

    Raises:
        SurgeryError: the shapes differ.
    """
    if truth.shape != frame.shape:
        raise SurgeryError(f"a true frame of {truth.shape}, and frames of {frame.shape} beside it")
    wanted, found = (from_8bit(one).astype(np.float64) for one in (truth, frame))
    error = float(np.square(wanted - found).mean())
    psnr = EXACT_PSNR if error == 0 else min(-10 * math.log10(error), EXACT_PSNR)
    return Figure(timestep, psnr, measure_ssim(wanted, found))
