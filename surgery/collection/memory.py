"""How much memory a task takes, counted from what it works on: so many workers fit a machine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from surgery.collection.plan import HUB_SUFFIX, Recipe, hash_file
from surgery.errors import SurgeryError
from surgery.formats.ncnn_bin import list_weights
from surgery.formats.ncnn_param import NcnnGraph, parse
from surgery.proof.forms import NetworksFolderForm, open_folder
from surgery.proof.traffic import BYTES, GraphCost, measure_cost, measure_networks_cost
from surgery.sources.architectures import find_architecture
from surgery.sources.checkpoint import SUFFIXES
from surgery.sources.find_donor import PREFIX

# Measured, worker and runtime together, over a conversion and its proof: 1197 MB at 10.5 MB of
# weights (4.15.lite) and 2486 MB at 86.7 MB (4.25.heavy). The rest is torch, onnxruntime and a
# runtime as they are loaded, with the blobs of a proof's small frames.
CONVERSION_BYTES = 1_050_000_000
WEIGHT_COPIES = 18
# Measured: a process that has loaded torch holds 265 MB, and a worker the donor's weights three
# times; ncnn beside it 42 MB, and its weights four times.
SCORE_BYTES = 400_000_000
SCORE_COPIES = 7
# Convolutions unfold and transform what they read. Measured in torch and ncnn, at 256x256 and
# 960x576: 3.7 to 4.7 times the peak of the graph, which counts blobs alone.
WORKSPACE = 5


def count_conversion(recipes: Iterable[Recipe]) -> int:
    """The most bytes that converting and proving one of the recipes takes; 0 for none."""
    weights = max((count_weights(one) for one in recipes), default=None)
    return 0 if weights is None else CONVERSION_BYTES + WEIGHT_COPIES * weights


def count_weights(recipe: Recipe) -> int:
    """The bytes of a recipe's weights as fp32, as its files or its architecture tell.

    Whatever precision a file has, the conversion and its proof compute in fp32.
    """
    if recipe.random_weights is None:
        files = recipe.weights_files or recipe.files.values()
        return sum(map(_count_file, files)) * BYTES
    known = find_architecture(recipe.donor.removeprefix(PREFIX))
    donor = PREFIX + known.versions[0] if known else str(Path(recipe.root or "", recipe.donor))
    return _count_parameters(donor) * BYTES


def _count_file(path: Path) -> int:
    """How many numbers the weights in a file are; 0 for one that holds none."""
    count = COUNTERS.get(path.suffix)
    try:
        return 0 if count is None else _count_content(count, path, hash_file(path))
    except (SurgeryError, OSError, UnicodeDecodeError):
        # Whoever converts it will say why.
        return 0


@functools.cache
def _count_content(count: Callable[[Path], int], path: Path, _sha256: str) -> int:
    return count(path)


def _count_checkpoint(path: Path) -> int:
    from surgery.sources.checkpoint import read_checkpoint

    return sum(tensor.numel() for tensor in read_checkpoint(path).values())


def _count_hub(path: Path) -> int:
    from surgery.hub.model import read_onnx

    return sum(math.prod(tensor.dims) for tensor in read_onnx(path).graph.initializer)


def _count_graph(path: Path) -> int:
    """What a `.param` says that its `.bin` holds."""
    graph = parse(path.read_text(encoding="utf-8"), str(path))
    return sum(math.prod(one.shape) for layer in graph.layers for one in list_weights(layer))


# By what a file is called; a donor's other files, source and `.bin` among them, hold or tell none.
COUNTERS: Mapping[str, Callable[[Path], int]] = {
    **dict.fromkeys(SUFFIXES, _count_checkpoint),
    HUB_SUFFIX: _count_hub,
    ".param": _count_graph,
}


@functools.cache
def _count_parameters(donor: str) -> int:
    from surgery.sources.find_donor import find_donor
    from surgery.sources.stock import build_network

    try:
        state = build_network(find_donor(donor)).read_state()
    except SurgeryError:
        # Whoever converts it will say why.
        return 0
    return sum(tensor.numel() for tensor in state.values())


def count_folder(folder: Path, padding: int, size: tuple[int, int]) -> int:
    """The bytes that scoring a frame of a model folder takes, of three networks as of one.

    Units: padding, width and height in pixels.

    Raises:
        SurgeryError: the folder is no model folder, or its layers do not fit each other.
    """
    width, height = (-(-side // padding) * padding for side in size)
    form = open_folder(folder)
    if isinstance(form, NetworksFolderForm):
        return _count_score(measure_networks_cost(form.graphs, form.kind, width, height))
    return count_frame(form.graph, width, height)


def count_frame(graph: NcnnGraph, width: int, height: int) -> int:
    """The bytes that scoring a frame of a model folder's network takes: a worker and its runtime.

    Units: width and height in pixels, padded already.
    """
    return _count_score(measure_cost(graph, width, height))


def _count_score(cost: GraphCost) -> int:
    return SCORE_BYTES + SCORE_COPIES * BYTES * cost.parameters + WORKSPACE * cost.peak
