"""Let exporters see a pixel shuffle where a source spells one out by itself.

vs-rife did so from January 2023 to June 2024, for TensorRT: a view, a permutation and a reshape by
sizes of the frame, which is no operator of the hub. A module is known by what it computes.
"""

from __future__ import annotations

import torch

FACTOR = 2


def replace_shuffles(net: torch.nn.Module) -> int:
    """Put torch's own PixelShuffle in the place of every module that computes it.

    Exact when: always; values are moved, and a probe of numbers that all differ has seen where to.
    Returns how many there were.
    """
    found = [
        (parent, name)
        for parent in net.modules()
        for name, child in parent.named_children()
        if not isinstance(child, torch.nn.PixelShuffle) and is_shuffle(child)
    ]
    for parent, name in found:
        setattr(parent, name, torch.nn.PixelShuffle(FACTOR))
    return len(found)


@torch.no_grad()
def is_shuffle(module: torch.nn.Module) -> bool:
    """Whether a module shuffles pixels by 2, as torch's own does."""
    if isinstance(module, torch.nn.PixelShuffle):
        return module.upscale_factor == FACTOR
    is_foreign = not type(module).__module__.startswith("torch.")
    if not is_foreign or next(iter(module.state_dict()), None) is not None:
        return False
    channels, height, width = 3 * FACTOR**2, 3, 5
    probe = torch.arange(channels * height * width, dtype=torch.float32)
    probe = probe.reshape(1, channels, height, width)
    try:
        found = module(probe)
    except Exception:
        # A stranger's module may want anything else; then it is no shuffle.
        return False
    expected = torch.nn.functional.pixel_shuffle(probe, FACTOR)
    return isinstance(found, torch.Tensor) and torch.equal(found, expected)
