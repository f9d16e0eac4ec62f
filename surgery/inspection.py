"""Say what a model is made of, what a frame of it costs, and where it runs: the verb `inspect`.

Donors and hub models are counted as they stand, layer for layer as ncnn would have them, and not
as their conversion will be; where they run is told of the conversion.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.file_path import FilePath, to_path
from surgery.formats.ncnn_folder import NETWORK, holds_three_networks, read_param_text
from surgery.formats.ncnn_param import NcnnGraph, parse
from surgery.hub import networks
from surgery.progress import Progress, silent
from surgery.proof.structure import count_network_warps
from surgery.proof.traffic import measure_cost, measure_networks_cost
from surgery.sources.open_donor import Weights
from surgery.targets.check_tta import describe_tta
from surgery.targets.folder_names import V4, refuse_folder_path
from surgery.targets.runtimes import RUNTIMES, Runtime, find_runtime, refuse_graph

if TYPE_CHECKING:
    from rich.table import Table

    from surgery.hub.model import HubModel

# Full HD, before it is padded.
SIZE = (1920, 1080)
RUNS = "runs"
# rife.cpp, `RIFE::process`: the blob `flow` is averaged, whatever the networks are.
TTA_OF_THREE = "averages its flows"


@dataclasses.dataclass(frozen=True)
class _Opened:
    """What an inspection is made from.

    Attributes:
        label: what to call the model.
        form: which form it has.
        kind: `v4` for one network, `v1` or `v2` for three (`surgery.hub.networks`).
        graphs: the layers of its networks, as ncnn has them, by the names of their files.
        padding: what its frames are padded to.
        files: bytes by the name of each file.
        reasons: why each runtime asked for cannot run it; empty where it can.
        tta: what TTA does with it.
    """

    label: str
    form: str
    kind: str
    graphs: Mapping[str, NcnnGraph]
    padding: int
    files: Mapping[str, int]
    reasons: Mapping[str, str]
    tta: str


@dataclasses.dataclass(frozen=True)
class _Building:
    """How a donor is to be built; see `inspect`."""

    weights: Path | None
    scale: float
    ensemble: bool
    arch: str
    second_stage: bool


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What there is to know about one model.

    Attributes:
        label: what to call it.
        form: `model folder`, `hub model` or `donor`.
        layers: how many layers of ncnn's there are of each type.
        parameters: how many numbers the weights hold.
        files: bytes by the name of each file.
        padding: height and width of a frame are multiples of this many pixels.
        warps: how many warps one frame takes.
        width: of the frame that costs are told for, padded.
        height: of the same frame.
        multiply_adds: of one frame.
        traffic: bytes that one frame's layers read and write (`surgery.proof.traffic`).
        peak: the most bytes of blobs that live at one time.
        runtimes: for each runtime `runs`, or why it does not.
        tta: what TTA does with the model.
    """

    label: str
    form: str
    layers: Mapping[str, int]
    parameters: int
    files: Mapping[str, int]
    padding: int
    warps: int
    width: int
    height: int
    multiply_adds: int
    traffic: int
    peak: int
    runtimes: Mapping[str, str]
    tta: str


def inspect(
    first: FilePath,
    second: FilePath | None = None,
    *,
    weights: FilePath | None = None,
    scale: float = 1.0,
    ensemble: bool = False,
    arch: str = "",
    second_stage: bool = False,
    runtime: str | None = None,
    size: tuple[int, int] = SIZE,
    progress: Progress = silent,
) -> list[Inspection]:
    """Inspect a model, or two at one frame size.

    Args:
        first: a donor, a hub model, a model folder or a `.param` file.
        second: another, to put beside it.
        weights: a donor's checkpoint; without it the counts are those of its architecture.
        scale: as a donor is to be built.
        ensemble: as a donor is to be built.
        arch: the version of a bare weights file, where its tensors do not tell.
        second_stage: run the refinement that stock source of 4.0 to 4.4 has.
        runtime: tell of this runtime alone; a name, or the path of a checkout.
        size: width and height of the frame, padded for both models before anything is counted.
        progress: called with one line for each step.

    Raises:
        SurgeryError: one of them cannot be opened, or there is no such runtime.
    """
    weights = to_path(weights)
    judged = [find_runtime(runtime)] if runtime else list(RUNTIMES.values())
    texts = [os.fspath(text) for text in (first, second) if text is not None]
    building = _Building(weights, scale, ensemble, arch, second_stage)
    opened = []
    for text in texts:
        progress(f"opening {text}")
        opened.append(_open(text, judged, building))
    multiple = math.lcm(*(one.padding for one in opened))
    width, height = (-(-side // multiple) * multiple for side in size)
    return [_measure(one, width, height) for one in opened]


def _measure(opened: _Opened, width: int, height: int) -> Inspection:
    if opened.kind in networks.KINDS:
        cost = measure_networks_cost(opened.graphs, opened.kind, width, height)
    else:
        cost = measure_cost(opened.graphs[NETWORK], width, height)
    return Inspection(
        label=opened.label,
        form=opened.form,
        layers=cost.layers,
        parameters=cost.parameters,
        files=opened.files,
        padding=opened.padding,
        warps=count_network_warps(opened.graphs),
        width=width,
        height=height,
        multiply_adds=cost.multiply_adds,
        traffic=cost.traffic,
        peak=cost.peak,
        runtimes={name: reason or RUNS for name, reason in opened.reasons.items()},
        tta=opened.tta,
    )


def _open(text: str, judged: Sequence[Runtime], building: _Building) -> _Opened:
    path = Path(text)
    if path.suffix == ".onnx":
        from surgery.hub.model import load_hub

        return _open_hub(load_hub(path), path.name, "hub model", judged, {path.name: _size(path)})
    if holds_three_networks(path):
        return _open_networks(path, judged)
    if path.suffix == ".param" or (path / f"{NETWORK}.param").is_file():
        return _open_ncnn(path, judged)
    hub, label = _export(text, building)
    weights = building.weights
    files = {weights.name: _size(weights)} if weights is not None else {}
    return _open_hub(hub, label, "donor", judged, files)


def _size(path: Path) -> int:
    return path.stat().st_size


def _export(text: str, building: _Building) -> tuple[HubModel, str]:
    """Export a donor; without weights, as it was constructed: nothing here depends on them."""
    from surgery.sources import stock
    from surgery.sources.find_donor import find_donor
    from surgery.sources.from_torch import export_hub
    from surgery.sources.open_donor import open_donor

    weights, scale, ensemble = building.weights, building.scale, building.ensemble
    if weights is not None:
        opened = open_donor(
            text,
            Weights(weights),
            scale=scale,
            ensemble=ensemble,
            arch=building.arch,
            second_stage=building.second_stage,
        )
        donor, state = opened.donor, opened.state
    else:
        donor = find_donor(text, arch=building.arch)
        donor = dataclasses.replace(donor, second_stage=building.second_stage)
        state = stock.build_network(donor, scale=scale, ensemble=ensemble).read_state()
    hub = export_hub(
        donor, state, scale=scale, ensemble=ensemble, weights_label=weights.name if weights else ""
    )
    return hub, donor.label


def _open_hub(
    hub: HubModel, label: str, form: str, judged: Sequence[Runtime], files: Mapping[str, int]
) -> _Opened:
    from surgery.formats.ncnn_splits import insert_splits
    from surgery.hub.model import from_onnx
    from surgery.passes.drop_identities import drop_identities
    from surgery.targets.make_ncnn import NcnnOptions, make_ncnn, translate_networks
    from surgery.targets.to_ncnn import translate_graph

    converted = make_ncnn(from_onnx(hub.to_onnx()), NcnnOptions())
    if hub.metadata.kind in networks.KINDS:
        graphs = translate_networks(hub)
    else:
        # As of `translate_networks`.
        drop_identities(hub)
        graphs = {NETWORK: translate_graph(hub)}
    for graph in graphs.values():
        insert_splits(graph)
    return _Opened(
        label=label,
        form=form,
        kind=hub.metadata.kind,
        graphs=graphs,
        padding=hub.metadata.padding,
        files=files,
        reasons={one.name: converted.refusal(one) for one in judged},
        tta=describe_tta(converted.graph) if not converted.others else TTA_OF_THREE,
    )


def _open_networks(path: Path, judged: Sequence[Runtime]) -> _Opened:
    """Open a folder of three networks."""
    from surgery.proof.forms import find_kind

    params = [path / f"{name}.param" for name in networks.NETWORKS]
    graphs = {param.stem: _read_graph(param) for param in params}
    kind = find_kind(graphs[networks.CONTEXTNET])
    padding = _read_padding(path) or networks.PADDING
    return _Opened(
        label=path.name,
        form=f"model folder of three networks, RIFE {kind}",
        kind=kind,
        graphs=graphs,
        padding=padding,
        files=_list_files(params),
        reasons=_judge(path, kind, graphs, padding, judged),
        tta=TTA_OF_THREE,
    )


def _open_ncnn(path: Path, judged: Sequence[Runtime]) -> _Opened:
    from surgery.proof.forms import guess_padding

    param = path if path.suffix == ".param" else path / f"{NETWORK}.param"
    graph = _read_graph(param)
    graphs = {NETWORK: graph}
    padding = _read_padding(param.parent) or guess_padding(graph)
    return _Opened(
        label=path.name,
        form="model folder" if path.is_dir() else "param file",
        kind=V4,
        graphs=graphs,
        padding=padding,
        files=_list_files([param]),
        reasons=_judge(path, V4, graphs, padding, judged),
        tta=describe_tta(graph),
    )


def _read_graph(param: Path) -> NcnnGraph:
    """The layers of one network, with their weights where they lie beside it."""
    from surgery.formats.ncnn_bin import read_weights

    graph = parse(read_param_text(param), str(param))
    weights = param.with_suffix(".bin")
    if weights.is_file():
        read_weights(graph, weights)
    return graph


def _list_files(params: Sequence[Path]) -> dict[str, int]:
    files = [file for param in params for file in (param, param.with_suffix(".bin"))]
    return {file.name: _size(file) for file in files if file.is_file()}


def _judge(
    path: Path,
    kind: str,
    graphs: Mapping[str, NcnnGraph],
    padding: int,
    judged: Sequence[Runtime],
) -> dict[str, str]:
    """Why each runtime cannot run a folder, or a `.param` file; empty where it can."""
    reasons = {}
    for one in judged:
        said = [refuse_graph(one, graph, padding) for graph in graphs.values()]
        reason = "; ".join(dict.fromkeys(filter(None, said)))
        if not reason and path.is_dir() and one.name in RUNTIMES:
            reason = refuse_folder_path(str(path.resolve()), padding, one.name, kind)
        reasons[one.name] = reason
    return reasons


def _read_padding(folder: Path) -> int | None:
    """As a conversion wrote beside the model; None where none did."""
    from surgery.proof.forms import read_facts

    padding: int | None = read_facts(folder).get("model", {}).get("padding")
    return padding


def to_json(inspections: Sequence[Inspection]) -> str:
    """A list with one object for each model."""
    return json.dumps([dataclasses.asdict(one) for one in inspections], indent=2) + "\n"


def make_table(inspections: Sequence[Inspection]) -> Table:
    """Make a table of 80 columns or less: a line for each fact, a column for each model."""
    from rich.table import Table

    table = Table(width=80, show_lines=False)
    table.add_column("", overflow="fold", ratio=3)
    for one in inspections:
        table.add_column(one.label, overflow="fold", ratio=5)
    for name, values in _list_facts(inspections):
        table.add_row(name, *values, end_section=name in _LAST_OF_SECTION)
    return table


_LAST_OF_SECTION = ("padding", "peak memory", "all layers", "TTA")


def _list_facts(inspections: Sequence[Inspection]) -> list[tuple[str, list[str]]]:
    facts = [
        ("form", [one.form for one in inspections]),
        ("files", ["\n".join(_describe_files(one)) or "-" for one in inspections]),
        ("parameters", [f"{one.parameters:,}" for one in inspections]),
        ("warps", [str(one.warps) for one in inspections]),
        ("padding", [str(one.padding) for one in inspections]),
        ("one frame of", [f"{one.width}x{one.height}" for one in inspections]),
        ("multiply-adds", [f"{one.multiply_adds / 1e9:.2f} G" for one in inspections]),
        ("memory traffic", [f"{one.traffic / 1e9:.3f} GB" for one in inspections]),
        ("peak memory", [f"{one.peak / 1e6:.1f} MB" for one in inspections]),
    ]
    kinds = sorted({kind for one in inspections for kind in one.layers})
    facts += [(kind, [str(one.layers.get(kind, 0)) for one in inspections]) for kind in kinds]
    facts += [
        ("all layers", [str(sum(one.layers.values())) for one in inspections]),
        ("TTA", [one.tta for one in inspections]),
    ]
    for name in inspections[0].runtimes:
        facts.append((name, [one.runtimes[name] for one in inspections]))
    return facts


def _describe_files(one: Inspection) -> list[str]:
    return [f"{name} {size / 1e6:.2f} MB" for name, size in one.files.items()]
