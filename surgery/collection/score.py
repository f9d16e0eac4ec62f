"""The verb `score`: what donors and their conversions make of real footage."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.collection.contenders import Contender, Pairing, list_folders, pair
from surgery.collection.crew import Crew, Done, Job, open_crew
from surgery.collection.datasets import (
    Clip,
    Dataset,
    Picture,
    load_picture,
    measure_picture,
    open_dataset,
)
from surgery.collection.lock_folder import lock_folder
from surgery.collection.measure_clips import (
    Figure,
    Measured,
    Trial,
    find_odd_size,
    measure_clips,
    run_clips,
)
from surgery.collection.memory import count_folder
from surgery.collection.plan import hash_file
from surgery.collection.read_record import read_record
from surgery.collection.tally import ClipName, Figures, Score, add_up
from surgery.engines.frames import to_8bit
from surgery.errors import FormatError, OutputExists, SurgeryError
from surgery.file_path import FilePath, to_path
from surgery.output import write_file_atomically
from surgery.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np

# A task takes clips up to so many pixels: opening a model is then a small part of it.
TRIAL_PIXELS = 16 * 256 * 256
RESULTS, DATASET = ".results", "dataset.json"
FACTS, PAGE = "score.json", "score.html"
WORST = 4
# A place in the dataset, what is to be done there, and the contender's files by name: these are
# sent once for all.
_Part = tuple[int, Trial, Mapping[str, bytes]]


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibit:
    """A clip that a model did badly on.

    Attributes:
        clip: its name.
        timestep: of the frames.
        truth: the true frame, uint8 [H,W,3].
        frames: for each contender its frame, shaped alike, and what was measured of it.
    """

    clip: str
    timestep: float
    truth: np.ndarray
    frames: list[tuple[str, np.ndarray, Figure]]


def score(
    models: Sequence[FilePath],
    dataset: FilePath,
    *,
    donor: str | None = None,
    weights: Sequence[FilePath] = (),
    random_weights: int | None = None,
    scale: float | None = None,
    layout: str | None = None,
    every: int = 2,
    limit: int | None = None,
    output: FilePath | None = None,
    worst: int = WORST,
    scheduler: str | None = None,
    shared: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
    announce: Progress = silent,
) -> Score:
    """Measure models in ncnn, and their donors in torch, on frames that are known.

    The donor of a model is found from what the folder says of itself. A contender that fails is
    told, and so are a folder that is no model's and a clip that cannot be read; none stops the
    others.

    Args:
        models: model folders, or release folders of `collect`.
        dataset: a folder in one of the layouts of `surgery.collection.datasets`, or a video.
        donor: of every model; None for those that the folders name.
        weights: checkpoints of the donors, told apart by what the folders say of their tensors;
            models of random weights need none, and one that belongs to no model is told.
        random_weights: the seed of random weights of every donor; None for what the folders say.
        scale: of the flow in every donor; None for what the folders say.
        layout: how the dataset is arranged; None to recognise it.
        every: of a sequence, give one of so many frames and ask for those between.
        limit: how many clips to take; None for all.
        output: a folder for the figures of one dataset, a page with the worst clips, and results
            to go on from.
        worst: how many clips the page shows.
        scheduler: the address of a Dask scheduler; None starts workers on this machine.
        shared: the scheduler's workers see the same paths; otherwise files are sent along.
        workers: how many to start here; None for as many as cores and memory allow.
        progress: called with one line for each step.
        announce: called with the address of the scheduler's page, where it has one, and with what
            was given in vain.

    Raises:
        SurgeryError: no folder is a model, the dataset is none, weights are not there, the output
            is another dataset's or another process works on it, or there are no workers.
    """
    folders, checkpoints = [Path(one) for one in models], [Path(one) for one in weights]
    dataset, output = Path(dataset), to_path(output)
    for path in checkpoints:
        if not path.exists():
            raise SurgeryError(
                f"--weights {path}: no such file or folder; name the checkpoint of a donor, or "
                "leave it out for models of random weights"
            )
    opened = open_dataset(dataset, layout, every=every, limit=limit)
    results = _Results(output)
    send = scheduler is not None and not shared
    with results.lock():
        results.claim(dataset)
        progress("opening models")
        pairings = [
            _pair(
                folder,
                donor=donor,
                weights=checkpoints,
                random_weights=random_weights,
                scale=scale,
                send=send,
            )
            for folder in list_folders(folders)
        ]
        if all(one.fault for one in pairings):
            raise FormatError("\n".join(one.fault for one in pairings))
        _tell_unused(checkpoints, pairings, announce)
        contest = _Contest(opened, _tell_apart(pairings), results, send, progress)
        memory = count_memory(pairings, opened)
        with open_crew(
            scheduler, workers=workers, memory=memory, progress=progress, announce=announce
        ) as crew:
            found = contest.run(crew)
            if output is not None:
                write_file_atomically(output / FACTS, found.to_json(), force=True)
                progress("looking at the worst clips")
                _write_page(output / PAGE, found, contest.show(crew, found.find_worst(worst)))
    return found


def _pair(folder: Path, **options: Any) -> Pairing:
    """As `pair`; a folder that is no model folder takes part in name."""
    try:
        return pair(folder, **options)
    except SurgeryError as error:
        # Nothing tells it from others but where it is looked for.
        model = Contender(f"no model: {folder}", folder.name, folder=folder)
        return Pairing(model, None, fault=str(error))


def _tell_apart(pairings: Sequence[Pairing]) -> list[Pairing]:
    """Models by their folders' names, and by the parents' too where those are the same."""
    counts = Counter(one.model.label for one in pairings)
    named = []
    for one in pairings:
        label, folder = one.model.label, one.model.folder
        if counts[label] > 1 and folder is not None:
            label = f"{folder.parent.parent.name}/{folder.parent.name}/{label}"
        named.append(dataclasses.replace(one, model=dataclasses.replace(one.model, label=label)))
    return named


def _tell_unused(weights: Sequence[Path], pairings: Sequence[Pairing], announce: Progress) -> None:
    specs = (one.donor.donor for one in pairings if one.donor is not None)
    used = {spec.weights for spec in specs if spec is not None}
    for path in weights:
        if path not in used:
            announce(f"--weights {path}: no donor takes it; donors of random weights take none")


def count_memory(pairings: Sequence[Pairing], dataset: Dataset) -> int:
    """The bytes that one task takes at most; of videos, by the first frame of all."""
    size = max(_list_sizes(dataset), key=math.prod, default=(0, 0))
    counts = [0]
    for one in pairings:
        # One that cannot be counted is run, and then it says why.
        with contextlib.suppress(SurgeryError):
            if one.model.folder is not None and not one.fault:
                counts.append(count_folder(one.model.folder, one.model.padding, size))
    return max(counts)


def _list_sizes(dataset: Dataset) -> Iterator[tuple[int, int]]:
    for clip in dataset.read():
        with contextlib.suppress(SurgeryError):
            yield measure_picture(clip.in0)
        if not isinstance(clip.in0, Path):
            # To see the others, all would have to be decoded.
            return


class _Results:
    """What is measured already, kept on disk by the hash of what it was measured from."""

    def __init__(self, output: Path | None) -> None:
        if output is not None and output.exists() and not (output / RESULTS).is_dir():
            raise OutputExists(f"{output} exists and holds no scores; name a folder of its own")
        self._folder = None if output is None else output / RESULTS
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def lock(self) -> AbstractContextManager[None]:
        """Keep the folder to this process; nothing to keep where there is none."""
        if self._folder is None:
            return contextlib.nullcontext()
        return lock_folder(self._folder.parent, self._folder)

    def claim(self, dataset: Path) -> None:
        """Take the folder for a dataset, as often as wanted for the same.

        Raises:
            OutputExists: it holds the score of another.
        """
        if self._folder is None:
            return
        file, path = self._folder / DATASET, str(dataset.resolve())
        known = read_record(file)
        if known == path:
            return
        output = self._folder.parent
        # What was broken off before there was a score leaves nothing to lose.
        if isinstance(known, str) and (output / FACTS).exists():
            raise OutputExists(
                f"{output} holds the score of {known}, and a score of {path} would replace it; "
                f"choose another -o, or delete {file} where the dataset has only moved"
            )
        write_file_atomically(file, json.dumps(path), force=True)

    def find(self, key: str) -> list[list[Figure]] | None:
        listed = None if self._folder is None else read_record(self._folder / f"{key}.json")
        if listed is None:
            return None
        try:
            return [[Figure(*map(float, one)) for one in clip] for clip in listed]
        except (TypeError, ValueError):
            # JSON, but none that was written here.
            return None

    def keep(self, key: str, figures: Figures) -> None:
        if self._folder is not None:
            listed = [[dataclasses.astuple(one) for one in clip] for clip in figures]
            write_file_atomically(self._folder / f"{key}.json", json.dumps(listed), force=True)


class _Contest:
    """Every contender on every clip."""

    def __init__(
        self,
        dataset: Dataset,
        pairings: Sequence[Pairing],
        results: _Results,
        send: bool,
        progress: Progress,
    ) -> None:
        self._dataset = dataset
        self._pairings = pairings
        self._results = results
        self._send = send
        self._progress = progress
        found = [one for pairing in pairings for one in (pairing.donor, pairing.model)]
        self._contenders = list(dict.fromkeys(one for one in found if one is not None))
        self._clips: list[ClipName] = []
        # Trials of one contender, 0 until the dataset was read once; and those of all that ended.
        self._trials = 0
        self._settled = 0
        # Frames: figures found on disk, and figures made.
        self._reused = self._measured = 0
        # Figures by contender and by the place of the trial in the dataset.
        self._parts: dict[str, dict[int, Figures]] = {one.key: {} for one in self._contenders}
        self._notes = {one.model.key: one.fault for one in pairings if one.fault}
        self._faults: dict[str, str] = {}

    def run(self, crew: Crew) -> Score:
        for done in crew.run(_measure_part, self._list_jobs(crew)):
            self._note(done)
            known = f" of {self._trials * len(self._contenders)}" if self._trials else ""
            self._progress(f"{self._settled}{known} trials measured, {done.job.label} last")
        figures = {
            one.key: self._join(one) for one in self._contenders if one.key not in self._notes
        }
        standings = add_up(self._pairings, self._clips, figures, self._notes)
        dataset = self._dataset
        return Score(
            dataset.path.resolve().name,
            dataset.layout.name,
            self._clips,
            figures,
            standings,
            dict(sorted(self._faults.items())),
            reused=self._reused,
            measured=self._measured,
        )

    def _join(self, contender: Contender) -> Figures:
        """The figures of every clip, in the order of the dataset."""
        parts = self._parts[contender.key]
        return [clip for place in sorted(parts) for clip in parts[place]]

    def _list_jobs(self, crew: Crew) -> Iterator[Job[_Part]]:
        """One contender after the other, so that a worker opens each once."""
        for contender in self._contenders:
            self._clips = []
            parcel = None
            for place, clips in enumerate(cut_trials(self._dataset)):
                self._clips += [ClipName(clip.name, clip.group) for clip in clips]
                key = make_key(contender, clips)
                kept = self._results.find(key)
                if kept is not None:
                    self._parts[contender.key][place] = kept
                    self._reused += _count(kept)
                elif contender.key not in self._notes:
                    # Not before it is needed: all may be measured already.
                    bare, sent = parcel = parcel or self._send_once(crew, contender)
                    trial = Trial(bare, tuple(map(self._pack, clips)))
                    yield Job(key, contender.label, (place, trial, sent))
                    continue
                self._settled += 1
            self._trials = place + 1

    def _send_once(self, crew: Crew, contender: Contender) -> tuple[Contender, Any]:
        """A contender without its files, and what stands for these in the tasks."""
        if not contender.sent:
            return contender, contender.sent
        kept = crew.keep(contender.key, contender.sent)
        return dataclasses.replace(contender, sent={}), kept

    def _pack(self, clip: Clip) -> Clip:
        if not self._send or clip.fault:
            return clip
        try:
            # A worker that gets no paths can name no picture.
            if fault := find_odd_size(clip):
                self._faults[clip.name] = fault
            return pack_clip(clip)
        except SurgeryError as error:
            self._faults[clip.name] = str(error)
            return clip

    def _note(self, done: Done[_Part, Measured]) -> None:
        place, trial, _ = done.job.payload
        self._settled += 1
        if done.result is None:
            self._notes[trial.contender.key] = done.refusal or done.failure
            return
        self._parts[trial.contender.key][place] = done.result.figures
        self._measured += _count(done.result.figures)
        # What the client knows of a picture, a worker that does not see it knows not better.
        self._faults = {**done.result.faults, **self._faults}
        if not done.result.faults:
            self._results.keep(done.job.key, done.result.figures)

    def show(self, crew: Crew, indices: Sequence[int]) -> list[Exhibit]:
        """Compute the frames of some clips again, to be looked at."""
        if not indices:
            return []
        wanted = set(indices)
        clips = {index: clip for index, clip in enumerate(self._dataset.read()) if index in wanted}
        jobs = (
            Job(f"show-{make_key(bare, [clips[index]])}", bare.label, (index, trial, sent))
            for contender in self._contenders
            if contender.key not in self._notes
            for bare, sent in [self._send_once(crew, contender)]
            for index in indices
            for trial in [Trial(bare, (self._pack(clips[index]),))]
        )
        frames = {
            (done.job.payload[1].contender.key, done.job.payload[0]): done.result
            for done in crew.run(_run_part, jobs)
            if done.result is not None
        }
        shown = {index for _, index in frames}
        return [self._exhibit(index, clips[index], frames) for index in indices if index in shown]

    def _exhibit(
        self, index: int, clip: Clip, frames: Mapping[tuple[str, int], list[np.ndarray]]
    ) -> Exhibit:
        """The worst frame of a clip, as every contender that was asked for it made it."""
        shown = [one for one in self._contenders if (one.key, index) in frames]
        figures = {one.key: self._join(one)[index] for one in shown}
        worst = min((one for listed in figures.values() for one in listed), key=_psnr)
        made = [
            (one.label, frames[one.key, index][at], figure)
            for one in shown
            for at, figure in enumerate(figures[one.key])
            if figure.timestep == worst.timestep
        ]
        truth = _read(dict(clip.truths)[worst.timestep])
        return Exhibit(clip.name, worst.timestep, truth, made)


def _psnr(figure: Figure) -> float:
    return figure.psnr


def _count(figures: Figures) -> int:
    return sum(map(len, figures))


def _measure_part(part: _Part) -> Measured:
    return measure_clips(_join_files(part))


def _run_part(part: _Part) -> list[np.ndarray]:
    (frames,) = run_clips(_join_files(part))
    return frames


def _join_files(part: _Part) -> Trial:
    _, trial, sent = part
    return dataclasses.replace(trial, contender=dataclasses.replace(trial.contender, sent=sent))


def cut_trials(dataset: Dataset) -> Iterator[list[Clip]]:
    """The clips of a dataset, as many at a time as make a task."""
    clips: list[Clip] = []
    pixels = 0
    for clip in dataset.read():
        size = 0
        with contextlib.suppress(SurgeryError):
            # A clip that cannot be read goes along, and whoever reads it says why.
            size = math.prod(measure_picture(clip.in0)) * len(clip.truths)
        if clips and pixels + size > TRIAL_PIXELS:
            yield clips
            clips, pixels = [], 0
        clips.append(clip)
        pixels += size
    if clips:
        yield clips


def make_key(contender: Contender, clips: Sequence[Clip]) -> str:
    """Hash what figures depend on: a contender, and pictures by their content."""
    facts = [
        [clip.name, [t for t, _ in clip.truths], [_hash_picture(one) for one in clip.pictures]]
        for clip in clips
    ]
    text = json.dumps([contender.key, facts])
    return hashlib.sha256(text.encode()).hexdigest()


def _hash_picture(picture: Picture) -> str:
    if isinstance(picture, Path):
        return hash_file(picture) if picture.is_file() else ""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).hexdigest()


def pack_clip(clip: Clip) -> Clip:
    """The clip with its pictures read, for a worker that does not see their paths."""
    return dataclasses.replace(
        clip,
        in0=_read(clip.in0),
        in1=_read(clip.in1),
        truths=tuple((timestep, _read(picture)) for timestep, picture in clip.truths),
    )


def _read(picture: Picture) -> np.ndarray:
    return to_8bit(load_picture(picture))


def _write_page(path: Path, found: Score, exhibits: Sequence[Exhibit]) -> None:
    from surgery.collection.pages import render_score

    write_file_atomically(path, render_score(found, exhibits), force=True)
