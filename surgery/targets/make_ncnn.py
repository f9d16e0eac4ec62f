"""Hub model in, ncnn model out: the passes for a runtime, the translation, what ncnn wants."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from surgery.errors import HubError, RuntimeRefused
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_folder import NETWORK, write_network
from surgery.formats.ncnn_param import NcnnGraph, render
from surgery.formats.ncnn_splits import insert_splits
from surgery.hub import networks
from surgery.hub.model import HubMetadata, HubModel
from surgery.output import FACTS_FILE
from surgery.passes import pipeline
from surgery.passes.drop_identities import drop_identities
from surgery.passes.fold_betas import fold_betas
from surgery.targets.dense_cost import measure_dense_cost
from surgery.targets.legalise.fuse_activations import fuse_activations
from surgery.targets.legalise.merge_crops import merge_crops
from surgery.targets.legalise.name_flows import name_flows
from surgery.targets.legalise.negate_flow import negate_flow
from surgery.targets.legalise.widen_convolutions import widen_convolutions
from surgery.targets.runtimes import RUNTIMES, Runtime, find_runtime, refuse_graph
from surgery.targets.to_ncnn import translate_graph

# Beside the two files that runtimes read; they never look at it.
GROUPED = "ConvolutionDepthWise"


@dataclasses.dataclass(frozen=True)
class NcnnOptions:
    """How to translate.

    Attributes:
        runtime: a name of `surgery.targets.runtimes`; None for every runtime that can run the
            model at all.
        fp16: store the weights of convolutions as fp16.
        keep_betas: leave ResConv's betas as MemoryData instead of folding them.
        fast: also run the passes that change rounding.
    """

    runtime: str | None = None
    fp16: bool = True
    keep_betas: bool = False
    fast: bool = False


@dataclasses.dataclass
class NcnnModel:
    """A translated model.

    Attributes:
        graph: layers and weights; of three networks, those of the first.
        metadata: what the hub said about itself.
        options: how it was translated.
        edits: how many edits each pass made.
        flows: the names of the blobs that TTA averages; empty when there are none.
        notes: what the choice of runtimes costs, in words.
        others: the other two of three networks, by the names of their files.
    """

    graph: NcnnGraph
    metadata: HubMetadata
    options: NcnnOptions
    edits: dict[str, int]
    flows: tuple[str, ...]
    notes: tuple[str, ...] = ()
    others: Mapping[str, NcnnGraph] = dataclasses.field(default_factory=dict)

    @property
    def networks(self) -> dict[str, NcnnGraph]:
        """All networks, by the names of their files."""
        return {NETWORK: self.graph, **self.others}

    def refusals(self) -> dict[str, str]:
        """For every known runtime why it cannot run the model; empty where it can."""
        return {name: self.refusal(runtime) for name, runtime in RUNTIMES.items()}

    def refusal(self, runtime: Runtime) -> str:
        """Say why a runtime cannot run the model, with a layer for each reason; empty if it can."""
        padding = self.metadata.padding
        reasons = (refuse_graph(runtime, graph, padding) for graph in self.networks.values())
        return "; ".join(dict.fromkeys(filter(None, reasons)))

    def to_facts(self) -> str:
        """Render what is known about the model as JSON, the same for the same model."""
        facts = {
            "model": dataclasses.asdict(self.metadata),
            "options": dataclasses.asdict(self.options),
            "edits": {name: count for name, count in self.edits.items() if count},
            "flows": self.flows,
            "runtimes": {name: reason or "runs" for name, reason in self.refusals().items()},
        }
        return json.dumps(facts, indent=2) + "\n"

    def write(self, folder: Path) -> None:
        """Write the files into an empty folder that is not in place yet."""
        for name, graph in self.networks.items():
            write_network(folder, render(graph), write_weights(graph, self.options.fp16), name)
        (folder / FACTS_FILE).write_text(self.to_facts(), encoding="utf-8", newline="\n")


def make_ncnn(model: HubModel, options: NcnnOptions) -> NcnnModel:
    """Translate an open hub model; its graph is rewritten on the way.

    Raises:
        RuntimeRefused: the runtime lacks a layer or a padding that the model needs; the message
            names layer and reason.
        UnsupportedOp: ncnn cannot express some nodes.
        HubError: the betas are to be kept and are folded already.
    """
    runtime = find_runtime(options.runtime) if options.runtime else None
    if runtime is not None:
        # A checkout is asked for by its path, which is no business of those who get the model.
        options = dataclasses.replace(options, runtime=runtime.name)
    if options.keep_betas:
        _refuse_keep_betas(model, runtime, options)
    passes = choose_passes(runtime, options)
    notes = _describe_costs(model, passes, options)
    edits = pipeline.run_passes(model, passes)
    flows: dict[str, str] = {}
    if model.metadata.kind in networks.KINDS:
        translated = translate_networks(model)
        legal = {name: _legalise(graph, runtime) for name, graph in translated.items()}
    else:
        flows = name_flows(model)
        legal = {NETWORK: _legalise(translate_graph(model, flows), runtime)}
    graph = legal.pop(NETWORK)
    made = NcnnModel(
        graph, model.metadata, options, edits, tuple(sorted(flows.values())), notes, legal
    )
    if runtime is not None:
        reason = made.refusal(runtime)
        if reason:
            raise RuntimeRefused(f"{runtime.name} ({runtime.description}): {reason}")
    return made


def translate_networks(model: HubModel) -> dict[str, NcnnGraph]:
    """Translate an open hub model of three networks one by one, by the names of their files.

    Raises:
        UnsupportedOp: as `translate_graph`.
    """
    translated = {}
    for name, one in networks.cut_networks(model).items():
        # The translation knows no identities, which cost nothing anyway.
        drop_identities(one)
        translated[name] = translate_graph(one)
    if model.metadata.kind == "v1":
        negate_flow(translated[networks.CONTEXTNET])
    return translated


def _legalise(graph: NcnnGraph, runtime: Runtime | None) -> NcnnGraph:
    merge_crops(graph)
    fuse_activations(graph)
    if runtime is None or runtime.breaks_1x1_convolution:
        widen_convolutions(graph)
    insert_splits(graph)
    return graph


def _describe_costs(
    model: HubModel, passes: tuple[pipeline.Pass, ...], options: NcnnOptions
) -> tuple[str, ...]:
    if not set(pipeline.DENSE) & set(passes):
        return ()
    cost = measure_dense_cost(model)
    return (cost.describe(2 if options.fp16 else 4),) if cost is not None else ()


def choose_passes(runtime: Runtime | None, options: NcnnOptions) -> tuple[pipeline.Pass, ...]:
    """The passes that hold for a runtime and were asked for, in order."""
    passes = list(pipeline.PORTABLE)
    if runtime is None or runtime.clamped_inputs:
        passes = [*pipeline.CLAMPED_INPUTS, *passes]
    if options.fast:
        passes += pipeline.FAST
    if runtime is None or runtime.lacks([GROUPED]):
        passes += pipeline.DENSE
    if options.keep_betas:
        passes = [one for one in passes if one.run is not fold_betas]
    return tuple(passes)


def _refuse_keep_betas(model: HubModel, runtime: Runtime | None, options: NcnnOptions) -> None:
    if model.metadata.folded_betas:
        raise HubError(
            "--keep-betas: this hub model's betas are folded already; export the donor again"
        )
    if options.fast:
        raise RuntimeRefused("--keep-betas and --fast exclude one another: --fast folds the betas")
    if runtime is None or runtime.lacks(["MemoryData"]):
        able = [name for name, one in RUNTIMES.items() if not one.lacks(["MemoryData"])]
        raise RuntimeRefused(
            f"--keep-betas needs MemoryData, which {runtime.name if runtime else 'the default'} "
            f"does not have; name one that does with --runtime: {', '.join(able)}"
        )
