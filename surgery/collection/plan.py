"""From a manifest to recipes: each model of a collection, one by one, with a name and a key."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.collection.crew import hash_tools
from surgery.collection.manifest import Entry, Manifest
from surgery.errors import SurgeryError
from surgery.sources.architectures import find_architecture
from surgery.sources.find_donor import PREFIX, Donor, find_donor, list_versions

PATTERN = frozenset("*?[")
# What is a model with weights and a form of its own, and no source.
HUB_SUFFIX = ".onnx"
MODEL_FILE = "flownet.param"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One model of a collection.

    Attributes:
        name: of its folder.
        donor: as `surgery convert` takes it, relative to `root` where it is a path.
        root: the folder that `donor` and `files` lie below; None for an installed donor.
        weights: the checkpoint; None for random weights, and for a donor that brings its own.
        random_weights: the seed of random weights.
        options: of `surgery.conversion.convert`, as JSON can say them.
        files: what the donor is read from, weights beside it included.
        fault: why it cannot be made, where that is known already.
    """

    name: str
    donor: str
    root: Path | None = None
    weights: Path | None = None
    random_weights: int | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: tuple[Path, ...] = ()
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
        """Hash everything that the model depends on: inputs, options and tools."""
        facts = {
            "name": self.name,
            "donor": self.donor,
            "files": {self.name_file(path): hash_file(path) for path in self.files},
            "weights": self.weights and [self.weights.name, hash_file(self.weights)],
            "random_weights": self.random_weights,
            "options": dict(self.options),
            "tools": hash_tools(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def name_file(self, path: Path) -> str:
        """What one of `files` is called in keys and on workers."""
        return path.relative_to(self.root).as_posix() if self.root else path.name


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
        SurgeryError: a pattern matches nothing, or names are the same or those of no folder.
    """
    recipes = [one for entry in manifest.models for one in _expand(entry, folder)]
    for recipe in recipes:
        if Path(recipe.name).name != recipe.name or recipe.name.startswith("."):
            raise SurgeryError(f"name {recipe.name!r} of the manifest is no name of a folder")
    counts = Counter(recipe.name for recipe in recipes)
    for name, count in counts.items():
        if count > 1:
            donors = ", ".join(one.donor_label for one in recipes if one.name == name)
            raise SurgeryError(
                f"{count} models would be called {name}: {donors}; give their [[models]] a name "
                "with {version}, {donor}, {weights} or {run} in it that tells them apart"
            )
    return recipes


def _expand(entry: Entry, folder: Path) -> Iterator[Recipe]:
    for text in _list_donors(entry, folder):
        origin = _find_origin(text, entry, folder)
        for weights, seed in _list_weights(entry, origin, folder):
            for variant in _list_variants(entry, origin.version):
                yield _make_recipe(entry, origin, weights, seed, variant)


def _list_donors(entry: Entry, folder: Path) -> list[str]:
    found: list[str] = []
    for pattern in entry.donor:
        if pattern.startswith(PREFIX):
            matches = _match_versions(pattern)
        else:
            matches = [str(path) for path in _match_files(pattern, folder)]
        if not matches:
            raise SurgeryError(f"donor {pattern!r} of the manifest matches nothing in {folder}")
        found += matches
    return [
        text
        for text in dict.fromkeys(found)
        if not any(fnmatch.fnmatchcase(text, pattern) for pattern in entry.exclude)
    ]


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
        return [folder / pattern]
    root = Path(pattern).anchor
    return sorted(Path(root or folder).glob(str(Path(pattern).relative_to(root or "."))))


@dataclasses.dataclass(frozen=True)
class _Origin:
    """A donor, found: what it is called, where it lies, and why it cannot be used if so."""

    text: str
    version: str = ""
    root: Path | None = None
    files: tuple[Path, ...] = ()
    has_weights: bool = False
    fault: str = ""

    @property
    def stem(self) -> str:
        return Path(self.text).stem


def _find_origin(text: str, entry: Entry, folder: Path) -> _Origin:
    path = Path(text)
    if path.suffix == HUB_SUFFIX or (path / MODEL_FILE).is_file():
        files = (path,) if path.is_file() else tuple(sorted(path.iterdir()))
        return _Origin(path.name, "", path.parent, files, has_weights=True)
    try:
        donor = find_donor(text, arch=entry.arch)
    except SurgeryError as error:
        name = text if text.startswith(PREFIX) else path.name
        return _Origin(name, fault=str(error))
    if text.startswith(PREFIX):
        return _Origin(text, donor.version, files=_list_installed(donor))
    has_weights = donor.weights is not None
    if path.suffix != ".py" and path.is_file():
        return _Origin(path.name, donor.version, path.parent, (path,), has_weights)
    root, files = _list_source(path, donor)
    return _Origin(path.relative_to(root).as_posix(), donor.version, root, files, has_weights)


def _list_installed(donor: Donor) -> tuple[Path, ...]:
    """The source of a version, and what it may import from beside it."""
    beside = sorted(donor.source.parent.glob("*.py"))
    return (donor.source, *(path for path in beside if not path.name.startswith("IFNet")))


def _list_source(path: Path, donor: Donor) -> tuple[Path, tuple[Path, ...]]:
    """Where source that is no installed one lies, and every file it may import."""
    if path.is_dir():
        root = path.parent
        found = [one for one in path.rglob("*.py") if not _is_hidden(one.relative_to(path))]
    else:
        # `from model.warplayer import warp` finds a folder beside the file's own.
        root = path.parent.parent
        found = [*path.parent.glob("*.py"), *root.glob("*/*.py")]
    weights = [donor.weights] if donor.weights is not None else []
    kept = [one for one in weights if one.resolve().is_relative_to(root.resolve())]
    return root, tuple(sorted({*found, *(Path(root, _below(one, root)) for one in kept)}))


def _below(path: Path, root: Path) -> Path:
    return path.resolve().relative_to(root.resolve())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


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
    if not fault and weights is not None and not weights.is_file():
        fault = f"weights {weights.name}: no such file"
    if not fault and weights is None and seed is None and not origin.has_weights:
        fault = "the donor comes without weights; give weights or random_weights in the manifest"
    arch = {"arch": entry.arch} if entry.arch else {}
    return Recipe(
        name=_name_model(entry, origin, weights, seed, variant),
        donor=origin.text,
        root=origin.root,
        weights=weights,
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
    """The folder's name. Runtimes write `4.25-lite` where the source has `4.25.lite`."""
    version = "-".join(origin.version.rsplit(".", 1)) if origin.version.count(".") > 1 else ""
    parts = {
        "{version}": version or origin.version,
        "{donor}": origin.stem,
        "{weights}": weights.stem if weights else origin.stem,
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
