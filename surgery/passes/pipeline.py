"""The passes, in order, with the promise each one keeps and the reason it stands where it does."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Literal

from surgery.errors import HubError
from surgery.hub.model import HubModel
from surgery.hub.verify import verify_open
from surgery.passes.drop_identities import drop_identities
from surgery.passes.drop_input_clips import drop_input_clips
from surgery.passes.fold_betas import fold_betas
from surgery.passes.merge_duplicates import merge_duplicates

log = logging.getLogger(__name__)

# A pass list that still finds something after so many rounds is undoing its own work.
MAX_ROUNDS = 12

Promise = Literal["exact", "rounding"]


@dataclasses.dataclass(frozen=True)
class Pass:
    """A rewrite of the hub graph.

    Attributes:
        run: edits the graph and returns the number of edits.
        promise: `exact` (equal in real arithmetic) or `rounding`.
    """

    run: Callable[[HubModel], int]
    promise: Promise = "exact"

    @property
    def name(self) -> str:
        """The name of the function, which is the name of its module."""
        return self.run.__name__


# Hold for every runtime.
PORTABLE: tuple[Pass, ...] = (
    Pass(drop_identities),  # first: everything else matches neighbours
    Pass(fold_betas),
    Pass(merge_duplicates),  # last: other passes leave equal nodes behind
)
# Hold where the runtime feeds frames in 0..1; before the portable ones, which see fewer nodes.
CLAMPED_INPUTS: tuple[Pass, ...] = (Pass(drop_input_clips),)


def run_passes(model: HubModel, passes: Sequence[Pass]) -> dict[str, int]:
    """Run passes in order, again until none edits anything, verifying the hub after each.

    Returns the number of edits by pass name.

    Raises:
        HubError: a pass left an illegal graph (the message names it and those before it), or
            the passes do not come to rest.
    """
    edits = dict.fromkeys((p.name for p in passes), 0)
    done: list[str] = []
    for _ in range(MAX_ROUNDS):
        before = sum(edits.values())
        for one in passes:
            count = one.run(model)
            if not count:
                continue
            edits[one.name] += count
            log.info("%s: %d edit(s)", one.name, count)
            model.graph.cleanup().toposort()
            try:
                verify_open(model)
            except HubError as error:
                raise HubError(
                    f"pass {one.name} broke the graph (after {', '.join(done) or 'none'}): {error}"
                ) from error
            done.append(one.name)
        if sum(edits.values()) == before:
            return edits
    raise HubError(f"the passes still edit after {MAX_ROUNDS} rounds: {edits}")
