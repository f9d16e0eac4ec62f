"""Average what a block finds in both directions where it is small: before the pixel shuffle.

An ensemble evaluates every block twice, the second time with the frames exchanged, and averages x
and y of each flow with those of the other flow, and the mask with its opposite. Scales and signs
are in the convolutions by then (`fold_scales`), so an average is a sum of slices of two raw
outputs. Put in one order, the raw outputs can be added up whole, which makes the block have one
raw output again: the edge that TTA needs.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops, shapes
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)

Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Raw:
    """What a block puts out.

    Attributes:
        conv: the (transposed) convolution whose output channels may be put in another order.
        last: the node whose output is sliced; a pixel shuffle, or `conv`.
    """

    conv: gs.Node
    last: gs.Node

    @property
    def output(self) -> gs.Tensor:
        return self.last.outputs[0]

    @property
    def block(self) -> int:
        """How many channels of the convolution make one channel of the output."""
        return 1 if self.last is self.conv else ops.pixel_shuffle_factor(self.last) ** 2


@dataclasses.dataclass(frozen=True)
class _Sum:
    """An Add of a slice of one raw output, made by `cut`, and a slice of another."""

    add: gs.Node
    cut: gs.Node
    first: Range
    second: Range


def join_directions(model: HubModel) -> int:
    """Turn sums of slices of two raw outputs into slices of one sum of both.

    Exact when: the sums are the only readers of both; they take every channel of both once. The
    order of a convolution's output channels is free.
    """
    graph = model.graph
    extents = shapes.infer_extents(graph)
    pairs: dict[tuple[str, str], gs.Node] = {}
    for node in graph.nodes:
        sources = _find_sources(node)
        if sources is not None:
            pairs.setdefault(sources, node)
    return sum(_join(graph, node, extents) for node in pairs.values())


def _find_sources(add: gs.Node) -> tuple[str, str] | None:
    """Whose slices an Add adds up, None when it adds up anything else."""
    if add.op != "Add":
        return None
    cuts = [edit.producer(tensor, "Slice") for tensor in add.inputs]
    names = sorted(cut.inputs[0].name for cut in cuts if cut is not None)
    return (names[0], names[1]) if len(names) == 2 and names[0] != names[1] else None


def _join(graph: gs.Graph, sample: gs.Node, extents: dict[str, shapes.Extent]) -> bool:
    # `_find_sources` has seen that both are slices.
    first, second = (_read_raw(graph, term.inputs[0].inputs[0]) for term in sample.inputs)
    if first is None or second is None:
        log.debug("%s: refused: it adds up no raw outputs of blocks", sample.name)
        return False
    if extents[first.output.name] != extents[second.output.name] or first.block != second.block:
        log.debug("%s: refused: %s and %s differ", sample.name, first.last.name, second.last.name)
        return False
    channels = extents[first.output.name].channels
    sums = _read_sums(graph, first, second, channels)
    if sums is None:
        log.debug("%s: refused: %s is read otherwise, too", sample.name, first.last.name)
        return False
    if any(_is_scaled(graph, one.add) for one in sums):
        log.debug("%s: refused: a scale behind it goes into the convolutions first", sample.name)
        return False
    order = np.empty(channels, np.int64)
    for one in sums:
        order[slice(*one.first)] = np.arange(*one.second)
    _reorder(second, order)
    _add_up(graph, first, second, sums)
    return True


def _read_raw(graph: gs.Graph, output: gs.Tensor) -> _Raw | None:
    last = edit.producer(output, "Conv", "ConvTranspose", "DepthToSpace")
    if last is None:
        return None
    conv = last
    if last.op == "DepthToSpace":
        maker = edit.producer(last.inputs[0], "Conv", "ConvTranspose")
        if maker is None or not edit.is_read_only_by(graph, maker.outputs[0], last):
            return None
        conv = maker
    if ops.read_conv(conv).group != 1 or edit.is_output(graph, output):
        return None
    return _Raw(conv, last)


def _read_sums(graph: gs.Graph, first: _Raw, second: _Raw, channels: int) -> list[_Sum] | None:
    """The sums that read both, None unless they take every channel of both exactly once."""
    sums: dict[int, _Sum] = {}
    for cut in first.output.outputs:
        add = edit.sole_consumer(graph, cut.outputs[0]) if cut.op == "Slice" else None
        if add is None or add.op != "Add":
            return None
        other = add.inputs[1 if add.inputs[0] is cut.outputs[0] else 0]
        partner = edit.producer(other, "Slice")
        if partner is None or partner.inputs[0] is not second.output:
            return None
        if not edit.is_read_only_by(graph, partner.outputs[0], add):
            return None
        mine, theirs = (ops.channel_range(one, channels) for one in (cut, partner))
        if mine[1] - mine[0] != theirs[1] - theirs[0]:  # one channel that is added to several
            return None
        sums[id(add)] = _Sum(add, cut, mine, theirs)
    found = list(sums.values())
    if len(second.output.outputs) != len(found):
        return None
    if not _share_out([one.first for one in found], channels):
        return None
    return found if _share_out([one.second for one in found], channels) else None


def _is_scaled(graph: gs.Graph, add: gs.Node) -> bool:
    """Tell whether a factor behind a sum is still on its way to where `fold_scales` takes it."""
    reader = edit.sole_consumer(graph, add.outputs[0])
    if reader is not None and reader.op == "Resize" and ops.read_resize(reader).scale_h > 1.0:
        reader = edit.sole_consumer(graph, reader.outputs[0])
    scaled = ops.scaled_operand(reader) if reader is not None else None
    if reader is None or scaled is None:
        return False
    factor = ops.scalar(reader.inputs[1 - scaled])
    return factor is not None and ops.is_power_of_two(factor)


def _share_out(ranges: list[Range], channels: int) -> bool:
    """Tell whether ranges take every channel once."""
    taken = [channel for one in ranges for channel in range(*one)]
    return sorted(taken) == list(range(channels))


def _reorder(raw: _Raw, order: np.ndarray) -> None:
    """Let a raw output have its channels in another order."""
    rows = (order[:, np.newaxis] * raw.block + np.arange(raw.block)).reshape(-1)
    axis = 0 if raw.conv.op == "Conv" else 1
    for index, along in ((1, axis), (2, 0)):
        if index < len(raw.conv.inputs):
            values = np.take(np.asarray(ops.constant(raw.conv.inputs[index])), rows, along)
            raw.conv.inputs[index] = edit.make_constant(f"{raw.conv.name}.reordered", values)


def _add_up(graph: gs.Graph, first: _Raw, second: _Raw, sums: list[_Sum]) -> None:
    """Add up both convolutions' outputs and let the first one's slices be those of the sum."""
    operands = [first.conv.outputs[0], second.conv.outputs[0]]
    total = edit.add_node(graph, f"{first.last.name}.average", "Add", operands)
    readers = [one.cut for one in sums] if first.last is first.conv else [first.last]
    for reader in readers:
        reader.inputs[0] = total
    for one in sums:
        edit.take_output(one.add, one.cut)
