"""Keep a folder to one process, for as long as that process lives.

The operating system holds the lock and lets go of it when the process ends, however it ends: what
was killed leaves none behind. The two files stay out of everybody's way, in the folder of records.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from surgery.errors import SurgeryError
from surgery.output import write_file_atomically

# Empty, and it stays: who removes a lock's file lets two others lock a file each.
LOCK = ".lock"
# For whoever may write to the folder, so that one of a group can go on where another stopped.
MODE = 0o666
# Who has the lock. Apart from it, since Windows lets nobody read a file that is locked.
HOLDER = ".holder"


@contextlib.contextmanager
def lock_folder(folder: Path, records: Path) -> Iterator[None]:
    """Work on a folder alone for the length of the block.

    Args:
        folder: what messages call it.
        records: the folder inside of it that the lock lies in.

    Raises:
        SurgeryError: another process works on it, the file system locks no files, or filelock is
            not installed.

    Source: the documentation of filelock on `FileLock`.
    """
    if importlib.util.find_spec("filelock") is None:
        raise SurgeryError("filelock is not installed; run: pip install filelock")
    import filelock

    # A lock that is no more than a file that exists would outlive who is killed.
    lock = filelock.FileLock(
        records / LOCK, mode=MODE, fallback_to_soft=False, preserve_lock_file=True
    )
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise SurgeryError(
            f"{folder} is in use: {_name_holder(records)} works on it; wait until that ends, or "
            "end it, or name another folder"
        ) from None
    except OSError as error:
        raise SurgeryError(f"{folder} cannot be locked: {error.strerror or error}") from error
    holder = records / HOLDER
    try:
        write_file_atomically(
            holder, f"process {os.getpid()} on {platform.node() or 'this machine'}", force=True
        )
        yield
    finally:
        # Somebody may be reading it; what was done stays done.
        with contextlib.suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _name_holder(records: Path) -> str:
    try:
        return (records / HOLDER).read_text(encoding="utf-8")
    except OSError:
        # It has just begun, or is about to end.
        return "another process"
