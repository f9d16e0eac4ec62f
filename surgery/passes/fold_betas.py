"""Fold a multiplication per channel after a convolution into its weights: ResConv's beta."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def fold_betas(model: HubModel) -> int:
    """Fold `Mul(Conv(x), beta[1,C,1,1])` (beta on either side) into one Conv.

    Exact when: the Conv has no other consumer; the convolution is linear in weights and bias.
    """
    folded = 0
    for node in list(model.graph.nodes):
        if node.op == "Mul":
            folded += _fold(model.graph, node)
    if folded:
        model.replace_metadata(folded_betas=True)
    return folded


def _fold(graph: gs.Graph, mul: gs.Node) -> bool:
    data, beta = mul.inputs[0], ops.constant(mul.inputs[1])
    if beta is None:
        data, beta = mul.inputs[1], ops.constant(mul.inputs[0])
    if beta is None or beta.size == 1:
        return False
    conv = edit.producer(data, "Conv")
    if conv is None or not edit.is_read_only_by(graph, conv.outputs[0], mul):
        log.debug("%s: refused: not the only reader of a Conv", mul.name)
        return False
    weight = ops.constant(conv.inputs[1])
    bias = ops.constant(ops.optional_input(conv, 2))
    assert weight is not None  # the hub's shape rules have seen to it
    if beta.shape[-3:] != (len(weight), 1, 1):
        log.debug("%s: refused: %s is not one factor per channel", mul.name, beta.shape)
        return False
    factors = beta.reshape(-1)
    conv.inputs[1] = edit.make_constant(
        f"{conv.name}.weight", weight * factors[:, np.newaxis, np.newaxis, np.newaxis]
    )
    if bias is not None:
        conv.inputs[2] = edit.make_constant(f"{conv.name}.bias", bias * factors)
    edit.take_output(mul, conv)
    return True
