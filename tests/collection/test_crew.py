"""The crew: what becomes of tasks that return, refuse, raise, and take their worker down."""

from __future__ import annotations

import functools
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from distributed import LocalCluster, get_worker
from distributed.comm.tcp import TCP

from surgery.collection import crew as crews
from surgery.collection.crew import Crew, Job, choose_workers, open_crew
from surgery.errors import DonorError, EngineError, ProofCutShort, SurgeryError

# Workers cannot import a test: what they are to run travels with the task.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

KEPT_BYTES = 1_000_000


def _double(number: int) -> int:
    return 2 * number


def _refuse(folder: str) -> None:
    _count_call(folder)
    raise DonorError(f"no such donor: {tempfile.mkdtemp()}/IFNet.py")


def _stumble(folder: str) -> int:
    if _count_call(folder) < 2:
        raise EngineError("it crashed (SIGSEGV)")
    return 1


def _die_in_proof(folder: str) -> None:
    _count_call(folder)
    raise ProofCutShort("rife-ncnn-vulkan crashed")


def _fall(folder: str) -> None:
    _count_call(folder)
    raise ValueError("a bug")


def _run_out(folder: str) -> None:
    _count_call(folder)
    raise SurgeryError("no room on the disk")


def _note_neighbours(folder: str) -> tuple[str, int]:
    """The folder of temporary files at both ends of a task, and how many tasks were under way."""
    own = Path(folder) / str(threading.get_ident())
    own.touch()
    before = tempfile.gettempdir()
    time.sleep(0.05)
    seen = len(list(Path(folder).iterdir()))
    own.unlink()
    return (before if before == tempfile.gettempdir() else "", seen)


def _die_once(folder: str) -> int:
    if _count_call(folder) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def _die(folder: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_or_double(number: int) -> int:
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def _count_call(folder: str) -> int:
    """How many calls there were before this one."""
    before = len(list(Path(folder).iterdir()))
    (Path(folder) / str(before)).touch()
    return before


def _leave_temporary(_: object) -> str:
    return tempfile.mkdtemp()


def _weigh(part: tuple[int, bytes]) -> tuple[int, int, str]:
    """What stands in the second place is there; who says so."""
    number, content = part
    time.sleep(0.1)
    return number, len(content), get_worker().address


def _die_once_and_weigh(part: tuple[str, bytes]) -> int:
    folder, content = part
    _die_once(folder)
    return len(content)


def _give_late(folder: Path, value: bytes) -> bytes:
    failed = folder / "failed"
    if not failed.exists():
        failed.touch()
        raise MemoryError
    return value


def _kill_holders(crew: Crew, kept: Any) -> int:
    """Kill every worker that holds what was kept; returns how many."""
    (holders,) = crew._client.who_has([kept]).values()
    for pid in crew._client.run(os.getpid, workers=list(holders)).values():
        os.kill(pid, signal.SIGKILL)
    return len(holders)


def test_results_come_back_with_their_jobs(crew: Crew) -> None:
    jobs = [Job(f"double-{number}", str(number), number) for number in range(7)]
    results = {done.job.label: done.result for done in crew.run(_double, jobs)}
    assert results == {str(number): 2 * number for number in range(7)}


def test_what_is_kept_is_sent_once_for_all_tasks(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write: Callable[..., Any] = TCP.write

    async def count(*arguments: Any, **options: Any) -> int:
        nonlocal written
        size: int = await write(*arguments, **options)
        written += size
        return size

    # The client and the scheduler are both in this process.
    monkeypatch.setattr(TCP, "write", count)
    content = os.urandom(KEPT_BYTES)
    found = []
    for way, given in (("kept", crew.keep("bytes", content)), ("with each", content)):
        written = 0
        jobs = [Job(f"{way}-{number}", "", (number, given)) for number in range(8)]
        weighed = [done.result for done in crew.run(_weigh, jobs)]
        assert sorted(one[:2] for one in weighed if one) == [(n, KEPT_BYTES) for n in range(8)]
        found.append(written / KEPT_BYTES)
    # To the scheduler and to a worker, which sends it to the other; or each time anew.
    assert 1 < found[0] < 3
    assert 16 < found[1] < 17


def test_what_is_kept_outlives_the_workers_that_hold_it(crew: Crew) -> None:
    kept = crew.keep("outlives", bytes(KEPT_BYTES))
    killed = 0
    for turn in range(2):
        jobs = [Job(f"outlives-{turn}-{number}", "", (number, kept)) for number in range(4)]
        done = list(crew.run(_weigh, jobs))
        weighed = [one.result[:2] for one in done if one.result is not None]
        assert sorted(weighed) == [(number, KEPT_BYTES) for number in range(4)], done
        killed += _kill_holders(crew, kept)
    assert killed >= 2


def test_what_is_kept_is_sent_again_where_that_failed(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "_give", functools.partial(_give_late, tmp_path))
    kept = crew.keep("late", bytes(KEPT_BYTES))
    (done,) = crew.run(_weigh, [Job("late", "", (0, kept))])
    assert done.result is not None
    assert done.result[:2] == (0, KEPT_BYTES)
    assert (tmp_path / "failed").is_file()


def test_a_task_that_takes_what_is_kept_down_with_its_worker_is_done_again(
    crew: Crew, tmp_path: Path
) -> None:
    kept = crew.keep("down", bytes(KEPT_BYTES))
    (done,) = crew.run(_die_once_and_weigh, [Job("down", "", (str(tmp_path), kept))])
    assert (done.result, done.failure) == (KEPT_BYTES, "")
    assert len(list(tmp_path.iterdir())) == 2


def test_tasks_that_need_what_one_worker_holds_are_done_by_all() -> None:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=4, processes=False, dashboard_address=":0"
        ) as cluster,
        open_crew(cluster.scheduler_address) as crew,
    ):
        kept = crew.keep("all", bytes(KEPT_BYTES))
        jobs = [Job(f"all-{number}", "", (number, kept)) for number in range(8)]
        places = [done.result[2] for done in crew.run(_weigh, jobs) if done.result is not None]
    assert len(places) == 8
    assert set(Counter(places).values()) <= {3, 4, 5}


def test_jobs_of_one_key_share_its_end(crew: Crew) -> None:
    # Two at once, and one when they may have ended.
    keys = ["same", "same", "other", "same"]
    jobs = [Job(key, str(index), 3) for index, key in enumerate(keys)]
    found = [(done.job.label, done.result) for done in crew.run(_double, jobs)]
    assert sorted(found) == [(str(index), 6) for index in range(4)]


def test_the_page_of_the_scheduler_is_announced_where_there_is_one(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    for page in ("http://host:8787/status", ""):
        monkeypatch.setattr(crews, "_find_dashboard", lambda client, page=page: page)
        with open_crew(crew.address, announce=said.append):
            pass
    assert said == ["the dashboard is at http://host:8787/status"]


def test_jobs_are_asked_for_as_workers_become_free(crew: Crew) -> None:
    asked = 0

    def list_jobs() -> Iterator[Job[int]]:
        nonlocal asked
        for number in range(12):
            asked += 1
            yield Job(f"lazy-{number}", "", number)

    ahead = [asked - count for count, _ in enumerate(crew.run(_double, list_jobs()))]
    assert len(ahead) == 12
    # A free worker is fed before the caller is told.
    assert max(ahead) <= crew.count_workers() + 1


def test_a_refusal_is_a_result_and_is_not_tried_again(crew: Crew, tmp_path: Path) -> None:
    (done,) = crew.run(_refuse, [Job("refuse", "", str(tmp_path))])
    # Where it lay for a while is told to nobody.
    assert (done.result, done.refusal, done.failure) == (None, "no such donor: IFNet.py", "")
    assert len(list(tmp_path.iterdir())) == 1


def test_an_error_that_may_be_the_machines_is_a_failure(crew: Crew, tmp_path: Path) -> None:
    (done,) = crew.run(_run_out, [Job("run-out", "", str(tmp_path))])
    assert (done.result, done.refusal, done.failure) == (None, "", "no room on the disk")
    assert len(list(tmp_path.iterdir())) == 1 + crews.RETRIES


def test_an_engine_that_crashes_is_tried_again(crew: Crew, tmp_path: Path) -> None:
    (done,) = crew.run(_stumble, [Job("stumble", "", str(tmp_path))])
    assert (done.result, done.failure) == (1, "")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_proof_that_an_engine_died_in_is_tried_again_and_is_no_refusal(
    crew: Crew, tmp_path: Path
) -> None:
    (done,) = crew.run(_die_in_proof, [Job("die-in-proof", "", str(tmp_path))])
    assert (done.result, done.refusal, done.failure) == (None, "", "rife-ncnn-vulkan crashed")
    assert len(list(tmp_path.iterdir())) == 1 + crews.RETRIES


def test_what_raises_every_time_is_a_failure_with_its_words(crew: Crew, tmp_path: Path) -> None:
    (done,) = crew.run(_fall, [Job("fall", "", str(tmp_path))])
    assert (done.result, done.refusal, done.failure) == (None, "", "ValueError: a bug")
    assert len(list(tmp_path.iterdir())) == 1 + crews.RETRIES


def test_a_worker_that_is_killed_costs_its_task_and_not_the_run(crew: Crew, tmp_path: Path) -> None:
    (done,) = crew.run(_die_once, [Job("die-once", "", str(tmp_path))])
    assert done.result not in (None, os.getpid())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_task_that_kills_every_worker_is_given_up(crew: Crew, tmp_path: Path) -> None:
    (done,) = crew.run(_die, [Job("die", "", str(tmp_path))])
    assert "every worker that tried it died" in done.failure
    # The others go on.
    (alive,) = crew.run(_double, [Job("after", "", 4)])
    assert alive.result == 8


def test_a_task_that_kills_its_worker_takes_no_other_along(tmp_path: Path) -> None:
    jobs = [Job(f"one-{number}", str(number), number) for number in range(4)]
    with open_crew(None, workers=1) as alone:
        found = {done.job.label: done for done in alone.run(_die_or_double, jobs)}
    assert "every worker that tried it died" in found["0"].failure
    assert [found[str(number)].result for number in (1, 2, 3)] == [2, 4, 6]


def test_a_worker_with_several_threads_does_one_task_at_a_time(tmp_path: Path) -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=4, processes=False, dashboard_address=":0"
        ) as cluster,
        open_crew(cluster.scheduler_address) as crew,
    ):
        assert crew.count_workers() == 1
        # More at once than a crew gives to one process, as two clients do.
        futures = [
            crew._client.submit(
                crews._work, _note_neighbours, str(tmp_path), crews.hash_tools(), pure=False
            )
            for _ in range(8)
        ]
        answers = [answer for one in futures if (answer := one.result().result) is not None]
    assert len(answers) == len({folder for folder, _ in answers}) == 8
    assert all("task-" in folder for folder, _ in answers)
    assert {seen for _, seen in answers} == {1}


def test_temporary_files_lie_in_the_workers_folder_and_go_with_the_task(crew: Crew) -> None:
    (done,) = crew.run(_leave_temporary, [Job("temporary", "", None)])
    assert done.result is not None
    assert "dask-scratch-space" in done.result
    assert not Path(done.result).exists()


def test_a_worker_with_other_tools_is_told(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "hash_tools", lambda: "of another version")
    (done,) = crew.run(_double, [Job("other-tools", "", 1)])
    assert "a worker has another surgery" in done.failure
    assert "torch" in done.failure


def test_workers_are_as_many_as_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dask.system.CPU_COUNT", 8)
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10_000_000_000)
    monkeypatch.setattr(
        "psutil.virtual_memory", lambda: type("Memory", (), {"available": 20_000_000_000})
    )
    assert choose_workers(0) == 8
    assert choose_workers(100_000_000) == 8
    assert choose_workers(2_500_000_000) == 3
    assert choose_workers(50_000_000_000) == 1


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "JOIN_SECONDS", 1)
    with (
        pytest.raises(SurgeryError, match=r"--scheduler tcp://127.0.0.1:9: .*dask scheduler"),
        open_crew("tcp://127.0.0.1:9"),
    ):
        pass
    with pytest.raises(SurgeryError, match="has its own"), open_crew("tcp://x:1", workers=2):
        pass
