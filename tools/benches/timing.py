"""Time two things in turn, so that a busy moment of the machine hits both."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WARM_UPS = 2


@dataclass(frozen=True)
class PairedTimes:
    """Seconds of a candidate and of what it is compared with, measured in alternation."""

    candidate: list[float]
    baseline: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast the candidate was, pair by pair."""
        return [slow / fast for fast, slow in zip(self.candidate, self.baseline, strict=True)]

    def describe(self) -> dict[str, float]:
        """Medians in milliseconds, and the median, lowest and highest ratio of a pair."""
        return {
            "candidate_ms": 1e3 * statistics.median(self.candidate),
            "baseline_ms": 1e3 * statistics.median(self.baseline),
            "ratio": statistics.median(self.ratios),
            "lowest_ratio": min(self.ratios),
            "highest_ratio": max(self.ratios),
        }


def time_in_turn(
    candidate: Callable[[], None], baseline: Callable[[], None], pairs: int
) -> PairedTimes:
    """Time both `pairs` times in alternation, after two rounds that are not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for round_number in range(WARM_UPS + pairs):
        for run, kept in zip((candidate, baseline), times, strict=True):
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            if round_number >= WARM_UPS:
                kept.append(seconds)
    return PairedTimes(*times)


def name_processor() -> str:
    """The processor's own name where Linux gives it, else what Python knows."""
    source = Path("/proc/cpuinfo")
    if source.is_file():
        for line in source.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
