"""Find the compiled onnxruntime kernel of `rife::Warp` in this installation."""

from __future__ import annotations

import functools
import sys
from importlib import resources
from pathlib import Path

from surgery.errors import KernelMissing

FOLDER = "_ops"
_FILE_NAMES = {"win32": "rife_ops.dll", "darwin": "librife_ops.dylib"}
_OTHER_FILE_NAME = "librife_ops.so"


@functools.cache
def ops_library() -> Path:
    """Find the library that `SessionOptions.register_custom_ops_library` takes.

    An editable installation keeps it apart from the Python sources, so it is looked up as a
    resource of the package and not beside this file.

    Raises:
        KernelMissing: the package was installed without its kernel, or is run from a source tree.
    """
    name = _FILE_NAMES.get(sys.platform, _OTHER_FILE_NAME)
    library = resources.files("surgery") / FOLDER / name
    if not library.is_file():
        raise KernelMissing(
            f"no {FOLDER}/{name} in the installed package: the onnxruntime kernel of rife::Warp "
            "was not built; `pip install .` (or `pip install -e .`) in the project's root builds "
            "it, with CMake and a C++17 compiler"
        )
    # A wheel is unpacked when it is installed, so its resources are files.
    return Path(str(library))


def has_kernel() -> bool:
    """Whether this installation was built with its kernel."""
    try:
        ops_library()
    except KernelMissing:
        return False
    return True
