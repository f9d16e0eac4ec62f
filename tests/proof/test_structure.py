"""A legal graph has no finding; each fault, put in alone, has the one that names it."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest

from surgery.formats.ncnn_layers import Crop
from surgery.formats.ncnn_param import Layer, NcnnGraph, parse, parse_with_faults
from surgery.hub import warp
from surgery.proof.structure import (
    Step,
    check_hub_structure,
    check_ncnn_structure,
    number_values,
)

NCNN_GRAPH = """7767517
15 40
Input       in0   0 1 in0
Split       s0    1 2 in0 a0 a1
Input       in1   0 1 in1
Split       s1    1 2 in1 b0 b1
Input       in2   0 1 in2
Concat      join  3 1 a0 b0 in2 joined 0=0
Convolution flow  1 1 joined flow0 0=5 1=3 4=1 5=1 6=315
Split       s2    1 3 flow0 f0 f1 f2
Crop        crop0 1 1 f0 flow_a -23309=1,0 -23310=1,2 -23311=1,0
Crop        crop1 1 1 f1 flow_b -23309=1,2 -23310=1,4 -23311=1,0
Crop        crop2 1 1 f2 mask -23309=1,4 -23310=1,5 -23311=1,0
rife.Warp   warp0 2 1 a1 flow_a warped0
rife.Warp   warp1 2 1 b1 flow_b warped1
BinaryOp    mask  2 1 warped0 mask half0 0=2
Eltwise     out   2 1 half0 warped1 out0 0=1
"""

# What to replace, by what, and words of the finding that this must give.
NCNN_FAULTS = [
    ("=1,0 -23310=1,2", "=1,0 -23310=1,3", "warp0: its flow has 3 channels; exactly 2"),
    ("=1,0 -23310=1,2", "=1,0 -23310=1,4", "warp0: its flow has 4 channels; exactly 2"),
    ("=1,0 -23310=1,2", "=1,0 -23310=1,1", "warp0: its flow has 1 channels; exactly 2"),
    ("=1,2 -23310=1,4", "=1,2 -23310=1,2147483647", "warp1: its flow has 3 channels"),
    ("=1,2 -23310=1,4", "=1,0 -23310=1,2", "warp1: moves in1 by the flow by which warp0"),
    ("=1,4 -23310=1,5", "=1,3 -23310=1,5", "BinaryOp mask: the shapes"),
    ("2 1 a1 flow_a", "2 1 a1 f0", "warp0: its flow has 5 channels"),
    ("6=315", "6=360", "7 channels go into weights for 8"),
    ("1=3 4=1", "1=3 4=0", "rife.Warp warp0: an image of the shape"),
    ("3 1 a0 b0 in2", "3 1 a0 a0 in2", "blob a0 is read 2 times"),
    ("3 1 a0 b0 in2", "3 1 a0 b0 b0", "in2: no layer reads this input"),
    ("rife.Warp   warp1 2 1 b1 flow_b", "rife.Warp warp1 1 1 b1", "1 inputs; 2 are accepted"),
    ("half0 warped1 out0", "half0 nowhere out0", "reads nowhere"),
    ("half0 warped1 out0", "half0 warped1 half0", "makes half0, as"),
    ("half0 warped1 out0", "half0 warped1 out1", "out0: no layer makes this output"),
    ("half0 warped1 out0 0=1", "half0 warped1 sum 0=1\nFlatten end 1 1 sum out0", "out0: has the"),
    ("0 1 in1", "0 1 in3", "in1: there is no such input"),
]

HUB_GRAPH = """<ir_version: 10, opset_import: ["" : 18, "rife" : 1]>
rife (float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)
<
    int64[1] axis = {1}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] zwei = {2},
    int64[1] four = {4}, int64[1] five = {5}, float[4] scales = {1.0, 1.0, 0.5, 0.5},
    float[4] back = {1.0, 1.0, 2.0, 2.0}
>
{
    [join] joined = Concat <axis = 1> (in0, in1, in2)
    [down] small = Resize <mode = "linear"> (joined, , scales)
    [up] large = Resize <mode = "linear"> (small, , back)
    [slice_a] flow_a = Slice (large, zero, two, axis)
    [slice_b] flow_b = Slice (large, zwei, four, axis)
    [slice_m] mask = Slice (large, four, five, axis)
    [warp0] warped0 = rife.Warp (in0, flow_a)
    [warp1] warped1 = rife.Warp (in1, flow_b)
    [half] half0 = Mul (warped0, mask)
    [out] out0 = Add (half0, warped1)
}
"""

HUB_FAULTS = [
    ("(large, zero, two, axis)", "(large, zero, four, axis)", "warp0: its flow has 4 channels"),
    ("(large, zwei, four, axis)", "(large, zwei, five, axis)", "warp1: its flow has 3 channels"),
    ("(large, zwei, four, axis)", "(large, zero, zwei, axis)", "warp1: moves in1 by the flow by"),
    ("rife.Warp (in1, flow_b)", "rife.Warp (in1, flow_a)", "warp1: moves in1 by the flow by"),
    ("rife.Warp (in1, flow_b)", "Identity (in1)", "graph: 1 warps; the donor calls 2"),
    ("rife.Warp (in1, flow_b)", "rife.Warp (in1)", "graph: a warp without its 2 inputs"),
    ("(large, four, five, axis)", "(large, four, five, zwei)", "node name: half)"),
    ("float[1,1,H,W] in2", "float[1,2,H,W] in2", "in2: is FLOAT [1, 2, 0, 0]"),
    ("float[1,1,H,W] in2", "float[1,1,64,W] in2", "in2: is FLOAT [1, 1, 64, 0]"),
    ("float[1,1,H,W] in2", "float[1,1,H,W] t", "inputs: in0, in1, t; in0, in1, in2 are"),
    ("[out] out0 = Add (half0, warped1)", "[out] out0 = Concat <axis = 1> (half0, mask)", "out0:"),
    ("float[1,3,H,W] out0", "float[1,3,H,W] half0", "outputs: half0; out0 is expected"),
]


def build_hub(text: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(text)
    model.functions.append(warp.warp_function())
    return model


def replace_once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


# ---- ncnn --------------------------------------------------------------------------------------


def test_a_legal_ncnn_graph_has_no_findings() -> None:
    assert check_ncnn_structure(parse(NCNN_GRAPH), expected_warps=2) == []


@pytest.mark.parametrize(("old", "new", "words"), NCNN_FAULTS)
def test_each_fault_of_an_ncnn_graph_is_found(old: str, new: str, words: str) -> None:
    graph, _ = parse_with_faults(replace_once(NCNN_GRAPH, old, new))
    findings = [str(finding) for finding in check_ncnn_structure(graph, expected_warps=2)]
    assert any(words in finding for finding in findings), findings


def test_a_wrong_number_of_warps_is_found() -> None:
    (finding,) = check_ncnn_structure(parse(NCNN_GRAPH), expected_warps=3)
    assert str(finding) == "graph: 2 warps; the donor calls 3"


def test_a_donor_of_a_fixed_timestep_need_not_read_in2() -> None:
    text = replace_once(NCNN_GRAPH, "3 1 a0 b0 in2", "2 1 a0 b0")
    text = replace_once(text, "6=315", "6=270")
    text = replace_once(text, "Input       in2   0 1 in2\n", "")
    assert check_ncnn_structure(parse(text.replace("15 40", "14 40")), 2, has_timestep=False) == []


def test_features_of_one_frame_may_share_its_flow() -> None:
    """From 4.7 on a flow moves a frame and its features alike."""
    text = replace_once(
        NCNN_GRAPH,
        "2 1 a1 flow_a warped0",
        "2 1 a1 flow_a moved\nrife.Warp again 2 1 moved g warped0",
    )
    text = replace_once(text, "1 3 flow0 f0 f1 f2", "1 4 flow0 f0 f1 f2 f3")
    text = replace_once(
        text,
        "rife.Warp   warp0",
        "Crop crop3 1 1 f3 g -23309=1,0 -23310=1,2 -23311=1,0\nrife.Warp   warp0",
    )
    graph = parse(replace_once(text, "15 40", "17 40"))
    assert check_ncnn_structure(graph, expected_warps=3) == []


def list_published() -> list[NcnnGraph]:
    folder = os.environ.get("SURGERY_PUBLISHED")
    if not folder:
        pytest.skip("SURGERY_PUBLISHED names no folder of published .param files")
    paths = sorted(Path(folder).glob("*.param"))
    assert paths
    return [parse(path.read_text(encoding="utf-8"), path.name) for path in paths]


def find_crop(producers: dict[str, Layer], blob: str) -> Layer | None:
    """The Crop that a flow comes from, through any copies."""
    layer = producers[blob]
    while layer.type == "Split":
        layer = producers[layer.inputs[0]]
    return layer if layer.type == "Crop" else None


def test_published_graphs_have_no_findings() -> None:
    for graph in list_published():
        warps = sum(layer.type == "rife.Warp" for layer in graph.layers)
        assert check_ncnn_structure(graph, warps) == []


def test_published_graphs_with_any_flow_of_one_channel_have_one() -> None:
    for graph in list_published():
        warps = sum(layer.type == "rife.Warp" for layer in graph.layers)
        producers = graph.find_producers()
        crops = {
            producer.name: producer
            for layer in graph.layers
            if layer.type == "rife.Warp" and (producer := find_crop(producers, layer.inputs[1]))
        }
        assert len(crops) >= 4
        for crop in (*crops.values(),)[:: len(crops) - 1]:
            ends = crop.params[Crop.ENDS]
            assert isinstance(ends, list)
            crop.params[Crop.ENDS] = [int(ends[0]) - 1]
            assert check_ncnn_structure(graph, warps) != []
            crop.params[Crop.ENDS] = ends
        assert check_ncnn_structure(graph, warps) == []


# ---- hub ---------------------------------------------------------------------------------------


def test_a_legal_hub_model_has_no_findings() -> None:
    assert check_hub_structure(build_hub(HUB_GRAPH), expected_warps=2) == []


@pytest.mark.parametrize(("old", "new", "words"), HUB_FAULTS)
def test_each_fault_of_a_hub_model_is_found(old: str, new: str, words: str) -> None:
    model = build_hub(replace_once(HUB_GRAPH, old, new))
    findings = [str(finding) for finding in check_hub_structure(model, expected_warps=2)]
    assert any(words in finding for finding in findings), findings


def test_a_flow_of_unknown_channels_is_found() -> None:
    """A bound that is computed can be anything when the model runs."""
    text = replace_once(
        HUB_GRAPH,
        "[slice_a] flow_a = Slice (large, zero, two, axis)",
        "[shape] extent = Shape <start = 2, end = 3> (in2)\n"
        "    [some] some = Mod (extent, five)\n"
        "    [slice_a] flow_a = Slice (large, zero, some, axis)",
    )
    model = build_hub(text)
    for value in model.graph.input:
        assert value.type.tensor_type.shape.dim[2].dim_param == "H"
    findings = [str(finding) for finding in check_hub_structure(model, expected_warps=2)]
    assert any("warp0: its flow has" in finding for finding in findings), findings


# ---- values ------------------------------------------------------------------------------------


def test_values_are_numbered_by_what_computes_them() -> None:
    steps = [
        Step("in", "input", (), ("a", "b")),
        Step("split", None, ("a",), ("a0", "a1")),
        Step("f", ("crop", 0), ("a0",), ("x",)),
        Step("g", ("crop", 0), ("a1",), ("y",)),
        Step("h", ("crop", 2), ("a1",), ("z",)),
        Step("i", ("crop", 0), ("b",), ("w",)),
    ]
    numbers = number_values(steps)
    assert numbers["a"] == numbers["a0"] == numbers["a1"]
    assert numbers["x"] == numbers["y"]
    assert len({numbers[name] for name in ("a", "b", "x", "z", "w")}) == 5
