"""Write a grouped convolution as a dense one, for a runtime that has no grouped ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    from surgery.hub.model import HubModel


def ungroup_convolutions(model: HubModel) -> int:
    """Spread the weights of a grouped Conv over all inputs, with zeros between the groups.

    Exact when: always; a product with 0 adds nothing. It costs weights and multiply-adds as many
    times over as there are groups.
    """
    ungrouped = 0
    for node in model.graph.nodes:
        if node.op != "Conv" or ops.read_conv(node).group == 1:
            continue
        weight = ops.constant(node.inputs[1])
        assert weight is not None  # read_conv has checked it
        dense = spread_groups(weight, ops.read_conv(node).group)
        node.inputs[1] = edit.make_constant(f"{node.name}.weight", dense)
        node.attrs["group"] = 1
        ungrouped += 1
    return ungrouped


def spread_groups(weight: np.ndarray, groups: int) -> np.ndarray:
    """Spread weights [out, in / groups, kh, kw] to [out, in, kh, kw]."""
    outputs, inputs, height, width = weight.shape
    dense = np.zeros((outputs, inputs * groups, height, width), weight.dtype)
    rows = outputs // groups
    for group in range(groups):
        block = slice(group * rows, (group + 1) * rows)
        dense[block, group * inputs : (group + 1) * inputs] = weight[block]
    return dense
