"""What is kept on disk to go on from: a file that is torn is taken for one that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_record(path: Path) -> Any:
    """The JSON in a file; None where there is no file, or what it holds is no JSON.

    A power cut, a full disk or an editor may have torn it. It says what was done once, and what it
    does not say is done again.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
