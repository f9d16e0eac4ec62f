"""Do not compute what nobody reads: output channels of a block leave its last weights."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops, shapes
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def drop_unread_channels(model: HubModel) -> int:
    """Drop the channels of Conv (or Conv and DepthToSpace) that no Slice behind it takes.

    Exact when: Slices of channels are the only readers; what is dropped was never read.
    """
    extents = shapes.infer_extents(model.graph)
    return sum(_drop(model.graph, node, extents) for node in list(model.graph.nodes))


def _drop(graph: gs.Graph, node: gs.Node, extents: dict[str, shapes.Extent]) -> bool:
    if node.op not in ("Conv", "DepthToSpace"):
        return False
    output = node.outputs[0]
    if edit.is_output(graph, output) or not output.outputs:
        return False
    if any(reader.op != "Slice" for reader in output.outputs):
        return False
    conv = node if node.op == "Conv" else edit.producer(node.inputs[0], "Conv")
    if conv is None:
        return False
    if ops.read_conv(conv).group != 1:
        log.debug("%s: refused: %s has groups", node.name, conv.name)
        return False
    if conv is not node and not edit.is_read_only_by(graph, conv.outputs[0], node):
        log.debug("%s: refused: its convolution has other readers", node.name)
        return False
    channels = extents[output.name].channels
    # A list of their own: a Slice that is changed moves to the end of its input's readers.
    readers = list(output.outputs)
    ranges = [ops.channel_range(reader, channels) for reader in readers]
    read = np.zeros(channels, bool)
    for start, end in ranges:
        read[start:end] = True
    if read.all():
        return False
    kept = np.flatnonzero(read)
    block = 1 if conv is node else ops.pixel_shuffle_factor(node) ** 2
    edit.select_output_channels(conv, (kept[:, np.newaxis] * block + np.arange(block)).reshape(-1))
    for reader, bounds in zip(readers, ranges, strict=True):
        edit.set_slice(reader, *(int(place) for place in np.searchsorted(kept, bounds)))
    return True
