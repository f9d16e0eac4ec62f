"""Train the demo model: a small stock RIFE, unmodified, on data that this script makes itself.

    python tools/train_demo.py            # resumes; under two hours on 2 cores; then writes it
    python tools/train_demo.py --write    # write a checkpoint of what is trained so far
    python tools/train_demo.py --score    # against nearest frame and averaging, on the test set
    python tools/train_demo.py --frames   # draw the pictures of `surgery demo`

The stock source gives its last frame only. Its warp is ours while training, so every flow that it
tries is seen on the way: each is drawn towards the true one, which the data knows. And every block
begins with comparing the frames (`begin_with_differences`): what a random one makes of them says
next to nothing about motion, and thousands of steps would pass before it did.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import demo_data
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from surgery.engines.frames import write_png
from surgery.output import write_file_atomically
from surgery.proof.inputs import LEVELS
from surgery.sources.checkpoint import load_into, read_checkpoint
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import StockNetwork, build_network
from surgery.trained_model import DONOR, FRAMES, TIMESTEP, TRUTH, WEIGHTS

DATA = Path(__file__).resolve().parent.parent / "surgery" / "data"
POOL = 4000  # examples, each seen several times, but turned, cut and coloured differently
POOL_SIZE = 128
CROP = 96
BATCH = 6
# First come small frames: each is a quarter of a whole example, and the coarse blocks, which see a
# handful of points of a crop, see all of it. Motions are as large for them as they will be.
SMALL_STEPS = 1500
SMALL_BATCH = 24
SMALLER = 4
SMALL_SCALES = (2, 1, 1, 1)  # of the four blocks; later (8, 4, 2, 1)
STEPS = 6600
# The first steps, in which the learning rate rises, and the last, in which it falls, and frames
# come to count for more than flows.
RISE, FALL = 100, 2400
HIGHEST_RATE, LOWEST_RATE = 1e-3, 1e-5
WEIGHT_DECAY = 1e-4
# How much a pixel of error in a flow counts, against a frame's mean error of 1 for white: much
# while the flows are still to be found, less in the end.
HIGHEST_FLOW_WEIGHT, LOWEST_FLOW_WEIGHT = 0.1, 0.005
# How much the logarithm of a frame's mean square error counts in the end: its PSNR, but for a
# factor. Where nothing tells the motion, it pays to blend, and not to guess.
PSNR_WEIGHT = 0.05
# Each stage's flow counts this much of the next one's.
STAGE_PART = 0.8
FLOW_STAGES = 4
SAVE_EVERY = 100  # steps
SEED = 1
LEAST_SQUARE = 1e-5  # nothing is gained beyond 50 dB
# How strongly differences of frames enter at first, so that they are as large as other features.
DIFFERENCE_GAIN = 4.0

Pool = tuple[np.ndarray, np.ndarray, np.ndarray]
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class SeenFlows:
    """A differentiable warp that remembers the flows it was given."""

    def __init__(self) -> None:
        self.flows: list[torch.Tensor] = []

    def warp(self, image: torch.Tensor, flow: torch.Tensor, *_: object) -> torch.Tensor:
        """Sample bilinearly at every pixel's position plus its flow, borders repeated."""
        height, width = image.shape[-2:]
        if image.shape[1] == 3:  # encodings are warped by the same flows
            self.flows.append(flow)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points = torch.stack(
            [
                (x + flow[:, 0]) * (2 / (width - 1)) - 1,
                (y + flow[:, 1]) * (2 / (height - 1)) - 1,
            ],
            dim=-1,
        )
        return torch.nn.functional.grid_sample(
            image, points, mode="bilinear", padding_mode="border", align_corners=True
        )


def make_pool(folder: Path) -> Pool:
    """Draw the training examples once and keep them; frames as bytes, flows as half floats."""
    path = folder / f"pool-{POOL}-{POOL_SIZE}.npz"
    if not path.is_file():
        photos = demo_data.load_photos(demo_data.TRAINING_PHOTOS)
        noises = demo_data.make_noise_pictures()
        frames = np.empty((POOL, 9, POOL_SIZE, POOL_SIZE), np.uint8)
        flows = np.empty((POOL, 4, POOL_SIZE, POOL_SIZE), np.float16)
        times = np.empty(POOL, np.float32)
        size = (POOL_SIZE, POOL_SIZE)
        for index in track(range(POOL), "drawing examples"):
            example = demo_data.make_training_example(size, photos, noises, index)
            joined = np.concatenate([example.in0, example.in1, example.truth])
            frames[index] = np.rint(joined * LEVELS)
            flows[index], times[index] = example.flow, example.timestep
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name("new-" + path.name)
        np.savez(beside, frames=frames, flows=flows, times=times)
        beside.replace(path)
    with np.load(path) as pool:
        return pool["frames"], pool["flows"], pool["times"]


def draw_batch(pool: Pool, step: int) -> Batch:
    """The batch of a step: in0, in1, timestep plane, truth, flow; the same for the same step."""
    is_small = step < SMALL_STEPS
    generator = np.random.default_rng([SEED, step])
    indices = generator.integers(len(pool[2]), size=SMALL_BATCH if is_small else BATCH)
    crop = POOL_SIZE if is_small else CROP
    made = [_vary_example(pool, int(index), crop, generator) for index in indices]
    in0, in1, truth, flow = (
        torch.from_numpy(np.stack([one[part] for one in made])) for part in range(4)
    )
    if is_small:
        in0, in1, truth, flow = (_shrink(one) for one in (in0, in1, truth, flow / SMALLER))
    times = torch.tensor([one[4] for one in made]).view(-1, 1, 1, 1)
    plane = times.expand(-1, 1, *in0.shape[2:]).contiguous()
    batch = (one.contiguous(memory_format=torch.channels_last) for one in (in0, in1, truth, flow))
    in0, in1, truth, flow = batch
    return in0, in1, plane, truth, flow


def _shrink(images: torch.Tensor) -> torch.Tensor:
    """Resize as the coarse blocks do."""
    return torch.nn.functional.interpolate(images, scale_factor=1 / SMALLER, mode="bilinear")


def _vary_example(
    pool: Pool, index: int, crop: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    top, left = generator.integers(POOL_SIZE - crop + 1, size=2)
    window = np.s_[:, top : top + crop, left : left + crop]
    frames = pool[0][index][window].astype(np.float32) / LEVELS
    flow, timestep = pool[1][index][window].astype(np.float32), float(pool[2][index])
    if generator.uniform() < 0.5:  # left and right exchanged
        frames, flow = frames[..., ::-1], flow[..., ::-1] * _signs(-1, 1)
    if generator.uniform() < 0.5:  # up and down
        frames, flow = frames[:, ::-1], flow[:, ::-1] * _signs(1, -1)
    if generator.uniform() < 0.5:  # x and y
        frames, flow = frames.transpose(0, 2, 1), flow.transpose(0, 2, 1)[[1, 0, 3, 2]]
    in0, in1, truth = np.split(frames, 3)
    colours = generator.permutation(3)
    contrast = generator.uniform(0.6, 1.2, 3).astype(np.float32)[:, None, None]
    lift = np.float32(generator.uniform(-0.1, 0.2))
    in0, in1, truth = (np.clip(one[colours] * contrast + lift, 0, 1) for one in (in0, in1, truth))
    if generator.uniform() < 0.5:  # backwards in time
        return in1, in0, truth, flow[[2, 3, 0, 1]], 1 - timestep
    return in0, in1, truth, flow, timestep


def _signs(x: int, y: int) -> np.ndarray:
    return np.array([x, y, x, y], np.float32)[:, None, None]


def measure_loss(
    frame: torch.Tensor,
    flows: Sequence[torch.Tensor],
    truth: torch.Tensor,
    flow: torch.Tensor,
    flow_weight: float,
    psnr_weight: float = 0.0,
) -> torch.Tensor:
    """Errors of the frame at four sizes, and of the flows of all stages, later ones more."""
    squares = (frame - truth).square().mean((1, 2, 3))
    loss = psnr_weight * torch.log(squares + LEAST_SQUARE).mean()
    made, true = frame, truth
    for _ in range(4):
        loss = loss + (made - true).abs().mean()
        made, true = (torch.nn.functional.avg_pool2d(one, 2) for one in (made, true))
    for stage in range(FLOW_STAGES):
        tried = torch.cat(list(flows[2 * stage : 2 * stage + 2]), 1)
        distance = torch.sqrt((tried - flow).square() + 0.01).mean()
        loss = loss + flow_weight * STAGE_PART ** (FLOW_STAGES - 1 - stage) * distance
    return loss


def fall(highest: float, lowest: float, step: int) -> float:
    """Constant, then falling along half a cosine in the last `FALL` steps."""
    part = max(0, step - (STEPS - FALL)) / FALL
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * part)) / 2


def choose_rate(step: int) -> float:
    """The learning rate of a step: it rises, stays and falls."""
    return min((step + 1) / RISE, 1.0) * fall(HIGHEST_RATE, LOWEST_RATE, step)


@contextmanager
def skip_equal_resizes() -> Iterator[None]:
    """Let resizes by 1, which the stock source computes at full size, cost nothing."""
    resize = torch.nn.functional.interpolate

    def resize_if_needed(
        image: torch.Tensor, scale_factor: float, mode: str = "nearest"
    ) -> torch.Tensor:
        return image if scale_factor == 1 else resize(image, scale_factor=scale_factor, mode=mode)

    with mock.patch.object(torch.nn.functional, "interpolate", resize_if_needed):
        yield


def begin_with_differences(net: torch.nn.Module) -> None:
    """Let the first two convolutions of every block begin as the costs of nine displacements.

    A cost is how much the first frame differs from the second one where both are shifted by a pixel
    of the block's resolution, or not at all, in opposite directions: a positive and a negative
    part in the first convolution, their mean over 3 x 3 points in the second. The other channels
    stay random, and all are trained.
    """
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    with torch.no_grad():
        for block in range(FLOW_STAGES):
            first, second = (one[0] for one in getattr(net, f"block{block}").conv0)
            for cost, (y, x) in enumerate(shifts):
                parts = [2 * cost, 2 * cost + 1]
                first.weight[parts], first.bias[parts] = 0.0, 0.0
                for part, gain in zip(parts, (DIFFERENCE_GAIN, -DIFFERENCE_GAIN), strict=True):
                    first.weight[part, 0:3, 1 - y, 1 - x] = gain / 3
                    first.weight[part, 3:6, 1 + y, 1 + x] = -gain / 3
                second.weight[cost], second.bias[cost] = 0.0, 0.0
                second.weight[cost, parts] = 1 / 9


def build_trainee(seen: SeenFlows) -> StockNetwork:
    """The stock network with its own initial weights, drawn from a fixed seed."""
    torch.manual_seed(SEED)
    network = build_network(find_donor(DONOR), warp=seen.warp)
    begin_with_differences(network.net)
    # A quarter faster on a CPU.
    network.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in network.net.parameters():
        parameter.requires_grad_(True)
    return network


def train(folder: Path, minutes: float) -> bool:
    """Train from where the last run stopped; whether the last step was reached in that time."""
    start = time.monotonic()
    pool = make_pool(folder)
    seen = SeenFlows()
    network = build_trainee(seen)
    optimiser = torch.optim.AdamW(network.net.parameters(), weight_decay=WEIGHT_DECAY)
    saved = folder / "training.pt"
    step = 0
    if saved.is_file():
        kept = torch.load(saved, weights_only=True)
        network.net.load_state_dict(kept["net"])
        optimiser.load_state_dict(kept["optimiser"])
        step = int(kept["step"])
    print(f"training {DONOR} from step {step} of {STEPS}", flush=True)
    losses, ratings = [], []
    while step < STEPS and time.monotonic() - start < 60 * minutes:
        loss, error = take_step(network, seen, optimiser, draw_batch(pool, step), step)
        step += 1
        losses.append(loss)
        ratings.append(-10 * math.log10(error))
        if step % SAVE_EVERY == 0 or step == STEPS:
            _save(saved, network, optimiser, step)
            print(
                f"step {step} of {STEPS}, {(time.monotonic() - start) / 60:.1f} min: "
                f"loss {np.mean(losses):.4f}, PSNR {np.mean(ratings):.2f} dB",
                flush=True,
            )
            losses.clear()
            ratings.clear()
    return step == STEPS


def take_step(
    network: StockNetwork,
    seen: SeenFlows,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    step: int,
) -> tuple[float, float]:
    """One step of the schedule; the loss, and the mean squared error of the frames on 0..1."""
    in0, in1, plane, truth, flow = batch
    for group in optimiser.param_groups:
        group["lr"] = choose_rate(step)
    seen.flows.clear()
    is_small = step < SMALL_STEPS
    network.net.scale_list = list(  # type: ignore[assignment]
        SMALL_SCALES if is_small else network.scale_list
    )
    with skip_equal_resizes():
        frame = network(in0, in1, plane)
    weight = fall(HIGHEST_FLOW_WEIGHT, LOWEST_FLOW_WEIGHT, step)
    weight *= SMALLER if is_small else 1
    psnr_weight = PSNR_WEIGHT - fall(PSNR_WEIGHT, 0.0, step)
    loss = measure_loss(frame, seen.flows, truth, flow, weight, psnr_weight)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.net.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach()), float((frame - truth).detach().square().mean())


def _save(path: Path, network: StockNetwork, optimiser: torch.optim.Optimizer, step: int) -> None:
    beside = path.with_name("new-" + path.name)
    torch.save(
        {"net": network.net.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, beside
    )
    beside.replace(path)


def write_checkpoint(folder: Path, weights: Path) -> None:
    """Write what was trained as upstream does: half floats, keys that begin with `module.`."""
    kept = torch.load(folder / "training.pt", weights_only=True)
    state = {f"module.{name}": one.half().contiguous() for name, one in kept["net"].items()}
    content = io.BytesIO()
    torch.save(state, content)
    write_file_atomically(weights, content.getvalue(), force=True)
    print(f"{weights}: {weights.stat().st_size / 1e6:.1f} MB, step {kept['step']} of {STEPS}")


def write_frames(folder: Path) -> None:
    """Draw the pictures that `surgery demo` starts from, and the one that it should arrive at."""
    scene = demo_data.make_demo_scene()
    for name, time_ in zip((*FRAMES, TRUTH), (0.0, 1.0, TIMESTEP), strict=True):
        write_png(folder / name, scene.draw_frame(time_), force=True)


@dataclasses.dataclass
class Score:
    """Mean PSNR of one kind of scene, in dB."""

    nearest: float
    averaging: float
    model: float

    @property
    def lead(self) -> float:
        """How far the model is ahead of the better of the other two."""
        return self.model - max(self.nearest, self.averaging)


def measure_scores(weights: Path) -> dict[str, Score]:
    """Score a checkpoint on the fixed test set."""
    network = build_network(find_donor(DONOR))
    load_into(network, read_checkpoint(weights))
    found: dict[str, list[list[float]]] = {}
    for kind, example in demo_data.make_test_set():
        found.setdefault(kind, []).append(list(_list_ratings(network, example)))
    return {kind: Score(*np.mean(rows, axis=0).tolist()) for kind, rows in found.items()}


def _list_ratings(network: StockNetwork, example: demo_data.Example) -> Iterator[float]:
    t = example.timestep
    in0, in1 = (torch.from_numpy(frame)[None] for frame in (example.in0, example.in1))
    with torch.no_grad():
        frame = network(in0, in1, torch.full_like(in0[:, :1], t))[0].clamp(0, 1).numpy()
    nearest = example.in0 if t <= 0.5 else example.in1
    for candidate in (nearest, (1 - t) * example.in0 + t * example.in1, frame):
        yield -10 * math.log10(float(np.square(candidate - example.truth).mean()))


def score(weights: Path, report: Path | None, least_lead: float) -> int:
    """Print the scores; 1 when the model leads by less than was asked."""
    scores = measure_scores(weights)
    table = Table(title=f"{weights.name}: PSNR in dB on the test set")
    for title in ("scenes", "nearest frame", "averaging", "model", "lead"):
        table.add_column(title, justify="left" if title == "scenes" else "right")
    for kind, one in scores.items():
        numbers = (one.nearest, one.averaging, one.model, one.lead)
        table.add_row(kind, *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    if report:
        figures = {kind: dataclasses.asdict(one) for kind, one in scores.items()}
        write_file_atomically(report, json.dumps(figures, indent=2) + "\n", force=True)
    return 0 if min(one.lead for one in scores.values()) >= least_lead else 1


def main() -> int:
    """Train, write, score or draw, as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("out/train"), help="what is kept")
    parser.add_argument("--weights", type=Path, default=DATA / WEIGHTS)
    parser.add_argument("--minutes", type=float, default=120.0, help="stop after so many")
    parser.add_argument("--write", action="store_true", help="write the checkpoint only")
    parser.add_argument("--score", action="store_true", help="score the checkpoint only")
    parser.add_argument("--frames", action="store_true", help="draw the demo's pictures only")
    parser.add_argument("--json", type=Path, help="write the scores to this file, too")
    parser.add_argument("--least-lead", type=float, default=6.0, metavar="DB")
    arguments = parser.parse_args()
    if arguments.score:
        return score(arguments.weights, arguments.json, arguments.least_lead)
    if arguments.frames:
        write_frames(DATA)
        return 0
    if not arguments.write and not train(arguments.folder, arguments.minutes):
        print("not finished; the same command goes on from here")
        return 0
    write_checkpoint(arguments.folder, arguments.weights)
    return 0


if __name__ == "__main__":
    sys.exit(main())
