"""A model folder of rife-ncnn-vulkan: `flownet.param` with `flownet.bin` beside it.

A folder of RIFE 1 to 3 holds two more networks, `contextnet` and `fusionnet`.

Source: rife-ncnn-vulkan rife.cpp, `RIFE::load`, which fixes the file names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.errors import FormatError
from surgery.formats.ncnn_bin import (
    WeightsRead,
    read_weights,
    refuse_failed_download,
    write_weights,
)
from surgery.formats.ncnn_param import MAX_FILE_CHARACTERS, NcnnGraph, parse, render
from surgery.output import new_folder

NETWORK = "flownet"
# Of three networks, the one that no other folder has.
SECOND_NETWORK = "contextnet"
PARAM, BIN = "param", "bin"
ENDINGS = (PARAM, BIN)


def read_model(folder: Path, network: str = NETWORK) -> tuple[NcnnGraph, WeightsRead]:
    """The graph of `folder` with its weights, and what reading them found.

    Raises:
        FormatError: a file is missing or breaks its format.
    """
    graph = parse(read_param_text(folder / f"{network}.param"), str(folder / f"{network}.param"))
    return graph, read_weights(graph, folder / f"{network}.bin")


def holds_three_networks(folder: Path) -> bool:
    """Whether a folder is one of three networks, RIFE 1 to 3."""
    return (folder / f"{SECOND_NETWORK}.param").exists()


def require_files(
    folder: Path, names: Sequence[str] = (NETWORK,), *, endings: Sequence[str] = ENDINGS
) -> None:
    """Refuse what is no model folder of these networks, as far as files of these endings go.

    Raises:
        FormatError: there is no folder, or files of it are missing.
    """
    files = {f"{name}.{end}": end for name in names for end in ENDINGS}
    lacking = [
        file for file, end in files.items() if end in endings and not (folder / file).is_file()
    ]
    if lacking:
        advice = "give the path of one"
        if len(lacking) < len(files) and all(files[file] == BIN for file in lacking):
            advice = "put the weights that belong to the .param beside it"
        raise FormatError(
            f"{folder}: {_describe_lack(folder, lacking)}; a model folder holds "
            f"{' and '.join(files)}: {advice}"
        )


def _describe_lack(folder: Path, lacking: Sequence[str]) -> str:
    if folder.is_dir():
        return f"no {' and no '.join(lacking)} in it"
    if folder.suffix == ".onnx" and folder.is_file():
        return "a file, which 'surgery translate' and 'surgery convert' make a folder of"
    return "a file" if folder.is_file() else "no such folder"


def read_param_text(path: Path) -> str:
    """The text of a `.param`.

    Raises:
        FormatError: the file is missing, too large, no UTF-8 text, or came of a download that
            failed.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_CHARACTERS:
            raise FormatError(f"{path}: {size} bytes; at most {MAX_FILE_CHARACTERS} are read")
        content = path.read_bytes()
        refuse_failed_download(content, path)
        return content.decode()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path}, byte {error.start}: not UTF-8 text; a .param is text (is this a .bin, or "
            "ncnn's binary .param.bin?)"
        ) from error


def write_model(
    folder: Path,
    graph: NcnnGraph,
    *,
    fp16: bool = True,
    network: str = NETWORK,
    force: bool = False,
) -> None:
    """Make `folder` with the two files of `graph`; it appears whole or not at all.

    Raises:
        FormatError: the graph has structural faults.
        SurgeryError: the weights cannot be written.
        OutputExists: `folder` exists and `force` is not set.
    """
    # Both are complete before the first byte is written.
    text, weights = render(graph), write_weights(graph, fp16)
    with new_folder(folder, force=force) as temporary:
        write_network(temporary, text, weights, network)


def write_network(folder: Path, text: str, weights: bytes, network: str = NETWORK) -> None:
    """Write the two files of one network into `folder`, a folder that is not yet in place."""
    (folder / f"{network}.param").write_text(text, encoding="utf-8", newline="\n")
    (folder / f"{network}.bin").write_bytes(weights)
