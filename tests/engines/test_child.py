from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.engines.child import JOB, Outcome, Task, bound_memory, measure_peak_bytes, run_worker
from surgery.errors import EngineError

Run = Callable[..., Outcome]
_PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from surgery.engines.child import Outcome, Task, measure_peak_bytes, serve
from surgery.errors import FormatError
"""
MIB = 2**20


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a worker of which the body of `work(task)` is given."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def run_body(body: str, task: Task | None = None, time_limit: float = 60.0) -> Outcome:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        source = f"{_PREAMBLE}\ndef work(task):\n{lines}\n\nserve(work)\n"
        (tmp_path / "tried_worker.py").write_text(source)
        try:
            return run_worker(
                "tried_worker", task or Task({}, {}), engine="tried", time_limit=time_limit
            )
        finally:
            # Whatever happens, nothing stays behind.
            assert list(temporary.iterdir()) == []

    return run_body


def test_facts_and_arrays_travel_both_ways(run: Run) -> None:
    arrays: dict[str, np.ndarray] = {
        "0/in0": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "a name / with *everything*": np.array([[1, 255]], np.uint8),
        "../not\0a.path": np.array([np.nan, np.inf, -0.0], np.float32),
    }
    body = (
        "returned = {name + '!': array for name, array in task.arrays.items()}\n"
        "return Outcome({'got': task.facts['n'] + 1}, returned)"
    )
    outcome = run(body, Task({"n": 41}, arrays))
    assert outcome.facts == {"got": 42}
    for name, array in arrays.items():
        returned = outcome.arrays[f"{name}!"]
        assert returned.dtype == array.dtype
        assert returned.tobytes() == array.tobytes()


def test_files_are_found_under_the_names_asked_for(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("content")
    outcome = run(
        "return Outcome({'text': Path('folder/name.txt').read_text()}, {})",
        Task({}, {}, {"folder/name.txt": source}),
    )
    assert outcome.facts == {"text": "content"}
    assert source.read_text() == "content"


def test_the_current_folder_does_not_reach_the_worker(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder of that name is no rarity among the people who use ncnn.
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "numpy").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    outcome = run("return Outcome({'file': np.__file__, 'here': os.getcwd()}, {})")
    assert str(elsewhere) not in (outcome.facts["file"], outcome.facts["here"])


def test_a_refusal_is_told_in_its_own_words(run: Run) -> None:
    with pytest.raises(EngineError) as caught:
        run("raise FormatError('flownet.param, line 3: no good')")
    assert str(caught.value) == "tried: flownet.param, line 3: no good"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_crash_names_its_signal_and_its_reason(run: Run) -> None:
    with pytest.raises(EngineError) as caught:
        run(
            "print('[0 llvmpipe] queueC=0', file=sys.stderr)\n"
            "print('layer Mystery not exists or registered', file=sys.stderr, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGSEGV)"
        )
    message = str(caught.value)
    assert message.startswith(
        "tried crashed (SIGSEGV): it was built without the layer type Mystery"
    )
    assert "layer Mystery not exists or registered" in message


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_silent_crash_is_told_too(run: Run) -> None:
    with pytest.raises(EngineError, match=r"^tried crashed \(SIGABRT\)"):
        run("os.kill(os.getpid(), signal.SIGABRT)")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("layer Mystery not exists or registered", "without the layer type Mystery"),
        ("layer load_param 12 conv_3 failed", "does not accept the parameters of layer conv_3"),
        ("layer load_model 15 conv_23 failed", r"\.bin ends before the weights of layer conv_23"),
        ("ModelBin read weight_data failed 983216", r"\.bin ends too early, at weight_data"),
        ("layer create_pipeline 2 conv failed", "cannot prepare layer conv"),
        ("fopen a b/flownet.bin failed", "cannot open a b/flownet.bin"),
        ("find_blob_index_by_name out0 failed", "the graph has no blob out0"),
        ("param is too old, please regenerate", r"\.param breaks its format"),
        ("parse magic failed", r"\.param breaks its format \(parse magic failed\)"),
        ("vkCreateInstance failed -9", "Vulkan does not start"),
        ("vkAllocateMemory failed -2", "the GPU's memory is full"),
        ("free(): invalid next size (normal)", "corrupted its own memory"),
        ("double free or corruption (out)", "corrupted its own memory"),
    ],
)
def test_known_last_words_are_explained(run: Run, line: str, reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        run(f"print({line!r}, flush=True)\nos._exit(139)")


@pytest.mark.parametrize(
    "line",
    [
        "layer load_model 15 conv_23 failed",
        "find_blob_index_by_name out0 failed",
        "vkAllocateMemory failed -2",
    ],
)
def test_a_result_after_a_failure_is_void(run: Run, line: str) -> None:
    with pytest.raises(EngineError, match=f"tried went on after a failure: .*{line}"):
        run(f"print({line!r})\nreturn Outcome({{}}, {{}})")


@pytest.mark.parametrize(
    "line",
    [
        "find_blob_index_by_name in2 failed",
        "find_blob_index_by_name flow3 failed",
        "vkCreateInstance failed -9",
        "[0 llvmpipe (LLVM 15.0.6, 256 bits)]  queueC=0[1]",
    ],
)
def test_a_result_after_a_harmless_message_counts(run: Run, line: str) -> None:
    assert run(f"print({line!r})\nreturn Outcome({{'n': 1}}, {{}})").facts == {"n": 1}


def test_unknown_last_words_are_quoted_and_not_explained(run: Run) -> None:
    with pytest.raises(EngineError) as caught:
        run("print('\\n'.join(f'line {n}' for n in range(9)), flush=True)\nos._exit(3)")
    assert str(caught.value) == (
        "tried ended with exit code 3 and no result (it printed: line 6 | line 7 | line 8)"
    )


def test_an_exception_is_one_line_without_a_traceback(run: Run) -> None:
    with pytest.raises(EngineError) as caught:
        run("raise ZeroDivisionError('of all things')")
    message = str(caught.value)
    assert "ZeroDivisionError: of all things" in message
    assert "\n" not in message


def test_a_worker_that_ends_without_a_result_is_an_error(run: Run) -> None:
    with pytest.raises(EngineError, match="tried ended with exit code 0 and no result"):
        run("os._exit(0)")


def test_a_worker_that_hangs_is_ended(run: Run, tmp_path: Path) -> None:
    body = (
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "print('still busy', flush=True)\ntime.sleep(600)"
    )
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"ended after 3 s without a result.*still busy"):
        run(body, time_limit=3.0)
    assert time.monotonic() - start < 30
    pid = (tmp_path / "pid").read_text()
    assert not Path(f"/proc/{pid}").exists()


def test_what_a_worker_prints_does_not_reach_the_caller(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run("print('noise')\nos.write(2, b'more noise')\nreturn Outcome({}, {})")
    assert capfd.readouterr() == ("", "")


def test_memory_is_that_of_the_worker_alone(run: Run) -> None:
    # Linux hands the peak of a parent down through fork and exec.
    held = np.ones(300 * MIB, np.uint8)
    idle = run("return Outcome({'peak': measure_peak_bytes()}, {})").facts["peak"]
    busy = run(
        f"held = np.ones({200 * MIB}, np.uint8)\n"
        "return Outcome({'peak': measure_peak_bytes() + 0 * held[0].item()}, {})"
    ).facts["peak"]
    assert idle < held.nbytes
    assert 190 * MIB < busy - idle < 230 * MIB
    assert (measure_peak_bytes() or 0) > held.nbytes


def test_a_worker_module_needs_no_torch() -> None:
    code = (
        "import sys, surgery.engines.child, surgery.engines.ncnn, surgery.engines.rife_ncnn_vulkan;"
        "print([n for n in ('torch', 'onnxruntime', 'ncnn', 'cv2') if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("has_job", [False, True])
def test_a_worker_that_nobody_called_leaves_the_folder_it_is_run_in(
    tmp_path: Path, has_job: bool
) -> None:
    (tmp_path / "thesis.txt").touch()
    if has_job:
        (tmp_path / JOB).write_text("{}")
    worker = [sys.executable, "-m", "surgery.engines.ncnn_worker"]
    done = subprocess.run(
        worker, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert (tmp_path / "thesis.txt").exists()


def test_a_worker_whose_caller_was_killed_ends_and_leaves_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    told = tmp_path / "told"
    (tmp_path / "lasting_worker.py").write_text(
        f"{_PREAMBLE}\ndef work(task):\n"
        f"    Path({str(told)!r} + '-').write_text(str(os.getpid()))\n"
        f"    os.rename({str(told)!r} + '-', {str(told)!r})\n"
        "    time.sleep(600)\n\nserve(work)\n"
    )
    call = (
        "from surgery.engines.child import Task, run_worker\n"
        "run_worker('lasting_worker', Task({}, {}), engine='lasting', time_limit=600)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "TMPDIR": str(temporary)}
    with subprocess.Popen([sys.executable, "-c", call], env=environment) as caller:
        _wait_for(told.is_file)
        worker = int(told.read_text())
        assert len(list(temporary.iterdir())) == 1
        caller.kill()
    try:
        _wait_for(lambda: not list(temporary.iterdir()) and not _is_alive(worker))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def _wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # Nobody may be there to ask what came of it.
    state = Path(f"/proc/{process}/stat")
    return not state.is_file() or state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="what is held and mapped is Linux's to tell")
def test_what_would_take_more_than_the_bound_fails_and_works_again_afterwards() -> None:
    most = 100 * MIB
    held = np.ones(2 * most, np.uint8)  # which does not count
    with bound_memory(most):
        with pytest.raises(MemoryError):
            np.ones(2**31, np.uint8)
        assert np.ones(most // 2, np.uint8).sum() == held.size // 4
        with bound_memory(2 * most), pytest.raises(MemoryError):  # the outer one stays
            np.ones(2**31, np.uint8)
    assert np.empty(2**31, np.uint8).size == 2**31
