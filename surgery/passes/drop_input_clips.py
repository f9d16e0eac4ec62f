"""Drop the clamp of the frames to 0..1, for a runtime that feeds nothing else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)

FRAMES = ("in0", "in1")


def drop_input_clips(model: HubModel) -> int:
    """Drop Clip(in0) and Clip(in1) whose bounds lie at or outside 0..1.

    Exact when: the runtime promises frames in 0..1, as every rife-ncnn-vulkan does (8-bit values
    divided by 255).
    """
    dropped = 0
    for node in list(model.graph.nodes):
        if node.op != "Clip" or node.inputs[0].name not in FRAMES:
            continue
        low, high = ops.clip_bounds(node)
        if low > 0.0 or high < 1.0:
            log.debug("%s: refused: it clips to %g..%g", node.name, low, high)
        elif edit.bypass(model.graph, node, node.inputs[0]):
            dropped += 1
        else:
            log.debug("%s: refused: it makes an output of the graph", node.name)
    return dropped
