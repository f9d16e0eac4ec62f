"""Tolerances point the right way and explain themselves."""

from __future__ import annotations

import math

import pytest

from surgery.proof import tolerances
from surgery.proof.tolerances import EIGHT_BIT_PSNR_CAP, Metric, Tolerance

EVERY_TOLERANCE = [value for value in vars(tolerances).values() if isinstance(value, Tolerance)]
# A whole level of 8 bits at most; of a pixel so little that no value changes by a level; of a score
# what no table of scores would show.
MOST = {
    Metric.MAX_ABS: 1e-3,
    Metric.MAX_LEVELS: 1.0,
    Metric.MAX_PIXELS: 0.02,
    Metric.MAX_DB: 0.01,
}


def test_there_are_tolerances() -> None:
    assert len(EVERY_TOLERANCE) > 5


@pytest.mark.parametrize("tolerance", EVERY_TOLERANCE, ids=lambda tolerance: tolerance.name)
def test_each_accepts_its_bound_and_nothing_worse(tolerance: Tolerance) -> None:
    worse = -1 if tolerance.metric.larger_is_better else 1
    assert tolerance.accepts(tolerance.bound)
    assert not tolerance.accepts(tolerance.bound + worse * 0.01 * tolerance.bound)
    assert not tolerance.accepts(math.nan)
    assert len(tolerance.reason) > 40


@pytest.mark.parametrize("tolerance", EVERY_TOLERANCE, ids=lambda tolerance: tolerance.name)
def test_none_can_be_met_by_chance(tolerance: Tolerance) -> None:
    """No bound is beyond what its frames can reach, and none lets a whole level pass."""
    if tolerance.metric is Metric.PSNR:
        has_8_bits = tolerance.name.startswith("rife-ncnn-vulkan")
        assert 45 < tolerance.bound < (EIGHT_BIT_PSNR_CAP if has_8_bits else 80)
    else:
        assert 0 < tolerance.bound <= MOST[tolerance.metric]


def test_the_cap_is_that_of_uniform_rounding() -> None:
    assert pytest.approx(10 * math.log10(12 * 255**2), abs=0.01) == EIGHT_BIT_PSNR_CAP
