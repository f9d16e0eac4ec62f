"""The files of a donor: all that it is read from, by the places where it looks for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from surgery.errors import DonorError
from surgery.sources.find_donor import Donor, find_donor
from surgery.sources.list_files import list_source_files, list_weights_files, normalise
from surgery.sources.load_source import list_imported


def _write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _list(root: Path, donor: Donor, named: Path | None) -> set[str]:
    return {path.relative_to(root).as_posix() for path in list_source_files(donor, named)}


def test_imports_are_followed_and_nothing_else_is_listed(tmp_path: Path) -> None:
    _write(
        tmp_path,
        {
            "rife/net/IFNet.py": "import torch\nimport os\nfrom rife.model import refine\n"
            "from . import layers\nfrom rife.model.warplayer import warp\n",
            "rife/net/layers.py": "from .deeper import *\n",
            "rife/net/deeper.py": "",
            "rife/net/other.py": "",
            "rife/model/refine.py": "",
            "rife/model/warplayer.py": "",
            "rife/model/loss.py": "",
        },
    )
    source = tmp_path / "rife" / "net" / "IFNet.py"
    found = {path.relative_to(tmp_path).as_posix() for path in list_imported(source, "it")}
    assert found == {
        "rife/net/IFNet.py",
        "rife/net/layers.py",
        "rife/net/deeper.py",
        "rife/model/refine.py",
        "rife/model/warplayer.py",
    }
    _write(tmp_path, {"rife/net/deeper.py": "def ("})
    with pytest.raises(DonorError, match=r"deeper\.py"):
        list_imported(source, "it")


def test_what_tells_how_a_network_is_run_belongs_to_it(tmp_path: Path) -> None:
    _write(tmp_path, {"IFNet_HDv3.py": "", "RIFE_HDv3.py": "", "train.py": ""})
    donor = Donor(tmp_path / "IFNet_HDv3.py", "", "it")
    assert _list(tmp_path, donor, donor.source) == {"IFNet_HDv3.py", "RIFE_HDv3.py"}


def test_of_the_papers_two_networks_a_folder_brings_both(tmp_path: Path) -> None:
    _write(tmp_path, {"model/IFNet.py": "", "model/IFNet_m.py": "", "model/IFNet_2R.py": ""})
    donor = find_donor(str(tmp_path))
    assert _list(tmp_path, donor, tmp_path) == {"model/IFNet.py", "model/IFNet_m.py"}
    assert _list(tmp_path, donor, donor.source) == {"model/IFNet.py"}


def test_a_link_in_a_folder_names_the_donor(tmp_path: Path) -> None:
    _write(tmp_path, {"shelf/a.py": "from .b import x\n", "shelf/b.py": ""})
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "IFNet_HDv3.py").symlink_to(tmp_path / "shelf" / "a.py")
    donor = find_donor(str(tmp_path / "log"))
    assert donor.label == "log/IFNet_HDv3.py"
    assert _list(tmp_path, donor, tmp_path / "log") == {"log/IFNet_HDv3.py", "log/b.py"}


def test_weights_of_three_networks_are_three_files(tmp_path: Path) -> None:
    names = ("flownet.pkl", "contextnet.pkl", "unet.pkl")
    _write(tmp_path, dict.fromkeys((*names, "other.pkl"), ""))
    flownet = tmp_path / names[0]
    one = Donor(tmp_path / "IFNet.py", "", "it", flownet)
    three = Donor(tmp_path / "RIFE.py", "", "it", flownet, has_three_networks=True)
    assert list_weights_files(one) == [flownet]
    expected = [tmp_path / name for name in names]
    assert list_weights_files(three) == list_weights_files(three, tmp_path) == expected
    assert list_weights_files(one, tmp_path / "absent.pkl") == []
    assert list_weights_files(one, tmp_path) == []


def test_dots_go_and_links_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert normalise(Path("link", os.pardir, "link", "a")) == tmp_path / "link" / "a"
