"""At which resolutions the blocks of a stock network work, where its authors disagree in writing.

The default of a forward may be stale (4.25.lite), lack an entry (five blocks), or be right; what
`Model.inference` passes is what the weights were trained for.
"""

from __future__ import annotations

import torch

from surgery.errors import DonorError
from surgery.sources.architectures import recognise
from surgery.sources.find_donor import Donor
from surgery.sources.read_recipe import Recipe, parse_source, read_scale_list


def choose_scale_list(
    net: torch.nn.Module, donor: Donor, recipe: Recipe | None, default: object
) -> tuple[float, ...]:
    """The divisors to pass in a call: as the authors' inference has them, or the architecture.

    Args:
        net: the network.
        donor: where it came from.
        recipe: what its authors' inference says.
        default: of the argument of its forward, for want of anything better.

    Raises:
        DonorError: nobody says, or for another number of blocks.
    """
    architecture = recognise(net.state_dict())
    blocks = sum(name.removeprefix("block").isdigit() for name, _ in net.named_children())
    if recipe is not None and recipe.scale_list:
        found, origin = recipe.scale_list, recipe.file
    elif architecture is not None:
        found, origin = tuple(map(float, architecture.scales)), f"RIFE {architecture.name}"
    elif isinstance(default, (list, tuple)):
        found, origin = tuple(map(float, default)), "its forward"
    else:
        raise DonorError(
            f"{donor.label} does not say at which resolutions its blocks work; "
            "put the RIFE_HDv3.py that belongs to it beside it"
        )
    if len(found) != blocks:
        raise DonorError(
            f"{donor.label} has {blocks} blocks, and {origin} has resolutions for {len(found)} "
            f"({list(found)}); put the RIFE_HDv3.py that belongs to it beside it"
        )
    return found


def read_own_scale_list(
    net: torch.nn.Module, donor: Donor, scale: float, *, takes_scale: bool
) -> tuple[float, ...]:
    """The divisors that a constructor made; 4.0 and 4.1 of vs-rife make them in forward.

    Raises:
        DonorError: there are none, or another scale is asked of a network that takes none.
    """
    if scale != 1 and not takes_scale:
        raise DonorError(f"{donor.label} has no scale, in its constructor or its forward; 1 is it")
    made = getattr(net, "scale_list", None)
    if made:
        return tuple(float(entry) for entry in made)
    parsed = read_scale_list(parse_source(donor.source, donor.label), donor.label)
    if not parsed:
        raise DonorError(f"{donor.label} has no scale_list, in its constructor or its forward")
    return tuple(entry / scale for entry in parsed)
