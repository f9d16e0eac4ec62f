"""Split insertion: one reader for every blob, names kept, nothing to do twice."""

from __future__ import annotations

import copy

from surgery.formats.ncnn_param import Layer, NcnnGraph, check
from surgery.formats.ncnn_splits import insert_splits, restore_splits


def _relu(name: str, source: str) -> Layer:
    return Layer("ReLU", name, [source], [name])


def test_a_blob_with_several_readers_gets_a_split_behind_its_producer() -> None:
    graph = NcnnGraph(
        [Layer("Input", "in0", [], ["flow0"]), _relu("a", "flow0"), _relu("b", "flow0")]
    )
    assert insert_splits(graph) == 1
    assert graph.layers == [
        Layer("Input", "in0", [], ["flow0"]),
        Layer("Split", "splitncnn_0", ["flow0"], ["flow0_splitncnn_0", "flow0_splitncnn_1"]),
        _relu("a", "flow0_splitncnn_0"),
        _relu("b", "flow0_splitncnn_1"),
    ]
    assert check(graph) == []


def test_a_layer_that_reads_a_blob_twice_gets_two_copies() -> None:
    graph = NcnnGraph(
        [Layer("Input", "in0", [], ["x"]), Layer("BinaryOp", "square", ["x", "x"], ["y"], {0: 2})]
    )
    assert insert_splits(graph) == 1
    assert graph.layers[2].inputs == ["x_splitncnn_0", "x_splitncnn_1"]
    assert check(graph) == []


def test_a_second_run_inserts_nothing() -> None:
    graph = NcnnGraph(
        [Layer("Input", "in0", [], ["x"]), *(_relu(name, "x") for name in ("a", "b", "c"))]
    )
    assert insert_splits(graph) == 1
    once = copy.deepcopy(graph)
    assert insert_splits(graph) == 0
    assert graph == once


def test_a_split_whose_line_is_gone_is_put_back_under_the_names_of_its_copies() -> None:
    graph = NcnnGraph(
        [Layer("Input", "in0", [], ["x"]), *(_relu(name, "x") for name in ("a", "b", "c"))]
    )
    insert_splits(graph)
    whole = copy.deepcopy(graph)
    assert restore_splits(graph) == []
    (split,) = (layer for layer in graph.layers if layer.type == "Split")
    graph.layers.remove(split)
    assert restore_splits(graph) == [split]
    assert graph == whole


def test_a_blob_that_names_no_copy_of_another_gets_no_split() -> None:
    layers = [Layer("Input", "in0", [], ["x"])]
    for name, source in (("a", "y_splitncnn_0"), ("b", "x_splitncnn_z"), ("c", "x_1")):
        layers.append(_relu(name, source))
    graph = NcnnGraph(layers)
    assert restore_splits(graph) == []
    assert graph.layers == layers


def test_a_split_with_another_reader_beside_it_is_split_again() -> None:
    graph = NcnnGraph(
        [
            Layer("Input", "in0", [], ["x"]),
            Layer("Split", "splitncnn_0", ["x"], ["x_splitncnn_0", "x_splitncnn_1"]),
            _relu("a", "x_splitncnn_0"),
            _relu("b", "x_splitncnn_1"),
            _relu("c", "x"),
        ]
    )
    assert insert_splits(graph) == 1
    assert check(graph) == []
    # The names that were taken are not given again.
    assert graph.layers[1] == Layer(
        "Split", "splitncnn_1", ["x"], ["x_splitncnn_2", "x_splitncnn_3"]
    )


def test_names_stay_within_what_ncnn_reads() -> None:
    long = "b" * 255
    graph = NcnnGraph([Layer("Input", "in0", [], [long]), _relu("a", long), _relu("c", long)])
    assert insert_splits(graph) == 1
    assert check(graph) == []
    assert graph.layers[1].outputs == ["blob_splitncnn_0", "blob_splitncnn_1"]


def test_blobs_with_one_reader_or_none_are_left_alone() -> None:
    graph = NcnnGraph([Layer("Input", "in0", [], ["x"]), _relu("a", "x")])
    before = copy.deepcopy(graph)
    assert insert_splits(graph) == 0
    assert graph == before
