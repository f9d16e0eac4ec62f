"""ncnn's weights, the `.bin` file: read, written and, for a graph without any, made up.

A `.bin` has no header and no names: arrays follow each other in layer order, and only the graph
tells their sizes. All numbers are little-endian.

Source: ncnn modelbin.cpp (`ModelBinFromDataReader::load`) and each layer's `load_model`.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgery.errors import FormatError, SurgeryError, TruncatedFile
from surgery.formats.ncnn_layers import (
    LAYER_TYPES,
    WeightArray,
)
from surgery.formats.ncnn_param import Layer, NcnnGraph

TAG_FLOAT32 = 0x00000000
TAG_FLOAT16 = 0x01306B47
TAG_INT8 = 0x000D4B38
TAG_FLOAT32_FOR_INT8 = 0x0002C056
_TAG_BYTES = 4
_ALIGNMENT = 4
MAX_BYTES = 2**31  # the largest RIFE has 70 MB


@dataclass(frozen=True)
class WeightsRead:
    """What `read_weights` found; a file that fits its graph has no trailing bytes."""

    trailing_bytes: int
    float16_arrays: int
    float32_arrays: int


def list_weights(layer: Layer) -> tuple[WeightArray, ...]:
    """The weight arrays of a layer, in file order.

    Raises:
        FormatError: the layer's type is not in `ncnn_layers`, or its sizes do not fit each other.
    """
    known = LAYER_TYPES.get(layer.type)
    if known is None:
        raise FormatError(
            f"{_describe(layer)}: a layer type whose weights are not known; known are "
            f"{', '.join(sorted(LAYER_TYPES))}"
        )
    try:
        return known.list_weights(layer.params)
    except FormatError as reason:
        raise FormatError(f"{_describe(layer)}: {reason}") from None


def _describe(layer: Layer) -> str:
    return f"{layer.type} {layer.name}"


# ---- reading -----------------------------------------------------------------------------------


def read_weights(graph: NcnnGraph, data: bytes | Path, source: str = "<bin>") -> WeightsRead:
    """Fill `weights` of every layer of `graph` with float32 arrays.

    `source` names the file in errors (a `data` path names itself). Trailing bytes are counted, not
    refused: ncnn ignores them, yet they mean that `.param` and `.bin` do not belong together.

    Raises:
        TruncatedFile: the file ends before the last layer has its weights.
        FormatError: the file is unreadable, came of a download that failed, or holds int8 or
            table-quantised weights.
    """
    if isinstance(data, Path):
        path, source = data, str(data)
        data = _read_file(path)
        refuse_failed_download(data, path)
    reader = _Reader(data, source)
    for layer in graph.layers:
        layer.weights = {array.name: reader.read(layer, array) for array in list_weights(layer)}
    return WeightsRead(len(data) - reader.offset, reader.float16_arrays, reader.float32_arrays)


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FormatError(f"{path}: {size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error


# How what is no model begins, where a download brought something else.
FAILED_DOWNLOADS = {
    b"version https://git-lfs": "a pointer of Git LFS; run 'git lfs pull' where it came from",
    b"<!doctype": "a page of HTML; download the file itself",
    b"<html": "a page of HTML; download the file itself",
}


def refuse_failed_download(content: bytes, path: Path) -> None:
    """Refuse what stands in the place of a `.param` or `.bin` that was not downloaded.

    Raises:
        FormatError: with what it is and what to do.
    """
    start = content[:64].removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for beginning, what in FAILED_DOWNLOADS.items():
        if start.startswith(beginning):
            raise FormatError(f"{path}: {what}")


class _Reader:
    def __init__(self, data: bytes, source: str) -> None:
        self.data = data
        self.source = source
        self.offset = 0
        self.float16_arrays = 0
        self.float32_arrays = 0

    def read(self, layer: Layer, array: WeightArray) -> np.ndarray:
        """The next array, as float32; `layer` and `array` also name it in errors."""
        what = f"{_describe(layer)}, {array.name} {array.shape}"
        count = math.prod(array.shape)
        if array.tagged and self.read_tag(what) == TAG_FLOAT16:
            self.float16_arrays += 1
            values = np.frombuffer(self.take(_align(2 * count), what), "<f2", count)
        else:
            self.float32_arrays += 1
            values = np.frombuffer(self.take(4 * count, what), "<f4", count)
        return values.astype(np.float32).reshape(array.shape)

    def read_tag(self, what: str) -> int:
        tag = int.from_bytes(self.take(_TAG_BYTES, what), "little")
        if tag in (TAG_FLOAT32, TAG_FLOAT16):
            return tag
        meaning = (
            "int8 weights"
            if tag in (TAG_INT8, TAG_FLOAT32_FOR_INT8)
            else ("a table of 256 values, or a .bin that does not belong to this .param")
        )
        raise FormatError(
            f"{self.source}, byte {self.offset - _TAG_BYTES}: {what}: tag {tag:#010x} means "
            f"{meaning}; float32 ({TAG_FLOAT32:#010x}) and float16 ({TAG_FLOAT16:#010x}) are read"
        )

    def take(self, size: int, what: str) -> bytes:
        end = self.offset + size
        if end > len(self.data):
            raise TruncatedFile(
                f"{self.source}, byte {self.offset}: {what} needs {size} bytes, and "
                f"{len(self.data) - self.offset} are left; the file is cut short, or was made for "
                "another .param"
            )
        taken = self.data[self.offset : end]
        self.offset = end
        return taken


def _align(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


# ---- writing -----------------------------------------------------------------------------------


def write_weights(graph: NcnnGraph, fp16: bool = True) -> bytes:
    """The bytes of a `.bin`.

    With `fp16` the tagged arrays (kernels) are rounded to float16; bare ones (biases, slopes,
    constants) have no tag to say so and stay float32.

    Raises:
        SurgeryError: arrays that are missing, misshapen or not finite once rounded; all of them
            are listed.
    """
    faults: list[str] = []
    parts: list[bytes] = []
    for layer in graph.layers:
        arrays = list_weights(layer)
        faults += _find_name_faults(layer, arrays)
        for array in arrays:
            values = _round_weights(layer, array, fp16, faults)
            parts += _encode_array(array, values)
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults)
        raise SurgeryError(f"{len(faults)} weight array(s) cannot be written:\n{listed}")
    return b"".join(parts)


def _find_name_faults(layer: Layer, arrays: tuple[WeightArray, ...]) -> Iterator[str]:
    expected = {array.name for array in arrays}
    for name in sorted(layer.weights.keys() - expected):
        accepted = ", ".join(sorted(expected)) or "none"
        yield f"{_describe(layer)}: has an array {name}; the layer takes {accepted}"


def _round_weights(layer: Layer, array: WeightArray, fp16: bool, faults: list[str]) -> np.ndarray:
    values = layer.weights.get(array.name)
    if values is None or values.shape != array.shape:
        found = "missing" if values is None else f"of shape {values.shape}"
        faults.append(f"{_describe(layer)}: {array.name} is {found}; its shape is {array.shape}")
        return np.zeros(0, "<f4")
    element = "<f2" if fp16 and array.tagged else "<f4"
    with np.errstate(over="ignore"):  # an overflow is reported below, with its layer
        rounded = values.astype(element)
    if not np.isfinite(rounded).all():
        faults.append(_describe_overflow(layer, array, values, rounded))
    return rounded


def _describe_overflow(
    layer: Layer, array: WeightArray, values: np.ndarray, rounded: np.ndarray
) -> str:
    where = np.argwhere(~np.isfinite(rounded))
    value = values[tuple(where[0])]
    advice = "; write float32 weights (--fp32) instead" if np.isfinite(values).all() else ""
    return (
        f"{_describe(layer)}: {array.name} has {len(where)} value(s) that are not finite as "
        f"{rounded.dtype.name}, the first {value} at {tuple(map(int, where[0]))}{advice}"
    )


def _encode_array(array: WeightArray, values: np.ndarray) -> Iterator[bytes]:
    content = values.tobytes()
    if array.tagged:
        tag = TAG_FLOAT16 if values.dtype.itemsize == 2 else TAG_FLOAT32
        yield tag.to_bytes(_TAG_BYTES, "little")
    yield content
    yield bytes(_align(len(content)) - len(content))
