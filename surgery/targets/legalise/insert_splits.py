"""Give every blob one reader: ncnn's light mode frees a blob after its first use."""

from __future__ import annotations

from surgery.formats.ncnn_param import Layer, NcnnGraph


def insert_splits(graph: NcnnGraph) -> int:
    """Insert a Split behind every blob with several readers; returns how many were inserted."""
    readers = graph.count_consumers()
    copies: dict[str, list[str]] = {}
    layers: list[Layer] = []
    inserted = 0
    for layer in graph.layers:
        layer.inputs = [copies[blob].pop(0) if blob in copies else blob for blob in layer.inputs]
        layers.append(layer)
        for blob in layer.outputs:
            if readers[blob] > 1:
                names = [f"{blob}.{index}" for index in range(readers[blob])]
                copies[blob] = list(names)
                layers.append(Layer("Split", f"{blob}.split", [blob], names))
                inserted += 1
    graph.layers = layers
    return inserted
