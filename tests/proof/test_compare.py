"""Differences are measured where they are, and nothing passes that should not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from surgery.proof.compare import compare, judge, measure_ssim
from surgery.proof.tolerances import (
    EIGHT_BIT_PSNR_CAP,
    NCNN_FP32,
    RUNTIME_CPU_FP32,
    RUNTIME_VULKAN,
    Metric,
    Tolerance,
)

TIGHT = Tolerance("a test's comparison", Metric.MAX_ABS, 1e-3, "for this test")


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).random((1, 3, 24, 32), np.float32)


def test_equal_frames_have_no_difference(frame: np.ndarray) -> None:
    comparison = compare(frame, frame.copy())
    assert (comparison.max_abs, comparison.mean_abs, comparison.p999_abs) == (0, 0, 0)
    assert comparison.psnr == math.inf
    assert comparison.ssim == pytest.approx(1, abs=1e-12)
    assert judge(comparison, TIGHT).passed


def test_one_wrong_pixel_is_found(frame: np.ndarray) -> None:
    wrong = frame.copy()
    wrong[0, 2, 5, 7] += 0.5
    comparison = compare(frame, wrong)
    assert comparison.worst == (0, 2, 5, 7)
    assert comparison.max_abs == pytest.approx(0.5, abs=1e-6)
    assert comparison.mean_abs == pytest.approx(0.5 / frame.size, rel=1e-6)
    assert comparison.psnr == pytest.approx(-10 * math.log10(0.25 / frame.size), abs=1e-4)
    assert comparison.p999_abs == 0
    verdict = judge(comparison, TIGHT)
    assert not verdict.passed
    assert "[0, 2, 5, 7]" in verdict.sentence
    assert "at most 0.001 is accepted" in verdict.sentence


def test_two_wrong_pixels_in_a_thousand_reach_the_percentile(frame: np.ndarray) -> None:
    wrong = frame.copy()
    wrong.reshape(-1)[:: frame.size // 5] += 0.25
    assert compare(frame, wrong).p999_abs == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
def test_nonfinite_values_are_counted_and_fail(frame: np.ndarray, bad: float, side: str) -> None:
    broken = frame.copy()
    broken[0, 1, 3, 4] = bad
    pair = {"reference": (broken, frame), "candidate": (frame, broken), "both": (broken, broken)}
    comparison = compare(*pair[side])
    counts = (comparison.reference_nonfinite, comparison.candidate_nonfinite)
    assert counts == {"reference": (1, 0), "candidate": (0, 1), "both": (1, 1)}[side]
    assert comparison.max_abs == 0
    for tolerance in (TIGHT, RUNTIME_VULKAN):
        verdict = judge(comparison, tolerance)
        assert not verdict.passed
        assert "NaN or infinite" in verdict.sentence


def test_nothing_finite_fails(frame: np.ndarray) -> None:
    comparison = compare(np.full_like(frame, np.nan), frame)
    assert math.isnan(comparison.max_abs)
    assert not judge(comparison, TIGHT).passed


@pytest.mark.parametrize("cut", [np.s_[:, :2], np.s_[..., :-1], np.s_[0]])
def test_another_shape_fails_with_both_shapes(frame: np.ndarray, cut: tuple[slice, ...]) -> None:
    verdict = judge(compare(frame, frame[cut]), TIGHT)
    assert not verdict.passed
    assert "1x3x24x32 is expected" in verdict.sentence


def test_no_values_at_all_fail() -> None:
    nothing = np.zeros((1, 3, 0, 5), np.float32)
    assert not judge(compare(nothing, nothing), TIGHT).passed


def test_integers_are_refused(frame: np.ndarray) -> None:
    with pytest.raises(TypeError, match="uint8"):
        compare(frame, (frame * 255).astype(np.uint8))


def test_a_candidate_of_half_precision_is_compared_in_double(frame: np.ndarray) -> None:
    comparison = compare(frame, frame.astype(np.float16))
    assert 0 < comparison.max_abs < 2**-11


def test_rounding_to_8_bits_is_half_a_level_and_the_cap(frame: np.ndarray) -> None:
    frame = np.random.default_rng(1).random((1, 3, 200, 200))
    comparison = compare(frame, np.rint(frame * 255) / 255)
    assert comparison.max_abs * 255 == pytest.approx(0.5, abs=1e-3)
    assert comparison.psnr == pytest.approx(EIGHT_BIT_PSNR_CAP, abs=0.05)
    assert judge(comparison, RUNTIME_CPU_FP32).passed
    assert judge(comparison, RUNTIME_VULKAN).passed
    assert not judge(comparison, NCNN_FP32).passed


def test_truncating_to_8_bits_fails(frame: np.ndarray) -> None:
    assert not judge(compare(frame, np.floor(frame * 255) / 255), RUNTIME_CPU_FP32).passed


def test_a_swapped_channel_fails(frame: np.ndarray) -> None:
    assert not judge(compare(frame, frame[:, ::-1]), RUNTIME_VULKAN).passed


@pytest.mark.parametrize("spread", [0.003, 0.1, 0.5])
def test_ssim_agrees_with_scikit_image(spread: float) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    generator = np.random.default_rng(2)
    smooth = np.cumsum(generator.standard_normal((3, 40, 50)), axis=2) / 20 + 0.5
    noisy = smooth + generator.standard_normal(smooth.shape) * spread
    expected = metrics.structural_similarity(
        smooth,
        noisy,
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert measure_ssim(smooth, noisy) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_a_frame_smaller_than_its_window_is_not_known() -> None:
    assert math.isnan(measure_ssim(np.zeros((3, 10, 40)), np.zeros((3, 10, 40))))
