from __future__ import annotations

import pytest

from surgery.formats.ncnn_layers import Convolution, ParamValue
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.targets.check_tta import TtaKind, describe_tta, judge_tta


def make_graph(blobs: dict[str, int]) -> NcnnGraph:
    """Convolutions that each make one blob of so many channels."""
    parts = [f"x{index}" for index in range(len(blobs))]
    layers = [
        Layer("Input", "in0", [], ["in0"]),
        Layer("Split", "split", ["in0"], parts),
    ]
    for part, (blob, channels) in zip(parts, blobs.items(), strict=True):
        params = {int(Convolution.NUM_OUTPUT): channels, int(Convolution.KERNEL_W): 3}
        params |= {int(Convolution.PAD_LEFT): 1, int(Convolution.WEIGHT_COUNT): channels * 27}
        layers.append(Layer("Convolution", blob, [part], [blob], dict(params)))
    return NcnnGraph(layers)


def name(count: int, channels: int = 5) -> dict[str, int]:
    return {f"flow{index}": channels for index in range(count)}


@pytest.mark.parametrize(
    ("blobs", "kind", "sentence"),
    [
        (name(4), TtaKind.FLOWS, "averages its flows"),
        (name(4, 13), TtaKind.FLOWS, "averages its flows"),
        (
            name(5),
            TtaKind.FLOWS,
            "averages the flows of its first 4 blocks; no runtime averages the fifth",
        ),
        (name(4) | {"raw": 5}, TtaKind.FLOWS, "averages the flows of its first 4 blocks"),
        ({"raw": 5}, TtaKind.UNNAMED, "averages only its output"),
        (name(3), TtaKind.FLOWS, "averages its flows"),
        (
            name(2) | {"raw2": 5, "raw3": 5},
            TtaKind.UNNAMED,
            "averages some of its flows: no blob is called flow2, flow3",
        ),
        (name(4, 8), TtaKind.WRONG, "wrong on Vulkan: flow0 has 8 channels"),
        (name(4, 4), TtaKind.WRONG, "wrong on Vulkan: flow0 has 4 channels"),
    ],
)
def test_what_tta_does_is_told_from_names_and_channels(
    blobs: dict[str, int], kind: TtaKind, sentence: str
) -> None:
    found = judge_tta(make_graph(blobs))
    assert found.kind is kind
    assert found.sentence.startswith(sentence)


def test_what_an_activation_reads_is_no_raw_output() -> None:
    graph = make_graph(name(3) | {"inside": 90})
    graph.layers.append(Layer("Split", "copies", ["inside"], ["copy0", "copy1"]))
    graph.layers.append(Layer("ReLU", "relu", ["copy0"], ["relu"]))
    assert describe_tta(graph) == "averages its flows"


def test_flows_in_another_order_than_that_of_their_blocks_are_named() -> None:
    graph = make_graph({"flow0": 5})
    params: dict[int, ParamValue] = {Convolution.NUM_OUTPUT: 5, Convolution.KERNEL_W: 3}
    params |= {Convolution.PAD_LEFT: 1, Convolution.WEIGHT_COUNT: 5 * 5 * 9}
    graph.layers.append(Layer("Convolution", "next", ["flow0"], ["flow1"], params))
    assert describe_tta(graph) == "averages its flows"
    for layer in graph.layers:
        swap = {"flow0": "flow1", "flow1": "flow0"}
        layer.inputs = [swap.get(blob, blob) for blob in layer.inputs]
        layer.outputs = [swap.get(blob, blob) for blob in layer.outputs]
    found = judge_tta(graph)
    assert found.kind is TtaKind.WRONG
    assert found.sentence.startswith("wrong: flow0 is made of flow1")


def test_a_graph_whose_shapes_do_not_fit_is_unknown() -> None:
    graph = make_graph(name(4))
    graph.layers[-1].inputs = ["nowhere"]
    found = judge_tta(graph)
    assert found.kind is TtaKind.UNKNOWN
    assert found.sentence.startswith("unknown: ")
