"""Examine a model folder: every fault, which runtimes it hits, and what they do then.

What runtimes do was read in their sources and, for crashes, tried: the `load` of rife-ncnn-vulkan
returns 0 whatever happened, so most faults show as a crash later on, or as a wrong picture.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import FormatError, RuntimeRefused, SurgeryError, TruncatedFile
from surgery.formats.ncnn_bin import read_weights
from surgery.formats.ncnn_folder import (
    NETWORK,
    PARAM,
    holds_three_networks,
    read_param_text,
    require_files,
)
from surgery.formats.ncnn_layers import LAYER_TYPES, BinaryOp, BinaryOpType, Kind, read_int
from surgery.formats.ncnn_param import (
    FaultKind,
    Layer,
    NcnnGraph,
    ParamFault,
    parse_with_faults,
)
from surgery.formats.ncnn_shapes import NOMINAL_SIZE, infer_shapes
from surgery.formats.ncnn_splits import restore_splits
from surgery.hub import networks
from surgery.hub.model import MAX_PADDING, V4_OUTPUT
from surgery.proof.forms import find_kind, guess_padding
from surgery.proof.structure import (
    WARP_LAYER,
    Finding,
    FindingKind,
    check_ncnn_structure,
    check_networks_structure,
    count_network_warps,
)
from surgery.targets.check_tta import TtaKind, judge_tta
from surgery.targets.folder_names import PATH_RULES, V4, refuse_folder_path
from surgery.targets.runtimes import RUNTIMES, Runtime, find_refusals

if TYPE_CHECKING:
    from surgery.hub.model import HubModel

# Until it is there, nobody can tell what else can be repaired.
MISSING_BIN = "missing bin"
# Of two names, as difflib counts it: two letters that changed places in a short one.
LEAST_LIKENESS = 0.85


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a folder.

    Attributes:
        kind: a name for it, always the same: `missing split`, `short bin`, ...
        what: what was found, and where.
        effect: what a runtime makes of it.
        runtimes: names of those that it hits.
        repairable: whether `repair` can mend it.
        harmless: whether the runtimes run the folder all the same, and give the right picture.
        is_limit: whether this is how the network is: harmless, and nobody can change it.
    """

    kind: str
    what: str
    effect: str
    runtimes: tuple[str, ...]
    repairable: bool = False
    harmless: bool = False
    is_limit: bool = False


@dataclasses.dataclass
class Examination:
    """What was found in a folder.

    Attributes:
        folder: its name.
        faults: everything that is wrong.
        graph: what the `.param` means, with its weights; None where nobody can tell.
        runtimes: names of those that were asked about.
        kind: `v4` for one network, `v1` or `v2` for three (`surgery.hub.networks`); of three,
            `graph` is None.
        padding: what frames have to be padded to, as far as the graph tells.
    """

    folder: str
    faults: list[Fault] = dataclasses.field(default_factory=list)
    graph: NcnnGraph | None = None
    runtimes: tuple[str, ...] = ()
    kind: str = V4
    padding: int = networks.PADDING

    def to_facts(self) -> dict[str, Any]:
        """Everything that was found, as JSON can say it."""
        return {
            "folder": self.folder,
            "faults": [dataclasses.asdict(fault) for fault in self.faults],
            "runtimes": {name: reason or "runs" for name, reason in self.verdicts().items()},
        }

    def verdicts(self) -> dict[str, str]:
        """For each runtime that was asked about why it cannot run the folder; empty if it can."""
        return {
            name: "; ".join(
                dict.fromkeys(
                    one.kind for one in self.faults if name in one.runtimes and not one.harmless
                )
            )
            for name in self.runtimes
        }

    def group_faults(self) -> list[list[Fault]]:
        """The faults, those together that differ in no more than where they are."""
        groups: dict[tuple[object, ...], list[Fault]] = {}
        for one in self.faults:
            groups.setdefault(dataclasses.astuple(dataclasses.replace(one, what="")), []).append(
                one
            )
        return list(groups.values())

    def refuse_name(self, folder: Path) -> None:
        """Refuse a folder to write the model to that all runtimes which were asked about misread.

        Raises:
            RuntimeRefused: with a name that works.
        """
        reasons = [
            refuse_folder_path(str(folder.resolve()), self.padding, name, self.kind)
            for name in self.runtimes
            if name in PATH_RULES
        ]
        if reasons and all(reasons):
            raise RuntimeRefused(f"{folder}: {reasons[0]}")

    @property
    def is_healthy(self) -> bool:
        """Whether nothing was found but limits of the network itself."""
        return all(one.is_limit for one in self.faults)


def examine(folder: Path, runtimes: Sequence[Runtime] = ()) -> Examination:
    """Examine a folder of one network or three for some runtimes, by default for all known.

    Nothing is written, and nothing of the folder is run.

    Raises:
        FormatError: there is no folder, or no `.param` in it.
    """
    chosen = tuple(runtimes) or tuple(RUNTIMES.values())
    names = tuple(one.name for one in chosen)
    found = Examination(folder.name, runtimes=names)
    path = folder / f"{NETWORK}.param"
    # A `.bin` that is missing is a fault that is told among the others.
    require_files(folder, endings=(PARAM,))
    if holds_three_networks(folder):
        return _examine_networks(folder, chosen, found)
    try:
        text = read_param_text(path)
        graph, misreadings = parse_with_faults(text, path.name)
    except FormatError as error:
        found.faults.append(_describe_unreadable(error, names))
        return found
    found.graph = graph
    # First, because wrong counts come with it.
    found.faults += _restore_splits(graph, names)
    found.faults += [_describe_misreading(one, names) for one in misreadings]
    found.faults += _examine_values(graph, names)
    mend_values(graph)
    found.faults += _examine_weights(graph, folder / f"{NETWORK}.bin", names)
    found.faults += _examine_structure(graph, names)
    found.faults += _examine_placeholders(graph, names)
    found.faults += _examine_spelling(graph, names)
    hub, reason = _import(graph)
    padding = found.padding = _find_padding(graph, hub)
    found.faults += _examine_output(hub, reason, found.faults, names)
    found.faults += _examine_tta(graph, hub, names)
    for runtime in chosen:
        found.faults += _examine_layers(graph, runtime)
        found.faults += _examine_broadcasts(graph, runtime)
        found.faults += _examine_name(runtime, padding, folder, V4)
    found.faults = _merge(found.faults)
    if hub is None:  # repairing starts with the import
        found.faults = [dataclasses.replace(one, repairable=False) for one in found.faults]
    return found


def _describe_unreadable(error: FormatError, names: tuple[str, ...]) -> Fault:
    effect = "what cannot be read is left out, and the runtime dies of it"
    return Fault("unreadable param", str(error), effect, names)


def _examine_networks(folder: Path, chosen: Sequence[Runtime], found: Examination) -> Examination:
    """As `examine`, for a folder of three networks; what belongs to one is said of it by name."""
    names, graphs = found.runtimes, {}
    for network in networks.NETWORKS:
        path = folder / f"{network}.param"
        try:
            graph, misreadings = parse_with_faults(read_param_text(path), path.name)
        except FormatError as error:
            found.faults.append(_describe_unreadable(error, names))
            continue
        graphs[network] = graph
        own = [*_restore_splits(graph, names)]
        own += [_describe_misreading(one, names) for one in misreadings]
        own += _examine_values(graph, names)
        mend_values(graph)
        own += _examine_weights(graph, folder / f"{network}.bin", names)
        own += _examine_placeholders(graph, names)
        own += _examine_spelling(graph, names)
        for runtime in chosen:
            own += _examine_layers(graph, runtime)
        found.faults += [dataclasses.replace(one, what=f"{network}: {one.what}") for one in own]
    if networks.CONTEXTNET in graphs:
        found.kind = find_kind(graphs[networks.CONTEXTNET])
    if len(graphs) == len(networks.NETWORKS):
        findings = check_networks_structure(graphs, found.kind, count_network_warps(graphs))
        is_unknown = any(_find_unknown_types(graph) for graph in graphs.values())
        found.faults += [
            _describe_finding(finding, names)
            for finding in findings
            if not (is_unknown and finding.kind is FindingKind.SHAPES)
        ]
        hub, reason = _import(graphs)
        found.faults += _examine_output(hub, reason, found.faults, names)
    for runtime in chosen:
        found.faults += _examine_name(runtime, networks.PADDING, folder, found.kind)
    # What is repaired is a folder of one network.
    found.faults = [dataclasses.replace(one, repairable=False) for one in _merge(found.faults)]
    return found


def _merge(faults: Sequence[Fault]) -> list[Fault]:
    """One fault for all runtimes that it is said of."""
    merged: dict[tuple[str, str], Fault] = {}
    for one in faults:
        key = (one.kind, one.what)
        if key in merged:
            names = (
                *merged[key].runtimes,
                *(n for n in one.runtimes if n not in merged[key].runtimes),
            )
            one = dataclasses.replace(merged[key], runtimes=names)
        merged[key] = one
    return list(merged.values())


# ---- text and values ---------------------------------------------------------------------------

# What a misreading is called here, and what ncnn makes of it.
MISREADINGS = {
    FaultKind.LAYER_COUNT: (
        "wrong counts",
        "layers are missing or read from beyond the file's end",
    ),
    FaultKind.BLOB_COUNT: ("wrong counts", "ncnn writes past the end of its table and dies"),
    FaultKind.LONG_VALUE: ("long value", "ncnn reads another number, or a key of its own"),
    FaultKind.KEY_TWICE: ("key twice", "ncnn takes the last"),
    FaultKind.NEW_ARRAY: ("new array", "ncnn before 2025 refuses the layer and dies"),
    FaultKind.MIXED_ARRAY: ("mixed array", "one of them is read as another number"),
    FaultKind.LONG_NAME: ("long name", "names are cut, and blobs are not found"),
}


def _describe_misreading(misreading: ParamFault, names: tuple[str, ...]) -> Fault:
    kind, effect = MISREADINGS.get(misreading.kind, ("misread text", "ncnn reads something else"))
    return Fault(kind, misreading.what, effect, names, repairable=True)


def _examine_values(graph: NcnnGraph, names: tuple[str, ...]) -> Iterator[Fault]:
    for layer, key, value in _misread_values(graph):
        what = f"{layer.type} {layer.name}: key {key} is the integer {value}; a float is expected"
        effect = "it reads as nearly 0, the float with the same bits"
        yield Fault("float without a point", what, effect, names, repairable=True)


def _misread_values(graph: NcnnGraph) -> Iterator[tuple[Layer, int, int]]:
    for layer in graph.layers:
        known = LAYER_TYPES.get(layer.type)
        for param in known.params if known else ():
            value = layer.params.get(param.spec.key)
            if param.spec.kind is Kind.FLOAT and isinstance(value, int):
                yield layer, param.spec.key, value


def mend_values(graph: NcnnGraph) -> int:
    """Make floats of the integers that stand where ncnn reads a float; returns how many."""
    found = list(_misread_values(graph))
    for layer, key, value in found:
        layer.params[key] = float(value)
    return len(found)


# ---- weights -----------------------------------------------------------------------------------


def _examine_weights(graph: NcnnGraph, path: Path, names: tuple[str, ...]) -> Iterator[Fault]:
    if not path.is_file():
        what = f"{path.name} is missing; put the one that belongs to the .param beside it"
        yield Fault(MISSING_BIN, what, "it dies at the first frame", names)
        return
    if _find_unknown_types(graph):
        return  # nobody here knows which weights they read; `_examine_output` says so
    try:
        read = read_weights(graph, path)
    except FormatError as error:
        kind = "short bin" if isinstance(error, TruncatedFile) else "wrong bin"
        effect = "builds of 2022 die at load, later ones compute with anything"
        yield Fault(kind, _without_folder(str(error), path), effect, names)
        return
    for layer in graph.layers:
        for name, values in layer.weights.items():
            if count := int(np.count_nonzero(~np.isfinite(values))):
                what = f"{layer.type} {layer.name}: {count} of {values.size} values of {name}"
                effect = "frames turn black or white from there on"
                yield Fault("values that are no numbers", what, effect, names)
    if read.trailing_bytes:
        what = f"{path.name}: {read.trailing_bytes} bytes are left after the last layer"
        effect = "ignored; the two files may not belong together"
        yield Fault("long bin", what, effect, names, repairable=True, harmless=True)


def _without_folder(text: str, path: Path) -> str:
    return text.replace(str(path), path.name)


def _find_unknown_types(graph: NcnnGraph) -> set[str]:
    """Layer types of ncnn, or of nobody, that no table here has."""
    return {layer.type for layer in graph.layers} - set(LAYER_TYPES)


# ---- structure ---------------------------------------------------------------------------------


def _examine_structure(graph: NcnnGraph, names: tuple[str, ...]) -> Iterator[Fault]:
    warps = sum(layer.type == WARP_LAYER for layer in graph.layers)
    unknown = _find_unknown_types(graph)
    for finding in check_ncnn_structure(graph, warps, has_timestep=_has_input(graph, "in2")):
        if not (unknown and finding.kind is FindingKind.SHAPES):
            yield _describe_finding(finding, names)


# Of findings that can be mended: the kind of fault, what runtimes make of it, and that.
FINDINGS = {
    FindingKind.MISSING_SPLIT: ("missing split", "it dies at the first frame", True),
    FindingKind.FLOW_CHANNELS: (
        "flow channels",
        "a count that is a multiple of 4 is packed on Vulkan and read as noise",
        True,
    ),
}


def _describe_finding(finding: Finding, names: tuple[str, ...]) -> Fault:
    kind, effect, repairable = FINDINGS.get(
        finding.kind, ("broken graph", "it dies, or computes another picture", False)
    )
    return Fault(kind, str(finding), effect, names, repairable)


def _restore_splits(graph: NcnnGraph, names: tuple[str, ...]) -> Iterator[Fault]:
    """Splits that the graph's names tell of; they are put back, as the file meant it."""
    for split in restore_splits(graph):
        (blob,) = split.inputs
        readers = [
            f"{one.type} {one.name}" for one in graph.layers if {*one.inputs} & {*split.outputs}
        ]
        more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
        what = (
            f"no Split makes {', '.join(split.outputs)} of {blob}; {readers[0]}{more} would read it"
        )
        yield Fault("missing split", what, "it dies at load or at the first frame", names, True)


def _examine_spelling(graph: NcnnGraph, names: tuple[str, ...]) -> Iterator[Fault]:
    for unknown, meant in _find_misspelt(graph).items():
        (layer, *others) = (one.name for one in graph.layers if one.type == unknown)
        more = f", and {len(others)} more" if others else ""
        what = f"{unknown} ({layer}{more}) is no layer type known here; did you mean {meant}?"
        yield Fault("unknown layer", what, "it dies at load if there is none of that name", names)


def _find_misspelt(graph: NcnnGraph) -> dict[str, str]:
    """Layer types that look like a known one; what is longer is another, as Convolution1D."""
    meant = {}
    for unknown in sorted(_find_unknown_types(graph)):
        close = difflib.get_close_matches(unknown, LAYER_TYPES, n=1, cutoff=LEAST_LIKENESS)
        if close and close[0] not in unknown:
            meant[unknown] = close[0]
    return meant


def _examine_placeholders(graph: NcnnGraph, names: tuple[str, ...]) -> Iterator[Fault]:
    for layer in graph.layers:
        is_power = (
            layer.type == "BinaryOp"
            and read_int(layer.params, BinaryOp.OP_TYPE) == BinaryOpType.POW
            and len(layer.inputs) == 2
        )
        if is_power:
            what = f"BinaryOp {layer.name}: a power of two blobs, the placeholder of a {WARP_LAYER}"
            yield Fault("placeholder of a warp", what, "it computes a power", names, True)


def _has_input(graph: NcnnGraph, name: str) -> bool:
    return any(layer.type == "Input" and name in layer.outputs for layer in graph.layers)


def _import(graphs: NcnnGraph | Mapping[str, NcnnGraph]) -> tuple[HubModel | None, str]:
    """One network, or three by name, as a hub model; None, and why, where that fails."""
    from surgery.sources.from_ncnn import import_graph, import_networks

    try:
        if isinstance(graphs, NcnnGraph):
            return import_graph(graphs, label=""), ""
        return import_networks(graphs, label=""), ""
    except SurgeryError as error:
        return None, str(error)
    except KeyError:
        return None, "there are weights that could not be read"


def _find_padding(graph: NcnnGraph, hub: HubModel | None) -> int:
    """What frames have to be padded to, as the hub knows it or else as the graph looks."""
    if hub is not None:
        return hub.metadata.padding
    try:
        return guess_padding(graph)
    except FormatError:
        return MAX_PADDING  # and more, which no runtime pads to


# Faults that leave nothing to import: that no hub model could be made is a part of them.
EXPLAIN_NO_IMPORT = {MISSING_BIN, "short bin", "wrong bin", "broken graph", "unknown layer"}


def _examine_output(
    hub: HubModel | None, reason: str, faults: Sequence[Fault], names: tuple[str, ...]
) -> Iterator[Fault]:
    from surgery.diagnosis.bound_values import bound_values

    if hub is None:
        if EXPLAIN_NO_IMPORT.isdisjoint(one.kind for one in faults):
            effect = f"it may be right; whether {V4_OUTPUT} can go below 0 is not known"
            yield Fault("not examined", " ".join(reason.split()), effect, names)
    elif bound_values(hub.graph)[V4_OUTPUT].low < 0:
        yield Fault(
            "negative output",
            f"{V4_OUTPUT} can go below 0: no Clip, and no blend of the frames by a mask in 0..1",
            "Vulkan turns what is negative into white",
            tuple(name for name in names if name != "ncnn"),
            repairable=True,
        )


def _examine_tta(graph: NcnnGraph, hub: HubModel | None, names: tuple[str, ...]) -> Iterator[Fault]:
    tta = judge_tta(graph)
    what = f"TTA {tta.sentence}"
    if tta.kind is TtaKind.WRONG:
        effect = "-x and -z average what is no flow; everything else is right"
        yield Fault("flow layout", what, effect, names, repairable=True)
    if tta.kind is not TtaKind.UNNAMED:
        return  # of shapes that do not fit, it is said elsewhere
    can_be_named = hub is not None and _can_name_flows(hub)
    effect = (
        "-x and -z give less than they could; everything else is right"
        if can_be_named
        else "-x and -z average frames alone; everything else is right"
    )
    yield Fault(
        "missing flow names",
        what,
        effect,
        names,
        repairable=can_be_named,
        harmless=True,
        is_limit=not can_be_named,
    )


def _can_name_flows(hub: HubModel) -> bool:
    """Whether a translation finds the blocks' raw outputs: in some graphs only passes show them."""
    from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

    try:
        return judge_tta(make_ncnn(hub, NcnnOptions()).graph).kind is TtaKind.FLOWS
    except SurgeryError:
        return False


def _examine_layers(graph: NcnnGraph, runtime: Runtime) -> Iterator[Fault]:
    misspelt = _find_misspelt(graph)
    for one in find_refusals(runtime, graph):
        if one.layer_type in misspelt:
            continue
        yield Fault(one.kind, one.what, one.effect, (runtime.name,), repairable=True)


def _examine_broadcasts(graph: NcnnGraph, runtime: Runtime) -> Iterator[Fault]:
    """Of two operands, ncnn of 2022 stretches one (binaryop.cpp)."""
    if runtime.is_recent:
        return
    try:
        shapes = infer_shapes(graph, NOMINAL_SIZE, NOMINAL_SIZE)
    except FormatError:
        return  # a fault of its own
    for layer in graph.layers:
        if layer.type == "BinaryOp" and len(layer.inputs) == 2:
            operands, made = [shapes[blob] for blob in layer.inputs], shapes[layer.outputs[0]]
            if made not in operands:
                what = f"BinaryOp {layer.name}: of {operands} neither has the result's shape {made}"
                effect = (
                    "ncnn before 2025 expects one of the full shape: another picture, or a crash"
                )
                yield Fault("two stretched operands", what, effect, (runtime.name,))


def _examine_name(runtime: Runtime, padding: int, folder: Path, kind: str) -> Iterator[Fault]:
    if runtime.name in PATH_RULES:
        fault = refuse_folder_path(str(folder.resolve()), padding, runtime.name, kind)
        if fault:
            effect = "it runs as another kind of network, or corrupts memory"
            yield Fault("folder name", fault, effect, (runtime.name,))
