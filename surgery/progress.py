"""How long work says which step it is at."""

from __future__ import annotations

from collections.abc import Callable

# Called with one line for each step.
Progress = Callable[[str], None]


def silent(message: str) -> None:
    """The default progress: none."""
