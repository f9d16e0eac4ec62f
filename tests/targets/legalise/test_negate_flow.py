from __future__ import annotations

import pytest

from surgery.formats.ncnn_layers import BinaryOp, BinaryOpType, read_float, read_int
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.targets.legalise.negate_flow import negate_flow


def test_the_first_frames_flow_is_the_negation_of_an_input() -> None:
    graph = NcnnGraph(
        [
            Layer("Input", "input.1", [], ["input.1"]),
            Layer("Input", "flow.0", [], ["flow.0"]),
            Layer("rife.Warp", "warp", ["input.1", "flow.0"], ["f1"]),
        ]
    )
    negate_flow(graph)
    names = [(layer.type, layer.inputs, layer.outputs) for layer in graph.layers]
    assert names == [
        ("Input", [], ["input.1"]),
        ("Input", [], ["flow.1"]),
        ("BinaryOp", ["flow.1"], ["flow.0"]),
        ("rife.Warp", ["input.1", "flow.0"], ["f1"]),
    ]
    negation = graph.layers[2].params
    assert read_int(negation, BinaryOp.OP_TYPE) == BinaryOpType.MUL
    assert read_float(negation, BinaryOp.B) == -1


def test_a_graph_without_the_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no input flow\.0"):
        negate_flow(NcnnGraph([Layer("Input", "input.1", [], ["input.1"])]))
