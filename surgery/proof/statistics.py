"""How large and how varied the flows at the warps were: a still flow proves no warp."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from surgery.proof.tolerances import CALIBRATED_FLOW, FlowBounds

# One sentence of a report has room for so many complaints; the rest is counted.
MAX_COMPLAINTS = 4


@dataclass(frozen=True)
class FlowStatistics:
    """One flow at one warp; everything in pixels of the image that is warped.

    Attributes:
        median: of the flow's length.
        p99: 99th percentile of the flow's length.
        std_x: standard deviation of x across the frame.
        std_y: standard deviation of y across the frame.
        difference: median distance from the flow of the other frame, NaN where there is none.
        nonfinite: how many values are NaN or infinite; the rest is of the others.
    """

    median: float
    p99: float
    std_x: float
    std_y: float
    difference: float = math.nan
    nonfinite: int = 0


def measure_flows(flows: Sequence[np.ndarray]) -> list[FlowStatistics]:
    """Measure the flows of one frame, in the order of the warps.

    Shapes: each [N,2,H,W]. Units: pixels. Warps come in pairs, one for each of the two frames.
    Flows smaller than the frame are left out: refinements shrink those of full size to get them.
    """
    widest = max((flow.shape[-1] for flow in flows), default=0)
    flows = [flow for flow in flows if flow.shape[-1] == widest]
    measured = [_measure_flow(flow) for flow in flows]
    for index in range(0, len(flows) - 1, 2):
        distance = np.hypot(*np.moveaxis(flows[index] - flows[index + 1], 1, 0))
        finite = distance[np.isfinite(distance)]
        difference = float(np.median(finite)) if finite.size else 0.0
        for one in (index, index + 1):
            measured[one] = dataclasses.replace(measured[one], difference=difference)
    return measured


def _measure_flow(flow: np.ndarray) -> FlowStatistics:
    finite = np.isfinite(flow).all(axis=1)
    x, y = flow[:, 0][finite], flow[:, 1][finite]
    nonfinite = int(np.count_nonzero(~np.isfinite(flow)))
    if x.size == 0:
        return FlowStatistics(0.0, 0.0, 0.0, 0.0, nonfinite=nonfinite)
    length = np.hypot(x, y)
    return FlowStatistics(
        median=float(np.median(length)),
        p99=float(np.quantile(length, 0.99)),
        std_x=float(x.std()),
        std_y=float(y.std()),
        nonfinite=nonfinite,
    )


def pick_largest(
    frames: Sequence[Sequence[FlowStatistics]], bounds: FlowBounds
) -> list[FlowStatistics]:
    """For every warp the flow of the frame that proves it best, or one that is not finite.

    A warp that is wrong shows in any frame whose flow is large enough; the others may be still.
    """

    def rank(flow: FlowStatistics) -> tuple[bool, bool, float]:
        return flow.nonfinite > 0, not list(_list_complaints(flow, bounds)), flow.median

    return [max(flows, key=rank) for flows in zip(*frames, strict=False)]


def too_small(flows: Sequence[FlowStatistics], bounds: FlowBounds = CALIBRATED_FLOW) -> str:
    """Say why flows cannot prove the warps they went into; empty when they can.

    `surgery.proof.tolerances` has the bounds, with their reasons: `CALIBRATED_FLOW` for weights
    made up for a proof, `PROVING_FLOW` for a warning about a person's own weights and frames.
    """
    complaints = [
        f"warp {index}: {complaint}"
        for index, flow in enumerate(flows)
        for complaint in _list_complaints(flow, bounds)
    ]
    more = len(complaints) - MAX_COMPLAINTS
    return "; ".join([*complaints[:MAX_COMPLAINTS], *([f"{more} more"] if more > 0 else [])])


def _list_complaints(flow: FlowStatistics, bounds: FlowBounds) -> Iterator[str]:
    if flow.nonfinite:
        yield f"{flow.nonfinite} values are NaN or infinite"
    if flow.median < bounds.least_median:
        yield f"the median flow is {flow.median:.2f} px (least {bounds.least_median:g})"
    if flow.p99 < bounds.least_p99:
        yield f"99 % of the flow is below {flow.p99:.2f} px (least {bounds.least_p99:g})"
    if flow.p99 > bounds.most_p99:
        yield f"1 % of the flow is above {flow.p99:.2f} px (most {bounds.most_p99:g})"
    if min(flow.std_x, flow.std_y) < bounds.least_std:
        yield (
            f"the flow varies by {flow.std_x:.2f} px in x and {flow.std_y:.2f} in y "
            f"(least {bounds.least_std:g})"
        )
    if flow.difference < bounds.least_difference:
        yield (
            f"the flows of the two frames are {flow.difference:.2f} px apart "
            f"(least {bounds.least_difference:g})"
        )
