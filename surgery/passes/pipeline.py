"""The passes, in order, with the promise each one keeps and the reason it stands where it does."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from surgery.errors import HubError
from surgery.hub import networks
from surgery.hub.model import HubModel
from surgery.hub.verify import verify_open
from surgery.passes.compose_resizes import compose_resizes
from surgery.passes.distribute_resizes import distribute_resizes
from surgery.passes.distribute_scales import distribute_scales
from surgery.passes.drop_identities import drop_identities
from surgery.passes.drop_input_clips import drop_input_clips
from surgery.passes.drop_unread_channels import drop_unread_channels
from surgery.passes.factor_blend import factor_blend
from surgery.passes.fold_betas import fold_betas
from surgery.passes.fold_residuals import fold_residuals
from surgery.passes.fold_scales import fold_scales
from surgery.passes.join_directions import join_directions
from surgery.passes.merge_concats import merge_concats
from surgery.passes.merge_duplicates import merge_duplicates
from surgery.passes.merge_pixel_shuffles import merge_pixel_shuffles
from surgery.passes.move_resizes_up import move_resizes_up
from surgery.passes.move_scales_down import move_scales_down
from surgery.passes.move_scales_up import move_scales_up
from surgery.passes.move_slices_up import move_slices_up
from surgery.passes.move_sums_up import move_sums_up
from surgery.passes.replace_deconvolutions import replace_deconvolutions
from surgery.passes.split_flows import split_flows
from surgery.passes.turn_divisions import turn_divisions
from surgery.passes.turn_negations import turn_negations
from surgery.passes.ungroup_convolutions import ungroup_convolutions

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
    Pass(turn_divisions),  # every later pass knows factors as Mul alone
    Pass(turn_negations),  # signs are factors, too
    Pass(fold_betas),
    Pass(merge_concats),  # before resizes move: one Concat to move over
    Pass(move_resizes_up),
    Pass(move_slices_up),  # makes the Resize of each part visible on its own
    Pass(move_sums_up),  # an ensemble's averages: before the factor that halves them
    Pass(move_scales_down),  # an ensemble's negated masks
    Pass(move_scales_up),  # after slices: only the flow's channels are scaled
    Pass(split_flows),  # after slices and scales: flows are sums of enlarged parts by now
    Pass(distribute_resizes),  # makes the pairs that compose_resizes joins
    Pass(compose_resizes),
    Pass(distribute_scales),  # an ensemble's halves, next to each direction's convolution
    Pass(fold_scales),  # after everything that moves a factor next to its convolution
    Pass(replace_deconvolutions),
    Pass(merge_pixel_shuffles),
    Pass(drop_unread_channels),
    Pass(join_directions),  # after fold_scales: factors and signs are in the weights by then
    Pass(factor_blend),
    Pass(merge_duplicates),  # last: other passes leave equal nodes behind
)
# Hold where the runtime feeds frames in 0..1; before the portable ones, which see fewer nodes.
CLAMPED_INPUTS: tuple[Pass, ...] = (Pass(drop_input_clips),)
# Not the default: they change what float arithmetic makes of the model.
FAST: tuple[Pass, ...] = (Pass(fold_residuals, "rounding"),)

# Hold everywhere, and pay only where a runtime has no grouped convolution.
DENSE: tuple[Pass, ...] = (Pass(ungroup_convolutions),)


def run_passes(model: HubModel, passes: Sequence[Pass]) -> dict[str, int]:
    """Run passes in order, again until none edits anything, verifying the hub after each.

    Passes rely on what the hub promises, so the hub is verified before the first one, too. Three
    networks are rewritten one by one: what they hand on to each other stays.

    Returns the number of edits by pass name.

    Raises:
        HubError: the graph is illegal as it comes, a pass failed or left an illegal graph (the
            message names it and those before it), or the passes do not come to rest.
    """
    model.graph.cleanup()
    verify_open(model)
    if model.metadata.kind in networks.KINDS:
        return _run_on_networks(model, passes)
    edits = dict.fromkeys((p.name for p in passes), 0)
    done: list[str] = []
    for _ in range(MAX_ROUNDS):
        before = sum(edits.values())
        for one in passes:
            try:
                count = _run_pass(model, one)
            except (HubError, ValueError) as error:
                raise HubError(
                    f"pass {one.name} broke the graph (after {', '.join(done) or 'none'}): {error}"
                ) from error
            if count:
                edits[one.name] += count
                done.append(one.name)
        if sum(edits.values()) == before:
            return edits
    raise HubError(f"the passes still edit after {MAX_ROUNDS} rounds: {edits}")


def _run_on_networks(model: HubModel, passes: Sequence[Pass]) -> dict[str, int]:
    edits: Counter[str] = Counter()
    cut = networks.cut_networks(model)
    for one in cut.values():
        edits.update(run_passes(one, passes))
    joined = networks.join_networks(cut, model.metadata)
    verify_open(joined)
    model.graph, model.metadata = joined.graph, joined.metadata
    return dict(edits)


def _run_pass(model: HubModel, one: Pass) -> int:
    """Run one pass, and verify what it has edited."""
    count = one.run(model)
    if count:
        log.info("%s: %d edit(s)", one.name, count)
        model.graph.cleanup().toposort()
        verify_open(model)
    return count
