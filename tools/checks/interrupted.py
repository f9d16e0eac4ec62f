"""Conversions that are killed, or run out of disk: the output is whole or absent every time.

`surgery convert` is ended by SIGKILL at random moments of its whole run, proof included, and at
random moments while it writes; and it runs on file systems of every size that are too small. Half
of the runs replace an old folder, which then is there, whole, where the new one is not. What a
killed run leaves beside its output is gone after the next one.

The small file systems are mounted, which takes root; `--only '(moment|writing).*'` leaves them out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from random import Random

from checks import resume, tiny_network
from checks.resume import Case, Result
from surgery.output import new_folder

MOMENTS, WRITING, DISKS = 70, 30, 20
# 512 channels make a .bin of 5 MB, as the smallest stock networks have.
NETWORKS = {"tiny.onnx": tiny_network.WIDTH, "wide.onnx": 512}
FOLDER = "rife-v4"
OLD = {"flownet.param": b"7767517\n", "flownet.bin": b"old", "surgery.json": b"{}"}
POLL_SECONDS = 0.0005
ATTEMPTS = 8
# Room that a file system takes for itself, so that the first sizes hold no file at all.
LEAST_DISK = 4096
Tree = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run to its end.

    Attributes:
        tree: the output.
        seconds: from the start of the process to its end.
        writing: from the first file of the output to the whole output, in seconds.
    """

    tree: Tree
    seconds: float
    writing: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Interrupt every conversion and print what was left; 1 when anything was half."""
    results = resume.run_cases(list_cases(), measure, arguments)
    if arguments.list:
        return 0
    counts = Counter((name.split()[0], result.get("state")) for name, result in results.items())
    for (kind, state), count in sorted(counts.items(), key=str):
        print(f"{kind}: {count} times {state}")
    faults = [f"{name}: {fault}" for name, one in results.items() if (fault := find_fault(one))]
    print(*faults, f"{len(results)} interruptions, {len(faults)} faults", sep="\n")
    return 1 if faults or not results else 0


def list_cases() -> list[Case]:
    """Every interruption; every other one replaces an old folder."""
    counts = {"moment": MOMENTS, "writing": WRITING, "disk": DISKS}
    return [
        Case(f"{kind} {number}", {"kind": kind, "number": number, "force": number % 2 == 1})
        for kind, count in counts.items()
        for number in range(count)
    ]


def measure(case: Case) -> Result:
    """Interrupt one conversion and look at what is there."""
    interrupt = INTERRUPTIONS[case.settings["kind"]]
    return interrupt(case.settings["number"], case.settings["force"])


def find_fault(result: Mapping[str, object]) -> str:
    """What is wrong with an interruption; empty where nothing is."""
    if "error" in result:
        return str(result["error"])
    if result["state"] not in ("new", result["before"]):
        return f"the output is {result['state']}; new or {result['before']} is accepted"
    return f"{result['left']} is left after the next run" if result["left"] else ""


# ---- interruptions -----------------------------------------------------------------------------


def kill_at_any_moment(number: int, force: bool) -> Result:
    """Kill a conversion of the tiny network, with its proof."""
    whole = run_whole("tiny.onnx", "")
    moment = Random(f"moment {number}").uniform(0.0, whole.seconds)
    return _kill("tiny.onnx", "", force, moment, wait=False)


def kill_while_writing(number: int, force: bool) -> Result:
    """Kill a conversion of a wide network once its files begin to appear."""
    whole = run_whole("wide.onnx", "--no-proof")
    moment = Random(f"writing {number}").uniform(0.0, whole.writing)
    return _kill("wide.onnx", "--no-proof", force, moment, wait=True)


def _kill(donor: str, options: str, force: bool, moment: float, wait: bool) -> Result:
    """Kill a conversion after so many seconds, of its start or of its first file.

    One that ended before, since the machine was less busy, is run again and killed earlier.
    """
    new = run_whole(donor, options).tree
    for attempt in range(ATTEMPTS):
        with _workplace(force) as place, _start(place, donor, options, force) as process:
            while wait and process.poll() is None and not _list_temporaries(place):
                time.sleep(POLL_SECONDS)
            if _lives_until(process, time.monotonic() + moment / 2**attempt):
                process.kill()
            if process.wait() == -signal.SIGKILL:
                return describe(place, new, force)
    return {"error": f"ended {ATTEMPTS} times before it could be killed"}


def fill_disk(number: int, force: bool) -> Result:
    """Convert a wide network on a file system that is too small for the result."""
    if os.geteuid() != 0:
        return {"error": "a small file system has to be mounted, which takes root"}
    whole = run_whole("wide.onnx", "--no-proof")
    size = LEAST_DISK + sum(map(len, whole.tree.values())) * number // DISKS
    with _workplace(force, size) as place:
        with _start(place, "wide.onnx", "--no-proof", force) as process:
            told = process.communicate()[1]
        if process.returncode != 1 or "cannot be written: No space left" not in told:
            return {"error": f"exit status {process.returncode}: {told[-300:]}"}
        return describe(place, whole.tree, force)


INTERRUPTIONS: Mapping[str, Callable[[int, bool], Result]] = {
    "moment": kill_at_any_moment,
    "writing": kill_while_writing,
    "disk": fill_disk,
}


# ---- conversions -------------------------------------------------------------------------------


@functools.cache
def run_whole(donor: str, options: str) -> Whole:
    """Convert once without any interruption."""
    with _workplace(force=False) as place:
        start = time.monotonic()
        appeared = vanished = start
        with _start(place, donor, options, force=False) as process:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                if appeared == start and _list_temporaries(place):
                    appeared = time.monotonic()
                if vanished == start and (place / FOLDER).exists():
                    vanished = time.monotonic()
            assert process.returncode == 0, process.communicate()[1]
        seconds = time.monotonic() - start
        return Whole(read_tree(place / FOLDER), seconds, vanished - appeared)


@functools.cache
def _make_donors() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="interrupted-"))
    for name, width in NETWORKS.items():
        closed = tiny_network.make_hub(width).to_onnx()
        (folder / name).write_bytes(closed.SerializeToString(deterministic=True))
    return folder


@contextmanager
def _workplace(force: bool, size: int = 0) -> Iterator[Path]:
    """A folder to convert in, with an old output where it is to be replaced."""
    with tempfile.TemporaryDirectory(prefix="interrupted-", ignore_cleanup_errors=True) as name:
        place = Path(name, "place")
        place.mkdir()
        if size:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
            subprocess.run(mount, check=True)
        try:
            if force:
                (place / FOLDER).mkdir()
                for file_name, content in OLD.items():
                    (place / FOLDER / file_name).write_bytes(content)
            yield place
        finally:
            if size:
                subprocess.run(["umount", str(place)], check=True)


@contextmanager
def _start(place: Path, donor: str, options: str, force: bool) -> Iterator[subprocess.Popen[str]]:
    """Start a conversion; what it started itself is ended when the block is left."""
    words = ["convert", str(_make_donors() / donor), "-o", FOLDER, *options.split()]
    command = [sys.executable, "-c", "from surgery.cli import main; main()", *words]
    process = subprocess.Popen(
        [*command, *(["--force"] if force else [])],
        cwd=place,
        env={**os.environ, "TMPDIR": str(place.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with _ignore_absence():
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _ignore_absence() -> Iterator[None]:
    try:
        yield
    except ProcessLookupError:
        return


def _lives_until(process: subprocess.Popen[str], moment: float) -> bool:
    while process.poll() is None:
        left = moment - time.monotonic()
        if left <= 0:
            return True
        time.sleep(min(left, 0.05))
    return False


def _list_temporaries(place: Path) -> list[str]:
    return [path.name for path in place.iterdir() if path.name != FOLDER]


def read_tree(folder: Path) -> Tree:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def describe(place: Path, new: Tree, force: bool) -> Result:
    """The state of the output, and what the next write to it leaves beside it."""
    state = "absent"
    if (place / FOLDER).exists():
        found = read_tree(place / FOLDER)
        state = "new" if found == new else "old" if found == OLD else "half"
    interrupted = _list_temporaries(place)
    with new_folder(place / FOLDER, force=True) as folder:
        (folder / "next").touch()
    return {
        "before": "old" if force else "absent",
        "state": state,
        "interrupted": interrupted,
        "left": _list_temporaries(place),
    }
