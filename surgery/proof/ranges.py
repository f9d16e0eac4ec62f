"""Blobs too large for fp16, in which Vulkan keeps every blob: fp32 shows nothing of them."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.proof.structure import Finding

# The largest finite fp16; rife-ncnn-vulkan stores blobs as fp16 on Vulkan (rife.cpp, `RIFE::load`).
LARGEST_FP16 = 65504.0


def find_overflows(largest: Mapping[str, float]) -> list[Finding]:
    """Find the blobs that hold a value which fp16 does not.

    `largest` maps each blob to the largest magnitude in it, infinite for a NaN.
    """
    return [
        Finding(
            blob,
            f"reaches {reached:.4g}; Vulkan keeps blobs in fp16, which holds up to "
            f"{LARGEST_FP16:g}",
        )
        for blob, reached in largest.items()
        if not reached <= LARGEST_FP16
    ]
