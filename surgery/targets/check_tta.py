"""Tell from an ncnn graph what rife-ncnn-vulkan's TTA does with it.

Source: rife-ncnn-vulkan rife.cpp, `process_v4`: the blobs flow0 to flow3 are taken out, averaged
and put back in; where a name is missing, nothing is said and that average is left out.
"""

from __future__ import annotations

import dataclasses
import enum

from surgery.errors import FormatError
from surgery.formats.ncnn_param import NcnnGraph
from surgery.formats.ncnn_shapes import infer_channels
from surgery.hub.blocks import LEAST_CHANNELS, PACKED

# flow0 to flow3: what the runtime knows of, however many blocks a network has.
FLOWS = tuple(f"flow{index}" for index in range(4))
RAW_MAKERS = ("Convolution", "Deconvolution", "PixelShuffle")
# A raw output is cut up or enlarged; what an activation or a convolution reads is none.
RAW_READERS = {"Crop", "Slice", "Interp"}


class TtaKind(enum.Enum):
    """What comes of -x and -z."""

    FLOWS = enum.auto()  # all flows that the runtime knows of are averaged
    UNNAMED = enum.auto()  # flows that have no name are not
    WRONG = enum.auto()  # what is averaged is no flow, or that of another block
    UNKNOWN = enum.auto()  # shapes do not fit


@dataclasses.dataclass(frozen=True)
class Tta:
    """What comes of -x and -z, and a sentence that says so."""

    kind: TtaKind
    sentence: str


def describe_tta(graph: NcnnGraph) -> str:
    """One sentence: whether -x and -z average flows, or only frames."""
    return judge_tta(graph).sentence


def judge_tta(graph: NcnnGraph) -> Tta:
    """Whether -x and -z average flows, or only frames."""
    try:
        channels = infer_channels(graph)
    except FormatError as error:
        return Tta(TtaKind.UNKNOWN, f"unknown: {error}")
    found = [name for name in FLOWS if name in channels]
    if not found:
        sentence = "averages only its output: no blob is called flow0 to flow3"
        return Tta(TtaKind.UNNAMED, sentence)
    if fault := _find_wrong_flow(graph, channels, found):
        return Tta(TtaKind.WRONG, fault)
    blocks = count_raw_outputs(graph, channels)
    missing = [name for name in FLOWS[:blocks] if name not in channels]
    if missing:
        sentence = f"averages some of its flows: no blob is called {', '.join(missing)}"
        return Tta(TtaKind.UNNAMED, sentence)
    if blocks > len(FLOWS):
        sentence = "averages the flows of its first 4 blocks; no runtime averages the fifth"
        return Tta(TtaKind.FLOWS, sentence)
    return Tta(TtaKind.FLOWS, "averages its flows")


def _find_wrong_flow(graph: NcnnGraph, channels: dict[str, int], found: list[str]) -> str:
    """What is wrong with the flows that have a name; empty where nothing is."""
    misread = [name for name in found if not _is_readable(channels[name])]
    if misread:
        name = misread[0]
        return f"wrong on Vulkan: {name} has {channels[name]} channels; 5, 6, 7, 9 ... are read"
    exchanged = _find_exchanged(graph)
    if exchanged:
        first, second = exchanged
        return f"wrong: {first} is made of {second}; a block's flow is made of those before it"
    return ""


def _find_exchanged(graph: NcnnGraph) -> tuple[str, str] | None:
    """A flow that a flow of a higher number goes into, and that one; None where there is none."""
    sources: dict[str, frozenset[str]] = {}
    for layer in graph.layers:
        found = frozenset().union(*(sources.get(blob, frozenset()) for blob in layer.inputs))
        for blob in layer.outputs:
            sources[blob] = found | {blob} & set(FLOWS)
    return next(
        (
            (first, second)
            for index, first in enumerate(FLOWS)
            for second in FLOWS[index + 1 :]
            if second in sources.get(first, ())
        ),
        None,
    )


def count_raw_outputs(graph: NcnnGraph, channels: dict[str, int]) -> int:
    """How many blobs look like the raw output of a block, by makers, readers and channels."""
    blobs = [layer.outputs[0] for layer in graph.layers if layer.type in RAW_MAKERS]
    readers = _find_readers(graph)
    return sum(
        _is_readable(channels[blob]) and readers.get(blob, set()) <= RAW_READERS for blob in blobs
    )


def _find_readers(graph: NcnnGraph) -> dict[str, set[str]]:
    """The types of the layers that read each blob, the copies of it included."""
    readers: dict[str, set[str]] = {}
    # From the back: what reads a copy is known before the Split that made it.
    for layer in reversed(graph.layers):
        found = {layer.type}
        if layer.type == "Split":
            found = set().union(*(readers.get(blob, set()) for blob in layer.outputs))
        for blob in layer.inputs:
            readers.setdefault(blob, set()).update(found)
    return readers


def _is_readable(channels: int) -> bool:
    return channels >= LEAST_CHANNELS and channels % PACKED != 0
