"""What it costs to write grouped convolutions densely, for runtimes that have no grouped ones."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from surgery.hub import ops, shapes

if TYPE_CHECKING:
    from surgery.hub.model import HubModel

# Multiply-adds are told for frames of this size, (width, height): full HD, padded to 128.
SIZE = (1920, 1152)


@dataclasses.dataclass(frozen=True)
class DenseCost:
    """What the zeros of dense convolutions cost.

    Attributes:
        convolutions: how many there are.
        parameters: how many numbers more the weights hold, all of them 0.
        multiply_adds: how many more one frame of `SIZE` takes.
    """

    convolutions: int
    parameters: int
    multiply_adds: int

    def describe(self, bytes_each: int) -> str:
        """One sentence for the person who converts."""
        width, height = SIZE
        return (
            f"{self.convolutions} grouped convolutions are written densely, as most runtimes have "
            f"none: {self.parameters * bytes_each / 1e6:.1f} MB of zeros more, "
            f"{self.multiply_adds / 1e9:.1f} G multiply-adds more at {width}x{height}; "
            "--runtime with one that has them keeps them"
        )


def measure_dense_cost(model: HubModel) -> DenseCost | None:
    """Count what `ungroup_convolutions` will add to an open hub model; None for nothing."""
    extents = shapes.infer_extents(model.graph.toposort())
    convolutions = parameters = multiply_adds = 0
    for node in model.graph.nodes:
        if node.op != "Conv" or ops.read_conv(node).group == 1:
            continue
        weight = ops.constant(node.inputs[1])
        assert weight is not None  # read_conv has checked it
        zeros = int(weight.size) * (ops.read_conv(node).group - 1)
        extent = extents[node.outputs[0].name]
        width, height = SIZE
        convolutions += 1
        parameters += zeros
        multiply_adds += int(zeros * (extent.height * height) * (extent.width * width))
    return DenseCost(convolutions, parameters, multiply_adds) if convolutions else None
