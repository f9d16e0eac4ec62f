"""Costs are counted by the rule that the module states, in the order in which ncnn runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from surgery.errors import FormatError
from surgery.formats.ncnn_param import NcnnGraph, parse
from surgery.formats.ncnn_shapes import infer_shapes
from surgery.proof.traffic import (
    count_multiply_adds,
    count_traffic,
    find_peak,
    list_running_layers,
    measure_cost,
    measure_networks_cost,
)

WIDTH, HEIGHT = 64, 32
# Bytes of one plane of the frame, and of the three inputs.
PLANE = 4 * WIDTH * HEIGHT
INPUTS = (3 + 3 + 1) * PLANE


def build_graph(*lines: str) -> NcnnGraph:
    """The three inputs and these layers."""
    inputs = [f"Input {name} 0 1 {name}" for name in ("in0", "in1", "in2")]
    lines = (*inputs, *lines)
    return parse("\n".join(["7767517", f"{len(lines)} 99", *lines]) + "\n")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["BinaryOp add 2 1 in0 in1 x 0=0"], 9 * PLANE),
        (["BinaryOp add 2 1 in0 in2 x 0=2"], 7 * PLANE),
        (["ReLU relu 1 1 in0 x"], 6 * PLANE),
        (["Split copy 1 2 in0 x y"], 0),
        (["Concat join 2 1 in0 in1 x 0=0"], 12 * PLANE),
        (["Slice cut 1 2 in0 x y -23300=2,1,2 1=0"], 6 * PLANE),
        (["Crop cut 1 1 in0 x -23309=1,0 -23310=1,2 -23311=1,0"], 4 * PLANE),
        (["Interp up 1 1 in0 x 0=2 1=2.0 2=2.0"], 15 * PLANE),
        (["Interp down 1 1 in0 x 0=2 1=5.000000e-01 2=5.000000e-01"], 3 * PLANE + 3 * PLANE // 4),
        (["Interp down 1 1 in0 x 0=2 1=2.500000e-01 2=2.500000e-01"], 5 * 3 * PLANE // 16),
        (["Interp down 1 1 in0 x 0=1 1=2.500000e-01 2=2.500000e-01"], 2 * 3 * PLANE // 16),
        (["Convolution conv 1 1 in0 x 0=8 1=3 3=2 4=1 5=1 6=216"], 3 * PLANE + 2 * PLANE),
    ],
)
def test_each_layer_costs_what_the_rule_says(lines: list[str], expected: int) -> None:
    graph = build_graph(*lines)
    assert count_traffic(graph.layers[-1], infer_shapes(graph, WIDTH, HEIGHT)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Convolution conv 1 1 in0 x 0=8 1=3 3=2 4=1 5=1 6=216", 216 * WIDTH * HEIGHT // 4),
        ("ConvolutionDepthWise c 1 1 in0 x 0=3 1=3 4=1 5=1 6=27 7=3", 27 * WIDTH * HEIGHT),
        ("Deconvolution conv 1 1 in0 x 0=8 1=4 3=2 4=1 5=1 6=384", 384 * WIDTH * HEIGHT),
        ("InnerProduct dense 1 1 in2 x 0=5 1=1 2=10240", 10240),
        ("BinaryOp add 1 1 in0 x 0=0 1=1 2=1.0", 0),
    ],
)
def test_multiplications_are_those_of_weights(line: str, expected: int) -> None:
    graph = build_graph(line)
    assert count_multiply_adds(graph.layers[-1], infer_shapes(graph, WIDTH, HEIGHT)) == expected


def test_layers_run_as_the_output_needs_them() -> None:
    graph = build_graph(
        "Split copy 1 3 in0 a b c",
        "ReLU late 1 1 a x",
        "ReLU unread 1 1 c z",
        "ReLU early 1 1 b y",
        "BinaryOp add 2 1 y x out0 0=0",
    )
    names = [layer.name for layer in list_running_layers(graph, "out0")]
    assert names == ["in0", "copy", "early", "late", "add"]


def test_a_layer_that_nobody_needs_costs_nothing() -> None:
    needed = build_graph("ReLU relu 1 1 in0 out0")
    more = build_graph("ReLU relu 1 1 in0 out0", "ReLU unread 1 1 in1 z")
    assert measure_cost(more, WIDTH, HEIGHT).traffic == measure_cost(needed, WIDTH, HEIGHT).traffic


def test_an_idle_layer_is_counted_apart() -> None:
    cost = measure_cost(
        build_graph(
            "Crop all 1 1 in0 x -23309=1,0 -23310=1,3 -23311=1,0",
            "Crop some 1 1 x out0 -23309=1,0 -23310=1,2 -23311=1,0",
        ),
        WIDTH,
        HEIGHT,
    )
    assert cost.traffic == 10 * PLANE
    assert cost.idle_traffic == 6 * PLANE


def test_a_graph_without_an_output_is_refused() -> None:
    with pytest.raises(FormatError, match="no layer makes out0"):
        measure_cost(build_graph("ReLU relu 1 1 in0 x"), WIDTH, HEIGHT)


def find_peak_of(*lines: str) -> int:
    graph = build_graph(*lines)
    return find_peak(list_running_layers(graph, "out0"), infer_shapes(graph, WIDTH, HEIGHT))


JOIN = "Concat join 3 1 in0 in1 in2 a 0=0"  # 7 planes
GROW = "Convolution grow 1 1 a b 0=16 1=3 4=1 5=1 6=1008"  # 16 planes
SHRINK = "Convolution shrink 1 1 {} out0 0=3 1=3 4=1 5=1 6=432"  # 3 planes


def test_a_blob_goes_when_it_has_been_read() -> None:
    assert find_peak_of(JOIN, GROW, SHRINK.format("b")) == INPUTS + (7 + 16) * PLANE


def test_copies_share_memory_until_the_last_is_read() -> None:
    peak = find_peak_of(
        JOIN,
        GROW,
        "Split copy 1 2 b c d",
        "Convolution first 1 1 c e 0=16 1=3 4=1 5=1 6=2304",
        "BinaryOp add 2 1 e d f 0=0",
        SHRINK.format("f"),
    )
    # b, its convolution and their sum.
    assert peak == INPUTS + 3 * 16 * PLANE


def test_work_in_place_takes_no_memory() -> None:
    relu = "ReLU relu 1 1 b c"
    assert find_peak_of(JOIN, GROW, relu, SHRINK.format("c")) == INPUTS + (7 + 16) * PLANE


def test_work_in_place_on_shared_memory_takes_a_copy() -> None:
    peak = find_peak_of(
        JOIN,
        GROW,
        "Split copy 1 2 b c d",
        "BinaryOp double 1 1 c e 0=2 1=1 2=2.0",
        "BinaryOp add 2 1 e d f 0=0",
        SHRINK.format("f"),
    )
    assert peak == INPUTS + 3 * 16 * PLANE


def test_the_frames_stay_as_the_runtime_holds_them() -> None:
    """Work in place on a frame takes a copy, and the frame stays when it has been read."""
    assert find_peak_of("ReLU relu 1 1 in0 out0") == 3 * PLANE + 3 * PLANE


def test_the_whole_cost_of_a_small_graph() -> None:
    cost = measure_cost(build_graph(JOIN, GROW, SHRINK.format("b")), WIDTH, HEIGHT)
    assert cost.traffic == (7 + 7 + 7 + 16 + 16 + 3) * PLANE
    assert cost.traffic_by_type == {
        "Concat": 14 * PLANE,
        "Convolution": 42 * PLANE,
        "Input": 0,
    }
    assert cost.layers == {"Concat": 1, "Convolution": 2, "Input": 3}
    assert cost.parameters == 1008 + 16 + 432 + 3
    assert cost.multiply_adds == (1008 + 432) * WIDTH * HEIGHT


def test_published_graphs_cost_what_is_known_of_them() -> None:
    """Two figures counted independently, for one frame of 1920x1152."""
    folder = os.environ.get("SURGERY_PUBLISHED")
    if not folder:
        pytest.skip("SURGERY_PUBLISHED names no folder of published .param files")
    known = {"styler-rife-v4.26_ensembleFalse": 12.58, "nihui-rife-v4.6": 6.85}
    for name, gigabytes in known.items():
        text = (Path(folder) / f"{name}.param").read_text(encoding="utf-8")
        cost = measure_cost(parse(text, name), 1920, 1152)
        assert cost.traffic / 1e9 == pytest.approx(gigabytes, abs=0.005)


FEATURES = """Input input.1 0 1 input.1
Input flow.0 0 1 flow.0
Split s 1 4 input.1 a b c d
Convolution f1 1 1 a f1 0=1 1=1 6=3
Convolution f2 1 1 b f2 0=1 1=1 6=3
Convolution f3 1 1 c f3 0=1 1=1 6=3
Convolution f4 1 1 d f4 0=1 1=1 6=3
"""
THREE = {
    "flownet": "Input input0 0 1 input0\nInput input1 0 1 input1\nConcat j 2 1 input0 input1 x\n"
    "Convolution flow 1 1 x flow 0=4 1=3 3=2 4=1 6=216\n",
    "contextnet": FEATURES,
    "fusionnet": "\n".join(
        f"Input {name} 0 1 {name}" for name in ("img0", "img1", "flow", *map(str, range(3, 11)))
    )
    + "\nBinaryOp output 2 1 img0 img1 output 0=0\n",
}


def test_contextnet_costs_twice_and_its_weights_are_there_once() -> None:
    graphs = {
        name: parse("\n".join(["7767517", f"{text.count(chr(10))} 99", text.rstrip()]) + "\n")
        for name, text in THREE.items()
    }
    cost = measure_networks_cost(graphs, "v2", WIDTH, HEIGHT)
    assert cost.multiply_adds == WIDTH * HEIGHT * (216 // 4 + 2 * 4 * 3)
    assert cost.parameters == 216 + 4 * 3
    assert cost.layers["Convolution"] == 1 + 4
    joined, flow = 12 * PLANE, 6 * PLANE + PLANE
    assert cost.traffic == joined + flow + 2 * 4 * (3 + 1) * PLANE + 9 * PLANE
    # Contextnet's frame and features, the other frame and its features, and the whole flow.
    assert cost.peak == max(2 * (3 + 4) * PLANE + PLANE, (6 + 6 + 1) * PLANE)


def test_a_layer_that_two_outputs_need_runs_once() -> None:
    graph = build_graph("ReLU a 1 1 in0 a", "Split s 1 2 a b c", "ReLU d 1 1 b d", "ReLU e 1 1 c e")
    names = [layer.name for layer in list_running_layers(graph, "d", "e")]
    assert names == ["in0", "a", "s", "d", "e"]
