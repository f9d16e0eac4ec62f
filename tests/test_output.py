"""Atomic output: whole or not at all, nothing left behind, nobody else's work removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from surgery import output
from surgery.errors import OutputExists, SurgeryError
from surgery.output import MODEL_FILES, new_folder, refuse_taken, write_file_atomically

needs_flock = pytest.mark.skipif(os.name == "nt", reason="leftovers are told by flock")
not_as_root = pytest.mark.skipif(
    hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere"
)


def _list(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _start_killed_writer(folder: Path) -> None:
    """A process that dies by SIGKILL in the middle of writing `folder`."""
    script = """
        import os, signal, sys
        from pathlib import Path
        from surgery.output import new_folder
        with new_folder(Path(sys.argv[1]), force=True) as temporary:
            (temporary / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), folder], check=False)
    assert done.returncode == -signal.SIGKILL


# ---- files -------------------------------------------------------------------------------------


def test_a_file_is_written_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_file_atomically(path, "h\u00e4\n")
    assert path.read_bytes() == b"h\xc3\xa4\n"
    assert _list(path.parent) == ["b.txt"]


def test_parents_go_with_an_output_that_never_came(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with (
        pytest.raises(ValueError, match="no model"),
        new_folder(tmp_path / "kept" / "a" / "b" / "model"),
    ):
        raise ValueError("no model")
    assert _list(tmp_path) == ["kept"]
    assert _list(tmp_path / "kept") == []


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OutputExists, match="file exists; --force replaces it"):
        write_file_atomically(path, "new")
    assert path.read_text() == "old"
    write_file_atomically(path, b"new", force=True)
    assert path.read_text() == "new"
    assert _list(tmp_path) == ["file"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputExists, match="taken is a folder, which --force does not replace"):
        write_file_atomically(tmp_path / "taken", "new", force=True)


def test_a_link_keeps_pointing_where_it_did(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_file_atomically(tmp_path / "link", "new", force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_new_entries_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual-file").touch()
    write_file_atomically(tmp_path / "file", "")
    with new_folder(tmp_path / "folder"):
        pass
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual-file").stat().st_mode
    assert (tmp_path / "folder").stat().st_mode == (tmp_path / "usual").stat().st_mode


# ---- folders -----------------------------------------------------------------------------------


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a" / "model"
    with new_folder(path) as temporary:
        (temporary / "file").write_text("x")
        assert temporary.parent == path.parent
        assert not path.exists()
    assert _list(path) == ["file"]
    assert _list(path.parent) == ["model"]


def _fail_while_writing(path: Path, force: bool = False) -> None:
    old = _list(path) if path.exists() else None
    with new_folder(path, force=force) as temporary:
        (temporary / "flownet.bin").touch()
        assert (_list(path) if path.exists() else None) == old
        _ = 1 / 0


def _let_another_take(path: Path) -> None:
    with new_folder(path):
        path.mkdir()
        (path / "theirs").touch()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _fail_while_writing(tmp_path / "model")
    assert _list(tmp_path) == []


def test_the_old_folder_survives_a_failure_under_force(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "flownet.param").touch()
    with pytest.raises(ZeroDivisionError):
        _fail_while_writing(path, force=True)
    assert _list(path) == ["flownet.param"]
    with new_folder(path, force=True) as temporary:
        (temporary / "flownet.bin").touch()
    assert _list(path) == ["flownet.bin"]
    assert _list(tmp_path) == ["model"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_in_one_step_where_the_platform_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    path, moves = tmp_path / "model", list[Path]()
    path.mkdir()
    (path / "flownet.param").touch()
    if not can_exchange:
        monkeypatch.setattr(output, "_exchange", lambda first, second: False)
    elif not output._exchange(_make(tmp_path / "a"), _make(tmp_path / "b")):
        pytest.skip("this platform cannot exchange two folders")
    rename = Path.rename

    def note(one: Path, target: Path) -> Path:
        moves.append(one)
        return rename(one, target)

    monkeypatch.setattr(Path, "rename", note)
    with new_folder(path, force=True) as temporary:
        (temporary / "flownet.bin").touch()
    assert _list(path) == ["flownet.bin"]
    assert not [one for one in _list(tmp_path) if one.startswith(".")]
    assert len(moves) == (0 if can_exchange else 2)


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_folder_that_is_taken_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with (
        pytest.raises(OutputExists, match="model exists; --force replaces it"),
        new_folder(tmp_path / "model"),
    ):
        pytest.fail("the block must not run")


def test_a_folder_that_is_taken_meanwhile_is_refused_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(OutputExists):
        _let_another_take(path)
    assert _list(path) == ["theirs"]
    assert _list(tmp_path) == ["model"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with (
        pytest.raises(OutputExists, match="taken is a file, which --force does not replace"),
        new_folder(tmp_path / "taken", force=True),
    ):
        pytest.fail("the block must not run")


def test_force_replaces_a_folder_for_a_user_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def have_none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", have_none)
    target = tmp_path / "model"
    target.mkdir(parents=True)
    (target / "flownet.param").touch()
    with new_folder(target, force=True) as folder:
        (folder / "flownet.bin").touch()
    assert [one.name for one in target.iterdir()] == ["flownet.bin"]


@pytest.mark.parametrize("kept", ["work", "home"])
@pytest.mark.parametrize("below", ["", "deeper"])
def test_force_does_not_replace_the_folder_one_works_in_or_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str, below: str
) -> None:
    place = tmp_path / "place" / below
    place.mkdir(parents=True)
    if kept == "work":
        monkeypatch.chdir(place)
    else:
        monkeypatch.setenv("HOME", str(place))
        monkeypatch.setenv("USERPROFILE", str(place))
    with (
        pytest.raises(OutputExists, match="--force does not replace it"),
        new_folder(tmp_path / "place", force=True),
    ):
        pytest.fail("the block must not run")


# ---- failures of the file system ---------------------------------------------------------------


def test_a_parent_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SurgeryError, match=r"file/model cannot be written: "):
        write_file_atomically(tmp_path / "file" / "model", "x")


@not_as_root
def test_a_parent_without_permission_is_explained(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SurgeryError, match="model cannot be written: Permission denied"):
        write_file_atomically(tmp_path / "model", "x")


def test_a_full_disk_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(SurgeryError, match="model cannot be written: No space left"),
        new_folder(tmp_path / "model"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert _list(tmp_path) == []


def test_errors_about_other_files_are_not_taken_for_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "model"):
        (tmp_path / "donor.pkl").read_bytes()


# ---- leftovers ---------------------------------------------------------------------------------


@needs_flock
def test_the_leftover_of_a_killed_process_is_removed_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "model"
    _start_killed_writer(path)
    assert len(_list(tmp_path)) == 1
    assert not path.exists()
    with new_folder(path) as temporary:
        (temporary / "whole").touch()
    assert _list(tmp_path) == ["model"]
    assert _list(path) == ["whole"]


@needs_flock
def test_the_work_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with new_folder(path) as theirs:
        (theirs / "theirs").touch()
        script = (
            "import sys; from pathlib import Path; from surgery.output import new_folder\n"
            "with new_folder(Path(sys.argv[1])): pass"
        )
        subprocess.run([sys.executable, "-c", script, path], check=True)
        assert _list(theirs) == ["theirs"]
        path.rmdir()
    assert _list(path) == ["theirs"]


@needs_flock
def test_a_death_between_the_two_renames_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model"
    # What is on the disk then: the old folder set aside, the new one still under its own name.
    aside = tmp_path / ".model.surgery-old-0123abcd"
    aside.mkdir()
    (aside / "flownet.param").touch()
    (tmp_path / ".model.surgery-new-0123abcd").mkdir()
    with pytest.raises(OutputExists), new_folder(path):
        pytest.fail("the block must not run")
    assert _list(tmp_path) == ["model"]
    assert _list(path) == ["flownet.param"]


@needs_flock
def test_names_that_only_look_similar_are_left_alone(tmp_path: Path) -> None:
    similar = [".model.surgery-new-0123abcd.txt", ".model2.surgery-new-0123abcd", "model.bak"]
    for name in similar:
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "model"):
        pass
    assert _list(tmp_path) == sorted([*similar, "model"])


@pytest.mark.parametrize(
    "theirs", ["thesis.txt", "deep/flownet.param", "flownet.pkl", "config.json", "realesrgan.bin"]
)
def test_force_does_not_replace_a_folder_with_files_of_other_people(
    tmp_path: Path, theirs: str
) -> None:
    path = tmp_path / "model" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("years of work")
    (tmp_path / "model" / "flownet.bin").touch()
    refused = pytest.raises(OutputExists, match=f"model holds {theirs}, which surgery did not")
    with refused, new_folder(tmp_path / "model", force=True):
        pytest.fail("the work was begun")
    with refused:
        refuse_taken(tmp_path / "model", force=True, files=MODEL_FILES)
    assert path.read_text() == "years of work"


def test_force_replaces_what_the_patterns_describe(tmp_path: Path) -> None:
    path = tmp_path / "made"
    (path / "model" / "empty").mkdir(parents=True)
    (path / "model" / "flownet.param").touch()
    (path / "page.html").touch()
    (path / "model" / ".DS_Store").touch()
    with new_folder(path, force=True, files=("*.html", "model/*")):
        pass
    assert not _list(path)
