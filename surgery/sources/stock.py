"""Construct a stock IFNet unmodified, and give every one the same interface.

Which source that is: `surgery.sources.find_donor`. How it is imported, with its own warp or with
ours: `surgery.sources.load_source`. How its forward is called: `surgery.sources.call_forward`.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any
from unittest import mock

import torch

from surgery.errors import DonorError
from surgery.sources.architectures import (
    ARCHITECTURES,
    FLOW_NETWORK,
    describe_tensors,
    recognise,
)
from surgery.sources.branches import ChosenBranches
from surgery.sources.call_forward import (
    ENSEMBLE,
    FIXED_TIMESTEP,
    FULL_INFERENCE,
    GRIDS,
    Calling,
    choose_timestep,
    construct_network,
    find_scale_name,
    read_choices,
    read_parameters,
)
from surgery.sources.choose_scales import choose_scale_list, read_own_scale_list
from surgery.sources.find_donor import BOTH_STAGES, Donor, version_key
from surgery.sources.load_source import (
    LoadedSource,
    Observer,
    Warp,
    check_own_warp,
    load_source,
    observe_warps,
    stub_warps,
    without_accelerators,
)
from surgery.sources.read_recipe import Recipe, find_recipe
from surgery.sources.replace_shuffles import replace_shuffles
from surgery.sources.three_networks import (
    PADDING,
    ThreeNetworks,
    check_handing_on,
    construct_networks,
)
from surgery.sources.torch_warp import call_warp
from surgery.sources.watch_forward import read_attributes, refuse_memory, watch_forward

SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
# Each block halves its input twice with strided convolutions, below the resize by its scale.
BLOCK_STRIDE = 4
# An encoder halves once and doubles once.
ENCODER_STRIDE = 2
# The paper's refinement halves four times; 4.0 to 4.4 have it too.
REFINEMENT_STRIDE = 16
REFINEMENT_WARPS = 8
REFINEMENT = "contextnet"
CLASS = "IFNet"
# How far the two orders of the frames may be apart in an ensemble: fp32 sums in another order.
SYMMETRY_TOLERANCE = 1e-4


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
        lacks_warp: whether the source came without its warp, and `rife::Warp` stands in.
        timestep: `plane`, or `fixed 0.5` for a network that knows no other.
        architecture: what its tensors look like, None for none of the known ones.
        warp_count: calls of warp in one forward, counted.
        reads: the names of the tensors that forward reads.
        averages_directions: whether blocks run twice, as in an ensemble, asked for or built in.
        calling: how the stock forward is called.
        kind: of the hub model that it makes, `v4` or one of `surgery.hub.networks.KINDS`.
    """

    net: torch.nn.Module
    warp_count: int
    reads: frozenset[str]
    averages_directions: bool
    kind = "v4"

    def __init__(
        self,
        net: torch.nn.Module,
        donor: Donor,
        source: LoadedSource,
        calling: Calling,
        preferred_image: int | None,
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
        self.ensemble = ensemble
        self.has_own_warp = has_own_warp
        self.lacks_warp = source.lacks_warp
        self.architecture = recognise(net.state_dict())
        self._source = source
        self.calling = calling
        # Until it is known what forward reads, the larger padding serves.
        least = PADDING if donor.has_three_networks else 1
        refines = hasattr(net, REFINEMENT)
        self.padding = math.lcm(least, compute_padding(scale_list, refines=refines))
        before = read_attributes(net)
        self.calling = dataclasses.replace(
            calling, timestep=choose_timestep(calling, net, self.padding)
        )
        watched = watch_forward(self, preferred_image)
        self.warp_count, self.reads = watched.warps, watched.reads
        self.averages_directions = watched.averages_directions
        self.calling = dataclasses.replace(self.calling, image=watched.image)
        refuse_memory(before, net, donor.label)
        refines = any(name.startswith(REFINEMENT + ".") for name in self.reads)
        self.padding = math.lcm(least, compute_padding(scale_list, refines=refines))

    @property
    def timestep(self) -> str:
        """See the class."""
        return "plane" if self.calling.timestep else f"fixed {FIXED_TIMESTEP:g}"

    def forward(self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor) -> torch.Tensor:
        """Interpolate; see the class for shapes."""
        result = self.run(in0, in1, in2)
        for index in self.calling.image:
            result = result[index]
        frame: torch.Tensor = result
        return frame

    def run(self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor) -> Any:
        """As `forward`, with all that the stock forward returns."""
        return self.calling.run(self.net, in0, in1, in2, has_own_warp=self.has_own_warp)

    def read_state(self) -> dict[str, torch.Tensor]:
        """Copy the tensors that forward reads."""
        state = self.net.state_dict()
        return {name: tensor.clone() for name, tensor in state.items() if name in self.reads}

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


def compute_padding(scale_list: tuple[float, ...], *, refines: bool = False) -> int:
    """The least number whose multiples every block can work at.

    A block with divisor s resizes to H/s, halves twice, and is resized back: H/s must be a whole
    multiple of 4. So H is a multiple of 4s, rounded up to a whole number where that is a fraction
    (s below 1/4), of 2 for the encoder, and of 16 for a refinement, which halves four times. For
    powers of two, which all stock lists are, that is 4 x the largest entry.
    """
    strides = (Fraction(entry).limit_denominator(1024) * BLOCK_STRIDE for entry in scale_list)
    least = REFINEMENT_STRIDE if refines else ENCODER_STRIDE
    return math.lcm(least, *(stride.numerator for stride in strides))


def build_network(
    donor: Donor,
    *,
    scale: float = 1.0,
    ensemble: bool = False,
    warp: Warp | None = None,
) -> StockNetwork:
    """Import a donor's source, unmodified, and construct its network with untrained weights.

    Args:
        donor: from `find_donor`.
        scale: the resolution that flow is estimated at, one of 0.25, 0.5, 1, 2, 4.
        ensemble: evaluate every block in both directions and average.
        warp: replaces the source's own warp, before it is imported, and makes the network one for
            an exporter (`surgery.sources.replace_shuffles`); None leaves everything alone.

    Raises:
        DonorError: the scale is not one of those; the network knows no ensemble, scale or second
            stage; the source cannot be imported, is not an IFNet of a known form, warps in a way of
            its own, keeps something from frame to frame, or does not call warp as often as its
            architecture does.
    """
    if scale not in SCALES:
        raise DonorError(f"scale {scale:g}; accepted: {', '.join(f'{s:g}' for s in SCALES)}")
    source = load_source(donor.source, donor.label, warp)
    if not source.warps:
        raise DonorError(f"{donor.label} has no function that warps; stock RIFE calls 'warp'")
    if warp is not None:
        check_own_warp(load_source(donor.source, donor.label, warp=None), donor.label)
    net, constructor = _construct(source, donor, scale, ensemble)
    if warp is not None:
        replace_shuffles(net)
    recipe = find_recipe(donor.source)
    calling, scale_list = _plan_calls(net, donor, constructor, recipe, scale, ensemble)
    network = StockNetwork(
        net.eval(),
        donor,
        source,
        calling,
        recipe.image if recipe else None,
        scale_list=scale_list,
        ensemble=ensemble,
        has_own_warp=warp is None,
    )
    _check_warp_count(network)
    if isinstance(network.net, ThreeNetworks):
        network.kind = check_handing_on(network.net, donor.label)
    if ensemble and ENSEMBLE not in constructor:
        _check_symmetry(network)
    return network.eval()


def _construct(
    source: LoadedSource, donor: Donor, scale: float, ensemble: bool
) -> tuple[torch.nn.Module, frozenset[str]]:
    try:
        with without_accelerators():
            if donor.has_three_networks:
                return construct_networks(source.module, donor.label), frozenset()
            constructor = _find_class(source.module, donor)
            return construct_network(
                constructor, f"IFNet of {donor.label}", {"scale": scale, ENSEMBLE: ensemble}
            )
    except DonorError:
        raise
    except Exception as error:
        # Whatever a stranger's constructor raises is a fault of the donor, or of what was asked.
        if not ensemble:
            raise DonorError(f"{donor.label} cannot be constructed: {error!r}") from error
        raise _refuse_ensemble(donor, str(error)) from error


def _find_class(module: types.ModuleType, donor: Donor) -> Any:
    """The network: IFNet, or the only class of the file that is named like it (IFNet_m)."""
    own = {
        name: value
        for name, value in vars(module).items()
        if name.startswith(CLASS)
        and isinstance(value, type)
        and issubclass(value, torch.nn.Module)
        and value.__module__ == module.__name__
    }
    if CLASS in own or len(own) == 1:
        return own.get(CLASS) or next(iter(own.values()))
    found = f"classes {', '.join(own)}" if own else "no class IFNet"
    raise DonorError(f"{donor.label} defines {found}; stock RIFE source defines one")


def _refuse_ensemble(donor: Donor, reason: str) -> DonorError:
    having = (v for one in ARCHITECTURES if one.has_ensemble for v in one.versions)
    return DonorError(
        f"{donor.label} has no ensemble ({reason}); leave it out, "
        f"or take a version that has one: {', '.join(sorted(having, key=version_key))}"
    )


def _plan_calls(
    net: torch.nn.Module,
    donor: Donor,
    constructor: frozenset[str],
    recipe: Recipe | None,
    scale: float,
    ensemble: bool,
) -> tuple[Calling, tuple[float, ...]]:
    """How the network is called, and the divisors that its blocks then have."""
    if not donor.has_three_networks:
        _refuse_flow_network(net, donor)
    parameters = read_parameters(net, donor.label)
    _refuse_options(net, donor, {*parameters, *constructor}, ensemble)
    scale_name = find_scale_name(parameters)
    if scale_name:
        listed = choose_scale_list(net, donor, recipe, parameters[scale_name].default)
        scale_list = tuple(entry / scale for entry in listed)
    else:
        scale_list = read_own_scale_list(net, donor, scale, takes_scale="scale" in constructor)
    # 3.5 shrinks the frames by a scale beside the list and warps them by flows of full size.
    if scale != 1 and scale_name == "scale_list" and "scale" in parameters:
        raise DonorError(
            f"{donor.label} warps shrunken frames by full-size flows where the scale is not 1; "
            "scale 1 is accepted"
        )
    calling = Calling(
        parameters=frozenset(parameters),
        scale_list=scale_list if scale_name else (),
        scale_name=scale_name,
        choices=read_choices(parameters, ensemble=ensemble, fastmode=not donor.second_stage),
        has_grid_attributes=set(GRIDS) <= constructor,
    )
    return calling, scale_list


def _refuse_flow_network(net: torch.nn.Module, donor: Donor) -> None:
    """1.x and 2.x return a flow, and need a ContextNet and a FusionNet to make a frame of it.

    Those are in another file, which was not found beside this one.
    """
    described = describe_tensors(net.state_dict())
    if FLOW_NETWORK in described:
        raise DonorError(
            f"{donor.label}: {described}, one of the three networks that make a frame there; "
            "put the RIFE_HD*.py that belongs to it, with the other two, beside it"
        )


def _refuse_options(net: torch.nn.Module, donor: Donor, accepted: set[str], ensemble: bool) -> None:
    architecture = recognise(net.state_dict())
    if ensemble and ENSEMBLE not in accepted:
        raise _refuse_ensemble(donor, "neither its constructor nor its forward takes one")
    if ensemble and architecture is not None and not architecture.has_ensemble:
        raise _refuse_ensemble(donor, f"it is RIFE {architecture.name}, which only warns of it")
    if donor.second_stage and (FULL_INFERENCE not in accepted or not hasattr(net, REFINEMENT)):
        raise DonorError(
            f"{donor.label.removesuffix(BOTH_STAGES)} has no second stage; RIFE 4.0 to 4.4 have, "
            "in stock source; leave --second-stage out"
        )


def _check_warp_count(network: StockNetwork) -> None:
    known = network.architecture
    more = REFINEMENT_WARPS if network.donor.second_stage else 0
    expected = None if known is None else known.warps + more
    if known is not None and network.warp_count != expected:
        raise DonorError(
            f"{network.donor.label} has the shapes of RIFE {known.name}, which warps {expected} "
            f"times in one forward, but warps {network.warp_count} times; the source was changed"
        )
    if network.warp_count == 0:
        raise DonorError(f"{network.donor.label} never calls its warp; stock RIFE does")


@torch.no_grad()
def _check_symmetry(network: StockNetwork) -> None:
    """An ensemble averages both directions: exchanging the frames exchanges nothing else.

    Forwards that only warn of `ensemble`, or mix up what they average, do not stand this.
    """
    size = network.padding
    generator = torch.Generator().manual_seed(1)
    in0, in1 = torch.rand(2, 1, 3, size, size, generator=generator)
    in2 = torch.full((1, 1, size, size), 0.25)
    with ChosenBranches(), network.stub_warps(call_warp):
        there, back = network(in0, in1, in2), network(in1, in0, 1 - in2)
    difference = float((there - back).abs().max())
    if not difference <= SYMMETRY_TOLERANCE:
        raise _refuse_ensemble(
            network.donor, f"exchanging the frames changes the result by {difference:.2g}"
        )


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
