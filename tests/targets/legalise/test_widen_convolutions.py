from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.engines.ncnn import NcnnEngine
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_layers import Convolution, read_int
from surgery.formats.ncnn_param import NcnnGraph, check, parse
from surgery.formats.ncnn_random import fill_random_weights
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import NCNN_FP32
from surgery.targets.legalise.widen_convolutions import widen_convolutions


def make_graph(convolution: str) -> NcnnGraph:
    """A 1x1 convolution of the joined inputs, enlarged to the frame where it strides."""
    graph = parse(
        f"""7767517
6 6
Input in0 0 1 in0
Input in1 0 1 in1
Input in2 0 1 in2
Concat join 3 1 in0 in1 in2 x 0=0
{convolution}
Interp up 1 1 y out0 0=2 1={{0}}.000000e+00 2={{0}}.000000e+00
""".replace("{0}", "2" if "3=2" in convolution else "1")
    )
    fill_random_weights(graph, 3)
    return graph


@pytest.mark.parametrize(
    "params",
    [
        "0=3 1=1 5=1 6=21",
        "0=3 1=1 6=21 9=2 -23310=1,1.000000e-01",
        "0=3 1=1 11=1 2=2 12=2 3=2 13=2 5=1 6=21",
    ],
)
def test_a_1x1_convolution_computes_the_same_as_3x3(params: str, tmp_path: Path) -> None:
    graph = make_graph(f"Convolution c 1 1 x y {params}")
    samples = make_samples([(64, 32)], [0.3], 3)
    write_model(tmp_path / "before", graph, fp16=False)
    assert widen_convolutions(graph) == 1
    assert not check(graph)
    layer = graph.layers[4]
    assert read_int(layer.params, Convolution.KERNEL_H) == 3
    assert layer.weights["weight"].shape == (3, 7, 3, 3)
    write_model(tmp_path / "after", graph, fp16=False)
    expected, found = (
        NcnnEngine(tmp_path / name, 32).run(samples)[0] for name in ("before", "after")
    )
    assert np.abs(expected).max() > 0.05
    verdict = judge(compare(expected, found), NCNN_FP32)
    assert verdict.passed, verdict.sentence
    assert widen_convolutions(graph) == 0, "a second run finds nothing"


def test_other_convolutions_are_left_alone() -> None:
    graph = make_graph("Convolution c 1 1 x y 0=3 1=3 4=1 5=1 6=189")
    before = graph.layers[4].weights["weight"]
    assert widen_convolutions(graph) == 0
    assert graph.layers[4].weights["weight"] is before
