"""Cut a blob once: sibling Crops that share out its channels become one Slice."""

from __future__ import annotations

from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_param import Layer, NcnnGraph


def merge_crops(graph: NcnnGraph) -> int:
    """Replace the Crops of one blob by one Slice; returns how many Crops went.

    Exact when: they are the blob's only readers and their channel ranges, put in order, follow
    one another from 0; the blob then needs no Split either.
    """
    crops: dict[str, list[Layer]] = {}
    for layer in graph.layers:
        if layer.type == "Crop" and _range(layer) is not None:
            crops.setdefault(layer.inputs[0], []).append(layer)
    readers = graph.count_consumers()
    replaced: dict[int, Layer | None] = {}
    for blob, siblings in crops.items():
        if len(siblings) > 1 and readers[blob] == len(siblings) and _share_out(siblings):
            replaced |= dict.fromkeys((id(sibling) for sibling in siblings), None)
            # In the place of the first one: the blob exists there, and no reader comes earlier.
            replaced[id(siblings[0])] = _make_slice(blob, siblings)
    layers = (replaced.get(id(layer), layer) for layer in graph.layers)
    graph.layers = [layer for layer in layers if layer is not None]
    return sum(1 for layer in replaced.values() if layer is None)


def _range(crop: Layer) -> tuple[int, int] | None:
    """The channels that a Crop keeps, None when it crops anything else."""
    if ncnn.read_ints(crop.params, ncnn.Crop.AXES) != [0]:
        return None
    (start,) = ncnn.read_ints(crop.params, ncnn.Crop.STARTS)
    (end,) = ncnn.read_ints(crop.params, ncnn.Crop.ENDS)
    return start, end


def _share_out(crops: list[Layer]) -> bool:
    expected = 0
    for start, end in sorted(_range(crop) or (-1, -1) for crop in crops):
        if start != expected:
            return False
        expected = end
    return True


def _make_slice(blob: str, crops: list[Layer]) -> Layer:
    ordered = sorted(crops, key=lambda crop: _range(crop) or (-1, -1))
    sizes = [end - start for start, end in (_range(crop) or (0, 0) for crop in ordered)]
    outputs = [crop.outputs[0] for crop in ordered]
    return Layer("Slice", f"{blob}.slice", [blob], outputs, {int(ncnn.Slice.SLICES): sizes})
