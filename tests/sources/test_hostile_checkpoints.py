"""Checkpoints made by an enemy: refused with what they ask for, and nothing of it happens."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from surgery.errors import CheckpointError
from surgery.sources import checkpoint, scan_pickle
from surgery.sources.checkpoint import MAX_BYTES, read_checkpoint

CANARY = "ran-it"
TOUCH = f"open({CANARY!r}, 'w').close()"
MANY = 2**40


def _text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _call(module: str, name: str, *arguments: bytes) -> bytes:
    """The opcodes of a call; arguments are opcodes as well."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def _get(owner: bytes, name: str) -> bytes:
    return _call("builtins", "getattr", owner, _text(name))


def _import(name: str) -> bytes:
    return _call("importlib", "import_module", _text(name))


PROTOCOL = b"\x80\x02"
SHELL = _text(f"echo > {CANARY}")
# What each asks for first, and the pickle. Plain pickle runs every one of them.
ASKING: Mapping[str, tuple[str, bytes]] = {
    "a command": (f"{os.name}.system", _call(os.name, "system", SHELL)),
    "an expression": ("builtins.eval", _call("builtins", "eval", _text(TOUCH))),
    "a program": ("builtins.exec", _call("builtins", "exec", _text(TOUCH))),
    "a global inside of a module": (
        "shutil.os.system",
        b"\x80\x04" + _text("shutil") + _text("os.system") + b"\x93(" + SHELL + b"tR",
    ),
    "a walk by getattr": (
        "builtins.getattr",
        _get(_import("os"), "system") + b"(" + SHELL + b"tR",
    ),
    "a process": (
        "subprocess.getoutput",
        _call("subprocess", "getoutput", SHELL),
    ),
    "a file": (
        "builtins.open",
        _call("builtins", "open", _text(CANARY), _text("w")),
    ),
    "an object's constructor": (
        "builtins.getattr",
        _get(_call("code", "InteractiveInterpreter"), "runsource") + b"(" + _text(TOUCH) + b"tR",
    ),
    "another pickle": (
        "pickle.loads",
        _call(
            "pickle",
            "loads",
            _call(
                "codecs",
                "encode",
                _text((PROTOCOL + _call("builtins", "eval", _text(TOUCH)) + b".").decode("latin1")),
                _text("latin1"),
            ),
        ),
    ),
    "a call hidden among tensors": (
        "builtins.eval",
        b"}" + _text("block0.weight") + _call("builtins", "eval", _text(TOUCH)) + b"s",
    ),
}


def _finish(opcodes: bytes) -> bytes:
    start = b"" if opcodes.startswith(b"\x80") else PROTOCOL
    return start + opcodes + b"."


def _zip(entries: Mapping[str, bytes], packing: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def _save(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _repack(change: Callable[[dict[str, bytes]], None], packing: int = zipfile.ZIP_STORED) -> bytes:
    """A good checkpoint of ten numbers, changed inside."""
    with zipfile.ZipFile(io.BytesIO(_save({"a": torch.ones(10)}))) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    return _zip(entries, packing)


def _find(entries: Mapping[str, bytes], ending: str) -> str:
    return next(name for name in entries if name.endswith(ending))


def _replace_pickle(pickled: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(entries: dict[str, bytes]) -> None:
        entries[_find(entries, "data.pkl")] = pickled

    return change


def _claim(count: int) -> Callable[[dict[str, bytes]], None]:
    """Let the pickle say that tensor and storage have so many numbers; the record keeps ten."""
    number = b"\x8a\x08" + count.to_bytes(8, "little")

    def change(entries: dict[str, bytes]) -> None:
        name = _find(entries, "data.pkl")
        assert entries[name].count(b"K\n") == 2
        entries[name] = entries[name].replace(b"K\n", number)

    return change


def _shorten_storage(entries: dict[str, bytes]) -> None:
    name = _find(entries, "data/0")
    entries[name] = entries[name][:-4]


def _climb(entries: dict[str, bytes]) -> None:
    name = _find(entries, "data/0")
    entries[f"../../../{CANARY}"] = entries.pop(name)


def _blow_up(entries: dict[str, bytes]) -> None:
    entries[_find(entries, "data/0")] = bytes(200 * 2**20)


# Its name keeps torch's regular expressions busy for seconds, and a longer one for minutes.
_SLOW = _finish(b"ctorch._ut" + b"]" * 4000 + b"\nname\n")


def _capitalise(entries: dict[str, bytes]) -> None:
    name = _find(entries, "data.pkl")
    entries.pop(name)
    entries[name.replace("data.pkl", "DATA.PKL")] = _SLOW


def _add_second(entries: dict[str, bytes]) -> None:
    entries["other/DATA.pkl"] = _SLOW


def _drop_pickle(entries: dict[str, bytes]) -> None:
    entries.pop(_find(entries, "data.pkl"))


def _comment() -> bytes:
    """A second list of entries behind the first; which one is read depends on who reads."""
    file = io.BytesIO(_repack(lambda entries: None))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = _repack(lambda entries: None)
    return file.getvalue()


def _make_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(f"../{CANARY}")
        archive.addfile(entry)
    return file.getvalue()


def _ask_for_buffer(count: int) -> bytes:
    number = b"\x8a\x08" + count.to_bytes(8, "little")
    return PROTOCOL + _call("builtins", "bytearray", number) + b"."


# Files that run nothing, and claim, hide or unpack what they should not.
LYING: Mapping[str, tuple[str, Callable[[], bytes]]] = {
    "a tensor of 2^40 numbers": ("does not match", lambda: _repack(_claim(MANY))),
    "a storage shorter than its tensor": ("does not match", lambda: _repack(_shorten_storage)),
    "one number repeated 2^40 times": (
        "claim 1099511627776 numbers, 'a' most",
        lambda: _save({"a": torch.ones(1).expand(MANY)}),
    ),
    "one storage in a thousand tensors": (
        "claim 10000000 numbers",
        lambda: _save({f"a{n}": torch.ones(1).expand(10_000) for n in range(1000)}),
    ),
    "tensors with no numbers at all": (
        "on meta",
        lambda: _save({"a": torch.ones(MANY, device="meta")}),
    ),
    "a sparse tensor": (
        "plain tensors",
        lambda: _save({"a": torch.ones(10).to_sparse()}),
    ),
    "a zip bomb": (
        "unpack to 2097",
        lambda: _repack(_blow_up, zipfile.ZIP_DEFLATED),
    ),
    "a path that climbs out": ("no checkpoint", lambda: _repack(_climb)),
    "a tar that climbs out": ("no checkpoint|refused", _make_tar),
    "a pickle in capitals": (
        r"\(4014 letters\)",
        lambda: _repack(_capitalise),
    ),
    "two pickles": (
        "2 entries called data.pkl",
        lambda: _repack(_add_second),
    ),
    "no pickle": ("0 entries called data.pkl", lambda: _repack(_drop_pickle)),
    "an archive behind an archive": (
        "before its first entry",
        lambda: 2 * _repack(lambda entries: None),
    ),
    "an archive in the comment of an archive": ("after its list", _comment),
    "a key that no text can hold": (
        r"the key '\\udc80' is no text",
        lambda: _save({"\udc80": torch.ones(1)}),
    ),
    "tuples in tuples": (
        "holds a tuple",
        lambda: _repack(_replace_pickle(PROTOCOL + b"(" * 200_000 + b"t" * 200_000 + b".")),
    ),
    "lists in lists": (
        "holds a list",
        lambda: _repack(_replace_pickle(PROTOCOL + b"]" * 100_000 + b"a" * 99_999 + b".")),
    ),
    "a buffer of 2^40 bytes": (
        "asks for builtins.bytearray",
        lambda: _repack(_replace_pickle(_ask_for_buffer(MANY))),
    ),
    # Few enough that a machine has them.
    "a buffer of 2^16 bytes": (
        "asks for builtins.bytearray",
        lambda: _repack(_replace_pickle(_ask_for_buffer(2**16))),
    ),
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a checkpoint goes; commands run beside it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "flownet.pkl"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("asked", "opcodes"), ASKING.values(), ids=ASKING)
def test_a_pickle_that_asks_for_more_is_refused_and_nothing_runs(
    path: Path, asked: str, opcodes: bytes, zipped: bool
) -> None:
    pickled = _finish(opcodes)
    path.write_bytes(_repack(_replace_pickle(pickled)) if zipped else pickled)
    with pytest.raises(CheckpointError, match=f"refused: it asks for {asked}"):
        read_checkpoint(path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("opcodes", [one for _, one in ASKING.values()], ids=ASKING)
def test_plain_pickle_runs_what_is_refused_here(path: Path, opcodes: bytes) -> None:
    path.write_bytes(_finish(opcodes))
    script = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run([sys.executable, "-c", script, path], cwd=path.parent, check=True)
    assert (path.parent / CANARY).exists()


@pytest.mark.parametrize(("said", "make"), LYING.values(), ids=LYING)
def test_a_file_that_lies_is_refused_and_leaves_nothing(
    path: Path, said: str, make: Callable[[], bytes]
) -> None:
    path.write_bytes(make())
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert not list(path.parent.parent.glob(CANARY))


def test_the_checkpoint_that_was_changed_is_a_good_one(path: Path) -> None:
    path.write_bytes(_repack(lambda entries: None))
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(10))


def test_a_key_that_is_no_name_is_refused(path: Path) -> None:
    torch.save({3: torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="a key is of int; names are accepted"):
        read_checkpoint(path)


def test_more_numbers_than_fit_as_float32_are_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"a": torch.ones(4000, dtype=torch.float16)}, path)
    assert read_checkpoint(path)["a"].numel() == 4000
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 15_999)
    with pytest.raises(CheckpointError, match="4000 numbers; at most 3999 are read"):
        read_checkpoint(path)


def test_a_file_beyond_any_checkpoint_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(CheckpointError, match=f"at most {MAX_BYTES} are read"):
        read_checkpoint(path)


def test_a_pickle_of_protocol_4_is_told_by_what_it_asks_for(path: Path) -> None:
    path.write_bytes(pickle.dumps(os.getcwd, protocol=4))
    with pytest.raises(CheckpointError, match=rf"it asks for {os.name}\.getcwd"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_name_that_torch_would_search_for_minutes_is_refused_at_once(
    path: Path, zipped: bool
) -> None:
    pickled = _finish(b"ctorch._ut" + b"]" * 20_000 + b"\nname\n")
    path.write_bytes(_repack(_replace_pickle(pickled)) if zipped else pickled)
    with pytest.raises(CheckpointError, match=r"asks for torch\._ut\]+\.\.\. \(20014 letters\)"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_too_many_steps_is_refused(
    path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_pickle, "MAX_OPCODES", 1000)
    pickled = _finish(b"N0" * 1000 + b"N")
    path.write_bytes(_repack(_replace_pickle(pickled)) if zipped else pickled)
    with pytest.raises(CheckpointError, match="more than 1000 steps"):
        read_checkpoint(path)


def _spoil_header(data: bytes) -> bytes:
    """The name in front of an entry is another one than in the archive's directory."""
    return data.replace(b"/data.pkl", b"/data*pkl", 1)


@pytest.mark.parametrize(
    "spoil", [_spoil_header, lambda data: data.replace(b"\x80\x02c", b"\x80\x02b")]
)
def test_what_cannot_be_looked_through_is_not_loaded(
    path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    """torch reads an archive with other eyes: it must not be what decides alone."""
    good = _repack(_replace_pickle(_finish(b"ctorch.Size\n" + b"x\n")))
    assert spoil(good) != good
    path.write_bytes(spoil(good))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(path)


def test_an_archive_behind_a_pickle_does_not_hide_it(path: Path) -> None:
    hostile = _finish(_call("builtins", "eval", _text(TOUCH)))
    path.write_bytes(hostile + _save({"a": torch.ones(1)}))
    with pytest.raises(CheckpointError, match=r"asks for builtins\.eval"):
        read_checkpoint(path)
    assert not (path.parent / CANARY).exists()
