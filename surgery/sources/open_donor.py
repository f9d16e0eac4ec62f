"""Open a donor: find its source, build its unmodified network and fill it with weights."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from surgery.sources.find_donor import Donor
    from surgery.sources.stock import StockNetwork

RANDOM = "random, seed {}"


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where a donor's weights come from: a checkpoint, or calibrated random ones for tests."""

    path: Path | None = None
    random_seed: int | None = None

    def require(self) -> None:
        """Refuse to go on without exactly one source of weights.

        Raises:
            CheckpointError: none or both are given.
        """
        if self.path is not None and self.random_seed is not None:
            raise CheckpointError(
                "both --weights and --random-weights are given; one of the two is accepted"
            )
        if self.path is None and self.random_seed is None:
            raise CheckpointError(
                "a donor needs weights: give --weights FILE (a .pkl, .pth, .pt or .safetensors), "
                "or --random-weights SEED for a test"
            )

    def to_options(self) -> list[str]:
        """What a command line says of them."""
        if self.path is not None:
            return ["--weights", str(self.path)]
        return [] if self.random_seed is None else ["--random-weights", str(self.random_seed)]

    @property
    def label(self) -> str:
        """What metadata says about the origin; a file's name, never its path."""
        return self.path.name if self.path else RANDOM.format(self.random_seed)


@dataclasses.dataclass(frozen=True)
class OpenDonor:
    """A donor with its weights: the untouched network for reference, and what it was made of."""

    donor: Donor
    weights: Weights
    state: dict[str, torch.Tensor]
    network: StockNetwork
    scale: float
    dropped: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the donor, a sentence each."""
        notes = []
        if self.network.lacks_warp:
            notes.append(
                "the source came without its warplayer.py: torch, too, warped by rife::Warp"
            )
        if self.dropped:
            modules = Counter(name.split(".", 1)[0] for name in self.dropped)
            listed = ", ".join(f"{module}.* ({modules[module]})" for module in sorted(modules))
            notes.append(f"dropped from the weights, since no frame depends on it: {listed}")
        if self.network.timestep != "plane":
            notes.append(
                "the network makes the frame in the middle whatever timestep a runtime asks for"
            )
        return tuple(notes)


def open_donor(
    text: str,
    weights: Weights,
    *,
    scale: float = 1.0,
    ensemble: bool = False,
    arch: str = "",
    second_stage: bool = False,
) -> OpenDonor:
    """Find a donor, construct its unmodified network and fill it with weights.

    A folder that holds weights needs no others, and a bare weights file is a donor by itself, of
    the version `arch` where its tensors do not tell. `second_stage` is for stock 4.0 to 4.4.

    Raises:
        DonorError: the donor, its scale or its ensemble is not to be had.
        CheckpointError: there are no weights, or they do not fit.
    """
    from surgery.sources import checkpoint, stock
    from surgery.sources.find_donor import BOTH_STAGES, find_donor

    donor = find_donor(text, weights=weights.path, arch=arch)
    if second_stage:
        donor = dataclasses.replace(donor, second_stage=True, label=donor.label + BOTH_STAGES)
    if weights == Weights():
        weights = Weights(donor.weights)
    weights.require()
    network = stock.build_network(donor, scale=scale, ensemble=ensemble)
    if weights.path is not None:
        read = checkpoint.read_networks if donor.has_three_networks else checkpoint.read_checkpoint
        state = read(weights.path)
    else:
        from surgery.sources.calibrate import calibrated_weights

        assert weights.random_seed is not None  # require() has seen to it
        state = calibrated_weights(donor, weights.random_seed, scale=scale, ensemble=ensemble)
    report = checkpoint.load_into(network, state)
    return OpenDonor(donor, weights, network.read_state(), network, scale, report.dropped)
