"""Scores added up: in total, for each part of a dataset and each timestep, and differences."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from surgery.collection.contenders import Contender, Pairing
from surgery.collection.measure_clips import Figure

Figures = Sequence[Sequence[Figure]]


@dataclasses.dataclass(frozen=True)
class ClipName:
    """Which clip figures are of."""

    name: str
    group: str


@dataclasses.dataclass(frozen=True)
class Mean:
    """Means over frames.

    Attributes:
        psnr: in dB.
        ssim: mean structural similarity.
        frames: how many.
    """

    psnr: float
    ssim: float
    frames: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """A conversion against its donor, in dB of PSNR; positive where the conversion is better.

    Attributes:
        mean: of all frames.
        largest: of the frame where it is furthest from 0.
        clip: that frame's clip.
    """

    mean: float
    largest: float
    clip: str


@dataclasses.dataclass(frozen=True)
class Standing:
    """How one contender did.

    Attributes:
        key: the contender's; the same for folders of the same content.
        label: what it is called.
        is_model: whether it is a converted model, and no donor.
        total: over all frames; None where it did not run.
        groups: for each part of the dataset, where there are parts.
        timesteps: for each timestep, where there are several.
        donor: the label of its donor; empty for a donor, and where there is none.
        difference: from its donor.
        note: why it, or its donor, did not take part.
    """

    key: str
    label: str
    is_model: bool
    total: Mean | None
    groups: Mapping[str, Mean]
    timesteps: Mapping[str, Mean]
    donor: str = ""
    difference: Difference | None = None
    note: str = ""


@dataclasses.dataclass
class Score:
    """Everything that was measured.

    Attributes:
        dataset: its name.
        layout: how it is arranged.
        clips: in their order.
        figures: for the key of each contender the figures of every clip, where it ran on all of
            them; none for a clip that cannot be read.
        standings: in the order of the models, each after its donor.
        faults: why a clip cannot be read, by its name.
        reused: how many frames had been measured before.
        measured: how many frames were measured for this.
    """

    dataset: str
    layout: str
    clips: list[ClipName]
    figures: Mapping[str, Figures]
    standings: list[Standing]
    faults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reused: int = 0
    measured: int = 0

    def find_worst(self, count: int) -> list[int]:
        """The clips that models did worst on, by the mean PSNR of their worst model."""
        rated = [self.figures[one.key] for one in self.standings if one.is_model and one.total]
        worst = {
            index: min(fmean(one.psnr for one in figures[index]) for figures in rated)
            for index in range(len(self.clips))
            if rated and all(figures[index] for figures in rated)
        }
        return sorted(worst, key=worst.__getitem__)[:count]

    def to_json(self) -> str:
        """Everything, as `score.json` holds it."""
        return json.dumps(self.to_facts(), indent=1) + "\n"

    def to_facts(self) -> dict[str, Any]:
        """As JSON can say it; a clip's figures are by the key of a standing.

        The same whether they were measured now or before.
        """
        return {
            "dataset": self.dataset,
            "layout": self.layout,
            "faults": dict(self.faults),
            "standings": [dataclasses.asdict(one) for one in self.standings],
            "clips": [
                {
                    **dataclasses.asdict(clip),
                    "figures": {
                        key: [dataclasses.asdict(one) for one in figures[index]]
                        for key, figures in self.figures.items()
                    },
                }
                for index, clip in enumerate(self.clips)
            ],
        }


def add_up(
    pairings: Iterable[Pairing],
    clips: Sequence[ClipName],
    figures: Mapping[str, Figures],
    notes: Mapping[str, str],
) -> list[Standing]:
    """Rank nobody: each donor once, before the first of its models.

    `figures` and `notes` are by the contender's key.
    """
    standings: list[Standing] = []
    told: set[str] = set()
    for one in pairings:
        if one.donor is not None and one.donor.key not in told:
            told.add(one.donor.key)
            standings.append(_stand(one.donor, clips, figures, notes))
        standing = _stand(one.model, clips, figures, notes)
        donor = one.donor
        if donor is not None and donor.key in figures and standing.total is not None:
            difference = _compare(clips, figures[one.model.key], figures[donor.key])
            standing = dataclasses.replace(standing, donor=donor.label, difference=difference)
        standings.append(dataclasses.replace(standing, note=standing.note or one.note))
    return standings


def _stand(
    contender: Contender,
    clips: Sequence[ClipName],
    figures: Mapping[str, Figures],
    notes: Mapping[str, str],
) -> Standing:
    name = (contender.key, contender.label, contender.folder is not None)
    if contender.key not in figures:
        return Standing(*name, None, {}, {}, note=notes.get(contender.key, ""))
    listed = zip(clips, figures[contender.key], strict=True)
    own = [(clip, one) for clip, ones in listed for one in ones]
    if not own:
        note = "it was asked for no frame: "
        note += (
            "it makes the one in the middle alone, and the dataset has none"
            if contender.fixed_timestep
            else "no clip can be read"
        )
        return Standing(*name, None, {}, {}, note=note)
    groups = dict.fromkeys(clip.group for clip, _ in own if clip.group)
    times = sorted({one.timestep for _, one in own})
    return Standing(
        *name,
        _mean([one for _, one in own]),
        {group: _mean([one for clip, one in own if clip.group == group]) for group in groups},
        {f"{t:g}": _mean([one for _, one in own if one.timestep == t]) for t in times}
        if len(times) > 1
        else {},
    )


def _mean(figures: Sequence[Figure]) -> Mean:
    return Mean(
        fmean(one.psnr for one in figures), fmean(one.ssim for one in figures), len(figures)
    )


def _compare(clips: Sequence[ClipName], model: Figures, donor: Figures) -> Difference | None:
    pairs = [
        (ours.psnr - theirs.psnr, clip.name)
        for clip, own, other in zip(clips, model, donor, strict=True)
        # A clip may have been readable for one of the two alone.
        if len(own) == len(other)
        for ours, theirs in zip(own, other, strict=True)
    ]
    if not pairs:
        return None
    largest, clip = max(pairs, key=lambda pair: abs(pair[0]))
    return Difference(fmean(value for value, _ in pairs), largest, clip)
