"""Call a stock forward, whatever its authors named its arguments and in which order they stand.

Seven families and their forks take the frames together or apart, the timestep as a plane, as a
number or not at all, the resolutions in the constructor or in the call, and return an image or a
tuple with the image somewhere in it. What a network wants is read from its signature and, where
that does not tell, tried out; what cannot be understood is refused.

Source: the `forward` of IFNet in Practical-RIFE 3.5 to 4.26, ECCV2022-RIFE, vs-rife since 2021.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from surgery.errors import DonorError
from surgery.sources.load_source import make_grid

FRAMES_APART = ("img0", "img1")
FRAMES_TOGETHER = "x"
TIMESTEP = "timestep"
GRIDS = ("tenFlow_div", "backwarp_tenGrid")
ENCODINGS = ("f0", "f1")
# A list of divisors in the call: 3.x and 4.x have the first, the paper the second. HD 1.x and 2.x
# have a number of the second name, which is the other way round and left alone.
SCALE_NAMES = ("scale_list", "scale")
# Arguments that choose a path; each gets the one that authors' own inference takes.
CHOICES: Mapping[str, Any] = {"training": False, "returnflow": False, "ada_scale": False}
FULL_INFERENCE = "fastmode"
ENSEMBLE = "ensemble"
# What constructors are given besides scale and ensemble.
CONSTRUCTOR_CHOICES: Mapping[str, Any] = {"device": torch.device("cpu"), **dict.fromkeys(GRIDS)}
FRAME_CHANNELS = 3
# Where tuples hold the images: (flows, mask, images, ...).
IMAGES_ENTRY = 2
FIXED_TIMESTEP = 0.5

Network = Callable[..., Any]


class _TimestepFactor:
    """Passes for a number that a plane of ones is multiplied by; the product is our plane.

    Practical-RIFE multiplies a number by ones and spoils a plane by repeating it, so a plane gets
    in as something that is no tensor.
    """

    def __init__(self, plane: torch.Tensor) -> None:
        self._plane = plane

    def __rmul__(self, ones: torch.Tensor) -> torch.Tensor:
        return self._plane


class _Multiplied(Exception):
    """Stops a trial at the place where the timestep is multiplied."""

    def __init__(self, other: object) -> None:
        self.other = other


class _Probe:
    """A timestep that tells what it is multiplied by."""

    def __rmul__(self, other: object) -> None:
        raise _Multiplied(other)


@dataclasses.dataclass(frozen=True)
class Calling:
    """How one network is called.

    Attributes:
        parameters: what its forward takes.
        scale_list: what it is given for the resolutions; empty where its constructor knew them.
        scale_name: under which name.
        choices: arguments that never change.
        timestep: `plane`; `factor` for a plane that passes for a number; empty for a network that
            knows no timestep.
        has_grid_attributes: whether the network keeps vs-rife's two constants itself.
        image: the indices that lead to the frame in what forward returns.
    """

    parameters: frozenset[str]
    scale_list: tuple[float, ...] = ()
    scale_name: str = ""
    choices: tuple[tuple[str, Any], ...] = ()
    timestep: str = "plane"
    has_grid_attributes: bool = False
    image: tuple[int, ...] = ()

    def arguments(
        self,
        net: torch.nn.Module,
        in0: torch.Tensor,
        in1: torch.Tensor,
        timestep: object,
        *,
        has_own_warp: bool,
    ) -> dict[str, Any]:
        """The keyword arguments of one call."""
        arguments: dict[str, Any] = dict(self.choices)
        if FRAMES_TOGETHER in self.parameters:
            arguments[FRAMES_TOGETHER] = torch.cat((in0, in1), 1)
        else:
            arguments |= dict(zip(FRAMES_APART, (in0, in1), strict=True))
        if TIMESTEP in self.parameters:
            arguments[TIMESTEP] = timestep
        if self.scale_name:
            # A list of its own for each call: some networks change it.
            arguments[self.scale_name] = list(self.scale_list)
        # Only the source's own warp reads them, and a trace must not bake a size.
        grid = make_grid(in0) if has_own_warp else dict.fromkeys(GRIDS)
        if set(GRIDS) <= self.parameters:
            arguments |= grid
        if self.has_grid_attributes:
            for name, value in grid.items():
                setattr(net, name, value)
        if set(ENCODINGS) <= self.parameters:
            encode: Any = net.encode
            arguments |= dict(zip(ENCODINGS, (encode(in0), encode(in1)), strict=True))
        return arguments

    def run(
        self,
        net: torch.nn.Module,
        in0: torch.Tensor,
        in1: torch.Tensor,
        in2: torch.Tensor,
        *,
        has_own_warp: bool,
    ) -> Any:
        """Interpolate between in0 and in1 [1,3,H,W] at in2 [1,1,H,W]; returns what forward does."""
        timestep = _TimestepFactor(in2) if self.timestep == "factor" else in2
        return net(**self.arguments(net, in0, in1, timestep, has_own_warp=has_own_warp))


def find_image(result: object, size: tuple[int, int], preferred: int | None) -> tuple[int, ...]:
    """Find the frame in what a forward returns.

    Args:
        result: a tensor, or (flows, mask, images, ...) with one image or several.
        size: height and width of the frame.
        preferred: which of several images the authors take; None for the last that is a tensor.

    Returns:
        The indices that lead to it; none when the result is the frame itself.

    Raises:
        DonorError: there is no image of three channels and this size in it.
    """
    path: tuple[int, ...] = ()
    images = result
    if isinstance(result, tuple) and len(result) > IMAGES_ENTRY:
        path, images = (IMAGES_ENTRY,), result[IMAGES_ENTRY]
    if not isinstance(images, (list, tuple)):
        candidates = {path: images}
    else:
        indices = range(len(images)) if preferred is None else [preferred % (len(images) or 1)]
        candidates = {(*path, index): images[index] for index in indices if index < len(images)}
    found = [where for where, entry in candidates.items() if _is_frame(entry, size)]
    if not found:
        raise DonorError(
            f"forward returns {_describe(result)}; an image of {FRAME_CHANNELS} channels at "
            "full size is expected, alone or as (flows, mask, images)"
        )
    return found[-1]


def _is_frame(entry: object, size: tuple[int, int]) -> bool:
    return isinstance(entry, torch.Tensor) and entry.shape[1:] == (FRAME_CHANNELS, *size)


def _describe(result: object) -> str:
    if isinstance(result, torch.Tensor):
        return f"a tensor {list(result.shape)}"
    if isinstance(result, (list, tuple)):
        return f"({', '.join(_describe(entry) for entry in result)})"
    return type(result).__name__


def construct_network(
    constructor: Callable[..., torch.nn.Module], label: str, options: Mapping[str, Any]
) -> tuple[torch.nn.Module, frozenset[str]]:
    """Construct a network, with those of `options` (scale, ensemble) that it takes.

    Returns:
        The network, and the names of the arguments that its constructor has.

    Raises:
        DonorError: the constructor demands something else.
    """
    parameters = inspect.signature(constructor).parameters
    known = {**CONSTRUCTOR_CHOICES, **options}
    demanded = [n for n, p in parameters.items() if p.default is p.empty and n not in known]
    if demanded:
        raise DonorError(
            f"{label} is constructed from ({', '.join(parameters)}); "
            f"known are {', '.join(known)}, and nothing, as in Practical-RIFE"
        )
    given = {name: value for name, value in known.items() if name in parameters}
    return constructor(**given), frozenset(parameters)


def read_parameters(net: torch.nn.Module, label: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a network's forward.

    Raises:
        DonorError: it takes no pair of frames, or demands what nobody here knows.
    """
    parameters = inspect.signature(net.forward).parameters
    known = {*FRAMES_APART, FRAMES_TOGETHER, TIMESTEP, *GRIDS, *ENCODINGS, *SCALE_NAMES}
    known |= {*CHOICES, FULL_INFERENCE, ENSEMBLE}
    demanded = [n for n, p in parameters.items() if p.default is p.empty]
    has_frames = FRAMES_TOGETHER in parameters or set(FRAMES_APART) <= set(parameters)
    if not has_frames or not set(demanded) <= known:
        raise DonorError(
            f"forward of {label} takes ({', '.join(parameters)}); accepted are x, or img0 and "
            f"img1, and, of what has no default, {', '.join(sorted(known - {'x', *FRAMES_APART}))}"
        )
    return parameters


def find_scale_name(parameters: Mapping[str, inspect.Parameter]) -> str:
    """Under which name a call takes a list of divisors; empty when it takes none."""
    for name in SCALE_NAMES:
        if name in parameters and not isinstance(parameters[name].default, (int, float)):
            return name
    return ""


def read_choices(
    parameters: Mapping[str, inspect.Parameter], *, ensemble: bool, fastmode: bool
) -> tuple[tuple[str, Any], ...]:
    """The arguments that stay the same from call to call."""
    chosen = {**CHOICES, ENSEMBLE: ensemble, FULL_INFERENCE: fastmode}
    return tuple((name, value) for name, value in chosen.items() if name in parameters)


@torch.no_grad()
def choose_timestep(calling: Calling, net: torch.nn.Module, size: int) -> str:
    """Try out how a network takes its timestep; see `Calling.timestep`.

    The first attempt stops where the timestep is multiplied, and looks at what with.
    """
    if TIMESTEP not in calling.parameters:
        return ""
    generator = torch.Generator().manual_seed(1)
    in0, in1 = torch.rand(2, 1, FRAME_CHANNELS, size, size, generator=generator)
    arguments = calling.arguments(net, in0, in1, _Probe(), has_own_warp=True)
    try:
        net(**arguments)
    except _Multiplied as product:
        ones = product.other
        if not isinstance(ones, torch.Tensor) or ones.shape != (1, 1, size, size):
            return "plane"
        return "factor" if torch.equal(ones, torch.ones_like(ones)) else "plane"
    except Exception:
        # A network that takes a plane chokes on anything else; what it says does not matter.
        return "plane"
    return ""  # it ran through without looking at its timestep, as the paper's IFNet does
