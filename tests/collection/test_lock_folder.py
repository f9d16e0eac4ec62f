"""The lock of a folder: one process at a time has it, and one that is killed leaves none behind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from surgery.collection.lock_folder import HOLDER, LOCK, MODE, lock_folder
from surgery.errors import SurgeryError

HOLD = """
import sys
from pathlib import Path
from surgery.collection.lock_folder import lock_folder
with lock_folder(Path(sys.argv[1]), Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has the folder locked until it is told to go on, or dies."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def _lock(folder: Path) -> None:
    with lock_folder(folder, folder):
        assert (folder / HOLDER).read_text(encoding="utf-8").startswith(f"process {os.getpid()} ")


def test_a_second_process_is_told_who_works_on_the_folder(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    with pytest.raises(SurgeryError, match=rf"in use: process {other.pid} on .*wait until that"):
        _lock(tmp_path)
    # Who is refused takes nothing from who is not.
    assert (tmp_path / HOLDER).is_file()
    (tmp_path / HOLDER).unlink()
    with pytest.raises(SurgeryError, match=r"in use: another process works on it"):
        _lock(tmp_path)


def test_a_process_that_is_killed_leaves_no_lock(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.kill()
    other.wait()
    assert (tmp_path / HOLDER).is_file()
    _lock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_process_that_ends_hands_the_folder_on(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    other.communicate("")
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    _lock(tmp_path)
    with pytest.raises(KeyError), lock_folder(tmp_path, tmp_path):
        raise KeyError
    _lock(tmp_path)


def test_one_process_does_not_lock_a_folder_twice(tmp_path: Path) -> None:
    with lock_folder(tmp_path, tmp_path):
        with pytest.raises(SurgeryError, match=rf"in use: process {os.getpid()} "):
            _lock(tmp_path)
        # The first has it still.
        with pytest.raises(SurgeryError, match="in use"):
            _lock(tmp_path)


def test_one_of_a_group_goes_on_where_another_stopped(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        _lock(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / LOCK).stat().st_mode & 0o777 == MODE


@pytest.mark.skipif(sys.platform == "win32", reason="leftovers are told by flock")
def test_a_file_system_that_locks_nothing_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(SurgeryError, match="cannot be locked"):
        _lock(tmp_path)
    assert not (tmp_path / HOLDER).exists()


def test_what_was_done_stays_done_where_the_holder_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == HOLDER:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        remove(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        _lock(tmp_path)
    _lock(tmp_path)


def test_a_folder_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(SurgeryError, match="cannot be locked"):
        _lock(tmp_path)
