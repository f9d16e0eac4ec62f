"""Shuffle once: two DepthToSpace in a row become one."""

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


def merge_pixel_shuffles(model: HubModel) -> int:
    """Turn DepthToSpace(q) of DepthToSpace(p) of Conv into DepthToSpace(pq) of Conv.

    Exact when: a permutation of the convolution's output channels makes up for the order; the
    three follow one another without other readers.
    """
    return sum(_merge(model.graph, node) for node in list(model.graph.nodes))


def _merge(graph: gs.Graph, outer: gs.Node) -> bool:
    if outer.op != "DepthToSpace":
        return False
    inner = edit.producer(outer.inputs[0], "DepthToSpace")
    conv = edit.producer(inner.inputs[0], "Conv") if inner is not None else None
    if inner is None or conv is None:
        return False
    if any(
        not edit.is_read_only_by(graph, first.outputs[0], second)
        for first, second in ((conv, inner), (inner, outer))
    ):
        log.debug("%s: refused: something else reads in between", outer.name)
        return False
    if ops.read_conv(conv).group != 1:
        log.debug(
            "%s: refused: %s has groups, whose channels cannot change places", outer.name, conv.name
        )
        return False
    p, q = ops.pixel_shuffle_factor(inner), ops.pixel_shuffle_factor(outer)
    weight = ops.constant(conv.inputs[1])
    assert weight is not None  # read_conv has checked it
    edit.select_output_channels(conv, _order(len(weight), p, q))
    outer.attrs["blocksize"] = p * q
    outer.inputs[0] = conv.outputs[0]
    return True


def _order(channels: int, p: int, q: int) -> np.ndarray:
    """Where each channel of the single shuffle is found in front of the two.

    The inner shuffle spreads a channel over p x p places (i, j), the outer one over q x q (k, l):
    the channel is ((c, k, l), i, j) there, and (c, (i, k), (j, l)) for the single one.
    """
    order = np.arange(channels).reshape(-1, q, q, p, p)
    flat: np.ndarray = order.transpose(0, 3, 1, 4, 2).reshape(-1)
    return flat
