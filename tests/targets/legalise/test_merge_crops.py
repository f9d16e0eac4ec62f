from __future__ import annotations

import pytest

from surgery.formats.ncnn_layers import Crop, Slice
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.targets.legalise.merge_crops import merge_crops


def _crop(name: str, start: int, end: int, axis: int = 0) -> Layer:
    params = {int(Crop.STARTS): [start], int(Crop.ENDS): [end], int(Crop.AXES): [axis]}
    return Layer("Crop", name, ["x"], [name], dict(params))


def _make_graph(*crops: Layer) -> NcnnGraph:
    readers = [
        Layer("Interp", f"{crop.name}.reader", [crop.name], [f"{crop.name}.r"]) for crop in crops
    ]
    return NcnnGraph([Layer("Input", "x", [], ["x"]), *crops, *readers])


def test_crops_that_share_out_a_blob_become_a_slice_in_order() -> None:
    graph = _make_graph(_crop("y", 2, 4), _crop("x0", 0, 2), _crop("mask", 4, 5))
    assert merge_crops(graph) == 2
    merged = graph.layers[1]
    assert (merged.type, merged.inputs, merged.outputs) == ("Slice", ["x"], ["x0", "y", "mask"])
    assert merged.params == {int(Slice.SLICES): [2, 2, 1]}
    assert [layer.type for layer in graph.layers].count("Crop") == 0
    assert merge_crops(graph) == 0


@pytest.mark.parametrize(
    "crops",
    [
        pytest.param([(0, 2, 0)], id="one alone"),
        pytest.param([(0, 2, 0), (3, 5, 0)], id="a gap"),
        pytest.param([(0, 3, 0), (2, 5, 0)], id="an overlap"),
        pytest.param([(1, 2, 0), (2, 5, 0)], id="not from the first channel"),
        pytest.param([(0, 2, 1), (2, 4, 1)], id="of rows"),
    ],
)
def test_other_crops_stay(crops: list[tuple[int, int, int]]) -> None:
    graph = _make_graph(*(_crop(f"c{start}", start, end, axis) for start, end, axis in crops))
    before = [layer.type for layer in graph.layers]
    assert merge_crops(graph) == 0
    assert [layer.type for layer in graph.layers] == before


def test_crops_of_a_blob_that_others_read_stay() -> None:
    graph = _make_graph(_crop("a", 0, 2), _crop("b", 2, 4))
    graph.layers.append(Layer("Interp", "whole", ["x"], ["whole"]))
    assert merge_crops(graph) == 0


def test_crops_of_other_blobs_are_left_to_themselves() -> None:
    graph = _make_graph(_crop("a", 0, 2), _crop("b", 2, 4))
    other = _crop("c", 0, 2)
    other.inputs = ["a"]
    graph.layers.insert(3, other)
    graph.layers = [layer for layer in graph.layers if layer.name != "a.reader"]
    assert merge_crops(graph) == 1
    assert [layer.type for layer in graph.layers].count("Crop") == 1
