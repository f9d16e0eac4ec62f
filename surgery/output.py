"""Files and folders that appear whole or not at all.

Everything is written under a temporary name beside its target and then renamed. A process that is
killed leaves its temporary behind, and the next write to the same target removes it. A temporary
in use is locked (`flock`), so that nobody takes a living process's work for a leftover; where the
platform has no `flock`, leftovers stay.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from surgery.errors import OutputExists, SurgeryError
from surgery.hub import networks

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NEW, _OLD = "surgery-new", "surgery-old"
_LOCK_ATTEMPTS = 3
# What a model folder says of itself, and what it consists of.
FACTS_FILE = "surgery.json"
MODEL_FILES = (
    *(f"{name}.{kind}" for name in networks.NETWORKS for kind in ("param", "bin")),
    FACTS_FILE,
)
# What file managers leave in folders that were looked at.
LEFT_BY_DESKTOPS = (".DS_Store", "Thumbs.db", "desktop.ini")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
# Of Linux's renameat2, and what stands there for "relative to the current folder".
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def refuse_taken(path: Path, *, force: bool, files: Sequence[str] | None = None) -> None:
    """Refuse an output before the work, not after it.

    Args:
        path: the output.
        force: replace an existing one.
        files: of a folder, as `new_folder` takes them; None for a file.

    Raises:
        OutputExists: `path` exists and `force` is not set, or would not replace it.
    """
    if path.exists() and not force:
        raise OutputExists(f"{path} exists; --force replaces it, or choose another name")
    _refuse_target(path, path.resolve(), force, files)


def refuse_model_file(path: Path, *, force: bool) -> None:
    """As `refuse_taken`, for an ONNX file, which every command knows by its name.

    Raises:
        SurgeryError: the name does not end in `.onnx`.
        OutputExists: as `refuse_taken`.
    """
    if path.suffix != ".onnx":
        raise SurgeryError(f"{path}: the model is written as ONNX; name a file that ends in .onnx")
    refuse_taken(path, force=force)


def write_file_atomically(path: Path, data: bytes | str, *, force: bool = False) -> None:
    """Write `data` (text as UTF-8) to `path`; a reader sees the old file or the whole new one.

    Raises:
        OutputExists: `path` exists and `force` is not set, or it is a folder.
        SurgeryError: the file cannot be written; nothing is left behind.
    """
    target = path.resolve()
    content = data.encode() if isinstance(data, str) else data
    with (
        _explain_errors(path, target),
        _make_temporary(path, target, force, None) as temporary,
    ):
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        _refuse_target(path, target, force, None)
        temporary.replace(target)


@contextlib.contextmanager
def new_folder(
    path: Path, *, force: bool = False, files: Sequence[str] = MODEL_FILES
) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path` when the block ends without an exception.

    With `force` an existing folder stays in place until the new one is complete, and is then
    replaced as a whole. Nobody's work is lost by it: a folder that holds anything but `files` is
    none that this package made.

    Args:
        path: the folder to make.
        force: replace an existing one.
        files: patterns of what it may hold, relative to it, one part for each level.

    Raises:
        OutputExists: `path` exists and `force` is not set, or it is one that `force` does not
            replace: a file, a mount point, a folder that holds other files than `files`, or the
            current or the home folder.
        SurgeryError: the folder cannot be written; nothing is left behind.
    """
    target = path.resolve()
    with (
        _explain_errors(path, target),
        _make_temporary(path, target, force, files) as temporary,
    ):
        yield temporary
        _refuse_target(path, target, force, files)
        _move_folder(temporary, target)


def _refuse_target(path: Path, target: Path, force: bool, files: Sequence[str] | None) -> None:
    """Refuse what may not be replaced; `files` of a folder, None where a file is to be written."""
    is_folder = files is not None
    if not target.exists():
        return
    if not force:
        raise OutputExists(f"{path} exists; --force replaces it")
    if target.is_dir() != is_folder:
        kind = "file" if is_folder else "folder"
        raise OutputExists(f"{path} is a {kind}, which --force does not replace; remove it first")
    if is_folder and _is_precious(target):
        raise OutputExists(
            f"{path} holds the folder you work in, your home or a whole file system; --force does "
            "not replace it, name a folder of its own"
        )
    foreign = _find_foreign(target, files) if files is not None else None
    if foreign is not None:
        raise OutputExists(
            f"{path} holds {foreign}, which surgery did not write there; --force replaces a folder "
            f"of {', '.join(files or ())} only, name another one"
        )


def _find_foreign(folder: Path, files: Sequence[str]) -> Path | None:
    """A file of the folder, relative to it, that none of the patterns describes."""
    wanted = [PurePath(one) for one in files]
    for entry in folder.rglob("*"):
        name = entry.relative_to(folder)
        is_wanted = entry.name in LEFT_BY_DESKTOPS or any(
            len(name.parts) == len(one.parts) and name.match(str(one)) for one in wanted
        )
        if not is_wanted and (entry.is_symlink() or not entry.is_dir()):
            return name
    return None


def _is_precious(folder: Path) -> bool:
    kept = [Path.cwd()]
    # Nobody's home: a container may run under a number that no list of users has.
    with contextlib.suppress(RuntimeError):
        kept.append(Path.home().resolve())
    return folder.is_mount() or any(one.is_relative_to(folder) for one in kept)


def _move_folder(temporary: Path, target: Path) -> None:
    if not target.exists():
        temporary.rename(target)
        return
    if _exchange(temporary, target):
        return
    # A folder with content cannot be renamed over: the old one steps aside. Should the process die
    # between the two renames, the next write to this target puts the old one back.
    aside = _name_beside(target, _OLD)
    with _lock(target):
        target.rename(aside)
        try:
            temporary.rename(target)
        except OSError:
            aside.rename(target)
            raise
        _remove(aside)


def _exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step; False where the platform cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    # There is none on Windows and macOS, nor in other C libraries.
    except (AttributeError, OSError, TypeError):
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


@contextlib.contextmanager
def _make_temporary(
    path: Path, target: Path, force: bool, files: Sequence[str] | None
) -> Iterator[Path]:
    parents = _make_parents(target)
    # First, because it may put back a folder that then is in the way.
    _clear_leftovers(target)
    _refuse_target(path, target, force, files)
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_empty, parents)
        for _ in range(_LOCK_ATTEMPTS):
            temporary = _name_beside(target, _NEW)
            stack.callback(_remove, temporary)
            if files is None:
                temporary.touch(exist_ok=False)
            else:
                temporary.mkdir()
            # Not locked: another process just took the newcomer for a leftover, and removes it.
            if stack.enter_context(_lock(temporary)):
                break
        yield temporary


def _make_parents(target: Path) -> list[Path]:
    """Make the folders above `target`; returns those that were not there, the innermost first."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(folders: list[Path]) -> None:
    """Take back folders that were made for an output that never came."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _clear_leftovers(target: Path) -> None:
    if fcntl is None:
        return
    pattern = re.compile(rf"\.{re.escape(target.name)}\.({_NEW}|{_OLD})-[0-9a-f]{{8}}")
    for entry in target.parent.iterdir():
        match = pattern.fullmatch(entry.name)
        if match is None or entry.is_symlink():
            continue
        with _lock(entry) as is_abandoned:
            if is_abandoned and match[1] == _OLD and not target.exists():
                entry.rename(target)
            elif is_abandoned:
                _remove(entry)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Whether this process has `path` to itself for the length of the block."""
    if fcntl is None:
        yield True
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _take(handle, path)
    finally:
        os.close(handle)


def _take(handle: int, path: Path) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _name_beside(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{secrets.token_hex(4)}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _explain_errors(path: Path, target: Path) -> Iterator[None]:
    """Turn an OSError about the output itself, and no other, into the user's error."""
    try:
        yield
    except OSError as error:
        names = f"{error.filename} {error.filename2}"
        is_ours = f".{target.name}.surgery-" in names or names.startswith(f"{target.parent} ")
        if not is_ours and error.errno not in _NO_ROOM:
            raise
        raise SurgeryError(f"{path} cannot be written: {error.strerror}") from error
