"""Read what a pickle would do, without doing any of it: the globals that it names.

`torch.load` refuses hostile pickles, but finds the words for it by regular expressions that take
minutes for a name of some thousands of characters. So pickles are looked through first.
"""

from __future__ import annotations

import dataclasses
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# How torch.save's archives begin; other files that hold a zip archive are none of its.
ARCHIVE_START = b"PK\x03\x04"
# The largest state dict takes some ten thousand.
MAX_OPCODES = 2_000_000
# Before zip archives torch wrote a magic number, a version, the machine, the content and its keys.
# Source: torch/serialization.py, `_legacy_save`.
LEGACY_PICKLES = 5
# What torch's archives call their pickle. miniz, which torch unpacks with, takes names in any case.
# Source: caffe2/serialize/inline_container.cc, `getRecordID`.
PICKLE = "data.pkl"


@dataclasses.dataclass(frozen=True)
class Scan:
    """What the pickles of a file hold.

    Attributes:
        names: the globals that they name, each once.
        fault: why the last of them cannot be read to its end; empty where all can.
    """

    names: tuple[str, ...]
    fault: str


def scan_pickle(path: Path) -> Scan:
    """Look through the pickles of a checkpoint, in torch's archive or at the start of a file."""
    names: dict[str, None] = {}
    strings = ["", ""]
    try:
        for count, (opcode, argument) in enumerate(_list_opcodes(path)):
            if count == MAX_OPCODES:
                return Scan(tuple(names), f"a pickle of more than {MAX_OPCODES} steps")
            if opcode == "GLOBAL":
                names[str(argument).replace(" ", ".")] = None
            elif opcode == "STACK_GLOBAL":
                names[".".join(strings)] = None
            elif isinstance(argument, str):
                strings = [strings[1], argument]
    # pickletools and zipfile raise many kinds for what is broken.
    except Exception as error:
        return Scan(tuple(names), str(error) or type(error).__name__)
    return Scan(tuple(names), "")


def _list_opcodes(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        is_archive = file.read(len(ARCHIVE_START)) == ARCHIVE_START
        file.seek(0)
        if not is_archive:
            for _ in range(LEGACY_PICKLES):
                yield from ((one.name, argument) for one, argument, _ in pickletools.genops(file))
            return
        with zipfile.ZipFile(file) as archive, archive.open(_find_pickle(archive)) as entry:
            yield from ((one.name, argument) for one, argument, _ in pickletools.genops(entry))


def _find_pickle(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    """The one pickle that torch can take for the content of its archive.

    Raises:
        ValueError: another reader may find another one.
    """
    entries = archive.infolist()
    if archive.comment or min((entry.header_offset for entry in entries), default=0):
        raise ValueError("an archive with something before its first entry or after its list")
    found = [entry for entry in entries if entry.filename.lower().endswith(PICKLE)]
    if len(found) != 1:
        raise ValueError(f"an archive with {len(found)} entries called {PICKLE}; one is accepted")
    return found[0]
