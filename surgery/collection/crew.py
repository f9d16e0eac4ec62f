"""The crew that works for `collect` and `score`: Dask distributed, here or on a cluster.

A task is a pure function of what it is given: bytes or paths in, values out, under a key that is
made of its inputs. So it may run anywhere, and again. A task whose worker dies is given to another
worker; one that raises is tried again, but for a refusal that its inputs cause, which would only be
the same once more and is a result. As many tasks are under way as there are worker processes: none
waits behind one that kills its worker, which would count as that one's accomplice, and neither the
client nor the scheduler holds more than it has to.

Source: the documentation of Dask distributed on `LocalCluster`, `Client.submit`, `as_completed`,
`Client.scatter`, work stealing and resilience (`retries`, `allowed-failures`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import logging
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from surgery.errors import (
    CheckpointError,
    DonorError,
    FormatError,
    HubError,
    ProofCutShort,
    ProofFailed,
    RuntimeRefused,
    SurgeryError,
    UnsupportedOp,
)
from surgery.progress import Progress, silent
from surgery.versions import describe_versions, find_version

if TYPE_CHECKING:
    from distributed import Client, Future

T = TypeVar("T")
R = TypeVar("R")

PACKAGE = Path(__file__).resolve().parents[1]
# What raises may have raised for want of memory or of a file that was late.
RETRIES = 2
# What the same inputs end with every time. Any other error may be the machine's: a disk that is
# full, an engine that is not installed, a runtime that died of its neighbours, in a proof too.
REFUSALS = (
    CheckpointError,
    DonorError,
    FormatError,
    HubError,
    ProofFailed,
    RuntimeRefused,
    UnsupportedOp,
)
# What else results depend on, beside what `surgery --version` tells.
TOOLS = ("numpy", "pillow", "onnxscript", "safetensors")
JOIN_SECONDS = 60
SETTINGS = {
    # Payloads are as large as weights are, and few are under way.
    "distributed.admin.large-graph-warning-threshold": "4GB",
    # A worker that died starts again; a busy machine takes its time for that.
    "distributed.deploy.lost-worker-timeout": "60s",
    # The call stacks that a worker keeps for the dashboard grow for an hour (distributed,
    # worker.py: profile_history); what is slow here is slow inside of torch and ncnn.
    "distributed.worker.profile.enabled": False,
}
# What of a machine's free memory its workers may be counted to need together.
MEMORY_PART = 0.8
# One thread for each task: its results depend on no number of cores, and tasks fill the machine.
# llvmpipe, Vulkan on a CPU, counts its threads by itself.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "LP_NUM_THREADS": "1"}
# A task changes what a whole process shares: the folder of temporary files, modules that are being
# imported, functions of a donor. A worker with several threads does one task at a time.
_ONE_TASK = threading.Lock()


@dataclass(frozen=True)
class Job(Generic[T]):
    """One task.

    Attributes:
        key: made of everything that the result depends on; the same for the same task.
        label: what to call it.
        payload: what the function is given.
    """

    key: str
    label: str
    payload: T


@dataclass(frozen=True)
class Done(Generic[T, R]):
    """What became of a task.

    Attributes:
        job: the task.
        result: what the function returned; None where it did not.
        refusal: which of `REFUSALS` it ended with, in words; the same inputs give the same.
        failure: what else it died of, after all retries; another run may fare better.
    """

    job: Job[T]
    result: R | None = None
    refusal: str = ""
    failure: str = ""


@dataclass(frozen=True)
class _Answer(Generic[R]):
    """What travels back: a result, or a refusal."""

    result: R | None = None
    refusal: str = ""


class Crew:
    """Workers to give tasks to.

    Attributes:
        address: the scheduler's.
    """

    def __init__(self, client: Client) -> None:
        """Lead the workers of a connected client."""
        self.address = str(client.scheduler_info()["address"])
        self._client = client

    def count_workers(self) -> int:
        """How many tasks run at the same time: one in each process, whatever its threads."""
        return len(self._client.nthreads())

    def keep(self, key: str, value: object) -> Any:
        """Send once what many tasks are given, and return what stands for it in payloads.

        A payload that is a tuple may hold that, and its function finds `value` in its place. The
        workers hand it on to one another, and drop it when nobody holds what stands for it. It is
        what a task returns, since the scheduler can have that made again: what `Client.scatter`
        sends is lost with the worker that holds it.

        Args:
            key: made of the value.
            value: what pickles.
        """
        # Dask gives tasks to the worker that holds what they need, and others take over only what
        # waits there for a thread: where there are several, one worker would do all the work.
        if max(self._client.nthreads().values(), default=1) > 1:
            return value
        return self._client.submit(_give, value, key=f"kept-{key}", retries=RETRIES)

    def run(self, work: Callable[[T], R], jobs: Iterable[Job[T]]) -> Iterator[Done[T, R]]:
        """Yield what became of every task, as they end.

        `jobs` is read as workers become free, so it may make large payloads one by one. One of the
        same key as another that is under way shares its end.

        Raises:
            SurgeryError: the scheduler went away.
        """
        from distributed import as_completed

        waiting = iter(jobs)
        running: dict[str, list[Job[T]]] = {}
        # Held here, since the scheduler forgets a task that nobody holds.
        ended: Any = as_completed()
        self._feed(work, waiting, running, ended)
        for future in ended:
            same = running.pop(future.key)
            done = _take(same[0], future)
            future.release()
            # First, so that no worker waits for what the caller does with the result.
            self._feed(work, waiting, running, ended)
            yield from (replace(done, job=job) for job in same)

    def _feed(
        self,
        work: Callable[[T], R],
        waiting: Iterator[Job[T]],
        running: dict[str, list[Job[T]]],
        ended: Any,
    ) -> None:
        room = max(self.count_workers(), 1)
        while len(running) < room and (job := next(waiting, None)) is not None:
            same = running.setdefault(job.key, [])
            same.append(job)
            if len(same) > 1:
                continue
            ended.add(
                self._client.submit(
                    _work, work, job.payload, hash_tools(), key=job.key, retries=RETRIES, pure=True
                )
            )


def _take(job: Job[T], future: Future[_Answer[R]]) -> Done[T, R]:
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise SurgeryError(
            "the scheduler went away, and its tasks with it; run the same command again: what was "
            "done is kept"
        )
    error = future.exception()
    if error is None:
        answer = future.result()
        return Done(job, answer.result, answer.refusal)
    if isinstance(error, KilledWorker):
        return Done(job, failure="every worker that tried it died (out of memory?)")
    return Done(job, failure=_describe(error))


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, SurgeryError) else f"{type(error).__name__}: {error}"


# ---- where the workers are ---------------------------------------------------------------------


@contextlib.contextmanager
def open_crew(
    scheduler: str | None,
    *,
    workers: int | None = None,
    memory: int = 0,
    progress: Progress = silent,
    announce: Progress = silent,
) -> Iterator[Crew]:
    """Yield the workers of a scheduler, or those of a cluster that is started here and ends here.

    Args:
        scheduler: the address of a scheduler, as `tcp://host:8786`; None for a cluster of this
            machine.
        workers: how many to start here; None for as many as cores and memory allow.
        memory: bytes that one task needs at most, to start no more workers than fit.
        progress: called with one line for each step.
        announce: called with the address of the scheduler's page, where it has one. A step is
            over when the next begins; the page is there to be looked at for as long as it lasts.

    Raises:
        SurgeryError: Dask is not installed, the scheduler does not answer, or has no workers.
    """
    if importlib.util.find_spec("distributed") is None:
        raise SurgeryError("Dask distributed is not installed; run: pip install distributed")
    if scheduler is not None and workers is not None:
        raise SurgeryError("--workers is for a cluster on this machine; --scheduler has its own")
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            wanted = workers or choose_workers(memory)
            progress(f"starting {wanted} worker(s)")
            client = stack.enter_context(_start_cluster(wanted))
        else:
            progress(f"connecting to {scheduler}")
            client = stack.enter_context(_connect(scheduler))
        if dashboard := _find_dashboard(client):
            announce(f"the dashboard is at {dashboard}")
        yield Crew(client)


def choose_workers(memory: int) -> int:
    """How many workers this machine has cores and free memory for.

    Units: memory in bytes, of one task.
    """
    import psutil
    from dask.system import CPU_COUNT
    from distributed.system import MEMORY_LIMIT

    free = min(MEMORY_LIMIT, psutil.virtual_memory().available)
    fitting = int(free * MEMORY_PART // memory) if memory else CPU_COUNT
    return max(1, min(CPU_COUNT, fitting))


@contextlib.contextmanager
def _start_cluster(workers: int) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    with (
        _quiet_logs(),
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=MEMORY_LIMIT // workers,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            env=WORKER_ENVIRONMENT,
        ) as cluster,
        Client(cluster) as client,
    ):
        # A worker that dies while it starts is given up by its nanny: this makes up the number.
        cluster.adapt(minimum=workers, maximum=workers)
        yield client


@contextlib.contextmanager
def _connect(scheduler: str) -> Iterator[Client]:
    import dask
    import distributed
    from distributed import Client

    with contextlib.ExitStack() as stack:
        stack.enter_context(_quiet_logs())
        stack.enter_context(dask.config.set(SETTINGS))
        try:
            client = stack.enter_context(Client(scheduler, timeout=JOIN_SECONDS))
        except (OSError, ValueError, distributed.TimeoutError) as error:
            raise SurgeryError(
                f"--scheduler {scheduler}: {error}; the address that `dask scheduler` prints is "
                "expected, as tcp://host:8786"
            ) from error
        try:
            client.wait_for_workers(1, timeout=JOIN_SECONDS)
        except distributed.TimeoutError as error:
            raise SurgeryError(
                f"--scheduler {scheduler}: no worker has joined it in {JOIN_SECONDS} s; start "
                f"some: dask worker {scheduler} --nthreads 1"
            ) from error
        yield client


@contextlib.contextmanager
def _quiet_logs() -> Iterator[None]:
    """Dask logs every worker that dies; what follows from that is told by whoever asked."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _find_dashboard(client: Client) -> str:
    """A scheduler without Bokeh serves a page that says so, and no dashboard."""
    has_pages = client.run_on_scheduler(importlib.util.find_spec, "bokeh") is not None
    return str(client.dashboard_link) if has_pages else ""


# ---- on a worker -------------------------------------------------------------------------------


def _give(value: T) -> T:
    return value


def _work(work: Callable[[T], R], payload: T, tools: str) -> _Answer[R]:
    """Do a task, on whatever worker."""
    if hash_tools() != tools:
        raise SurgeryError(
            "a worker has another surgery, or other versions of what it stands on, than the "
            f"machine that asks; install the same. It has:\n{_describe_tools()}"
        )
    with _ONE_TASK, _own_temporaries() as folder:
        try:
            return _Answer(work(payload))
        except Exception as error:
            if isinstance(error, REFUSALS) and not isinstance(error, ProofCutShort):
                return _Answer(refusal=_hide_folder(str(error), folder))
            # Some exceptions do not survive the way back; their words do.
            raise SurgeryError(_hide_folder(_describe(error), folder)) from error


def _hide_folder(text: str, folder: str) -> str:
    """What was told of temporary files, by the names that they have in every run."""
    return re.sub(re.escape(folder) + r"(/tmp\w+)?/?", "", text)


@contextlib.contextmanager
def _own_temporaries() -> Iterator[str]:
    """Keep temporary files in the worker's own folder, which Dask clears when a worker is dead."""
    from distributed import get_worker

    place, before = Path(get_worker().local_directory).resolve(), tempfile.tempdir
    with tempfile.TemporaryDirectory(dir=place, prefix="task-") as folder:
        tempfile.tempdir = folder
        try:
            yield folder
        finally:
            tempfile.tempdir = before


@functools.cache
def hash_tools() -> str:
    """The hash of this package's source and of the versions of what results depend on.

    The compiled kernel is left out: machines compile it differently, and no model depends on it.
    """
    digest = hashlib.sha256(_describe_tools().encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _describe_tools() -> str:
    major, minor = sys.version_info[:2]
    more = [f"  {name} {find_version(name)}" for name in TOOLS]
    return "\n".join([describe_versions(), *more, f"  Python {major}.{minor}"])


def limit_threads() -> None:
    """Let torch compute in one thread, whatever a worker's environment says."""
    import torch

    torch.set_num_threads(1)
