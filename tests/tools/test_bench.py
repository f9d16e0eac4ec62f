"""`tools/bench.py`: the measurements run, and report what they say they do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from benches import timing

    return timing


def test_kernel_reports_every_channel_count(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(TOOLS / "bench.py"), "kernel", "--size", "96x64"]
    command += ["--channels", "3", "5", "--pairs", "2", "--json", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    measured = json.loads(report.read_text())
    assert measured["size"] == [96, 64]
    assert list(measured["channels"]) == ["3", "5"]
    assert all(entry["ratio"] > 0 for entry in measured["channels"].values())
    assert "times as fast" in result.stdout


def test_unknown_command_is_refused() -> None:
    command = [sys.executable, str(TOOLS / "bench.py"), "nothing"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2
    assert "invalid choice" in result.stderr


def test_takes_turns_and_leaves_out_the_warm_up(timing: Any) -> None:
    calls: list[str] = []
    times = timing.time_in_turn(
        lambda: calls.append("candidate"), lambda: calls.append("baseline"), pairs=3
    )
    assert calls == ["candidate", "baseline"] * (timing.WARM_UPS + 3)
    assert len(times.candidate) == len(times.baseline) == 3


def test_ratio_is_taken_pair_by_pair(timing: Any) -> None:
    times = timing.PairedTimes(candidate=[1.0, 2.0, 4.0], baseline=[6.0, 6.0, 8.0])
    described = times.describe()
    assert (described["lowest_ratio"], described["ratio"], described["highest_ratio"]) == (2, 3, 6)
    assert described["candidate_ms"] == 2000
