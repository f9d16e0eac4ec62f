from __future__ import annotations

import pytest
import torch

from surgery.sources.round_weights import round_weights


def _make_state(groups: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return {
        "block0.conv0.0.0.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "block0.conv0.0.0.bias": torch.randn(8, generator=generator),
        "block0.convblock.0.conv.weight": torch.randn(8, 8 // groups, 3, 3, generator=generator),
        "block0.convblock.0.conv.bias": torch.randn(8, generator=generator),
        "block0.convblock.0.beta": torch.rand(1, 8, 1, 1, generator=generator) + 0.5,
    }


def _is_fp16(tensor: torch.Tensor) -> bool:
    return torch.equal(tensor, tensor.half().float())


def test_plain_weights_are_rounded_and_all_else_stays() -> None:
    state = _make_state()
    rounded = round_weights(state)
    weight = "block0.conv0.0.0.weight"
    assert not _is_fp16(state[weight])
    assert torch.equal(rounded[weight], state[weight].half().float())
    for name in state:
        if not name.endswith("weight"):
            assert torch.equal(rounded[name], state[name])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("fast", [False, True])
def test_a_residual_weight_is_rounded_as_it_is_once_folded(groups: int, fast: bool) -> None:
    state = _make_state(groups)
    name = "block0.convblock.0.conv.weight"
    beta = state["block0.convblock.0.beta"].reshape(-1, 1, 1, 1)
    added = torch.zeros_like(state[name])
    if fast:
        for channel in range(8):
            added[channel, channel % (8 // groups), 1, 1] = 1.0
    folded = round_weights(state, fast=fast)[name] * beta + added
    wanted = (state[name] * beta + added).half().float()
    # Dividing by beta and multiplying again may lose the last bit of a float.
    assert torch.allclose(folded, wanted, rtol=3e-7, atol=3e-7)
    assert not torch.allclose(state[name] * beta + added, wanted, rtol=3e-7, atol=3e-7)


def test_weights_beside_betas_that_stay_are_rounded_as_they_are() -> None:
    state = _make_state()
    name = "block0.convblock.0.conv.weight"
    assert torch.equal(round_weights(state, keep_betas=True)[name], state[name].half().float())


def test_a_silenced_channel_keeps_its_weight() -> None:
    state = _make_state()
    state["block0.convblock.0.beta"][0, 3] = 0.0
    name = "block0.convblock.0.conv.weight"
    rounded = round_weights(state)[name]
    assert torch.equal(rounded[3], state[name][3])
    assert torch.isfinite(rounded).all()


def test_the_given_weights_stay_as_they_are() -> None:
    state = _make_state()
    before = {name: tensor.clone() for name, tensor in state.items()}
    round_weights(state)
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_a_weight_before_a_normalisation_is_rounded_as_it_is_once_folded() -> None:
    generator = torch.Generator().manual_seed(7)
    norm = torch.nn.BatchNorm2d(8)
    state = {"conv.0.weight": torch.randn(8, 4, 3, 3, generator=generator)}
    for name in ("weight", "bias", "running_mean", "running_var"):
        state[f"conv.1.{name}"] = torch.rand(8, generator=generator) + 0.5
    rounded = round_weights(state)
    variance = state["conv.1.running_var"] + norm.eps
    factors = (state["conv.1.weight"] / variance.sqrt()).reshape(-1, 1, 1, 1)
    folded = rounded["conv.0.weight"] * factors
    wanted = (state["conv.0.weight"] * factors).half().float()
    assert torch.allclose(folded, wanted, rtol=1e-6, atol=0)
    assert not torch.allclose(state["conv.0.weight"] * factors, wanted, rtol=1e-6, atol=0)
    for name in state:
        if name != "conv.0.weight":
            assert torch.equal(rounded[name], state[name])


def test_a_channel_that_a_normalisation_silences_keeps_its_weight() -> None:
    state = {"conv.0.weight": torch.full((2, 4, 3, 3), 0.1)}
    for name in ("weight", "bias", "running_mean", "running_var"):
        state[f"conv.1.{name}"] = torch.ones(2)
    state["conv.1.weight"][0] = 0
    rounded = round_weights(state)["conv.0.weight"]
    assert torch.equal(rounded[0], state["conv.0.weight"][0])
    assert rounded.isfinite().all()
    assert not torch.equal(rounded[1], state["conv.0.weight"][1])
