"""Inferred shapes are those that ncnn makes; a shape that ncnn could not make is refused."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from surgery.errors import FormatError
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_layers import LAYER_TYPES
from surgery.formats.ncnn_param import NcnnGraph, parse, render
from surgery.formats.ncnn_random import fill_random_weights
from surgery.formats.ncnn_shapes import (
    RULES,
    Shape,
    infer_channels,
    infer_shapes,
    infer_shapes_from,
)

# One layer that reads `a` (and `b`) and makes `x` (and `y`): the shapes of a and b, and its line.
CASES: list[tuple[list[Shape], str]] = [
    ([(5, 8, 12)], "Split l 1 2 a x y"),
    ([(3, 8, 12), (2, 8, 12)], "Concat l 2 1 a b x 0=0"),
    ([(3, 8, 12), (3, 5, 12)], "Concat l 2 1 a b x 0=1"),
    ([(3, 8, 12), (3, 8, 2)], "Concat l 2 1 a b x 0=-1"),
    ([(7,), (2,)], "Concat l 2 1 a b x 0=0"),
    ([(7, 8, 12)], "Slice l 1 2 a x y -23300=2,3,-233 1=0"),
    ([(7, 8, 12)], "Slice l 1 2 a x y -23300=2,-233,-233 1=0"),
    ([(7, 8, 12)], "Slice l 1 2 a x y -23300=2,5,-233 1=2"),
    ([(7, 8, 12)], "Slice l 1 2 a x y 1=0 -23302=1,3"),
    ([(7, 8, 12)], "Slice l 1 2 a x y 1=0 -23302=1,-2"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,0 -23310=1,2 -23311=1,0"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,2 -23310=1,4 -23311=1,0"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,4 -23310=1,2147483647 -23311=1,0"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,1 -23310=1,-1 -23311=1,0"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,-2 -23310=1,-233 -23311=1,0"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,1 -23310=1,0 -23311=1,0"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=2,1,3 -23310=2,7,-3 -23311=2,1,-1"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=3,1,2,3 -23310=3,4,5,6"),
    ([(5, 8, 12)], "Crop l 1 1 a x 0=1 1=2 2=1 3=4 4=-233 5=2 6=1 7=1"),
    ([(9,)], "Crop l 1 1 a x -23309=1,2 -23310=1,7 -23311=1,0"),
    ([(3, 8, 12)], "Convolution l 1 1 a x 0=4 1=3 3=2 4=1 5=1 6=108"),
    ([(3, 9, 13)], "Convolution l 1 1 a x 0=4 1=3 3=2 4=1 5=1 6=108"),
    ([(3, 9, 13)], "Convolution l 1 1 a x 0=4 1=3 11=5 2=2 3=1 13=2 4=1 14=2 15=0 16=3 5=1 6=180"),
    ([(3, 9, 13)], "Convolution l 1 1 a x 0=4 1=3 3=2 4=-233 5=1 6=108"),
    ([(3, 9, 14)], "Convolution l 1 1 a x 0=4 1=3 3=3 4=-234 5=1 6=108"),
    ([(4, 8, 12)], "ConvolutionDepthWise l 1 1 a x 0=6 1=3 4=1 5=1 6=108 7=2"),
    ([(4, 8, 12)], "ConvolutionDepthWise l 1 1 a x 0=4 1=3 3=2 4=1 5=1 6=36 7=4"),
    ([(3, 8, 12)], "Deconvolution l 1 1 a x 0=5 1=4 3=2 4=1 5=1 6=240"),
    ([(3, 7, 5)], "Deconvolution l 1 1 a x 0=5 1=3 11=4 2=1 12=2 3=2 13=3 4=0 5=1 6=180"),
    ([(3, 7, 5)], "Deconvolution l 1 1 a x 0=5 1=3 3=2 4=1 18=1 5=1 6=135"),
    ([(3, 7, 5)], "Deconvolution l 1 1 a x 0=5 1=4 3=2 4=-233 20=10 21=14 5=1 6=240"),
    ([(3, 2, 4)], "InnerProduct l 1 1 a x 0=5 1=1 2=120"),
    ([(3, 4)], "InnerProduct l 1 1 a x 0=5 1=1 2=20"),
    ([(3, 9, 13)], "Pooling l 1 1 a x 0=1 1=3 2=2 3=1"),
    ([(3, 9, 14)], "Pooling l 1 1 a x 0=0 1=2 2=2"),
    ([(3, 9, 14)], "Pooling l 1 1 a x 0=0 1=2 2=2 5=1"),
    ([(3, 9, 14)], "Pooling l 1 1 a x 0=0 1=3 2=2 5=2"),
    ([(3, 9, 14)], "Pooling l 1 1 a x 0=1 4=1"),
    ([(3, 9, 14)], "Pooling l 1 1 a x 0=1 7=1 8=4 18=-233"),
    ([(3, 9, 14)], "Padding l 1 1 a x 0=1 1=2 2=3 3=4 7=2 8=1"),
    ([(9, 14)], "Padding l 1 1 a x 0=1 1=2 2=3 3=4"),
    ([(9,)], "Padding l 1 1 a x 2=3 3=4"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=2.0 2=4.0"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=5.000000e-01 2=2.500000e-01"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=1 1=3.333333e-01 2=3.0"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 3=5 4=6"),
    ([(9, 14)], "Interp l 1 1 a x 0=2 1=2.0 2=2.0"),
    ([(6,)], "Interp l 1 1 a x 0=2 3=5 4=7"),
    ([(3, 9, 14), (1, 4, 6)], "Interp l 2 1 a b x 0=2 5=1"),
    ([(12, 5, 7)], "PixelShuffle l 1 1 a x 0=2"),
    ([(3, 4, 5)], "BinaryOp l 1 1 a x 0=2 1=1 2=2.0"),
    ([(3, 4, 5), (3, 4, 5)], "BinaryOp l 2 1 a b x 0=0"),
    ([(3, 4, 5), (1, 4, 5)], "BinaryOp l 2 1 a b x 0=2"),
    ([(3, 1, 1), (3, 4, 5)], "BinaryOp l 2 1 a b x 0=2"),
    ([(3, 4, 5), (3,)], "BinaryOp l 2 1 a b x 0=2"),
    ([(3, 4, 5), (1,)], "BinaryOp l 2 1 a b x 0=2"),
    ([(3, 4, 5), (3, 4)], "BinaryOp l 2 1 a b x 0=2"),
    ([(3, 4, 5)], "UnaryOp l 1 1 a x 0=1"),
    ([(3, 4, 5), (3, 4, 5)], "Eltwise l 2 1 a b x 0=1"),
    ([(3, 4, 5)], "ReLU l 1 1 a x 0=2.000000e-01"),
    ([(3, 4, 5)], "PReLU l 1 1 a x 0=3"),
    ([(3, 4, 5)], "Sigmoid l 1 1 a x"),
    ([(3, 4, 5)], "TanH l 1 1 a x"),
    ([(3, 4, 5)], "Clip l 1 1 a x 0=0.0 1=1.0"),
    ([(3, 4, 5)], "Flatten l 1 1 a x"),
    ([(3, 4, 5)], "Cast l 1 1 a x 0=1 1=1"),
    ([(3, 4, 5)], "Packing l 1 1 a x 0=1"),
    ([(3, 4, 5)], "Scale l 1 1 a x 0=3 1=1"),
    ([(3, 4, 5)], "Tile l 1 1 a x 0=1 1=3"),
    ([(3, 4, 5)], "Tile l 1 1 a x -23302=3,2,1,3"),
    ([(3, 4, 5)], "Tile l 1 1 a x -23302=2,2,3"),
    ([(4, 5)], "Tile l 1 1 a x -23302=3,2,1,3"),
    ([(5,)], "ExpandDims l 1 1 a x -23303=2,1,2"),
    ([(4, 5)], "ExpandDims l 1 1 a x -23303=1,0"),
    ([(4, 5)], "ExpandDims l 1 1 a x -23303=1,-1"),
    ([(1, 4, 1)], "Squeeze l 1 1 a x -23303=1,0"),
    ([(1, 4, 1)], "Squeeze l 1 1 a x 0=1 1=1 2=1"),
    ([(1, 1, 1)], "Squeeze l 1 1 a x 0=1 1=1 2=1"),
    ([(3, 4, 6)], "Reshape l 1 1 a x 0=-1"),
    ([(3, 4, 6)], "Reshape l 1 1 a x 0=8 1=-1"),
    ([(3, 4, 6)], "Reshape l 1 1 a x 0=0 1=-1 2=12"),
    ([(3, 4, 6)], "Reshape l 1 1 a x 0=3 1=4 11=2 2=3"),
    ([(3, 4, 6)], "Permute l 1 1 a x 0=0"),
    ([(3, 4, 6)], "Permute l 1 1 a x 0=1"),
    ([(3, 4, 6)], "Permute l 1 1 a x 0=2"),
    ([(3, 4, 6)], "Permute l 1 1 a x 0=3"),
    ([(3, 4, 6)], "Permute l 1 1 a x 0=4"),
    ([(3, 4, 6)], "Permute l 1 1 a x 0=5"),
    ([(4, 6)], "Permute l 1 1 a x 0=1"),
    ([(3, 4, 6)], "Reduction l 1 1 a x 0=0"),
    ([(3, 4, 6)], "Reduction l 1 1 a x 0=3 1=0 -23303=2,1,2 4=1 5=1"),
    ([(3, 4, 6)], "Reduction l 1 1 a x 0=3 1=0 -23303=1,0 4=0 5=1"),
    ([(3, 4, 6), (5, 7, 2)], "GridSample l 2 1 a b x 0=1 1=2 2=1"),
    ([(3, 4, 6), (2, 5, 7)], "GridSample l 2 1 a b x 0=1 1=2 2=1 3=1"),
    ([], "MemoryData l 0 1 x 0=4 1=3 2=2"),
    ([], "MemoryData l 0 1 x 0=4 1=3"),
    ([], "MemoryData l 0 1 x 0=4"),
]

# What ncnn would compute nonsense from, or crash on.
MISFITS: list[tuple[list[Shape], str, str]] = [
    ([(4, 8, 12)], "Convolution l 1 1 a x 0=4 1=3 4=1 5=1 6=108", "4 channels go into weights"),
    ([(4, 8, 12)], "Deconvolution l 1 1 a x 0=5 1=4 3=2 4=1 5=1 6=240", "weights for 3"),
    ([(3, 8, 12)], "ConvolutionDepthWise l 1 1 a x 0=6 1=3 5=1 6=108 7=2", "weights for 4"),
    ([(3, 2, 2)], "Convolution l 1 1 a x 0=4 1=3 5=1 6=108", "at least 1"),
    ([(12,)], "Convolution l 1 1 a x 0=4 1=3 5=1 6=108", "(c, h, w) is accepted"),
    ([(3, 2, 5)], "InnerProduct l 1 1 a x 0=5 1=1 2=120", "30 values go into weights for 24"),
    ([(3, 8, 12), (2, 8, 6)], "Concat l 2 1 a b x 0=0", "do not join"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,5 -23310=1,9 -23311=1,0", "at least 1"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=1,0 -23310=1,2 -23311=1,3", "axis 3"),
    ([(5, 8, 12)], "Crop l 1 1 a x -23309=2,0,0 -23310=1,2 -23311=1,0", "2 starts"),
    ([(5, 8, 12)], "Slice l 1 2 a x y -23300=2,4,2 1=0", "slices of [4, 2] from 5"),
    ([(5, 8, 12)], "Slice l 1 2 a x y -23300=3,1,2,2 1=0", "3 slice sizes for 2 outputs"),
    ([(6, 5, 7)], "PixelShuffle l 1 1 a x 0=2", "6 channels do not divide"),
    ([(3, 4, 5), (2, 4, 5)], "BinaryOp l 2 1 a b x 0=0", "do not broadcast"),
    ([(3, 4, 5)], "BinaryOp l 1 1 a x 0=0", "1 operands and no scalar"),
    ([(3, 4, 5), (1, 4, 5)], "Eltwise l 2 1 a b x 0=1", "does not broadcast"),
    ([(3, 4, 5)], "PReLU l 1 1 a x 0=4", "4 slopes for 3 channels"),
    ([(3, 4, 5)], "Scale l 1 1 a x 0=4", "4 scales for 3 channels"),
    ([(3, 4, 5), (2, 4, 6)], "rife.Warp l 2 1 a b x", "differ in size"),
    ([(3, 4, 5)], "Reshape l 1 1 a x 0=7 1=-1", "does not reshape"),
    ([(3, 4, 5)], "Reshape l 1 1 a x", "not written in w, h, d and c"),
    ([(3, 4, 5)], "Permute l 1 1 a x 0=6", "0 to 5 exist"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=5.000000e-02 2=1.0", "at least 1"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=3e38 2=1.0", "stretches 9 by 3e+38"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=1.0 2=-3e38", "stretches 14 by -3e+38"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=2e8 2=2e8", "stretches 14 by 2e+08"),
    ([(3, 9, 14)], "Interp l 1 1 a x 0=2 1=1.401298e-45 2=1.0", "at least 1"),
    ([(3, 9, 14)], "Padding l 1 1 a x 0=2147483647 1=9", "at most 2147483647"),
    ([(3, 9, 14)], "Pooling l 1 1 a x 0=1 1=3 2=2 5=4", "padding mode 4"),
    ([(3, 9, 14)], "Convolution l 1 1 a x 0=4 1=3 3=0 5=1 6=108", "stride of 0"),
    ([(3, 9, 14)], "Swish l 1 1 a x", "the shape it makes is not known"),
    ([(3, 9, 14)], "ReLU l 1 1 z x", "reads z"),
    ([(3, 9, 14)], "ReLU l 1 2 a x y", "2 outputs; 1 are expected"),
    ([(3, 9, 14), (3, 9, 14)], "Crop l 2 1 a b x", "2 inputs"),
    ([(3, 9, 14)], "rife.Warp l 1 1 a x", "1 inputs; 2 are accepted"),
    ([(3, 9, 14), (3, 9, 14)], "ReLU l 2 1 a b x", "2 inputs; 1 are accepted"),
    ([(3, 9, 14)], "ExpandDims l 1 1 a x -23303=2,0,1", "axes [0, 1] added"),
]


@pytest.mark.parametrize(("inputs", "line"), CASES, ids=[line for _, line in CASES])
def test_shapes_are_those_that_ncnn_makes(inputs: list[Shape], line: str, tmp_path: Path) -> None:
    ncnn = pytest.importorskip("ncnn")
    graph, fed = build_graph(inputs, line)
    inferred = infer_shapes_from(graph, fed)
    outputs = graph.layers[-1].outputs
    found = run_shapes(ncnn, graph, fed, outputs, tmp_path)
    assert {blob: inferred[blob] for blob in outputs} == found


@pytest.mark.parametrize(("inputs", "line", "words"), MISFITS, ids=[line for _, line, _ in MISFITS])
def test_misfits_are_refused_by_name(inputs: list[Shape], line: str, words: str) -> None:
    graph, fed = build_graph(inputs, line)
    with pytest.raises(FormatError) as caught:
        infer_shapes_from(graph, fed)
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{line.split()[0]} l: ")


def test_every_layer_type_has_a_rule_and_a_case() -> None:
    assert set(RULES) == set(LAYER_TYPES) - {"Input"}
    assert {line.split()[0] for _, line in CASES} == set(RULES) - {"rife.Warp"}


def test_a_warp_keeps_the_shape_of_its_image() -> None:
    graph, fed = build_graph([(7, 8, 12), (2, 8, 12)], "rife.Warp l 2 1 a b x")
    assert infer_shapes_from(graph, fed)["x"] == (7, 8, 12)


def test_the_inputs_of_a_v4_network_are_two_frames_and_a_plane() -> None:
    graph = parse(
        "7767517\n4 4\nInput in0 0 1 in0\nInput in1 0 1 in1\nInput in2 0 1 in2\n"
        "Concat c 3 1 in0 in1 in2 out0 0=0\n"
    )
    assert infer_shapes(graph, width=64, height=32)["out0"] == (7, 32, 64)
    assert infer_channels(graph) == {"in0": 3, "in1": 3, "in2": 1, "out0": 7}


def test_an_input_that_no_runtime_feeds_is_refused() -> None:
    graph = parse("7767517\n2 2\nInput in3 0 1 in3\nReLU r 1 1 in3 out0\n")
    with pytest.raises(FormatError, match="no runtime feeds 'in3'"):
        infer_channels(graph)


def test_published_graphs_have_the_shapes_that_ncnn_makes(tmp_path: Path) -> None:
    """Every blob of every graph, with random weights, in ncnn."""
    ncnn = pytest.importorskip("ncnn")
    folder = os.environ.get("SURGERY_PUBLISHED")
    if not folder:
        pytest.skip("SURGERY_PUBLISHED names no folder of published .param files")
    paths = sorted(Path(folder).glob("*.param"))
    assert paths
    for path in paths:
        graph = parse(path.read_text(encoding="utf-8"), path.name)
        shapes = infer_shapes(graph, width=128, height=64)
        fed = {
            layer.outputs[0]: shapes[layer.outputs[0]]
            for layer in graph.layers[:10]
            if layer.type == "Input"
        }
        assert run_shapes(ncnn, graph, fed, list(shapes), tmp_path) == shapes


def build_graph(inputs: list[Shape], line: str) -> tuple[NcnnGraph, dict[str, Shape]]:
    """A graph of inputs a, b and one layer more."""
    fed = dict(zip("ab", inputs, strict=False))
    lines = [*(f"Input {blob} 0 1 {blob}" for blob in fed), line]
    return parse("\n".join(["7767517", f"{len(lines)} 9", *lines]) + "\n"), fed


def run_shapes(
    ncnn: ModuleType, graph: NcnnGraph, fed: dict[str, Shape], blobs: list[str], folder: Path
) -> dict[str, Shape]:
    """The shapes that ncnn's blobs have, with random weights and inputs."""
    fill_random_weights(graph, seed=0)
    (folder / "net.param").write_text(render(graph), encoding="utf-8")
    (folder / "net.bin").write_bytes(write_weights(graph, fp16=False))
    net = ncnn.Net()
    for option in ("use_vulkan_compute", "use_fp16_storage", "use_bf16_storage"):
        setattr(net.opt, option, False)
    net.opt.num_threads = 1
    warps: list[Any] = []

    class KeepImage(ncnn.Layer):  # type: ignore[name-defined, misc]
        """Stands for rife.Warp, which ncnn does not have: the same shapes, none of the sampling."""

        def __init__(self) -> None:
            ncnn.Layer.__init__(self)
            self.one_blob_only = False

        def forward(self, bottoms: Any, tops: Any, option: Any) -> int:
            tops[0].clone_from(bottoms[0], option.blob_allocator)
            return 0

    def create() -> Any:
        warps.append(KeepImage())
        return warps[-1]

    net.register_custom_layer("rife.Warp", create, lambda layer: None)
    assert net.load_param(str(folder / "net.param")) == 0
    assert net.load_model(str(folder / "net.bin")) == 0
    extractor = net.create_extractor()
    extractor.set_light_mode(False)
    generator = np.random.default_rng(0)
    arrays = {blob: generator.random(shape, np.float32) for blob, shape in fed.items()}
    for blob, array in arrays.items():
        extractor.input(blob, ncnn.Mat(array))
    found = {}
    for blob in blobs:
        status, mat = extractor.extract(blob)
        assert status == 0, blob
        sizes: tuple[int, ...] = (mat.c, mat.d, mat.h, mat.w)
        found[blob] = {1: sizes[3:], 2: sizes[2:], 3: (sizes[0], *sizes[2:]), 4: sizes}[mat.dims]
    return found
