"""Take any RIFE to rife-ncnn-vulkan, verified and without patching a file by hand.

The verbs of the command line, as functions with its options; a path is text or a `pathlib.Path`.

    >>> import surgery
    >>> model, proof = surgery.convert("train_log", "rife-v4.15-lite", proof=False)
    >>> len(model.graph.layers), model.metadata.padding, proof
    (..., 32, None)

Its steps, by which anything can stand between them:

    >>> hub = surgery.export("train_log", "rife.onnx")
    >>> hub.metadata.warps
    14
    >>> edits = surgery.optimize("rife.onnx", "smaller.onnx")
    >>> edits["fold_betas"]
    32
    >>> made = surgery.translate("rife.onnx", "rife-v4", runtime="nihui", fp16=False)
    >>> validation = surgery.validate(
    ...     "rife.onnx", "rife-v4", sizes=[(96, 64)], timesteps=[0.5], engines=["ncnn"]
    ... )
    >>> validation.passed
    True
    >>> frames = "frame0.png", "frame1.png"
    >>> surgery.run("rife-v4", *frames, "middle.png", engine="ncnn")

The other doors:

    >>> plain = surgery.lower("rife.onnx", "plain.onnx", layout="vsmlrt-v2")
    >>> surgery.lift("plain.onnx", "lifted.onnx").metadata.warps
    14
    >>> surgery.import_model("rife-v4", "imported.onnx").metadata.padding
    32
    >>> surgery.inspect("rife-v4")[0].runtimes["nihui"]
    'runs'
    >>> surgery.doctor("rife-v4", runtime="nihui").examination.is_healthy
    True

What a caller can act on is a `SurgeryError`: what was found, what is accepted, what to do.

    >>> surgery.translate("rife.onnx", "model")
    Traceback (most recent call last):
    ...
    surgery.errors.RuntimeRefused: ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
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
    if name == "__version__":
        versions = importlib.import_module("surgery.versions")
        return versions.find_version(versions.PACKAGE)
    if name not in __all__:
        raise AttributeError(f"module 'surgery' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "surgery.conversion")), name)
