"""Copy once: a Concat of Concats becomes one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from surgery.passes import edit

if TYPE_CHECKING:
    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)


def merge_concats(model: HubModel) -> int:
    """Merge a Concat into the Concat that is its only reader.

    Exact when: both concatenate channels, which the hub's shape rules see to.
    """
    merged = 0
    for node in list(model.graph.nodes):
        if node.op != "Concat":
            continue
        if not any(reader.op == "Concat" for reader in node.outputs[0].outputs):
            continue
        consumer = edit.sole_consumer(model.graph, node.outputs[0])
        if consumer is None:
            log.debug("%s: refused: it has other readers", node.name)
            continue
        parts = list(consumer.inputs)
        place = parts.index(node.outputs[0])
        consumer.inputs = [*parts[:place], *node.inputs, *parts[place + 1 :]]
        merged += 1
    return merged
