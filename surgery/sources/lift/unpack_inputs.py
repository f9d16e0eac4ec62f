"""Give a foreign graph the hub's inputs, whatever its own are packed into.

Source of the packed layouts: vs-mlrt scripts/vsmlrt.py, `RIFE` (11 channels) and `RIFEMerge` (7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import HubError
from surgery.hub import ops
from surgery.hub.model import V4_INPUTS
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

# vs-rife's `tenFlow_div`: half of the last column's and row's number, by which flows are divided.
DIVISOR = "flow_divisor"
# What follows frames and timestep where the host feeds the grid, one channel each.
GRID_INPUTS = ("grid_x", "grid_y", "step_x", "step_y")
# How many channels all inputs have together, and what these are.
CONTENTS: dict[int, tuple[str, ...]] = {
    6: ("in0", "in1"),
    7: ("in0", "in1", "in2"),
    9: ("in0", "in1", "in2", "grid_x", "grid_y"),
    11: ("in0", "in1", "in2", *GRID_INPUTS),
}
ACCEPTED = (
    "accepted are frames and timestep in this order (3, 3 and 1 channels, in any packing: 7), or "
    "called in0, in1 and in2, and with the grid that vs-mlrt feeds (9 or 11)"
)
# Height and width; None for each that is open.
Sides = tuple[int | None, int | None]


@dataclasses.dataclass(frozen=True)
class Unpacked:
    """What `unpack_inputs` found.

    Attributes:
        size: height and width, where the graph fixes them; None for each that is open.
        packed: of each input that the graph had, its shape and the parts that it consists of.
    """

    size: Sides
    packed: Mapping[str, tuple[Sides, tuple[str, ...]]]


def unpack_inputs(graph: gs.Graph) -> Unpacked:
    """Replace the inputs of a graph by in0, in1, in2 and, where it is fed, the parts of the grid.

    Inputs that have the hub's names are taken for what these say, in whatever order they come;
    others by their order, frames first.

    Raises:
        HubError: inputs of other channels than a layout that is known has, or an input that holds
            a part of a frame.
    """
    import onnx_graphsurgeon as gs

    divisors = [one for one in graph.inputs if list(one.shape or ()) == [2]]
    own = _put_in_order(
        [one for one in graph.inputs if all(one is not divisor for divisor in divisors)]
    )
    found = [(tensor.name, _channels(tensor)) for tensor in own]
    total = sum(channels for _, channels in found)
    if total not in CONTENTS:
        raise HubError(f"inputs {_list_inputs(found)}; {ACCEPTED}")
    unpacked = Unpacked(
        _fixed_size(own[0]),
        {
            **{
                tensor.name: (_fixed_size(tensor), names)
                for tensor, names in zip(own, _share_parts(found, CONTENTS[total]), strict=True)
            },
            **{tensor.name: ((None, None), (DIVISOR,)) for tensor in divisors},
        },
    )
    parts = [
        gs.Variable(name, np.dtype(np.float32), [1, V4_INPUTS.get(name, 1), "H", "W"])
        for name in CONTENTS[total]
    ]
    for tensor in own:
        tensor.name = f"{tensor.name}:packed"
    start = 0
    for tensor, (_, channels) in zip(own, found, strict=True):
        _Unpacker(graph, parts, start).replace(tensor, channels)
        start += channels
    missing = [name for name in V4_INPUTS if name not in CONTENTS[total]]
    for tensor in divisors:
        tensor.name = DIVISOR
    graph.inputs = [
        *parts,
        *divisors,
        *(gs.Variable(n, np.dtype(np.float32), [1, V4_INPUTS[n], "H", "W"]) for n in missing),
    ]
    graph.cleanup().toposort()
    return unpacked


def _put_in_order(inputs: list[gs.Tensor]) -> list[gs.Tensor]:
    """As CONTENTS has them, if both frames have the hub's names; else as they come."""
    order = {name: rank for rank, name in enumerate(V4_INPUTS)}
    if not {"in0", "in1"} <= {tensor.name for tensor in inputs}:
        return inputs
    return sorted(inputs, key=lambda tensor: order.get(tensor.name, len(order)))


def _share_parts(
    found: Sequence[tuple[str, int]], contents: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """The parts that each input consists of.

    Raises:
        HubError: one begins or ends within a part.
    """
    waiting = list(contents)
    for name, channels in found:
        own: list[str] = []
        left = channels
        while left > 0:
            left -= V4_INPUTS.get(waiting[0], 1)
            own.append(waiting.pop(0))
        if left < 0:
            raise HubError(
                f"inputs {_list_inputs(found)}: {name} would end within {own[-1]}; {ACCEPTED}"
            )
        yield tuple(own)


def _list_inputs(found: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{name} of {channels} channels" for name, channels in found)


def _channels(tensor: gs.Tensor) -> int:
    shape = tensor.shape
    if shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        raise HubError(
            f"input {tensor.name} has the shape {shape}; [1, channels, H, W] with a number of "
            "channels is accepted (a timestep as [1, 1, H, W] or [1, 1, 1, 1]); export it again so"
        )
    return shape[1]


def _fixed_size(tensor: gs.Tensor) -> Sides:
    height, width = (
        size if isinstance(size, int) and size > 0 else None for size in tensor.shape[2:]
    )
    return height, width


class _Unpacker:
    """Serves the readers of one packed input from the parts that it consists of."""

    def __init__(self, graph: gs.Graph, parts: list[gs.Tensor], offset: int) -> None:
        self.graph = graph
        self.parts = parts
        self.offset = offset

    def replace(self, packed: gs.Tensor, channels: int) -> None:
        for reader in list(packed.outputs):
            bounds = _channel_slice(reader, channels)
            if bounds is not None:
                edit.replace_uses(reader.outputs[0], self.take(*bounds))
                reader.inputs.clear()
        if packed.outputs:
            edit.replace_uses(packed, self.take(0, channels))

    def take(self, start: int, end: int) -> gs.Tensor:
        """The channels start to end of the packed input, from the parts."""
        taken, place = [], -self.offset
        for part in self.parts:
            size = int(part.shape[1])
            low, high = max(start - place, 0), min(end - place, size)
            if low < high:
                whole = (low, high) == (0, size)
                taken.append(part if whole else self.cut(part, low, high))
            place += size
        if len(taken) == 1:
            return taken[0]
        return edit.add_node(self.graph, "/unpack/Concat", "Concat", taken, {"axis": 1})

    def cut(self, part: gs.Tensor, start: int, end: int) -> gs.Tensor:
        return edit.add_slice(self.graph, "/unpack/Slice", part, start, end)


def _channel_slice(node: gs.Node, channels: int) -> tuple[int, int] | None:
    if node.op != "Slice":
        return None
    try:
        spec = ops.read_slice(node)
    except ValueError:
        return None
    if spec.axis not in (ops.CHANNEL_AXIS, ops.CHANNEL_AXIS - 4):
        return None
    start, end, _ = slice(spec.start, spec.end).indices(channels)
    return start, end
