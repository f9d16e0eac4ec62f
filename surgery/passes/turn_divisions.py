"""Write a division by a power of two as the multiplication that it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)
# The factor of a larger one, or of its inverse, would be no normal float32.
LARGEST_DIVISOR = 2.0**126


def turn_divisions(model: HubModel) -> int:
    """Turn Div(x, 2^k) into Mul(x, 2^-k), so that later passes meet one form only.

    Exact when: the divisor is a power of two; only the exponent changes, bit for bit.
    """
    turned = 0
    for node in model.graph.nodes:
        if node.op != "Div":
            continue
        divisor = ops.scalar(node.inputs[1])
        if divisor is None or not ops.is_power_of_two(divisor):
            log.debug("%s: refused: %s is no power of two", node.name, divisor)
            continue
        if not 1 / LARGEST_DIVISOR <= abs(divisor) <= LARGEST_DIVISOR:
            log.debug("%s: refused: 1 / %g is no normal float32", node.name, divisor)
            continue
        node.op = "Mul"
        node.inputs[1] = edit.make_constant(
            f"{node.name}.factor", np.asarray(1.0 / divisor, np.float32)
        )
        turned += 1
    return turned
