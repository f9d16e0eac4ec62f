"""Progress for logs: a line now and then."""

from __future__ import annotations

import pytest

from surgery.progress import tell_at_most


@pytest.mark.parametrize(
    ("every", "expected"), [(30.0, ["0", "30", "61"]), (0.0, ["0", "1", "29", "30", "59", "61"])]
)
def test_lines_that_come_too_early_are_left_out(every: float, expected: list[str]) -> None:
    told: list[str] = []
    now = 0.0
    tell = tell_at_most(told.append, every=every, clock=lambda: now)
    for now in (0.0, 1.0, 29.0, 30.0, 59.0, 61.0):
        tell(f"{now:g}")
    assert told == expected
