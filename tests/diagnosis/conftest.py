"""A small network of four blocks, as a folder in perfect health."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_layers import Convolution, MemoryData, ParamValue
from surgery.formats.ncnn_param import Layer, NcnnGraph, parse
from surgery.formats.ncnn_param import render as render_graph
from surgery.formats.ncnn_random import fill_random_weights
from surgery.formats.ncnn_splits import insert_splits

WriteFolder = Callable[[Path, NcnnGraph], Path]

BLOCKS = 4
SEED = 4
HEAD = """
Input in0 0 1 in0
Input in1 0 1 in1
Input in2 0 1 in2
Concat x0 3 1 in0 in1 in2 x0 0=0
"""
# Every block adds to both flows and to the mask, and warps both frames for the next one.
BLOCK = """
Convolution conv{k} 1 1 x{k} conv{k} 0=8 1=3 4=1 5=1 6={count} 9=2 -23310=1,2.000000e-01
Convolution flow{k} 1 1 conv{k} flow{k} 0=5 1=3 4=1 5=1 6=360
Crop part{k} 1 1 flow{k} part{k} -23309=1,0 -23310=1,4 -23311=1,0
Crop bit{k} 1 1 flow{k} bit{k} -23309=1,4 -23310=1,5 -23311=1,0
BinaryOp sum{k} 2 1 {flow} part{k} sum{k} 0=0
BinaryOp mask{k} 2 1 {mask} bit{k} mask{k} 0=0
Crop to0_{k} 1 1 sum{k} to0_{k} -23309=1,0 -23310=1,2 -23311=1,0
Crop to1_{k} 1 1 sum{k} to1_{k} -23309=1,2 -23310=1,4 -23311=1,0
rife.Warp warp0_{k} 2 1 in0 to0_{k} warp0_{k}
rife.Warp warp1_{k} 2 1 in1 to1_{k} warp1_{k}
Concat x{next} 4 1 warp0_{k} warp1_{k} in2 mask{k} x{next} 0=0
"""
TAIL = """
Sigmoid m 1 1 mask3 m
BinaryOp rest 1 1 m rest 0=7 1=1 2=1.000000e+00
BinaryOp left 2 1 warp0_3 m left 0=2
BinaryOp right 2 1 warp1_3 rest right 0=2
BinaryOp end 2 1 left right out0 0=0
"""


def make_graph() -> NcnnGraph:
    lines = HEAD.splitlines()
    for k in range(BLOCKS):
        block = BLOCK.format(
            k=k,
            next=k + 1,
            count=504 if k == 0 else 576,
            flow=f"sum{k - 1}",
            mask=f"mask{k - 1}",
        ).splitlines()
        if k == 0:
            block = [line for line in block if not line.startswith(("BinaryOp sum", "BinaryOp m"))]
        lines += block
    lines = [
        line for line in lines + TAIL.splitlines() if line and not line.startswith("Concat x4")
    ]
    text = "\n".join(lines)
    for old, new in (("sum0", "part0"), ("mask0", "bit0")):
        text = text.replace(f" {old} ", f" {new} ")
    graph = parse(f"7767517\n{len(lines)} 99\n{text}\n")
    fill_random_weights(graph, SEED)
    insert_splits(graph)
    return graph


def write_folder(folder: Path, graph: NcnnGraph, fp16: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "flownet.param").write_text(render_graph(graph), encoding="utf-8")
    (folder / "flownet.bin").write_bytes(write_weights(graph, fp16))
    return folder


@pytest.fixture
def graph() -> NcnnGraph:
    return make_graph()


@pytest.fixture
def write() -> WriteFolder:
    """Write a graph and its weights as a folder."""
    return write_folder


@pytest.fixture
def good(tmp_path: Path, graph: NcnnGraph) -> Path:
    return write_folder(tmp_path / "rife-v4.6", graph)


@pytest.fixture
def add_beta(graph: NcnnGraph) -> NcnnGraph:
    """The network with a convolution multiplied by a constant, as an unfolded ResConv is."""
    index = next(i for i, layer in enumerate(graph.layers) if layer.name == "conv0")
    graph.layers[index].outputs = ["conv0_raw"]
    # A beta that follows an activation could not be folded.
    del graph.layers[index].params[Convolution.ACTIVATION_TYPE]
    del graph.layers[index].params[Convolution.ACTIVATION_PARAMS]
    beta = np.linspace(0.5, 1.2, 8, dtype=np.float32).reshape(8, 1, 1)
    size: dict[int, ParamValue] = {MemoryData.W: 1, MemoryData.H: 1, MemoryData.C: 8}
    graph.layers[index + 1 : index + 1] = [
        Layer("MemoryData", "beta", [], ["beta"], size, {"data": beta}),
        Layer("BinaryOp", "mul", ["conv0_raw", "beta"], ["conv0"], {0: 2}),
    ]
    return graph


@pytest.fixture
def narrow(graph: NcnnGraph) -> NcnnGraph:
    """The network with a convolution of 1x1."""
    layer = next(one for one in graph.layers if one.name == "conv0")
    layer.params |= {1: 1, 4: 0, 6: 56}
    layer.weights["weight"] = np.ascontiguousarray(layer.weights["weight"][..., 1:2, 1:2])
    return graph
