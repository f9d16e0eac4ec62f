"""A model folder that converts in seconds, and a crew of two workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from surgery.collection.crew import Crew, open_crew
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_param import parse
from surgery.formats.ncnn_random import fill_random_weights

# One block with two warps.
LAYERS = """
Input in0 0 1 in0
Split s0 1 2 in0 in0_a in0_b
Input in1 0 1 in1
Split s1 1 2 in1 in1_a in1_b
Input in2 0 1 in2
Concat join 3 1 in0_a in1_a in2 x 0=0
Interp down 1 1 x down 0=2 1=0.25 2=0.25
Convolution c0 1 1 down c0 0=32 1=3 4=1 5=1 6=2016 9=2 -23310=1,0.2
Convolution c1 1 1 c0 c1 0=5 1=3 4=1 5=1 6=1440
Interp up 1 1 c1 up 0=2 1=4.0 2=4.0
Split su 1 3 up up_0 up_1 up_2
Crop f0 1 1 up_0 f0 -23309=1,0 -23310=1,2 -23311=1,0
Crop f1 1 1 up_1 f1 -23309=1,2 -23310=1,4 -23311=1,0
Crop m0 1 1 up_2 m0 -23309=1,4 -23310=1,5 -23311=1,0
rife.Warp w0 2 1 in0_b f0 w0
rife.Warp w1 2 1 in1_b f1 w1
Sigmoid m 1 1 m0 m
Split sm 1 2 m m_0 m_1
BinaryOp rest 1 1 m_0 rest 0=7 1=1 2=1.0
BinaryOp left 2 1 w0 m_1 left 0=2
BinaryOp right 2 1 w1 rest right 0=2
BinaryOp end 2 1 left right out0 0=0
"""


@pytest.fixture(scope="session")
def write_tiny_model() -> Callable[[Path, int], None]:
    """Write a model folder with random weights of a seed."""
    return _write_tiny_model


def _write_tiny_model(folder: Path, seed: int) -> None:
    lines = LAYERS.strip().splitlines()
    text = f"7767517\n{len(lines)} 32\n" + "\n".join(lines) + "\n"
    graph = parse(text)
    fill_random_weights(graph, seed)
    for layer in graph.layers:
        if layer.name == "c1":
            # Flows of some pixels.
            layer.weights["weight"] *= np.float32(20)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flownet.param").write_text(text, encoding="utf-8")
    (folder / "flownet.bin").write_bytes(write_weights(graph, fp16=False))


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    with open_crew(None, workers=2) as crew:
        yield crew
