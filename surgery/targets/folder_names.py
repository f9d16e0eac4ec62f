"""What each runtime makes of the path of a model folder.

The runtimes read no metadata: they search the whole path they are given, parent folders included,
for parts such as `rife-v4`, and pick from them how to run the network and how far to pad frames. A
network in a folder of another name is run as another kind, or on frames that are padded too little,
which corrupts memory and is not reported.

Sources: nihui/rife-ncnn-vulkan a7532fc main.cpp; TNTwise/rife-ncnn-vulkan b9742c8 main.cpp;
styler00dollar/VapourSynth-RIFE-ncnn-Vulkan 48da541 plugin.cpp; rife_ncnn_vulkan.py of the PyPI
package rife-ncnn-vulkan-python-tntwise 1.4.5; k4yt3x/video2x interpolator_rife.cpp.
"""

from __future__ import annotations

import dataclasses
from pathlib import PurePath

from surgery.targets.runtimes import find_runtime

# rife.cpp, load_param_model: "%s/%s.param" goes into char[256], and nothing checks its length.
BUFFER_BYTES = 255
MAX_PATH_BYTES = BUFFER_BYTES - len("/flownet.param")
V4 = "v4"


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a runtime would run the networks of a folder.

    Attributes:
        mode: `v4` for one network with a timestep, `v2` or `v1` for three networks.
        padding: height and width are padded to multiples of this many pixels.
    """

    mode: str
    padding: int


@dataclasses.dataclass(frozen=True)
class PathRules:
    """How one runtime reads a path.

    Attributes:
        modes: parts of a path and the mode they select; the first one found decides.
        other_mode: the mode of a path with none of them; None where the runtime refuses it.
        paddings: parts of a path and the padding they select; the last one found decides.
        padding: where none of them is found.
        paddings_need: `paddings` count only where this part decided the mode; empty for always.
        reads_name_alone: the last part of the path is searched, not the whole.
    """

    modes: tuple[tuple[str, str], ...]
    other_mode: str | None = None
    paddings: tuple[tuple[str, int], ...] = ()
    padding: int = 32
    paddings_need: str = ""
    reads_name_alone: bool = False


_NEW_PADDINGS = (("rife-v4.25", 64), ("rife-v4.25-lite", 128), ("rife-v4.26", 64))
_OFFICIAL = PathRules((("rife-v2", "v2"), ("rife-v3", "v2"), ("rife-v4", V4), ("rife", "v1")))
PATH_RULES: dict[str, PathRules] = {
    "nihui": _OFFICIAL,
    "nihui-memorydata": _OFFICIAL,
    "tntwise": PathRules(
        (
            ("rife-v2", "v2"),
            ("rife-v3.6", V4),
            ("rife-v3.9", V4),
            ("rife-v3", "v2"),
            ("rife-v4", V4),
            ("rife-v5", V4),
            ("rife", "v1"),
        ),
        paddings=_NEW_PADDINGS,
        paddings_need="rife-v4",
    ),
    "wheel": PathRules(
        (
            ("rife-v4", V4),
            ("rife4", V4),
            ("rife-4", V4),
            ("rife-v2", "v2"),
            ("rife-v3", "v2"),
        ),
        other_mode="v1",
        paddings=(("rife-v4.25", 64), ("rife-v4.26", 64)),
    ),
    "vapoursynth": PathRules(
        (
            ("rife-v2", "v2"),
            ("rife-v3.9", V4),
            ("rife-v3", "v2"),
            ("rife-v4", V4),
            ("rife4", V4),
            ("rife", "v1"),
        ),
        paddings=_NEW_PADDINGS,
    ),
    "video2x": dataclasses.replace(_OFFICIAL, paddings=_NEW_PADDINGS, reads_name_alone=True),
}
# Parts of a name that select a mode and a padding, for the names that are proposed.
_PREFIXES = {V4: ("rife-v4", "rife-v4.26", "rife-v4.25-lite"), "v2": ("rife-v2",), "v1": ("rife",)}


def read_folder_path(path: str, runtime: str) -> Reading | None:
    """How a runtime would run the folder at `path`; None where it refuses to.

    `path` is the text that the runtime is given, so what a relative path leaves out does not count.

    Raises:
        RuntimeRefused: there is no such runtime.
        ValueError: the runtime reads no paths (`ncnn`: the host decides).
    """
    rules = _find_rules(runtime)
    if rules is None:
        raise ValueError(f"runtime {runtime} does not read the path of a model")
    text = PurePath(path).name if rules.reads_name_alone else path
    decisive, mode = next(
        ((part, mode) for part, mode in rules.modes if part in text), ("", rules.other_mode)
    )
    if mode is None:
        return None
    if rules.paddings_need in ("", decisive):
        found = [padding for part, padding in rules.paddings if part in text]
        return Reading(mode, found[-1] if found else rules.padding)
    return Reading(mode, rules.padding)


def refuse_folder_path(path: str, padding: int, runtime: str, mode: str = V4) -> str:
    """Say why a runtime would misread the folder of a model; empty when it would not.

    `path` should be absolute: a runtime may be given it in full, and then its parents count.

    Units: padding in pixels, what the model needs.

    Raises:
        RuntimeRefused: there is no such runtime.
    """
    if _find_rules(runtime) is None:
        return ""
    if fault := _find_fault(path, padding, runtime, mode):
        return f"{fault}; {_propose(path, padding, runtime, mode)}"
    return ""


def name_folder(
    padding: int, runtime: str, name: str = "", parent: str = "", mode: str = V4
) -> str | None:
    """A folder name below `parent` that the runtime reads right, with `name` in it if that helps.

    None where no name does: the runtime never pads that far, or `parent` misleads it.

    Raises:
        RuntimeRefused: there is no such runtime.
    """
    # A name that misleads already would only grow: rife-v4.26-rife-v4.6.
    endings = [f"-{name}", ""] if name and "rife" not in name.lower() else [""]
    for proposal in (prefix + ending for ending in endings for prefix in _PREFIXES[mode]):
        if not _find_fault(str(PurePath(parent, proposal)), padding, runtime, mode):
            return proposal
    return None


def _find_rules(runtime: str) -> PathRules | None:
    found = find_runtime(runtime)
    return PATH_RULES.get(found.reads_paths_like or found.name)


def _find_fault(path: str, padding: int, runtime: str, mode: str) -> str:
    longest = MAX_PATH_BYTES if mode == V4 else BUFFER_BYTES - len("/contextnet.param")
    if len(path.encode()) > longest:
        return (
            f"the path has {len(path.encode())} bytes, and {runtime} has room for "
            f"{longest} and does not check"
        )
    reading = read_folder_path(path, runtime)
    if reading is None:
        return f"{runtime} refuses the path {path}: it looks for '{_PREFIXES[mode][0]}' in it"
    if reading.mode != mode:
        count = "one network" if reading.mode == V4 else "three networks"
        return f"{runtime} takes the path {path} for a RIFE {reading.mode} of {count}"
    if reading.padding % padding:
        return (
            f"the model needs frames padded to {padding}, and {runtime} pads to "
            f"{reading.padding} for the path {path}, which corrupts memory"
        )
    return ""


def _propose(path: str, padding: int, runtime: str, mode: str) -> str:
    folder = PurePath(path)
    if proposal := name_folder(padding, runtime, folder.name, str(folder.parent), mode):
        return f"{proposal} is a name that works"
    if proposal := name_folder(padding, runtime, folder.name, mode=mode):
        return f"choose another parent folder: {proposal} works where no parent misleads it"
    return f"no name makes {runtime} pad to {padding}"
