"""Split layers for blobs that several layers read.

ncnn frees a blob once its first reader has run, so each further reader needs a copy of its own.
Source: ncnn net.cpp, `NetPrivate::forward_layer`, light mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from surgery.formats.ncnn_param import MAX_NAME_BYTES, Layer, NcnnGraph

# Between a blob's name and the number of a copy (ncnn tools/onnx/onnx2ncnn.cpp).
COPY_MARK = "_splitncnn_"


def insert_splits(graph: NcnnGraph) -> int:
    """Give every blob one reader, by Splits right behind the producers; the number inserted.

    A blob keeps its name up to its Split, so that hosts find `flow0` and its kind as the single
    edge that everything downstream depends on. A second run inserts nothing.
    """
    readers = graph.count_consumers()
    shared = {blob for blob, number in readers.items() if number > 1}
    names = _Names(graph)
    copies: dict[str, Iterator[str]] = {}
    layers: list[Layer] = []
    inserted = 0
    for layer in graph.layers:
        layer.inputs = [next(copies[blob]) if blob in copies else blob for blob in layer.inputs]
        layers.append(layer)
        for blob in layer.outputs:
            if blob in shared and blob not in copies:
                split = Layer("Split", names.name_split(), [blob], [])
                split.outputs = [names.name_copy(blob) for _ in range(readers[blob])]
                copies[blob] = iter(split.outputs)
                layers.append(split)
                inserted += 1
    graph.layers[:] = layers
    return inserted


def restore_splits(graph: NcnnGraph) -> list[Layer]:
    """Put back Splits whose lines are gone, as the names of the copies that are read tell.

    ncnn's own tools and `insert_splits` call a copy of a blob by its name and a number, so what is
    read under such a name and made by no layer is a copy of that blob. Returns the new Splits.
    """
    producers = graph.find_producers()
    copies: dict[str, list[str]] = {}
    for blob in dict.fromkeys(blob for layer in graph.layers for blob in layer.inputs):
        stem, mark, number = blob.rpartition(COPY_MARK)
        if blob not in producers and mark and number.isdecimal() and stem in producers:
            copies.setdefault(stem, []).append(blob)
    names = _Names(graph)
    restored = {
        blob: Layer("Split", names.name_split(), [blob], made) for blob, made in copies.items()
    }
    graph.layers[:] = [
        one
        for layer in graph.layers
        for one in (layer, *(restored[blob] for blob in layer.outputs if blob in restored))
    ]
    return list(restored.values())


class _Names:
    """Names that the graph does not have yet."""

    def __init__(self, graph: NcnnGraph) -> None:
        self.blobs = {blob for layer in graph.layers for blob in (*layer.inputs, *layer.outputs)}
        taken = {layer.name for layer in graph.layers}
        self.splits = (name for n in count() if (name := f"splitncnn_{n}") not in taken)

    def name_split(self) -> str:
        return next(self.splits)

    def name_copy(self, blob: str) -> str:
        # A copy of a name near the limit is named without it.
        stem = blob if len(blob.encode()) < MAX_NAME_BYTES - 32 else "blob"
        name = next(name for n in count() if (name := f"{stem}{COPY_MARK}{n}") not in self.blobs)
        self.blobs.add(name)
        return name
