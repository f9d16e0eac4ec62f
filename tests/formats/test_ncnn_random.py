"""Random weights: complete, repeatable, and neither exploding nor vanishing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from surgery.errors import FormatError
from surgery.formats.ncnn_bin import list_weights, read_weights, write_weights
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.formats.ncnn_random import fill_random_weights


def _make_graph() -> NcnnGraph:
    return NcnnGraph(
        [
            Layer("Input", "in0", [], ["in0"]),
            Layer("Convolution", "conv", ["in0"], ["1"], {0: 8, 1: 3, 5: 1, 6: 216}),
            Layer("PReLU", "act", ["1"], ["2"], {0: 8}),
            Layer("MemoryData", "beta", [], ["3"], {0: 1, 1: 1, 2: 8}),
            Layer("BinaryOp", "mul", ["2", "3"], ["4"], {0: 2}),
            Layer("Deconvolution", "up", ["4"], ["5"], {0: 5, 1: 4, 3: 2, 5: 1, 6: 640}),
        ]
    )


def test_every_array_is_filled_and_can_be_written() -> None:
    graph = _make_graph()
    fill_random_weights(graph, seed=1)
    for layer in graph.layers:
        assert set(layer.weights) == {array.name for array in list_weights(layer)}
        for array in list_weights(layer):
            values = layer.weights[array.name]
            assert values.shape == array.shape
            assert values.dtype == np.float32
            assert np.unique(values).size > values.size // 2
    assert read_weights(_make_graph(), write_weights(graph)).trailing_bytes == 0


def test_the_seed_decides() -> None:
    contents = []
    for seed in (1, 1, 2):
        graph = _make_graph()
        fill_random_weights(graph, seed)
        contents.append(write_weights(graph))
    assert contents[0] == contents[1] != contents[2]


def test_kernels_keep_the_variance_of_what_passes() -> None:
    """A unit-variance input gives each output value a variance near 1."""
    graph = NcnnGraph(
        [
            Layer("Input", "in0", [], ["in0"]),
            Layer("Convolution", "conv", ["in0"], ["1"], {0: 64, 1: 3, 6: 64 * 64 * 9}),
            Layer("Deconvolution", "up", ["1"], ["2"], {0: 64, 1: 4, 3: 2, 6: 64 * 64 * 16}),
        ]
    )
    fill_random_weights(graph, seed=3)
    convolution, deconvolution = (layer.weights["weight"] for layer in graph.layers[1:])
    # Of a 4x4 kernel with stride 2, four taps reach each output pixel.
    gains = [convolution.var() * 64 * 9, deconvolution.var() * 64 * 4]
    assert gains == pytest.approx([1, 1], rel=0.03)  # 36,864 and 65,536 draws


def test_constants_and_slopes_stay_in_the_range_of_trained_ones() -> None:
    graph = _make_graph()
    fill_random_weights(graph, seed=1)
    slope, beta = graph.layers[2].weights["slope"], graph.layers[3].weights["data"]
    assert all(low < high for low, high in pairwise((0.05, slope.min(), slope.max(), 0.35)))
    assert all(low < high for low, high in pairwise((0.45, beta.min(), beta.max(), 1.25)))


def test_a_graph_that_asks_for_too_much_is_refused() -> None:
    graph = NcnnGraph([Layer("MemoryData", "much", [], ["x"], {0: 2**31 - 1, 1: 2**31 - 1})])
    with pytest.raises(FormatError, match="the graph asks for 18446744056529682436 bytes"):
        fill_random_weights(graph, seed=0)


def test_an_unknown_layer_type_is_refused() -> None:
    graph = NcnnGraph([Layer("Own.Layer", "it", [], ["x"])])
    with pytest.raises(
        FormatError, match=r"Own\.Layer it: a layer type whose weights are not known"
    ):
        fill_random_weights(graph, seed=0)
