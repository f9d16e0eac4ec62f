"""`tools/check.py fuzz`: a short run, and readers at fault that it has to find."""

from __future__ import annotations

import argparse
import dataclasses
import faulthandler
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from surgery.errors import FormatError

TOOLS = Path(__file__).parents[2] / "tools"
# What a test run has time for; the command feeds 100,000.
INPUTS = 600
LITTLE = 256 * 2**20
SEED = 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and limits are Linux's")


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


@pytest.fixture(scope="module")
def kinds() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        from checks import fuzz_kinds

        return fuzz_kinds.make_kinds()


def test_readers_accept_every_whole_input(kinds: Any) -> None:
    from checks import fuzz_watch

    for kind in kinds.values():
        fuzz_watch.check_seeds(kind)


# The reader of foreign models runs each of them, which takes too long here.
@pytest.mark.parametrize("name", ["param", "bin", "facts", "hub", "checkpoint"])
def test_broken_files_are_refused_or_read_and_nothing_else_happens(kinds: Any, name: str) -> None:
    from checks import fuzz, fuzz_watch

    count = INPUTS * kinds[name].share // fuzz.SHARES
    found = fuzz.summarise(fuzz_watch.feed(kinds[name], name, range(count), SEED))
    assert found["faults"] == {}
    assert found["inputs"] == count
    assert min(found["refused"], found["accepted"]) > 0


def test_the_same_number_gives_the_same_input(kinds: Any) -> None:
    from checks import fuzz_watch

    for name, kind in kinds.items():
        made = [fuzz_watch.make_input(kind, name, 5, SEED)[1] for _ in range(2)]
        assert made[0] == made[1]
        assert made[0] != fuzz_watch.make_input(kind, name, 6, SEED)[1]


@pytest.mark.parametrize("group", ["BYTES", "TEXT", "JSON", "ONNX", "CHECKPOINT"])
def test_a_mutation_takes_any_file(group: str) -> None:
    from checks import fuzz_mutations

    for mutation in getattr(fuzz_mutations, group):
        for data in (b"", b"\0", b"{}", b"7767517\n1 1\n", b"PK\x03\x04", bytes(range(256))):
            assert isinstance(mutation(Random(1), data), bytes)


# ---- readers at fault --------------------------------------------------------------------------


def _crash(path: Path) -> None:
    # Expected, and no news for who reads what the tests print.
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise(path: Path) -> None:
    raise KeyError("a layer")


def _leave(path: Path) -> None:
    (path.parent / "half").touch()


def _leave_temporary(path: Path) -> None:
    Path("left-in-the-current-folder").touch()


def _run(path: Path) -> None:
    os.system("true")


_ALLOCATED = list[int]()


def _allocate(path: Path) -> None:
    """Take more than is allowed, once, and call it a broken file if that fails."""
    if not _ALLOCATED:
        _ALLOCATED.append(1)
        try:
            b"x" * (2 * LITTLE)
        except MemoryError:
            raise FormatError("too large") from None


def _burn(path: Path) -> None:
    while True:
        pass


def _refuse(path: Path) -> None:
    raise FormatError("no")


def _feed(kinds: Any, reader: Callable[[Path], None], numbers: range = range(1)) -> list[Any]:
    from checks import fuzz_watch

    kind = dataclasses.replace(kinds["param"], opens=reader, readers=())
    return list(fuzz_watch.feed(kind, "param", numbers, SEED))


@pytest.mark.parametrize(
    ("reader", "verdict"),
    [
        (_crash, "the process died of SIGSEGV"),
        (_raise, "KeyError at test_fuzz.py"),
        (_leave, "it left half"),
        (_leave_temporary, "it left left-in-the-current-folder"),
        (_run, "it did os.system"),
    ],
)
def test_a_reader_at_fault_is_found(
    kinds: Any, reader: Callable[[Path], None], verdict: str
) -> None:
    (outcome,) = _feed(kinds, reader)
    assert outcome.is_fault
    assert outcome.verdict.startswith(verdict)


def test_a_reader_that_takes_much_memory_is_found_even_if_it_calls_that_a_refusal(
    kinds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checks import fuzz_watch

    # What this process holds, and not the most that it ever held: readers are told apart by theirs.
    held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    most = held * resource.getpagesize() + LITTLE
    monkeypatch.setattr(fuzz_watch, "MOST_BYTES", most)
    greedy, next_ = _feed(kinds, _allocate, range(2))
    assert greedy.verdict == f"it took more than {most} bytes"
    assert next_.verdict == "accepted"
    assert next_.peak < most < greedy.peak


def test_a_reader_that_hangs_is_ended(kinds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from checks import fuzz_watch

    monkeypatch.setattr(fuzz_watch, "MOST_SECONDS", 0.5)
    monkeypatch.setattr(fuzz_watch, "GRACE_SECONDS", 0.5)
    (outcome,) = _feed(kinds, _burn)
    assert outcome.verdict == "no answer within 1 s"


def test_a_reader_that_takes_long_is_found(kinds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from checks import fuzz_watch

    monkeypatch.setattr(fuzz_watch, "MOST_SECONDS", 0.0)
    assert _feed(kinds, lambda path: None)[0].verdict == "it took more than 0 s"


def test_the_inputs_after_a_crash_are_fed_as_well(kinds: Any) -> None:
    outcomes = _feed(kinds, _crash, range(3))
    assert [one.number for one in outcomes] == [0, 1, 2]


def test_what_is_refused_and_what_is_accepted_is_no_fault(kinds: Any) -> None:
    verdicts = [_feed(kinds, reader)[0].verdict for reader in (_refuse, lambda path: None)]
    assert verdicts == ["refused", "accepted"]


def test_the_figures_tell_every_fault_once(kinds: Any) -> None:
    from checks import fuzz
    from checks.fuzz_watch import Outcome

    outcomes = [Outcome(number, "KeyError", 0.5, 2**30) for number in (7, 8)]
    result = fuzz.summarise([*outcomes, Outcome(9, "refused", 1.5, 2**29)])
    assert fuzz.format_table({"bin 0 to 9": result})[1].split() == [
        *("bin", "3", "1", "0", "1.50", "1.00")
    ]
    assert fuzz.list_faults({"bin 0 to 9": result, "hub 0 to 9": {"error": "no"}}) == [
        "hub 0 to 9: no",
        "bin 7 (2 of these): KeyError",
    ]


def test_the_cases_hold_every_input_once(kinds: Any) -> None:
    from checks import fuzz

    arguments = argparse.Namespace(inputs=100_000, seed=SEED)
    cases = [one.settings for one in fuzz.list_cases(kinds, arguments)]
    assert sum(one["last"] - one["first"] for one in cases) == 100_000
