"""Write a division by a power of two as the multiplication that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    from surgery.hub.model import HubModel


def turn_divisions(model: HubModel) -> int:
    """Turn Div(x, 2^k) into Mul(x, 2^-k), so that later passes meet one form only.

    Exact when: the divisor is a power of two; only the exponent changes, bit for bit.
    """
    turned = 0
    for node in model.graph.nodes:
        divisor = ops.scalar(node.inputs[1]) if node.op == "Div" else None
        if divisor is None or not ops.is_power_of_two(divisor):
            continue
        node.op = "Mul"
        node.inputs[1] = edit.make_constant(
            f"{node.name}.factor", np.asarray(1.0 / divisor, np.float32)
        )
        turned += 1
    return turned
