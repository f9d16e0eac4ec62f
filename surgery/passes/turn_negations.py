"""Write a negation as the multiplication by -1 that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from surgery.passes import edit

if TYPE_CHECKING:
    from surgery.hub.model import HubModel


def turn_negations(model: HubModel) -> int:
    """Turn Neg(x) into Mul(x, -1), so that later passes meet one form only.

    Exact when: always; only the sign changes, bit for bit.
    """
    turned = 0
    for node in model.graph.nodes:
        if node.op == "Neg" and not node.domain:
            node.op = "Mul"
            factor = np.asarray(-1.0, np.float32)
            node.inputs.append(edit.make_constant(f"{node.name}.factor", factor))
            turned += 1
    return turned
