"""Append nodes of any type to a graph, where the hub's own are all float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

FLOAT = 1  # onnx.TensorProto.FLOAT
HALF = 10  # onnx.TensorProto.FLOAT16
CHANNEL_AXIS = 1


class Nodes:
    """Appends nodes whose names start with the same words."""

    def __init__(self, graph: gs.Graph, prefix: str) -> None:
        """Append to a graph; the first node is `/prefix/Op`."""
        self.graph = graph
        self.prefix = prefix
        self._constants: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}

    def add(
        self,
        operator: str,
        inputs: list[gs.Tensor],
        dtype: type[np.generic] = np.float32,
        **attributes: Any,
    ) -> gs.Tensor:
        """Append a node and return its output."""
        name = f"/{self.prefix}/{operator}"
        made = edit.add_node(self.graph, name, operator, inputs, attributes)
        made.dtype = np.dtype(dtype)
        return made

    def constant(self, values: object, dtype: type[np.generic] = np.float32) -> gs.Constant:
        """Make a constant, once for each value."""
        array = np.asarray(values, dtype)
        # Bytes alone do not tell 0 from [0].
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = f"/{self.prefix}.constant{len(self._constants)}"
            self._constants[key] = edit.make_constant(name, array)
        return self._constants[key]

    def slice_channels(self, data: gs.Tensor, start: int, end: int) -> gs.Tensor:
        """Append a Slice of the channels start to end (exclusive)."""
        bounds = [self.constant([value], np.int64) for value in (start, end, CHANNEL_AXIS)]
        made = self.add("Slice", [data, *bounds])
        made.dtype = data.dtype
        return made

    def measure(self, data: gs.Tensor, axis: int) -> gs.Tensor:
        """Append what reads one size of a tensor: an int64 of no axes."""
        shape = self.add("Shape", [data], np.int64)
        return self.add("Gather", [shape, self.constant(axis, np.int64)], np.int64, axis=0)
