"""Runtimes in a process of their own.

The runtimes ignore their own error codes and die by a signal when a model displeases them; a
process of their own turns that into one `EngineError` with a reason.

A job is a temporary folder, the worker's current one: `job.json` (the job and the names of its
arrays) with `input-N.npy` before the run, `result.json` with `output-N.npy` after it. A worker is a
module that is run with `python -m` and calls `serve`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from surgery.errors import EngineDied, EngineError, SurgeryError

JOB, RESULT, LOG = "job.json", "result.json", "log.txt"
# How the names of folders for jobs begin, which nobody else makes.
JOB_FOLDER = "surgery-"
# How much of what a runtime printed is looked at, at either end, and how much of that is told.
LOG_PART_BYTES = 16 * 1024
LOG_TAIL_LINES = 3
# What a worker exits with whose caller is gone; nobody reads it.
ABANDONED = 75
# What ncnn prints about every Vulkan device, whatever happens. Source: ncnn gpu.cpp.
_DEVICE_BANNER = re.compile(r"\[\d+ .*\]  (queueC|bugsbn1|fp16-|subgroup)")
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Reason:
    """What a runtime prints, and what it means.

    Attributes:
        pattern: matches the line; its group is what the meaning is about.
        meaning: a clause with room for the group.
        is_fatal: whether the output is void even if the runtime went on and gave one.
    """

    pattern: str
    meaning: str
    is_fatal: bool = True


# The runtimes ignore what ncnn returns: some of these end in a crash, some in a black frame.
# Source: ncnn net.cpp (load_param, load_model, find_blob_index_by_name), modelbin.cpp, gpu.cpp.
REASONS = (
    Reason(r"layer (\S+) not exists or registered", "it was built without the layer type {}"),
    Reason(r"layer load_param \d+ (\S+) failed", "it does not accept the parameters of layer {}"),
    Reason(r"layer load_model \d+ (\S+) failed", "the .bin ends before the weights of layer {}"),
    Reason(r"ModelBin read (\S+) failed", "the .bin ends too early, at {}"),
    Reason(r"layer create_pipeline \d+ (\S+) failed", "it cannot prepare layer {}"),
    Reason(r"fopen (.+) failed", "it cannot open {}"),
    Reason(r"find_blob_index_by_name (out0) failed", "the graph has no blob {}"),
    # A graph without in2 or without the flows of TTA is run all the same, as it should be.
    Reason(r"find_blob_index_by_name (\S+) failed", "the graph has no blob {}", is_fatal=False),
    Reason(r"(param is too old|parse \w+ failed)", "the .param breaks its format ({})"),
    # The CPU needs no Vulkan.
    Reason(
        r"(vkCreateInstance|vkEnumeratePhysicalDevices) failed",
        "Vulkan does not start ({})",
        is_fatal=False,
    ),
    Reason(r"vk(?:AllocateMemory|CreateBuffer) failed (\S+)", "the GPU's memory is full ({})"),
    # glibc's words. Measured: a 4.26 model, which needs 64, on frames padded to 32.
    Reason(
        r"(free\(\)|malloc\(\)|corrupted|double free)",
        "it corrupted its own memory, as it does with frames padded too little for the model ({})",
    ),
)


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes:
        facts: anything that JSON can say.
        arrays: by name; names may hold any character.
        files: paths inside the job's folder, and the files that shall be found there.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    files: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a worker hands back.

    Attributes:
        facts: anything that JSON can say.
        arrays: by name.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


def run_worker(module: str, task: Task, *, engine: str, time_limit: float) -> Outcome:
    """Run the worker `module` on `task`; `engine` is what messages call it.

    Units: time_limit in seconds, start of the process included.

    Raises:
        EngineDied: the worker crashed, or did not finish in time.
        EngineError: it refused, or could not start.
    """
    try:
        # A worker that is killed may leave files of its own behind; they go with the folder.
        with tempfile.TemporaryDirectory(prefix=JOB_FOLDER, ignore_cleanup_errors=True) as name:
            folder = Path(name)
            _write_task(folder, task)
            code = _run_process(module, folder, engine, time_limit)
            return _read_outcome(folder, code, engine)
    except OSError as error:
        raise EngineError(f"{engine}: its process cannot be set up: {error}") from error


def _write_task(folder: Path, task: Task) -> None:
    for name, source in task.files.items():
        _place_file(source.resolve(), folder / name)
    _write_message(folder / JOB, "input", task.facts, task.arrays)


def _place_file(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(source)
    except OSError:  # Windows keeps links to administrators
        shutil.copyfile(source, target)


def _run_process(module: str, folder: Path, engine: str, time_limit: float) -> int:
    environment = os.environ.copy()
    # The folder is the current one, so a source tree that is not installed has to be named.
    paths = [str(PACKAGE_ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with (folder / LOG).open("wb") as log, _open_lifeline() as lifeline:
        try:
            return subprocess.run(
                [sys.executable, "-m", module],
                cwd=folder,
                env=environment,
                stdin=lifeline,
                stdout=log,
                stderr=log,
                timeout=time_limit,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise EngineDied(
                f"{engine} was ended after {time_limit:g} s without a result; allow more time or "
                "take smaller frames" + _describe_log(folder / LOG)
            ) from error


@contextlib.contextmanager
def _open_lifeline() -> Iterator[int]:
    """A pipe that nothing is written to, and that ends when this process does, however it does."""
    theirs, ours = os.pipe()
    try:
        yield theirs
    finally:
        os.close(theirs)
        os.close(ours)


def _read_outcome(folder: Path, code: int, engine: str) -> Outcome:
    log = folder / LOG
    if code != 0 or not (folder / RESULT).is_file():
        raise EngineDied(f"{engine} {_describe_exit(code)}{_describe_log(log)}")
    facts, arrays = _read_message(folder / RESULT)
    if "error" in facts:
        raise EngineError(f"{engine}: {facts['error']}{_describe_log(log)}")
    if _find_reason(_read_log(log), fatal_only=True):
        raise EngineDied(f"{engine} went on after a failure{_describe_log(log)}")
    return Outcome(facts, arrays)


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no result"
    try:
        return f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"crashed (signal {-code})"


def _describe_log(path: Path) -> str:
    """The reason that a log gives, if it is a known one, and its last lines."""
    text = _read_log(path)
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _DEVICE_BANNER.match(line)]
    told = f" (it printed: {' | '.join(lines[-LOG_TAIL_LINES:])})" if lines else ""
    return _find_reason(text) + told


def _read_log(path: Path) -> str:
    """Both ends of a log: loading fails at its start, and some runtimes complain at each frame."""
    with path.open("rb") as file:
        start = file.read(LOG_PART_BYTES)
        file.seek(max(path.stat().st_size - LOG_PART_BYTES, len(start)))
        return (start + file.read()).decode(errors="replace")


def _find_reason(text: str, fatal_only: bool = False) -> str:
    for reason in REASONS:
        match = re.search(reason.pattern, text)
        if match and (reason.is_fatal or not fatal_only):
            return ": " + reason.meaning.format(match[1])
    return ""


# ---- the worker's side -------------------------------------------------------------------------


def serve(work: Callable[[Task], Outcome]) -> None:
    """Do the job in the current folder: what a worker module calls when it is run.

    A `SurgeryError` that `work` raises becomes the `EngineError` of the caller; any other exception
    ends the worker with a traceback, whose last lines the caller tells. When the caller's process
    ends without waiting, the worker does so, too, and takes the job's folder along.
    """
    # First: a folder without a job is none of a caller's, and nothing of it is anybody's to remove.
    task = Task(*_read_message(Path(JOB)))
    threading.Thread(target=_end_with_caller, args=(Path.cwd(),), daemon=True).start()
    try:
        outcome = work(task)
    except SurgeryError as error:
        outcome = Outcome({"error": str(error)}, {})
    _write_message(Path(RESULT), "output", outcome.facts, outcome.arrays)


def _end_with_caller(folder: Path) -> None:
    """Wait for the end of the lifeline, see `_open_lifeline`, and end this process."""
    if os.read(sys.stdin.fileno(), 1) == b"":
        if folder.name.startswith(JOB_FOLDER):
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(ABANDONED)


def measure_peak_bytes() -> int | None:
    """The most memory that this process has held so far; None where nothing tells.

    Linux hands `ru_maxrss` of the parent down through fork and exec, so there the kernel's record
    of this program alone is read.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(found[1]) * 1024 if found else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


@contextlib.contextmanager
def bound_memory(more_bytes: int) -> Iterator[None]:
    """Let allocations fail, while this lasts, by which this process would take more than that.

    What it holds already does not count: a caller may hold any amount. Only Linux tells and limits
    what is needed here; elsewhere nothing is bounded.
    """
    sizes = Path("/proc/self/statm")
    if not sizes.is_file():
        yield
        return
    import resource

    # Not what is held: libraries map far more than they use.
    mapped = int(sizes.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + more_bytes
    known = [limit for limit in (wanted, *before) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


# ---- files of both sides -----------------------------------------------------------------------


def _write_message(
    path: Path, prefix: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    files = {name: f"{prefix}-{index}.npy" for index, name in enumerate(arrays)}
    for name, file_name in files.items():
        np.save(path.parent / file_name, arrays[name], allow_pickle=False)
    path.write_text(json.dumps({"facts": dict(facts), "arrays": files}), encoding="utf-8")


def _read_message(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    message = json.loads(path.read_text(encoding="utf-8"))
    arrays = {
        name: np.load(path.parent / file_name, allow_pickle=False)
        for name, file_name in message["arrays"].items()
    }
    return message["facts"], arrays
