"""Three networks in plain ncnn, chained as rife-ncnn-vulkan does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.engines.ncnn_networks import NcnnNetworksEngine, chain_networks
from surgery.errors import EngineError
from surgery.proof.compare import compare
from surgery.proof.inputs import make_samples

Convert = Callable[[str], tuple[Path, object]]


def test_a_folder_does_not_run_as_the_other_kind(convert_networks: Convert) -> None:
    folder, _ = convert_networks("v2")
    samples = make_samples([(64, 64)], [0.5], 1)
    (right,) = NcnnNetworksEngine(folder, "v2", 32).run(samples)
    with pytest.raises(EngineError, match=r"a flow of shape \(4, "):
        NcnnNetworksEngine(folder, "v1", 32).run(samples)
    assert right.std() > 0.01, "a constant frame would prove nothing"


def test_the_blobs_of_every_network_are_measured(convert_networks: Convert) -> None:
    engine = NcnnNetworksEngine(convert_networks("v1")[0], "v1", 32)
    engine.run(make_samples([(64, 64)], [0.5], 1))
    measured = {name.split("/", 1)[0] for name in engine.largest}
    assert measured == {"flownet", "contextnet", "fusionnet"}
    assert 1 < engine.largest["flownet/flow"] < 100


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no flownet\.param"):
        NcnnNetworksEngine(tmp_path, "v2", 32)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_each_frame_meets_its_own_flow(kind: str) -> None:
    """On networks that give back what they are fed."""
    in0, in1 = np.full((2, 1, 3, 4, 4), 0.25, np.float32)
    flow = np.arange(2 if kind == "v1" else 4, dtype=np.float32).reshape(1, -1, 1, 1)
    asked = []

    def run(network: str, feed: object, blobs: object) -> dict[str, np.ndarray]:
        assert isinstance(feed, dict)
        asked.append((network, {name: array.copy() for name, array in feed.items()}))
        return dict.fromkeys(["flow", "f1", "f2", "f3", "f4", "output"], flow)

    frame = chain_networks(run, kind, in0, in1)
    assert compare(flow, frame).max_abs == 0
    assert [network for network, _ in asked] == ["flownet", "contextnet", "contextnet", "fusionnet"]
    fed = [{name: array.reshape(-1).tolist() for name, array in feed.items()} for _, feed in asked]
    if kind == "v1":
        assert (fed[1]["flow.0"], fed[2]["flow.1"]) == ([0, 1], [0, 1])
    else:
        assert (fed[1]["flow.0"], fed[2]["flow.0"]) == ([0, 1], [2, 3])
    assert set(fed[3]) == {"img0", "img1", "flow", *map(str, range(3, 11))}


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_both_calls_of_contextnet_are_measured(kind: str, convert_networks: Convert) -> None:
    """What is large in one frame alone is found, whichever of the two it is."""
    (sample,) = make_samples([(64, 64)], [0.5], 1)
    dark = np.zeros_like(sample.in0)
    reached = []
    for in0, in1 in ((sample.in0, dark), (dark, sample.in0)):
        engine = NcnnNetworksEngine(convert_networks(kind)[0], kind, 32)
        engine.run([dataclasses.replace(sample, in0=in0, in1=in1)])
        reached.append(engine.largest["contextnet/input.1"])
    assert reached == [float(sample.in0.max())] * 2
