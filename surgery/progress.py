"""How long work says which step it is at."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Called with one line for each step.
Progress = Callable[[str], None]


def silent(message: str) -> None:
    """The default progress: none."""


def tell_at_most(
    tell: Progress, *, every: float, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """Pass lines on where none was for so many seconds; those between are left out."""
    due = -math.inf

    def tell_some(message: str) -> None:
        nonlocal due
        now = clock()
        if now >= due:
            due = now + every
            tell(message)

    return tell_some
