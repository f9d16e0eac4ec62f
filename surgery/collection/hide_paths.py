"""Reasons without the paths of the machine that they were found on: they get published."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def hide_paths(text: str, folders: Iterable[Path]) -> str:
    """Leave out where folders lie; what is told to be below them is told as below nothing."""
    places = {str(place) for one in folders if one.name for place in (one, one.resolve())}
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(f"{place}/", "").replace(place, Path(place).name)
    return text
