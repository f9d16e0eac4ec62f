"""`tools/train_demo.py`: examples stay consistent when they are varied, and training goes on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from surgery.engines.frames import read_png
from surgery.proof.inputs import LEVELS
from surgery.sources.checkpoint import load_into, read_checkpoint
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import build_network

pytest.importorskip("skimage")

# In dB, over the better of nearest frame and averaging.
LEAST_LEAD = 6.0
TOOLS = Path(__file__).parents[2] / "tools"
# In dB: figures are written to the hundredth, and processors sum in other orders.
WRITTEN = 0.02
# Sums in another order.
SAME = 1e-6
# On values of 0..1, of positions that are computed in two ways.
BILINEAR = 1e-5


@pytest.fixture(scope="module")
def trainer() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import demo_data
        import train_demo

        patch.setattr(train_demo, "POOL", 3)
        patch.setattr(train_demo, "BATCH", 2)
        patch.setattr(train_demo, "STEPS", 2)
        patch.setattr(train_demo, "FALL", 1)
        patch.setattr(train_demo, "SAVE_EVERY", 1)
        patch.setattr(demo_data, "NOISE_PICTURES", 1)
        yield train_demo


@pytest.fixture(scope="module")
def folder(trainer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained to the end, in two goes."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "STEPS", 1)
        assert trainer.train(folder, minutes=10)
    assert not trainer.train(folder, minutes=0)
    assert trainer.train(folder, minutes=10)
    return folder


def _follow(frame: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Sample a batch of frames along flows, to the nearest pixel."""
    height, width = frame.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    columns = (x + flow[:, 0]).round().long().clamp(0, width - 1)
    rows = (y + flow[:, 1]).round().long().clamp(0, height - 1)
    index = (rows * width + columns).flatten(1)[:, None].expand(-1, 3, -1)
    return frame.flatten(2).gather(2, index).view_as(frame)


def test_flows_lead_to_both_frames_however_examples_are_turned(trainer: Any, folder: Path) -> None:
    pool = trainer.make_pool(folder)
    for step in range(12):
        in0, in1, _, truth, flow = trainer.draw_batch(pool, step)
        followed = [_follow(in0, flow[:, :2]), _follow(in1, flow[:, 2:])]
        error = sum(float((frame - truth).abs().mean()) for frame in followed)
        exchanged = [_follow(in0, flow[:, 2:]), _follow(in1, flow[:, :2])]
        assert error < 0.7 * sum(float((frame - truth).abs().mean()) for frame in exchanged)


def test_the_batch_of_a_step_is_always_the_same(trainer: Any, folder: Path) -> None:
    pool = trainer.make_pool(folder)
    first, again, other = (trainer.draw_batch(pool, step) for step in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.equal(first[0], other[0])


def test_true_frames_and_flows_cost_less_than_others(trainer: Any) -> None:
    truth, flow = torch.rand(1, 3, 32, 32), torch.rand(1, 4, 32, 32)
    right = [flow[:, :2], flow[:, 2:]] * trainer.FLOW_STAGES
    least = trainer.measure_loss(truth, right, truth, flow, 0.05)
    assert least < trainer.measure_loss(truth * 0.9, right, truth, flow, 0.05)
    for stage in range(len(right)):
        wrong = [one + (index == stage) for index, one in enumerate(right)]
        assert least < trainer.measure_loss(truth, wrong, truth, flow, 0.05)


def test_the_warp_agrees_with_ours(trainer: Any) -> None:
    from surgery.sources.torch_warp import call_warp

    image, flow = torch.rand(2, 4, 16, 24), 6 * torch.randn(2, 2, 16, 24)
    torch.testing.assert_close(
        trainer.SeenFlows().warp(image, flow), call_warp(image, flow), rtol=0, atol=BILINEAR
    )


def test_resizes_by_one_are_all_that_is_skipped(trainer: Any) -> None:
    seen = trainer.SeenFlows()
    network = trainer.build_trainee(seen)
    inputs = [torch.rand(1, 3, 64, 64) for _ in range(2)] + [torch.full((1, 1, 64, 64), 0.4)]
    with torch.no_grad():
        whole = network(*inputs)
        with trainer.skip_equal_resizes():
            skipped = network(*inputs)
    torch.testing.assert_close(skipped, whole, rtol=0, atol=SAME)
    assert len(seen.flows) == 2 * 2 * trainer.FLOW_STAGES


def test_blocks_begin_with_what_tells_motion(trainer: Any) -> None:
    net = trainer.build_trainee(trainer.SeenFlows()).net
    frame = torch.rand(1, 3, 32, 32)
    # Shifted by a pixel to either side; the rest of what a block takes says nothing.
    pair = [torch.roll(frame, (0, shift), (2, 3)) for shift in (1, -1)]
    rest = torch.zeros(1, net.block0.conv0[0][0].in_channels - 6, 32, 32)
    with torch.no_grad():
        costs = net.block0.conv0(torch.cat([*pair, rest], 1))[0, :9, 2:-2, 2:-2].mean((1, 2))
    # The displacements are in rows; this one is (0, -1) or (0, 1) and no other.
    assert int(costs.argmin()) in (3, 5)
    assert costs.sort().values[0] < 0.1 * costs.sort().values[1]


def test_the_rate_rises_stays_and_falls(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "STEPS", 1000)
    monkeypatch.setattr(trainer, "FALL", 300)
    rates = [trainer.choose_rate(step) for step in (0, trainer.RISE, 700, 850, 1000)]
    assert rates[0] < rates[1] == rates[2] == trainer.HIGHEST_RATE
    assert rates[1] > rates[3] > rates[4]
    assert rates[4] == pytest.approx(trainer.LOWEST_RATE, rel=1e-6)


def test_training_that_was_interrupted_ends_as_one_that_was_not(
    trainer: Any, folder: Path, tmp_path: Path
) -> None:
    assert trainer.train(tmp_path, minutes=10)
    kept = [torch.load(one / "training.pt", weights_only=True) for one in (folder, tmp_path)]
    assert [one["step"] for one in kept] == [2, 2]
    for name, tensor in kept[0]["net"].items():
        torch.testing.assert_close(tensor, kept[1]["net"][name], rtol=0, atol=SAME)


def test_the_checkpoint_is_in_the_form_of_upstream(
    trainer: Any, folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "trained.pkl"
    trainer.write_checkpoint(folder, weights)
    state = torch.load(weights, weights_only=True)
    assert all(name.startswith("module.") for name in state)
    assert {tensor.dtype for tensor in state.values()} == {torch.float16}
    assert weights.stat().st_size < 6_000_000
    load_into(build_network(find_donor(trainer.DONOR)), read_checkpoint(weights))


def test_the_shipped_model_scores_what_its_page_says(trainer: Any) -> None:
    weights = trainer.DATA / trainer.WEIGHTS
    assert weights.stat().st_size < 6_000_000
    scores = trainer.measure_scores(weights)
    page = (trainer.DATA / "README.md").read_text(encoding="utf-8")
    for kind, score in scores.items():
        (row,) = re.findall(rf"^\| {kind} \|(.*)\|$", page, re.MULTILINE)
        figures = [score.nearest, score.averaging, score.model, score.lead]
        assert figures == pytest.approx([float(one) for one in row.split("|")], abs=WRITTEN)
        assert score.lead > LEAST_LEAD
    assert set(scores) == {"noise", "photographs"}


def test_the_shipped_pictures_are_what_the_tool_draws(trainer: Any, tmp_path: Path) -> None:
    trainer.write_frames(tmp_path)
    for name in (*trainer.FRAMES, trainer.TRUTH):
        drawn, shipped = (read_png(folder / name) for folder in (tmp_path, trainer.DATA))
        np.testing.assert_allclose(drawn, shipped, rtol=0, atol=1.01 / LEVELS)


def test_an_untrained_model_scores_less_than_averaging_and_fails(
    trainer: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "trained.pkl"
    trainer.write_checkpoint(folder, weights)
    frame = np.random.default_rng(0).random((3, 64, 64), np.float32)
    flat = np.zeros((4, 64, 64), np.float32)
    example = trainer.demo_data.Example(frame, frame * 0.5, 0.5, frame * 0.7, flat)
    monkeypatch.setattr(trainer.demo_data, "make_test_set", lambda: iter([("made", example)]))
    scores = trainer.measure_scores(weights)
    assert scores["made"].averaging > scores["made"].nearest
    assert scores["made"].lead < 0
    assert trainer.score(weights, tmp_path / "scores.json", least_lead=6.0) == 1
    assert trainer.score(weights, None, least_lead=-1000.0) == 0
