"""Compare two frames and judge the difference by a named tolerance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from surgery.proof.tolerances import Metric, Tolerance

LEVELS = 255
# The window of the original SSIM: 11 pixels of a Gaussian of deviation 1.5, and its constants.
# Source: Wang, Bovik, Sheikh, Simoncelli: "Image quality assessment", IEEE TIP 13 (4), 2004.
SSIM_WINDOW = 11
SSIM_DEVIATION = 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What differs between two arrays; 1 is white.

    Differences are taken where both arrays are finite. They are NaN when the shapes differ or
    nothing is finite; ssim is also NaN for frames smaller than its window.

    Attributes:
        reference_shape: of the array that is right.
        candidate_shape: of the array that is judged.
        max_abs: the largest difference.
        mean_abs: the mean difference.
        p999_abs: the difference that one value in a thousand exceeds.
        psnr: in dB, of a peak of 1; infinite for equal arrays.
        ssim: mean structural similarity of all channels, 1 for equal arrays.
        reference_nonfinite: how many values of the reference are NaN or infinite.
        candidate_nonfinite: how many values of the candidate are NaN or infinite.
        worst: index of the largest difference; empty when there is none.
        worst_reference: the reference's value there.
        worst_candidate: the candidate's value there.
    """

    reference_shape: tuple[int, ...]
    candidate_shape: tuple[int, ...]
    max_abs: float = math.nan
    mean_abs: float = math.nan
    p999_abs: float = math.nan
    psnr: float = math.nan
    ssim: float = math.nan
    reference_nonfinite: int = 0
    candidate_nonfinite: int = 0
    worst: tuple[int, ...] = ()
    worst_reference: float = math.nan
    worst_candidate: float = math.nan


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a comparison passes, and why, as one sentence."""

    passed: bool
    sentence: str


def compare(reference: np.ndarray, candidate: np.ndarray) -> Comparison:
    """Measure how much `candidate` differs from `reference`.

    Shapes: any, usually [1,3,H,W]; when they differ, only that and non-finite values are reported.
    Units: 1 is white. Values outside 0..1 are compared as they are.

    Raises:
        TypeError: an array holds integers, whose white is not known.
    """
    for array in (reference, candidate):
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"{array.dtype} values; floats with white at 1 are compared")
    reference, candidate = reference.astype(np.float64), candidate.astype(np.float64)
    blank = Comparison(
        reference_shape=reference.shape,
        candidate_shape=candidate.shape,
        reference_nonfinite=int(np.count_nonzero(~np.isfinite(reference))),
        candidate_nonfinite=int(np.count_nonzero(~np.isfinite(candidate))),
    )
    if reference.shape != candidate.shape:
        return blank
    finite = np.isfinite(reference) & np.isfinite(candidate)
    return _measure(reference, candidate, finite, blank) if finite.any() else blank


def _measure(
    reference: np.ndarray, candidate: np.ndarray, finite: np.ndarray, blank: Comparison
) -> Comparison:
    error = np.abs(np.subtract(candidate, reference, where=finite, out=np.zeros(finite.shape)))
    worst = np.unravel_index(int(error.argmax()), error.shape)
    return dataclasses.replace(
        blank,
        max_abs=float(error.max()),
        mean_abs=float(error[finite].mean()),
        p999_abs=float(np.quantile(error[finite], 0.999)),
        psnr=_psnr(float(np.square(error[finite]).mean())),
        ssim=measure_ssim(reference, candidate) if finite.all() else math.nan,
        worst=tuple(int(index) for index in worst),
        worst_reference=float(reference[worst]),
        worst_candidate=float(candidate[worst]),
    )


def judge(comparison: Comparison, tolerance: Tolerance) -> Verdict:
    """Apply a tolerance; other shapes and non-finite values fail whatever the tolerance."""
    if comparison.reference_shape != comparison.candidate_shape:
        return Verdict(
            False,
            f"failed: the shape is {_shape_words(comparison.candidate_shape)}; "
            f"{_shape_words(comparison.reference_shape)} is expected",
        )
    nonfinite = comparison.reference_nonfinite, comparison.candidate_nonfinite
    if any(nonfinite):
        return Verdict(
            False,
            f"failed: NaN or infinite values, {nonfinite[0]} in the reference and "
            f"{nonfinite[1]} in the candidate; none is accepted",
        )
    value = METRICS[tolerance.metric](comparison)
    passed = tolerance.accepts(value)
    limit = "at least" if tolerance.metric.larger_is_better else "at most"
    sentence = (
        f"{'passed' if passed else 'failed'}: {tolerance.metric.value} {value:.3g}, "
        f"{limit} {tolerance.bound:g} is accepted ({tolerance.name})"
    )
    return Verdict(passed, sentence if passed else f"{sentence}; {_describe_worst(comparison)}")


def measure_ssim(reference: np.ndarray, candidate: np.ndarray) -> float:
    """Mean structural similarity over all places where the window fits, and all planes.

    Shapes: [...,H,W], both the same. Units: 1 is white.
    Returns NaN when a plane is smaller than the window.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, equation 13, with its Gaussian window.
    """
    if min(reference.shape[-2:], default=0) < SSIM_WINDOW:
        return math.nan
    mean_a, mean_b = _blur(reference), _blur(candidate)
    variance_a = _blur(reference * reference) - mean_a * mean_a
    variance_b = _blur(candidate * candidate) - mean_b * mean_b
    covariance = _blur(reference * candidate) - mean_a * mean_b
    brightness = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_a + variance_b + SSIM_C2)
    return float((brightness * structure).mean())


METRICS: dict[Metric, Callable[[Comparison], float]] = {
    Metric.MAX_ABS: lambda comparison: comparison.max_abs,
    Metric.MAX_LEVELS: lambda comparison: comparison.max_abs * LEVELS,
    Metric.PSNR: lambda comparison: comparison.psnr,
}


def _psnr(mean_square: float) -> float:
    return math.inf if mean_square == 0 else -10 * math.log10(mean_square)


def _blur(planes: np.ndarray) -> np.ndarray:
    """Weighted means under the window, at every place where it fits."""
    offsets = np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (offsets / SSIM_DEVIATION) ** 2)
    weights /= weights.sum()
    for axis in (-2, -1):
        windows = np.lib.stride_tricks.sliding_window_view(planes, SSIM_WINDOW, axis=axis)
        planes = windows @ weights
    return planes


def _shape_words(shape: tuple[int, ...]) -> str:
    return "x".join(str(size) for size in shape) or "that of a number"


def _describe_worst(comparison: Comparison) -> str:
    return (
        f"worst at {list(comparison.worst)}: {comparison.worst_candidate:.6g} instead of "
        f"{comparison.worst_reference:.6g}"
    )
