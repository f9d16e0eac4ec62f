"""Feed inputs to readers in processes that may die, hang or eat memory, and tell which did.

A worker is a fork of this process, with everything imported already. It says what it begins and
what came of it; one that falls silent is killed, and another goes on after the input that it had.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Any

from checks.fuzz_kinds import Kind, Seed
from checks.fuzz_mutations import mutate
from surgery.engines.child import measure_peak_bytes
from surgery.errors import SurgeryError

MOST_SECONDS = 10.0
MOST_BYTES = 2 * 2**30
# Allocations fail only far beyond that: readers that take any failure for a broken file would hide
# what they ask for.
FAILING_PARTS = 3
# Resets the record of the most memory that a process has held. Source: proc_pid_clear_refs(5).
CLEAR_REFS, RESET_PEAK = Path("/proc/self/clear_refs"), "5"
# What a worker of a loaded machine may take beyond that until it counts as hanging for good.
GRACE_SECONDS = 50.0
# What no reader of a stranger's file has a reason to do.
FORBIDDEN = re.compile(r"os\.(system|exec|posix_spawn|fork)|subprocess\.Popen|socket\.connect")
FOLDER = "rife-v4"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one input.

    Attributes:
        number: which input it was.
        verdict: `accepted`, `refused`, or what is wrong with the reader.
        seconds: CPU time that it took, of all threads.
        peak: the most bytes that the worker held meanwhile.
    """

    number: int
    verdict: str
    seconds: float = 0.0
    peak: int = 0

    @property
    def is_fault(self) -> bool:
        """Whether the reader is at fault."""
        return self.verdict not in ("accepted", "refused")


def make_input(kind: Kind, name: str, number: int, seed: int) -> tuple[Seed, bytes, Random]:
    """The input of that number: what it was, what became of it, and the randomness left."""
    random = Random(f"{seed} {name} {number}")
    whole = random.choice(kind.seeds)
    return whole, mutate(random, whole.data, kind.mutations), random


def check_seeds(kind: Kind) -> None:
    """Let every reader accept every whole input; what they import, workers then have already.

    Raises:
        SurgeryError: one of them is refused.
    """
    for whole in kind.seeds:
        for reader in (kind.opens, *kind.readers):
            with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
                reader(write_files(Path(name, FOLDER), whole, whole.data))


def feed(
    kind: Kind, name: str, numbers: Sequence[int], seed: int, jobs: int = 1
) -> Iterator[Outcome]:
    """Feed inputs by their numbers; the outcomes come as they are made."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        workers = [
            _Worker(kind, name, numbers[job::jobs], seed, Path(scratch, str(job)))
            for job in range(min(jobs, len(numbers)))
        ]
        while workers:
            wait([one.connection for one in workers], timeout=1.0)
            for one in workers:
                yield from one.collect()
            workers = [one for one in workers if not one.is_done]


class _Worker:
    """A process, and another one when it dies."""

    def __init__(
        self, kind: Kind, name: str, numbers: Sequence[int], seed: int, scratch: Path
    ) -> None:
        self._work = (kind, name, seed, scratch)
        self._left = list(numbers)
        self._start()

    @property
    def is_done(self) -> bool:
        return not self._left and not self._process.is_alive()

    def _start(self) -> None:
        kind, name, seed, scratch = self._work
        self.connection, theirs = multiprocessing.Pipe(duplex=False)
        self._process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(theirs, kind, name, tuple(self._left), seed, scratch)
        )
        self._process.start()
        theirs.close()
        self._heard = time.monotonic()

    def collect(self) -> Iterator[Outcome]:
        """What the process said since; and what became of it."""
        try:
            while self.connection.poll():
                outcome = self.connection.recv()
                self._heard = time.monotonic()
                self._left.remove(outcome.number)
                yield outcome
        except EOFError:
            self._process.join()
            if self._left:
                yield self._bury(_describe_death(self._process.exitcode))
        if self._left and time.monotonic() - self._heard > MOST_SECONDS + GRACE_SECONDS:
            self._process.kill()
            self._process.join()
            yield self._bury(f"no answer within {MOST_SECONDS + GRACE_SECONDS:g} s")

    def _bury(self, verdict: str) -> Outcome:
        number = self._left.pop(0)
        if self._left:
            self._start()
        return Outcome(number, verdict)


def _describe_death(code: int | None) -> str:
    if code is None or code >= 0:
        return f"the process ended with status {code}"
    return f"the process died of {signal.Signals(-code).name}"


def _serve(
    connection: Connection[Outcome],
    kind: Kind,
    name: str,
    numbers: Sequence[int],
    seed: int,
    scratch: Path,
) -> None:
    """The worker's side."""
    scratch.mkdir(exist_ok=True)
    _empty(scratch)  # of what a worker left that was killed
    _silence()
    _limit_memory()
    tempfile.tempdir = str(scratch)
    os.chdir(scratch)
    ran = _watch_actions()
    for number in numbers:
        whole, data, random = make_input(kind, name, number, seed)
        ran.clear()
        CLEAR_REFS.write_text(RESET_PEAK, encoding="ascii")
        start = time.process_time()
        verdict = read_input(kind, whole, data, random, scratch)
        seconds = time.process_time() - start
        peak = measure_peak_bytes() or 0
        if ran:
            verdict = f"it did {ran[0]}"
        elif seconds > MOST_SECONDS:
            verdict = f"it took more than {MOST_SECONDS:g} s"
        elif peak > MOST_BYTES:
            verdict = f"it took more than {MOST_BYTES} bytes"
        connection.send(Outcome(number, verdict, seconds, peak))


def _silence() -> None:
    """Libraries print about files like these."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nothing, stream.fileno())


def _limit_memory() -> None:
    """Let allocations fail before they take the machine down."""
    sizes = Path("/proc/self/statm").read_text(encoding="ascii").split()
    page = resource.getpagesize()
    mapped, held = int(sizes[0]) * page, int(sizes[1]) * page
    limit = mapped + FAILING_PARTS * MOST_BYTES - held
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _watch_actions() -> list[str]:
    """A list that fills with what Python code did and no reader may do."""
    ran: list[str] = []

    def note(event: str, _: tuple[Any, ...]) -> None:
        if FORBIDDEN.match(event):
            ran.append(event)

    sys.addaudithook(note)
    return ran


def read_input(kind: Kind, whole: Seed, data: bytes, random: Random, scratch: Path) -> str:
    """Let one input be opened, and read by one of its other readers; the verdict."""
    folder = scratch / FOLDER
    try:
        path = write_files(folder, whole, data)
        (folder / "link.bin").symlink_to("/etc/passwd")
        before = sorted(folder.rglob("*"))
        readers = [kind.opens, *([random.choice(kind.readers)] if kind.readers else [])]
        verdicts = [_read(reader, path) for reader in readers]
        if verdicts[-1] == "accepted":
            shutil.rmtree(folder / "out", ignore_errors=True)
        left = set(folder.rglob("*")) - set(before) | set(scratch.iterdir()) - {folder}
        if left:
            return f"it left {min(path.name for path in left)}"
        faults = [one for one in verdicts if one not in ("accepted", "refused")]
        return faults[0] if faults else verdicts[0]
    finally:
        _empty(scratch)


def write_files(folder: Path, whole: Seed, data: bytes) -> Path:
    """Make a folder of an input and what belongs to it; where the input lies."""
    folder.mkdir()
    for name, content in {**whole.others, whole.name: data}.items():
        (folder / name).write_bytes(content)
    return folder / whole.name


def _read(reader: Callable[[Path], object], path: Path) -> str:
    try:
        reader(path)
    except SurgeryError:
        return "refused"
    # Everything else is what this is looking for; pyo3's panics are no Exception.
    except BaseException as error:
        return _describe(error)
    return "accepted"


def _describe(error: BaseException) -> str:
    """The kind of an error and the last line of this project on its way."""
    frames = [
        one for one in traceback.extract_tb(error.__traceback__) if "surgery/" in one.filename
    ]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__} at {where}: {str(error).strip()[:150]!r}"


def _empty(scratch: Path) -> None:
    for path in scratch.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
