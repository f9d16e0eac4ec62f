"""Keep the flows of the two frames apart from where they are made to where they are used."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops, shapes
from surgery.hub.model import is_warp
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)

Halves = tuple["gs.Tensor", "gs.Tensor"]
HALF = 2  # channels of one flow: x and y


def split_flows(model: HubModel) -> int:
    """Compute a 4-channel flow as two of 2 channels, so that no warp needs a Slice at full size.

    Stock sources add up one tensor with both flows and slice it at every warp. Everything that
    happens to it treats channels alike (Add, Mul by a scalar, Resize), so it can be two tensors
    from the block's raw output on.

    Exact when: every reader of the flow is such an operator, a Slice of one half, or a Concat.
    """
    extents = shapes.infer_extents(model.graph)
    split = 0
    for node in list(model.graph.nodes):
        if not is_warp(node):
            continue
        cut = edit.producer(node.inputs[1], "Slice")
        if cut is None:
            continue
        flow = cut.inputs[0]
        # After a split the Slice reads a block's raw output, which is no sum of flows.
        if flow.name not in extents or extents[flow.name].channels != 2 * HALF:
            continue
        split += _Splitter(model.graph, extents).split(flow)
        extents = shapes.infer_extents(model.graph.toposort())
    return split


class _Splitter:
    """Splits one flow and everything it is added up from and added into."""

    def __init__(self, graph: gs.Graph, extents: dict[str, shapes.Extent]) -> None:
        self.graph = graph
        self.extents = extents
        self.members: dict[int, gs.Tensor] = {}
        self.halves: dict[int, Halves] = {}

    def split(self, flow: gs.Tensor) -> bool:
        if not self._gather(flow):
            return False
        for tensor in list(self.members.values()):
            self._make_halves(tensor)
        for tensor in list(self.members.values()):
            self._rewire_readers(tensor)
        return True

    def _gather(self, flow: gs.Tensor) -> bool:
        """Collect every tensor that has to be split along; False when one cannot be."""
        waiting = [flow]
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in self.members:
                continue
            reason = self._cannot_split(tensor)
            if reason:
                log.debug("%s: refused: %s", tensor.name, reason)
                return False
            self.members[id(tensor)] = tensor
            node = tensor.inputs[0]
            if _treats_channels_alike(node):
                waiting += ops.data_inputs(node)
            waiting += [r.outputs[0] for r in tensor.outputs if _treats_channels_alike(r)]
        return True

    def _cannot_split(self, tensor: gs.Tensor) -> str:
        if edit.is_output(self.graph, tensor) or len(tensor.inputs) != 1:
            return "an input or output of the graph"
        if self.extents[tensor.name].channels != 2 * HALF:
            return f"{self.extents[tensor.name].channels} channels"
        node = tensor.inputs[0]
        if not (_treats_channels_alike(node) or node.op == "Slice" or self._joins_halves(node)):
            return f"made by {node.op}"
        for reader in tensor.outputs:
            if _treats_channels_alike(reader) or reader.op == "Concat":
                continue
            if reader.op != "Slice" or not _takes_half(reader):
                return f"read by {reader.op}, which needs both flows together"
            if edit.is_output(self.graph, reader.outputs[0]):
                return "half of it is an output of the graph"
        return ""

    def _joins_halves(self, node: gs.Node) -> bool:
        return node.op == "Concat" and [
            self.extents[part.name].channels for part in node.inputs
        ] == [HALF, HALF]

    def _make_halves(self, tensor: gs.Tensor) -> Halves:
        if id(tensor) not in self.halves:
            self.halves[id(tensor)] = self._halve(tensor.inputs[0])
        return self.halves[id(tensor)]

    def _halve(self, node: gs.Node) -> Halves:
        if node.op == "Concat":
            return node.inputs[0], node.inputs[1]
        if node.op == "Slice":
            data = node.inputs[0]
            start, _ = ops.channel_range(node, self.extents[data.name].channels)
            first, second = (
                edit.add_slice(self.graph, node.name, data, begin, begin + HALF)
                for begin in (start, start + HALF)
            )
            return first, second
        made = []
        for half in (0, 1):
            inputs = [
                self._make_halves(t)[half] if id(t) in self.members else t for t in node.inputs
            ]
            made.append(edit.add_copy(self.graph, node, f"{node.name}.flow{half}", inputs))
        return made[0], made[1]

    def _rewire_readers(self, tensor: gs.Tensor) -> None:
        halves = self.halves[id(tensor)]
        for reader in list(tensor.outputs):
            if reader.op == "Slice":
                half = halves[ops.channel_range(reader, 2 * HALF)[0] // HALF]
                edit.replace_uses(reader.outputs[0], half)
            elif reader.op == "Concat":
                parts = [p for t in reader.inputs for p in (halves if t is tensor else (t,))]
                reader.inputs = parts


def _treats_channels_alike(node: gs.Node) -> bool:
    if node.op == "Add":
        return len(ops.data_inputs(node)) == len(node.inputs)
    return node.op == "Resize" or ops.scaled_operand(node) is not None


def _takes_half(node: gs.Node) -> bool:
    return ops.channel_range(node, 2 * HALF) in ((0, HALF), (HALF, 2 * HALF))
