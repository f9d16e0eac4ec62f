"""Let a contextnet of RIFE 1 take the flow of either frame, as the runtime gives it."""

from __future__ import annotations

from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.hub.networks import FLOWS


def negate_flow(graph: NcnnGraph) -> None:
    """Make `flow.0`, which the graph reads, the negation of an input `flow.1`.

    There is one flow in RIFE 1, the first frame's. The runtime puts it in as `flow.0` for the first
    frame, and the negation is not computed; for the second it puts the same flow in as `flow.1`.

    Source: rife-ncnn-vulkan rife.cpp, `RIFE::process`, where `rife_v2` is not set.
    """
    first, second = FLOWS
    for index, layer in enumerate(graph.layers):
        if layer.type == "Input" and layer.outputs == [first]:
            params: dict[int, ncnn.ParamValue] = {
                int(ncnn.BinaryOp.OP_TYPE): int(ncnn.BinaryOpType.MUL),
                int(ncnn.BinaryOp.WITH_SCALAR): 1,
                int(ncnn.BinaryOp.B): -1.0,
            }
            graph.layers[index : index + 1] = [
                Layer("Input", second, [], [second]),
                Layer("BinaryOp", first, [second], [first], params),
            ]
            return
    raise ValueError(f"no input {first}; a contextnet has one")
