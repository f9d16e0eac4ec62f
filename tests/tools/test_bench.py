"""`tools/bench.py`: the measurements run, and report what they say they do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgery.errors import FormatError

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


@pytest.fixture
def against(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from benches import against

    return against


@pytest.mark.parametrize(
    ("name", "version", "ensemble"),
    [
        ("nihui-rife-v4", "4.0", False),
        ("nihui-rife-v4.6", "4.6", False),
        ("styler-rife-v4.22_lite_ensembleFalse", "4.22.lite", False),
        ("styler-rife-v4.6_ensembleTrue", "4.6", True),
    ],
)
def test_reads_the_network_from_a_published_name(
    against: Any, name: str, version: str, ensemble: bool
) -> None:
    network = against.read_network(name)
    assert (network.version, network.ensemble) == (version, ensemble)


def test_a_name_without_a_version_is_refused(against: Any) -> None:
    with pytest.raises(FormatError, match="no version"):
        against.read_network("flownet")


def test_times_of_graphs_are_set_in_relation_run_by_run(against: Any) -> None:
    def measured(seconds: list[float], peak: int) -> dict[str, Any]:
        times = {"size": "8x8", "seconds": seconds, "peak_bytes": peak}
        return {"layers": peak, "traffic_bytes": peak, "devices": {"cpu": times}}

    ours, theirs = measured([1.0, 4.0, 3.0], 50), measured([2.0, 4.0, 4.0], 100)
    result = against.add_ratios(ours, theirs)
    assert result["ratios"] == {"layers": 0.5, "traffic": 0.5}
    device = result["devices"]["cpu"]
    assert (device["lowest_ratio"], device["ratio"], device["highest_ratio"]) == (0.5, 0.75, 1.0)
    assert device["peak_ratio"] == 0.5


def test_only_traffic_and_time_decide_who_is_ahead(against: Any) -> None:
    assert against.is_ahead({"layers": 1.0, "traffic": 0.9})
    assert not against.is_ahead({"layers": 0.5, "traffic": 1.0})
    assert against.is_ahead(0.9)
    assert not against.is_ahead(1.1)


def test_against_reports_every_graph(published_folder: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, str(TOOLS / "bench.py"), "--against", str(published_folder)]
    command += ["--only", "nihui-rife-v4.6", "--devices", "--json", str(report)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr
    graphs = json.loads(report.read_text())["networks"]["nihui-rife-v4.6"]
    assert list(graphs) == ["published", "default", "fast"]
    assert graphs["fast"]["ratios"]["traffic"] < graphs["default"]["ratios"]["traffic"] < 1.0


def test_against_needs_graphs(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "bench.py"), "against", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 2
    assert "no .param file" in result.stdout
