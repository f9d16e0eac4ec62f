"""Reasons without the paths of the machine that they were found on: they get published."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path


def hide_paths(text: str, folders: Iterable[Path]) -> str:
    """Leave out where folders lie; what is told to be below them is told as below nothing."""
    places = {str(place) for one in folders if one.name for place in (one, one.resolve())}
    for place in sorted(places, key=len, reverse=True):
        # A whole path, and no part of a longer name: `out` is none in `layout/model`.
        before = r"(?<![\w.-])" if Path(place).is_absolute() else r"(?<![\w./-])"
        start = before + re.escape(place)
        text = re.sub(f"{start}/", "", text)
        name = Path(place).name.replace("\\", r"\\")
        text = re.sub(rf"{start}(?![\w-]|\.\w)", name, text)
    return text
