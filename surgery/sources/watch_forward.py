"""Watch one forward of a stock network: the warps it calls, the tensors it reads, what it keeps.

What a network needs from its weights, and whether its next frame would depend on the last one, no
signature tells.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from surgery.errors import DonorError
from surgery.sources.branches import ChosenBranches
from surgery.sources.call_forward import GRIDS, find_image

if TYPE_CHECKING:
    from surgery.sources.stock import StockNetwork

Attributes = dict[tuple[str, str], Any]


@dataclasses.dataclass(frozen=True)
class Watched:
    """What one forward shows; see `StockNetwork`, and `Calling` for the image."""

    warps: int
    reads: frozenset[str]
    image: tuple[int, ...]
    averages_directions: bool


def watch_forward(network: StockNetwork, preferred_image: int | None) -> Watched:
    """Count warps, see what is read, and find the image in the result.

    On real tensors, though shapes would do: some sources move theirs to a device by name.

    Args:
        network: the network, all but what is found here.
        preferred_image: which of several images its authors take, if they say.

    Raises:
        DonorError: the forward fails, or returns no frame.
    """
    count = 0
    runs: Counter[torch.nn.Module] = Counter()

    def stub(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return image

    def note(module: torch.nn.Module, _inputs: object) -> None:
        runs[module] += 1

    size = network.padding
    inputs = tuple(torch.full((1, channels, size, size), 0.5) for channels in (3, 3, 1))
    hooks = [module.register_forward_pre_hook(note) for module in network.net.modules()]
    try:
        with network.stub_warps(stub), torch.no_grad(), ChosenBranches():
            result = network.run(*inputs)
    except Exception as error:
        # Whatever a stranger's forward raises is a fault of the donor.
        raise DonorError(
            f"{network.donor.label} does not run on frames of {size}x{size}: {error!r}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    reads = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.net.named_modules()
        if module in runs
        for name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        )
        # A batch normalisation counts its batches, for training.
        if tensor.is_floating_point()
    }
    image = find_image(result, (size, size), preferred_image)
    last = getattr(network.net, f"block{len(network.scale_list) - 1}", None)
    return Watched(count, frozenset(reads), image, last is not None and runs[last] > 1)


def read_attributes(net: torch.nn.Module) -> Attributes:
    """What modules hold beside their parameters, by module and attribute."""
    return {
        (prefix, name): value
        for prefix, module in net.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and name not in GRIDS
    }


def refuse_memory(before: Attributes, net: torch.nn.Module, label: str) -> None:
    """Refuse a network whose next frame depends on the last one; a graph forgets.

    Raises:
        DonorError: attributes are not what they were before a forward.
    """
    kept = [
        ".".join(filter(None, place))
        for place, value in read_attributes(net).items()
        if isinstance(value, (torch.Tensor, int, float))
        and before.get(place) is not value
        and (isinstance(value, torch.Tensor) or place in before)
    ]
    if kept:
        raise DonorError(
            f"{label} keeps {', '.join(kept)} from frame to frame; a network that forgets is "
            "accepted"
        )
