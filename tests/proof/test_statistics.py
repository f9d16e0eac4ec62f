"""Flows are measured as they are, and too small a flow is said to be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from surgery.hub.warp import warp_reference
from surgery.proof.compare import compare
from surgery.proof.inputs import make_samples
from surgery.proof.statistics import FlowStatistics, measure_flows, pick_largest, too_small
from surgery.proof.tolerances import CALIBRATED_FLOW, PROVING_FLOW, RUNTIME_VULKAN, FlowBounds

GOOD = FlowStatistics(median=3.0, p99=9.0, std_x=2.5, std_y=2.2, difference=4.0)


def make_flow(median: float, seed: int = 0) -> np.ndarray:
    """A smooth flow whose length has this median; float32 [1,2,96,128]."""
    phase = np.random.default_rng(seed).uniform(0, 6, 4)
    y, x = np.mgrid[:96, :128] / 32
    flow = np.stack(
        [
            np.sin(1.3 * x + y + phase[0]) + 0.5 * np.cos(2 * y - x + phase[1]),
            np.cos(1.1 * y - 0.7 * x + phase[2]) + 0.5 * np.sin(2.2 * x + phase[3]),
        ]
    )[None]
    flow *= median / np.median(np.hypot(flow[:, 0], flow[:, 1]))
    return np.asarray(flow, np.float32)


def test_a_known_flow_is_measured() -> None:
    flow = np.zeros((1, 2, 10, 10), np.float32)
    flow[:, 0, :, ::2], flow[:, 0, :, 1::2], flow[:, 1] = 6, 0, 8
    (measured,) = measure_flows([flow])
    assert measured.median == pytest.approx(9)
    assert measured.p99 == pytest.approx(10)
    assert (measured.std_x, measured.std_y) == (3, 0)
    assert math.isnan(measured.difference)
    assert measured.nonfinite == 0


def test_the_two_flows_of_a_pair_are_compared() -> None:
    flow = make_flow(2.0)
    measured = measure_flows([flow, flow + np.float32(3), flow, flow])
    assert [round(one.difference, 3) for one in measured] == [4.243, 4.243, 0, 0]


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    flow = np.full((1, 2, 4, 4), 2.0, np.float32)
    flow[0, 0, 0, 0], flow[0, 1, 1, 1] = np.nan, np.inf
    measured, other = measure_flows([flow, np.full_like(flow, np.nan)])
    assert measured.nonfinite == 2
    assert measured.median == pytest.approx(math.hypot(2, 2))
    assert other.nonfinite == 32
    assert "2 values are NaN or infinite" in too_small([measured])
    assert "32 values are NaN or infinite" in too_small([other])


def test_flows_that_are_large_and_varied_pass() -> None:
    assert too_small([GOOD, GOOD]) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"median": 1.9}, "the median flow is 1.90 px (least 2)"),
        ({"p99": 3.9}, "99 % of the flow is below 3.90 px (least 4)"),
        ({"p99": 31.0}, "1 % of the flow is above 31.00 px (most 30)"),
        ({"std_x": 1.9}, "varies by 1.90 px in x and 2.20 in y (least 2)"),
        ({"std_y": 1.9}, "varies by 2.50 px in x and 1.90 in y (least 2)"),
        ({"difference": 0.9}, "the flows of the two frames are 0.90 px apart (least 1)"),
        ({"nonfinite": 1}, "1 values are NaN or infinite"),
    ],
)
def test_each_shortcoming_is_named_with_its_warp(change: dict[str, float], words: str) -> None:
    complaint = too_small([GOOD, dataclasses.replace(GOOD, **change)])  # type: ignore[arg-type]
    assert complaint.startswith("warp 1: ")
    assert words in complaint


def test_many_shortcomings_are_counted() -> None:
    still = FlowStatistics(0, 0, 0, 0, 0)
    assert too_small([still, still]).endswith("; 4 more")


def test_a_fast_flow_proves_a_warp_of_trained_weights() -> None:
    fast = dataclasses.replace(GOOD, p99=80.0)
    assert too_small([fast], PROVING_FLOW) == ""
    assert too_small([fast], CALIBRATED_FLOW) != ""


@pytest.mark.parametrize(("bounds", "margin"), [(PROVING_FLOW, 0.5), (CALIBRATED_FLOW, 10.0)])
def test_a_flow_of_the_least_size_shows_a_wrong_warp(bounds: FlowBounds, margin: float) -> None:
    """The reason of the bounds: one wrong warp of a pair fails even the loosest tolerance."""
    (sample,) = make_samples([(128, 96)], [0.5], seed=2)
    flow, other = make_flow(bounds.least_median), make_flow(bounds.least_median, seed=1)
    second = warp_reference(sample.in1, other) / 2
    right = warp_reference(sample.in0, flow) / 2 + second
    for wrong in (flow * 0, flow[:, ::-1].copy(), flow * np.float32(0.5), other):
        result = warp_reference(sample.in0, wrong) / 2 + second
        assert compare(right, result).psnr < RUNTIME_VULKAN.bound - margin


def test_a_warp_is_proved_by_the_frame_whose_flow_is_large_enough() -> None:
    still = dataclasses.replace(GOOD, median=0.1, std_x=0.1)
    slow = dataclasses.replace(GOOD, median=0.2, std_x=0.1)
    assert pick_largest([[GOOD, still], [slow, slow]], PROVING_FLOW) == [GOOD, slow]
    assert not too_small(pick_largest([[GOOD, still], [slow, GOOD]], PROVING_FLOW), PROVING_FLOW)
    assert pick_largest([], PROVING_FLOW) == []


def test_a_flow_that_is_not_finite_in_one_frame_is_told_whatever_the_others_are() -> None:
    broken = dataclasses.replace(GOOD, nonfinite=3)
    assert "3 values are NaN" in too_small(
        pick_largest([[GOOD], [broken], [GOOD]], PROVING_FLOW), PROVING_FLOW
    )
