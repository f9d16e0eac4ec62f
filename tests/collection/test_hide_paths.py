"""Reasons that get published tell no path of the machine that they were found on."""

from __future__ import annotations

from pathlib import Path

from surgery.collection.hide_paths import hide_paths


def test_what_is_below_a_folder_is_told_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    text = f"{folder}/donors/one: not in {folder}; see {tmp_path}/other"
    assert hide_paths(text, [tmp_path, folder]) == "donors/one: not in shelf; see other"
    assert hide_paths("1/2 of it", [Path("/")]) == "1/2 of it"


def test_a_folder_is_told_from_longer_names() -> None:
    text = "layout/rife-v4 in out/models: out, out.d, outer and not /mnt/out/x; no out."
    hidden = "layout/rife-v4 in models: out, out.d, outer and not /mnt/out/x; no out."
    assert hide_paths(text, [Path("out")]) == hidden
    assert hide_paths("rife-v4/x.pkl", [Path("v4")]) == "rife-v4/x.pkl"


def test_a_folder_that_a_link_leads_to_is_hidden_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    text = f"{tmp_path / 'real' / 'a'} and {tmp_path / 'link' / 'b'}"
    assert hide_paths(text, [tmp_path / "link"]) == "a and b"
