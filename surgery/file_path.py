"""What a caller may name a file by: text or a path, as in the standard library."""

from __future__ import annotations

import os
from pathlib import Path

FilePath = str | os.PathLike[str]


def to_path(name: FilePath | None) -> Path | None:
    """A path of what names a file, None where none is named."""
    return None if name is None else Path(name)
