from __future__ import annotations

import pytest

from surgery.formats.ncnn_layers import Activation, Clip, Convolution, ParamValue, ReLU
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.targets.legalise.fuse_activations import CONVOLUTIONS, fuse_activations

TYPE, VALUES = int(Convolution.ACTIVATION_TYPE), int(Convolution.ACTIVATION_PARAMS)


def _make_graph(
    activation: str, params: dict[int, ParamValue] | None = None, maker: str = "Convolution"
) -> NcnnGraph:
    return NcnnGraph(
        [
            Layer("Input", "in0", [], ["in0"]),
            Layer(maker, "conv", ["in0"], ["conv"], {int(Convolution.NUM_OUTPUT): 3}),
            Layer(activation, "act", ["conv"], ["act"], dict(params or {})),
            Layer("Interp", "resize", ["act"], ["out0"]),
        ]
    )


@pytest.mark.parametrize(
    ("activation", "params", "expected"),
    [
        ("ReLU", {}, {TYPE: Activation.RELU}),
        (
            "ReLU",
            {int(ReLU.SLOPE): 0.2},
            {TYPE: Activation.LEAKY_RELU, VALUES: [0.2]},
        ),
        ("Sigmoid", {}, {TYPE: Activation.SIGMOID}),
    ],
)
@pytest.mark.parametrize("maker", CONVOLUTIONS)
def test_an_activation_goes_into_its_convolution(
    maker: str,
    activation: str,
    params: dict[int, ParamValue],
    expected: dict[int, ParamValue],
) -> None:
    graph = _make_graph(activation, params, maker)
    assert fuse_activations(graph) == 1
    assert [layer.type for layer in graph.layers] == ["Input", maker, "Interp"]
    convolution = graph.layers[1]
    assert convolution.params == {int(Convolution.NUM_OUTPUT): 3, **expected}
    assert convolution.outputs == ["act"]
    assert fuse_activations(graph) == 0


def test_an_activation_of_something_else_stays() -> None:
    graph = _make_graph("ReLU", maker="Interp")
    assert fuse_activations(graph) == 0
    assert len(graph.layers) == 4


def test_a_layer_that_no_convolution_can_apply_stays() -> None:
    graph = _make_graph("Clip", {int(Clip.MIN): 0.0})
    assert fuse_activations(graph) == 0


def test_a_convolution_that_others_read_too_keeps_its_output() -> None:
    graph = _make_graph("ReLU")
    graph.layers.append(Layer("Interp", "other", ["conv"], ["other"]))
    assert fuse_activations(graph) == 0
    assert graph.layers[1].outputs == ["conv"]


def test_a_convolution_has_one_activation_alone() -> None:
    graph = _make_graph("ReLU")
    graph.layers.insert(3, Layer("Sigmoid", "second", ["act"], ["second"]))
    graph.layers[4].inputs = ["second"]
    assert fuse_activations(graph) == 1
    assert [layer.type for layer in graph.layers] == ["Input", "Convolution", "Sigmoid", "Interp"]
    assert graph.layers[1].params[TYPE] == Activation.RELU
    assert graph.layers[2].inputs == ["act"]
