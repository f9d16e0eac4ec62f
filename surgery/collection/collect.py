"""The verb `collect`: a manifest in, a release folder out."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from surgery.collection.crew import Crew, Done, Job, open_crew
from surgery.collection.hide_paths import hide_paths
from surgery.collection.make_model import Order, Product, make_model, make_order
from surgery.collection.manifest import read_manifest
from surgery.collection.memory import count_conversion
from surgery.collection.plan import Recipe, plan, tell_fault
from surgery.collection.release import (
    FAILED,
    MADE,
    REFUSED,
    WAITING,
    Release,
    Row,
    describe_recipe,
)
from surgery.errors import OutputExists
from surgery.file_path import FilePath
from surgery.progress import Progress, silent


@dataclasses.dataclass(frozen=True)
class Collection:
    """What `collect` made, or found made.

    Attributes:
        folder: the release folder.
        rows: one for each model, as the index tells them.
        done: the names of those that were worked on in this run.
        strangers: models in the folder that the manifest does not ask for, by name: what there
            is of each, relative to the folder.
    """

    folder: Path
    rows: list[Row]
    done: list[str]
    strangers: dict[str, list[str]]

    @property
    def is_complete(self) -> bool:
        """Whether every model that the manifest asks for is there."""
        return all(row["status"] == MADE for row in self.rows)

    def count(self) -> Counter[str]:
        """How many rows have each status."""
        return Counter(row["status"] for row in self.rows)


def collect(
    manifest: FilePath,
    output: FilePath,
    *,
    scheduler: str | None = None,
    shared: bool = False,
    workers: int | None = None,
    progress: Progress = silent,
    announce: Progress = silent,
) -> Collection:
    """Convert and prove every model of a manifest; `output` becomes or stays a release folder.

    What is there already, made of the same inputs by the same tools, is not made again. A model
    that cannot be made is a row of the index and stops no other; only where its inputs forbid it
    is an older one removed.

    Without a scheduler, a cluster of processes is started on this machine, which import the main
    module anew: a script calls this below `if __name__ == "__main__"`.

    Args:
        manifest: as `surgery.collection.manifest` describes it.
        output: the release folder, which may exist if it is one.
        scheduler: the address of a Dask scheduler; None starts workers on this machine.
        shared: the scheduler's workers see the same paths; otherwise files are sent along.
        workers: how many to start here; None for as many as cores and memory allow.
        progress: called with one line for each step.
        announce: called with the address of the scheduler's page, where it has one.

    Raises:
        SurgeryError: the manifest is wrong, the folder is no release or another process works on
            it, or there are no workers.
    """
    manifest, output = Path(manifest), Path(output)
    wanted = read_manifest(manifest)
    progress(f"reading {manifest}")
    home = manifest.resolve().parent
    recipes = plan(wanted, home)
    release = Release(output)
    with release.lock():
        ledger = _Ledger(release, wanted.title, recipes, home)
        waiting = ledger.look_up()
        ledger.publish()
        if waiting:
            progress("counting memory")
            send = scheduler is not None and not shared
            memory = count_conversion([recipe for recipe, _ in waiting])
            with open_crew(
                scheduler, workers=workers, memory=memory, progress=progress, announce=announce
            ) as crew:
                _work(crew, ledger, waiting, send, progress)
        return Collection(output, ledger.list_rows(), ledger.done, release.find_strangers(recipes))


class _Ledger:
    """The state of every model, which the index on disk follows."""

    def __init__(self, release: Release, title: str, recipes: Sequence[Recipe], home: Path) -> None:
        self.done: list[str] = []
        self._release = release
        self._title = title
        self._recipes = recipes
        self._home = home
        self._rows: dict[str, Row] = {}

    def look_up(self) -> list[tuple[Recipe, str]]:
        """Note what is done already; returns the rest, each with its key."""
        waiting = []
        for recipe in self._recipes:
            if recipe.fault:
                self._keep(recipe, REFUSED, recipe.fault)
                continue
            try:
                key = recipe.make_key()
            except OSError as error:
                self._keep(recipe, FAILED, tell_fault(error))
                continue
            row = self._release.find_row(recipe, key)
            if row is None:
                waiting.append((recipe, key))
            self._rows[recipe.name] = row or describe_recipe(recipe, WAITING)
        return waiting

    def _keep(self, recipe: Recipe, status: str, reason: str) -> Row:
        """Note what hinders a model; nothing is remembered, another run tries again."""
        row = self._release.keep(recipe, status, self._hide(recipe, reason))
        self._rows[recipe.name] = row
        return row

    def _hide(self, recipe: Recipe, reason: str) -> str:
        """A reason without the paths of this machine: it will be published."""
        places = [self._home, self._home.parent, self._release.folder]
        return hide_paths(reason, [*places, *filter(None, [recipe.root])])

    def list_jobs(self, waiting: Sequence[tuple[Recipe, str]], send: bool) -> Iterator[Job[Order]]:
        """The tasks, one by one: with their files they are large."""
        for recipe, key in waiting:
            try:
                order = make_order(recipe, send=send)
            except OSError as error:
                self._keep(recipe, FAILED, tell_fault(error))
            else:
                yield Job(key, recipe.name, order)

    def note(self, done: Done[Order, Product]) -> Row:
        """Store what became of a model."""
        recipe, key = done.job.payload.recipe, done.job.key
        if done.result is not None:
            try:
                row = self._release.store(recipe, key, done.result)
            except OutputExists as error:
                # A file where the model folder belongs, or the reverse, or files below it.
                reason = f"somebody's files are in its place, move them away: {error}"
                row = self._keep(recipe, FAILED, self._hide(recipe, reason))
        elif done.refusal:
            row = self._release.refuse(recipe, key, self._hide(recipe, done.refusal))
        else:
            row = self._keep(recipe, FAILED, done.failure)
        self._rows[recipe.name] = row
        self.done.append(recipe.name)
        self.publish()
        return row

    def publish(self) -> None:
        """Write the index as things stand."""
        self._release.write_index(self._title, self.list_rows())

    def list_rows(self) -> list[Row]:
        """In the order of the manifest."""
        return [self._rows[recipe.name] for recipe in self._recipes]


def _work(
    crew: Crew,
    ledger: _Ledger,
    waiting: Sequence[tuple[Recipe, str]],
    send: bool,
    progress: Progress,
) -> None:
    count, total = len(waiting), len(ledger.list_rows())
    models = f"{total} model{'s' if total > 1 else ''}"
    known = f"{count} of " if count < total else ""
    progress(f"{known}{models}, {min(count, crew.count_workers())} at a time")
    jobs = ledger.list_jobs(waiting, send)
    for number, done in enumerate(crew.run(make_model, jobs), start=1):
        row = ledger.note(done)
        # The reason of a refusal comes in the end: this line stands while others are at work.
        progress(f"[{number}/{count}] {row['name']}: {row['status']}")
    ledger.publish()
