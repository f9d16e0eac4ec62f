"""`tools/check.py interrupted`: a few interruptions, and outputs that it has to find half."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOLS = Path(__file__).parents[2] / "tools"

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from checks import interrupted

    return interrupted


@pytest.mark.parametrize("number", [0, 1])
def test_a_conversion_that_is_killed_while_it_writes_leaves_a_whole_output_or_none(
    interrupted: Any, number: int
) -> None:
    result = interrupted.kill_while_writing(number, number % 2 == 1)
    assert interrupted.find_fault(result) == ""


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("room", [0, 1000])
def test_a_disk_without_room_leaves_what_was_there(
    interrupted: Any, tmp_path: Path, old: bool, room: int
) -> None:
    from checks import tiny_network

    donor = tmp_path / "tiny.onnx"
    donor.write_bytes(tiny_network.make_hub().to_onnx().SerializeToString())
    place = tmp_path / "place"
    place.mkdir()
    if old:
        (place / "rife-v4").mkdir()
        (place / "rife-v4" / "flownet.bin").write_bytes(b"old")
    script = "from surgery.cli import main; main()"
    words = ["convert", str(donor), "-o", "rife-v4", "--no-proof", "--force"]
    done = subprocess.run(
        [sys.executable, "-B", "-c", script, *words],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        # A file that may not grow is the full disk that every user may make.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert done.returncode == 1
    assert "rife-v4 cannot be written: File too large" in done.stderr
    assert [one.name for one in place.iterdir()] == (["rife-v4"] if old else [])
    if old:
        assert interrupted.read_tree(place / "rife-v4") == {"flownet.bin": b"old"}


def test_who_may_not_mount_a_file_system_is_told(
    interrupted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "takes root" in interrupted.find_fault(interrupted.fill_disk(0, force=False))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"state": "new"}, ""),
        ({"state": "half"}, "the output is half; new or absent is accepted"),
        ({"before": "old"}, "the output is absent; new or old is accepted"),
        ({"left": [".rife-v4.surgery-new-0"]}, "['.rife-v4.surgery-new-0'] is left"),
        ({"error": "it did not start"}, "it did not start"),
    ],
)
def test_what_is_half_absent_or_left_is_a_fault(
    interrupted: Any, changes: dict[str, Any], fault: str
) -> None:
    result = {"before": "absent", "state": "absent", "interrupted": [], "left": [], **changes}
    found = interrupted.find_fault(result)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_a_folder_with_a_file_cut_short_is_half(interrupted: Any, tmp_path: Path) -> None:
    new = {"flownet.param": b"7767517\n0 0\n"}
    (tmp_path / interrupted.FOLDER).mkdir()
    path = tmp_path / interrupted.FOLDER / "flownet.param"
    for content, state in ((b"7767517\n", "half"), (new["flownet.param"], "new")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        assert interrupted.describe(tmp_path, new, force=False)["state"] == state
        (tmp_path / interrupted.FOLDER / "next").unlink()
