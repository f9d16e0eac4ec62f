"""Read what somebody's own rife-ncnn-vulkan will load, from the source it is built of.

A checkout switches ncnn's layers on and off by `option(WITH_LAYER_x "" ON)` in its
`src/CMakeLists.txt`, and names each layer of its ncnn there.

Source: nihui/rife-ncnn-vulkan src/CMakeLists.txt, src/main.cpp and src/rife.cpp.
"""

from __future__ import annotations

import re
from pathlib import Path

from surgery.errors import RuntimeRefused
from surgery.formats.ncnn_layers import LAYER_TYPES
from surgery.targets.runtimes import Runtime

CMAKE_FILE = "CMakeLists.txt"
# The files in which forks of rife-ncnn-vulkan choose a padding by the name of the model.
CHOOSING_FILES = ("main.cpp", "plugin.cpp", "rife.cpp")
# What rife.cpp registers itself; no option switches it.
OWN_LAYER = "rife.Warp"
OFFICIAL_PADDING = 32
# CMakeLists.txt is some kilobytes; nothing near this size is one.
MAX_BYTES = 1 << 20

_COMMENT = re.compile(r"#[^\n]*")
_OPTION = re.compile(
    r"\b(?:option|set)\s*\(\s*WITH_LAYER_(\w+)\s+(?:\"[^\"]*\"\s+)?(ON|OFF)\b", re.IGNORECASE
)
_PADDING = re.compile(r"\bpadding\s*=\s*(\d+)\s*;")


def read_checkout(path: Path) -> Runtime:
    """The runtime that a checkout builds.

    A layer that its options do not name counts as left out: it may not exist in its ncnn. The
    frames are padded to 32, as the official source does, and to whatever its own sets `padding` to.

    Args:
        path: `src/CMakeLists.txt`, or a folder that holds it or a `src` with it.

    Raises:
        RuntimeRefused: there is no such file, or it switches no layer.
    """
    file = _find_cmake(path)
    text = _COMMENT.sub("", _read(file))
    # The last one stands, as in CMake where `set` follows `option`.
    switches = {name.lower(): state.upper() == "ON" for name, state in _OPTION.findall(text)}
    if not switches:
        raise RuntimeRefused(
            f"{file} switches no layer; option(WITH_LAYER_...) lines are expected, as in "
            "rife-ncnn-vulkan's src/CMakeLists.txt"
        )
    layers = {kind for kind in LAYER_TYPES if switches.get(kind.lower(), False)}
    paddings = sorted({OFFICIAL_PADDING, *_find_paddings(file.parent)})
    return Runtime(
        name=_name(file),
        description=f"the rife-ncnn-vulkan that {_name(file)}/src/{CMAKE_FILE} builds",
        layers=frozenset(layers | {OWN_LAYER}),
        paddings=tuple(paddings),
        breaks_1x1_convolution="Reshape" not in layers,
        reads_paths_like="tntwise" if len(paddings) > 1 else "nihui",
    )


def _find_cmake(path: Path) -> Path:
    if path.is_file():
        return path
    found = next((p for p in (path / "src" / CMAKE_FILE, path / CMAKE_FILE) if p.is_file()), None)
    if found is None:
        raise RuntimeRefused(
            f"{path} holds no src/{CMAKE_FILE}; a checkout of rife-ncnn-vulkan has"
        )
    return found


def _read(file: Path) -> str:
    if file.stat().st_size > MAX_BYTES:
        raise RuntimeRefused(f"{file}: {file.stat().st_size} bytes; no {CMAKE_FILE} is so large")
    return file.read_text(encoding="utf-8", errors="replace")


def _find_paddings(folder: Path) -> set[int]:
    sources = (folder / name for name in CHOOSING_FILES)
    texts = [_read(source) for source in sources if source.is_file()]
    return {int(number) for text in texts for number in _PADDING.findall(text) if int(number) > 0}


def _name(file: Path) -> str:
    """What to call the checkout: its folder's name, without the path to it."""
    folder = file.resolve().parent
    return (folder.parent if folder.name == "src" else folder).name
