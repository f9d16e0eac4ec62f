"""The one place where numbers say how much two results may differ, and why that much.

Every comparison, in this package and in its tests, names one of these. The bounds come from
measurements on calibrated random weights (`surgery.sources.calibrate`) with the input of
`surgery.proof.inputs`; each stands several times above what a correct build measures and far below
what the smallest fault does.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass


class Metric(enum.Enum):
    """What is measured, and in which unit it is bounded.

    MAX_ABS: the largest difference of two values, where 1 is white.
    MAX_LEVELS: the same in levels of an 8-bit frame, where 255 is white.
    MAX_PIXELS: the largest distance of two positions, in pixels.
    PSNR: peak signal to noise ratio in dB, of a peak of 1.
    MAX_DB: the largest difference of two PSNRs, in dB.
    """

    MAX_ABS = "largest difference"
    MAX_LEVELS = "largest difference in 8-bit levels"
    MAX_PIXELS = "largest distance in pixels"
    PSNR = "PSNR in dB"
    MAX_DB = "largest difference of PSNR in dB"

    @property
    def larger_is_better(self) -> bool:
        """Whether the bound is a least value."""
        return self is Metric.PSNR


@dataclass(frozen=True)
class Tolerance:
    """How much may differ.

    Attributes:
        name: what is compared, in words.
        metric: what is bounded.
        bound: the value that still passes.
        reason: why that much, and what was measured.
    """

    name: str
    metric: Metric
    bound: float
    reason: str

    def accepts(self, value: float) -> bool:
        """Whether a measured value passes; a NaN never does."""
        return value >= self.bound if self.metric.larger_is_better else value <= self.bound


@dataclass(frozen=True)
class FlowBounds:
    """How large and how varied the flows at a warp must be to prove that warp.

    Attributes:
        least_median: of the length of the flow, in pixels.
        least_p99: 99th percentile of the length, in pixels.
        most_p99: beyond this most samples are taken from the border, and prove as little.
        least_std: standard deviation across the frame, of x and of y alone, in pixels.
        least_difference: median distance between the two flows of a pair, in pixels.
        reason: why these.
    """

    least_median: float
    least_p99: float
    most_p99: float
    least_std: float
    least_difference: float
    reason: str


# Rounding to 8 bits is uniform over one level, of variance 1/12: 10 log10(12 * 255^2) dB.
EIGHT_BIT_PSNR_CAP = 58.92

KERNEL_FP32 = Tolerance(
    "native kernel against the reference of rife::Warp",
    Metric.MAX_ABS,
    5e-5,
    "fp32 rounds the sampling position to about 1e-5 px at some hundred pixels; measured 1e-5",
)
ONNXRUNTIME_FP32 = Tolerance(
    "onnxruntime against torch or onnxruntime, fp32",
    Metric.MAX_ABS,
    5e-5,
    "sums in another order, carried through up to 18 warps; measured 1e-5",
)
EXACT_REWRITE = Tolerance(
    "a graph against the same graph after an exact rewrite, fp32",
    Metric.MAX_ABS,
    5e-5,
    "equal in real arithmetic; fp32 rounds other intermediate values. Measured 1e-5",
)
EXACT_PASS = Tolerance(
    "a small graph against the same graph after one exact pass, fp32",
    Metric.MAX_ABS,
    1e-5,
    "a few operators on values of about 1, whose intermediate values round otherwise; measured "
    "1e-6. Up and down by equal factors, taken for an identity, moves it by more than 0.01",
)
# What onnxruntime's own rewrites may do to a network, an exact pass may do twice.
LEVELS_FACTOR = 2.0


def exact_pass_on(level_difference: float) -> Tolerance:
    """The tolerance of exact passes on a network, from how far it carries rounding.

    Args:
        level_difference: by how much onnxruntime's output without optimisation differs from that
            with all of it, on the same network and input.
    """
    reason = f"{LEVELS_FACTOR:g} times what onnxruntime's optimisation levels differ by, or more"
    bound = max(EXACT_PASS.bound, LEVELS_FACTOR * level_difference)
    return dataclasses.replace(EXACT_PASS, bound=bound, reason=reason)


NCNN_FP32 = Tolerance(
    "ncnn against torch, fp32 weights and fp32 arithmetic",
    Metric.MAX_ABS,
    5e-5,
    "convolutions by Winograd and sgemm sum in another order; measured 1e-5",
)
NCNN_VULKAN_FP32 = Tolerance(
    "ncnn on Vulkan against ncnn on CPU, the same folder, fp32 throughout",
    Metric.MAX_ABS,
    5e-4,
    "shaders sum in another order, and some GPUs round fp32 division and fused multiplication "
    "otherwise; measured 2.4e-6 on llvmpipe, with room for GPUs",
)
NCNN_FP16_WEIGHTS = Tolerance(
    "ncnn against torch, fp16 weights and fp32 arithmetic",
    Metric.PSNR,
    55.0,
    "11 bits of each weight; measured 55 to 65 dB, and 58.7 in frames of 8 bits",
)
ONE_LAYER = Tolerance(
    "one layer against another form of it, from the same values, as part of the largest one",
    Metric.MAX_ABS,
    1e-4,
    "Winograd, and sums in another order; measured 2e-5. The smallest fault of the mutation check "
    "that is worth a search, one weight of a convolution off by a deviation, gives 1e-3 or more",
)
RUNTIME_CPU_FP32 = Tolerance(
    "rife-ncnn-vulkan on CPU against torch, fp32 weights",
    Metric.MAX_LEVELS,
    0.75,
    "the runtime rounds to 8 bits, which is 0.50 of a level by itself; measured 0.50",
)
RUNTIME_CPU_FP16_WEIGHTS = Tolerance(
    "rife-ncnn-vulkan on CPU against torch, fp16 weights",
    Metric.PSNR,
    55.0,
    "fp16 weights on top of rounding to 8 bits, which alone gives 58.9 dB; measured 58.7",
)
RUNTIME_VULKAN = Tolerance(
    "rife-ncnn-vulkan on Vulkan against torch",
    Metric.PSNR,
    50.0,
    "Vulkan keeps every blob, flows included, in fp16, and the frame has 8 bits (58.9 dB at "
    "best); measured 55 to 58 on llvmpipe. A wrong channel can hide at 45 dB, so 50 dB proves "
    "nothing by itself: the verdict on a conversion comes from float outputs and structure",
)
WARP_POSITION = Tolerance(
    "where a foreign graph samples against where a warp does",
    Metric.MAX_PIXELS,
    0.01,
    "a grid in -1..1 has steps of 6e-8, which is 1e-5 px here; one in fp16 is 0.1 px off",
)
LOWERED_FP16 = Tolerance(
    "lowered ONNX in fp16 against torch",
    Metric.PSNR,
    65.0,
    "weights and activations in fp16, positions of warps in fp32; measured 74 to 82 in onnxruntime",
)

SCORE_FP32 = Tolerance(
    "a conversion's score against its donor's, fp32 weights",
    Metric.MAX_DB,
    0.01,
    "frames that differ by 1e-5 are the same 8-bit levels but for a few that lie on the edge of "
    "two; measured 1e-4 on a frame",
)
SCORE_PLAIN_LOOP = Tolerance(
    "a score against that of a plain loop over the same frames",
    Metric.MAX_DB,
    1e-4,
    "the same 8-bit levels, which are float32 here and float64 there",
)
SCORE_FP16 = Tolerance(
    "a conversion's score against its donor's, fp16 weights",
    Metric.MAX_DB,
    0.01,
    "frames that agree to 55 dB or more differ little beside what both are wrong; measured 4e-4 on "
    "a frame",
)
SCORE_SSIM = Tolerance(
    "mean structural similarity against scikit-image's",
    Metric.MAX_ABS,
    1e-6,
    "the same window, constants and border, on float32 levels here and float64 there; measured "
    "no difference on noise",
)

CALIBRATED_FLOW = FlowBounds(
    least_median=2.0,
    least_p99=4.0,
    most_p99=30.0,
    least_std=2.0,
    least_difference=1.0,
    reason="weights made up for a proof can be asked for more than enough: any one warp that swaps "
    "x and y, halves its flow or takes that of the other frame then costs 10 dB more than any "
    "tolerance here. Beyond 30 px most samples are the border's, whatever the flow is",
)
PROVING_FLOW = FlowBounds(
    least_median=0.5,
    least_p99=1.0,
    most_p99=math.inf,
    least_std=0.25,
    least_difference=0.5,
    reason="where the flow is half a pixel, one warp of a pair that ignores, swaps or halves it "
    "costs the mean of the pair down to 49 dB or less, and 50 dB is the loosest tolerance; with "
    "less, only float outputs tell a wrong warp from rounding",
)
