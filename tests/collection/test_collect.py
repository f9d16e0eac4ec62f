"""The verb `collect`: a manifest becomes a release folder, and only what changed is done again."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import surgery
from surgery.cli import app
from surgery.collection.collect import Collection, collect
from surgery.collection.crew import Crew
from surgery.collection.release import Release
from surgery.errors import SurgeryError
from surgery.progress import Progress

Writer = Callable[[Path, int], None]

MANIFEST = """
title = "Tiny"
[[models]]
donor = "donors/*"
name = "rife-v4-{donor}"
[[models]]
donor = "donors/one"
name = "rife-v4-missing"
weights = "no.pkl"
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory, crew: Crew, write_tiny_model: Writer) -> Path:
    """Two donors, a manifest, and the release that was made of them; tests copy it."""
    shelf = tmp_path_factory.mktemp("shelf")
    for seed, name in enumerate(("one", "two"), start=3):
        write_tiny_model(shelf / "donors" / name, seed)
    (shelf / "manifest.toml").write_text(MANIFEST, encoding="utf-8")
    collect(shelf / "manifest.toml", shelf / "release", scheduler=crew.address)
    return shelf


@pytest.fixture
def folder(shelf: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shelf, tmp_path / "shelf"))


def _collect(folder: Path, crew: Crew) -> Collection:
    return collect(folder / "manifest.toml", folder / "release", scheduler=crew.address)


def _hash(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_release_holds_models_archives_proofs_and_an_index(shelf: Path) -> None:
    release = shelf / "release"
    index = json.loads((release / "index.json").read_text())
    first, second, missing = index["models"]
    assert [one["status"] for one in index["models"]] == ["made", "made", "refused"]
    assert missing["reason"] == "weights no.pkl: no such file"
    assert (first["name"], first["padding"], first["warps"]) == ("rife-v4-one", 32, 2)
    assert first["runtimes"]["nihui"] == "runs"
    assert {row["passed"] for row in first["proof"]} == {True}
    assert any("ncnn" in row["engine"] for row in first["proof"])
    for one in (first, second):
        files = {path.name for path in (release / "models" / one["name"]).iterdir()}
        assert files == set(one["files"]) == {"flownet.param", "flownet.bin", "surgery.json"}
        assert json.loads((release / "proofs" / f"{one['name']}.json").read_text())["passed"]
    assert (release / "index.html").is_file()
    assert str(shelf).encode() not in b"".join(
        path.read_bytes() for path in release.rglob("*") if path.is_file()
    )


def test_a_second_run_converts_nothing_and_changes_no_byte(folder: Path, crew: Crew) -> None:
    before = _hash(folder / "release")
    again = _collect(folder, crew)
    assert again.done == []
    assert not again.is_complete
    assert _hash(folder / "release") == before


def test_changed_weights_convert_one_model(
    folder: Path, crew: Crew, write_tiny_model: Writer
) -> None:
    before = _hash(folder / "release")
    write_tiny_model(folder / "donors" / "two", 9)
    again = _collect(folder, crew)
    assert again.done == ["rife-v4-two"]
    after = _hash(folder / "release")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {
        "index.json",
        "index.html",
        ".records/rife-v4-two.json",
        "archives/rife-v4-two.zip",
        "models/rife-v4-two/flownet.bin",
        "models/rife-v4-two/surgery.json",
        "proofs/rife-v4-two.json",
    }
    # The weights as they were make the bytes as they were.
    write_tiny_model(folder / "donors" / "two", 4)
    _collect(folder, crew)
    models = [name for name in before if name.startswith(("models", "archives"))]
    assert {name: _hash(folder / "release")[name] for name in models} == {
        name: before[name] for name in models
    }


def test_a_model_that_its_inputs_forbid_is_a_row_and_is_not_tried_again(
    folder: Path, crew: Crew
) -> None:
    path = folder / "donors" / "one" / "flownet.param"
    path.write_text(path.read_text().replace("rife.Warp", "rife.Wrap"), encoding="utf-8")
    again = _collect(folder, crew)
    assert again.done == ["rife-v4-one"]
    row = again.rows[0]
    assert row["status"] == "refused"
    assert "rife.Wrap" in row["reason"]
    assert not (folder / "release" / "models" / "rife-v4-one").exists()
    # The same inputs are refused for the same reason: known without trying.
    assert _collect(folder, crew).done == []


def test_a_model_whose_donor_is_away_stays_and_is_called_stale(folder: Path, crew: Crew) -> None:
    before = _hash(folder / "release")
    (folder / "donors").rename(folder / "drive")
    text = (folder / "manifest.toml").read_text()
    (folder / "manifest.toml").write_text(
        text.replace('"donors/*"', '["donors/one", "donors/two"]'), encoding="utf-8"
    )
    again = _collect(folder, crew)
    assert again.done == []
    rows = {row["name"]: (row["status"], row["reason"]) for row in again.rows}
    status, reason = rows["rife-v4-two"]
    assert status == "stale"
    assert reason.startswith("donors/two: no such file or folder")
    index = (folder / "release" / "index.json").read_text()
    assert str(folder) not in index
    assert str(folder.parent) not in index
    (folder / "drive").rename(folder / "donors")
    assert _collect(folder, crew).done == []
    assert _hash(folder / "release") == before


def test_a_model_that_is_asked_for_no_more_is_named(folder: Path, crew: Crew) -> None:
    shutil.rmtree(folder / "donors" / "two")
    again = _collect(folder, crew)
    assert list(again.strangers) == ["rife-v4-two"]
    assert [row["name"] for row in again.rows] == ["rife-v4-one", "rife-v4-missing"]


def test_workers_that_see_the_paths_make_the_same_bytes(folder: Path, crew: Crew) -> None:
    output = folder / "shared"
    collect(folder / "manifest.toml", output, scheduler=crew.address, shared=True)
    models = _hash(folder / "release" / "models")
    assert len(models) == 6
    assert _hash(output / "models") == models


def test_the_command_tells_what_there_is_and_fails_for_what_there_is_not(
    folder: Path, crew: Crew
) -> None:
    arguments = ["collect", folder / "manifest.toml", "-o", folder / "release"]
    arguments += ["--scheduler", crew.address]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 1
    assert "rife-v4-missing: refused: weights no.pkl: no such file" in result.output
    assert "2 made, 1 refused; 0 of them worked on now" in result.output
    assert "any more" not in result.output


def test_the_command_names_what_to_remove_of_a_model_that_is_asked_for_no_more(
    folder: Path, crew: Crew
) -> None:
    shutil.rmtree(folder / "donors" / "two")
    arguments = ["collect", folder / "manifest.toml", "-o", folder / "release"]
    arguments += ["--scheduler", crew.address]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert (
        f"rife-v4-two is not in the manifest any more; if it is not wanted, remove from "
        f"{folder / 'release'}: models/rife-v4-two, archives/rife-v4-two.zip, "
        "proofs/rife-v4-two.json, .records/rife-v4-two.json\n"
    ) in result.stdout


def test_a_log_gets_a_line_for_every_model_that_is_finished(
    folder: Path, crew: Crew, write_tiny_model: Writer
) -> None:
    write_tiny_model(folder / "donors" / "two", 9)
    arguments = ["collect", folder / "manifest.toml", "-o", folder / "release"]
    arguments += ["--scheduler", crew.address]
    command = [str(one) for one in arguments]
    result = CliRunner().invoke(app, command)
    lines = result.stderr.splitlines()
    assert lines[-2:] == ["1 of 3 models, 1 at a time", "[1/1] rife-v4-two: made"]
    assert "[1/1]" not in result.stdout
    assert CliRunner().invoke(app, command).stderr != ""
    assert CliRunner().invoke(app, [*command, "-q"]).stderr == ""


def test_the_command_announces_the_dashboard_beside_what_it_puts_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def announce_alone(*paths: Path, announce: Progress, **options: object) -> Collection:
        announce("the dashboard is at http://host:8787/status")
        return Collection(tmp_path, [], [], {})

    monkeypatch.setattr("surgery.collection.collect.collect", announce_alone)
    result = CliRunner().invoke(app, ["collect", "models.toml", "-o", str(tmp_path)])
    assert result.stderr == "the dashboard is at http://host:8787/status\n"
    assert "dashboard" not in result.stdout


def test_a_folder_of_something_else_is_left_alone(folder: Path) -> None:
    with pytest.raises(SurgeryError, match="is no release"):
        surgery.collect(folder / "manifest.toml", folder / "donors")


def test_a_file_in_the_place_of_a_model_is_told_and_stays_and_the_run_goes_on(
    folder: Path, crew: Crew, write_tiny_model: Writer
) -> None:
    place = folder / "release" / "models" / "rife-v4-one"
    shutil.rmtree(place)
    place.write_text("mine", encoding="utf-8")
    write_tiny_model(folder / "donors" / "two", 9)
    told = _collect(folder, crew)
    assert sorted(told.done) == ["rife-v4-one", "rife-v4-two"]
    first, second, _ = told.rows
    assert first["status"] == "failed"
    assert first["reason"] == (
        "somebody's files are in its place, move them away: models/rife-v4-one is a file, which "
        "--force does not replace; remove it first"
    )
    assert second["status"] == "made"
    assert json.loads((folder / "release" / "index.json").read_text())["models"] == told.rows
    assert place.read_text(encoding="utf-8") == "mine"


def test_a_release_that_another_client_works_on_is_left_alone(folder: Path, crew: Crew) -> None:
    before = _hash(folder / "release")
    shutil.rmtree(folder / "donors" / "two")
    with (
        Release(folder / "release").lock(),
        pytest.raises(SurgeryError, match=r"release is in use: process \d+ on "),
    ):
        _collect(folder, crew)
    assert _hash(folder / "release") == before
    assert list(_collect(folder, crew).strangers) == ["rife-v4-two"]
