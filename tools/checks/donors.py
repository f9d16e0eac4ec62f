"""Real checkouts, given by path, against what they compute by themselves in torch.

Each argument is what `surgery convert` takes as a donor: a file, a `train_log` folder or a
checkout, as `NAME=PATH` to give it a name of its own. Each gets calibrated random weights, is
converted, and every form of it is compared with the unmodified source: with a call of its own
forward as its authors call it, and then in onnxruntime, ncnn and rife-ncnn-vulkan. The table that
comes out is Markdown. A donor that is refused is told with the reason, and is no fault.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from checks import resume
from checks.resume import Case, Result
from surgery import conversion
from surgery.errors import ProofFailed, SurgeryError
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import KERNEL_FP32
from surgery.sources.branches import ChosenBranches
from surgery.sources.call_forward import FIXED_TIMESTEP
from surgery.sources.open_donor import OpenDonor, Weights, open_donor

if TYPE_CHECKING:
    from surgery.proof.validate import Validation

SEED = 1
TIMESTEP = 0.3
BY_HAND = "by hand"
# A folder's name tells a runtime its mode, and how far to pad.
FOLDERS = {32: "rife-v4", 64: "rife-v4.26", 128: "rife-v4.25-lite"}
NETWORKS_FOLDERS = {"v1": "rife", "v2": "rife-v2"}
# The columns of the table: heading, how the engine's name begins, and which figure counts.
COLUMNS = (
    ("onnxruntime", "hub: onnxruntime, native", "max_abs"),
    ("ncnn, fp32", "fp32 twin: ncnn", "max_abs"),
    ("runtime on CPU, dB", "fp16 folder: rife-ncnn-vulkan, CPU", "psnr"),
    ("runtime on Vulkan, dB", "fp16 folder: rife-ncnn-vulkan, Vulkan", "psnr"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)
    parser.add_argument("donors", nargs="+", metavar="[NAME=]PATH", help="what to convert")


def run(arguments: argparse.Namespace) -> int:
    """Convert, compare and print; 1 when anything differs by more than its tolerance."""
    results = resume.run_cases(make_cases(arguments.donors), measure, arguments)
    if arguments.list:
        return 0
    print(*format_table(results), sep="\n")
    faults = [fault for name, result in results.items() for fault in find_faults(name, result)]
    print(*faults, sep="\n")
    print(f"{len(results)} donors, {len(faults)} faults")
    return 1 if faults or not results else 0


def make_cases(donors: Iterable[str]) -> list[Case]:
    """One case for each donor; what its folder holds is part of it."""
    cases = []
    for donor in donors:
        name, _, path = donor.rpartition("=")
        name = name or "-".join(Path(path).parts[-2:])
        cases.append(Case(name, {"path": path, "sources": _hash_python(Path(path))}))
    return cases


def _hash_python(path: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def measure(case: Case) -> Result:
    """Convert one donor.

    Returns:
        What it is and its worst figures by column, or `refused` with the reason.
    """
    donor = case.settings["path"]
    try:
        opened = open_donor(donor, Weights(random_seed=SEED))
        with tempfile.TemporaryDirectory(prefix="donor") as scratch:
            folder = Path(scratch) / name_folder(opened.network.padding, opened.network.kind)
            _, validation = conversion.convert(donor, folder, random_weights=SEED)
    except ProofFailed as failure:
        return {"failed": str(failure)}
    except SurgeryError as refusal:
        return {"refused": str(refusal)}
    assert validation is not None  # only proof=False leaves it out
    network = opened.network
    return {
        "label": opened.donor.label,
        "like": network.architecture.name if network.architecture else "",
        "scales": [f"{entry:g}" for entry in network.scale_list],
        "warps": network.warp_count,
        "timestep": network.timestep,
        "lent warp": network.lacks_warp,
        "warnings": validation.warnings,
        "figures": {BY_HAND: call_by_hand(opened), **_find_worst(validation)},
    }


def name_folder(padding: int, kind: str = "v4") -> str:
    """A name by which runtimes pad far enough, or the one that pads furthest.

    For three networks, the name by which runtimes know how they play together.
    """
    if kind in NETWORKS_FOLDERS:
        return NETWORKS_FOLDERS[kind]
    return next((name for most, name in FOLDERS.items() if padding <= most), FOLDERS[128])


@torch.no_grad()
def call_by_hand(opened: OpenDonor) -> float:
    """How far our way of calling a forward is from its authors', who give it a number for a time.

    Networks that take a plane of timesteps are called with one by their authors, too.
    """
    network = opened.network
    padding = network.padding
    fixed = FIXED_TIMESTEP if network.timestep != "plane" else TIMESTEP
    (sample,) = make_samples([(3 * padding, 2 * padding)], [fixed], SEED)
    in0, in1 = torch.from_numpy(sample.in0), torch.from_numpy(sample.in1)
    plane = torch.full_like(in0[:, :1], fixed)
    timestep: object = plane if network.calling.timestep == "plane" else fixed
    arguments = network.calling.arguments(network.net, in0, in1, timestep, has_own_warp=True)
    with ChosenBranches():
        result: Any = network.net(**arguments)
        for index in network.calling.image:
            result = result[index]
        return float((result - network(in0, in1, plane)).abs().max())


def _find_worst(validation: Validation) -> dict[str, float]:
    """The worst figure of every column that was measured."""
    worst: dict[str, float] = {}
    for heading, engine, figure in COLUMNS:
        rows = [row for row in validation.rows if row.engine.startswith(engine)]
        values = [float(getattr(row.comparison, figure)) for row in rows]
        if values:
            worst[heading] = min(values) if figure == "psnr" else max(values)
    return worst


def find_faults(name: str, result: Result) -> list[str]:
    """What is wrong with a donor's result; a refusal is not."""
    for kind in ("failed", "error"):
        if kind in result:
            return [f"{name}: {result[kind]}"]
    by_hand = result.get("figures", {}).get(BY_HAND, 0.0)
    if not by_hand <= KERNEL_FP32.bound:
        return [f"{name}: its authors' own call gives another frame, by {by_hand:.2g}"]
    return []


def format_table(results: Mapping[str, Result]) -> list[str]:
    """The results as a table in Markdown."""
    headings = ("donor", "network", "warps", "timestep", BY_HAND, *(c[0] for c in COLUMNS))
    lines = [_format_row(headings), _format_row(["---"] * len(headings))]
    for name, result in results.items():
        if "figures" in result:
            lines.append(_format_row(_describe(name, result)))
            continue
        kind, reason = next(iter(result.items()))
        lines.append(_format_row([name, f"{kind}: {reason.splitlines()[0]}"]))
    return lines


def _describe(name: str, result: Result) -> list[str]:
    figures = result["figures"]
    like = f", as RIFE {result['like']}" if result["like"] else ""
    return [
        name,
        f"{result['label']}{like}; {', '.join(result['scales'])}",
        str(result["warps"]),
        result["timestep"],
        f"{figures[BY_HAND]:.1g}",
        *(
            "" if heading not in figures else _format_figure(figures[heading], figure)
            for heading, _, figure in COLUMNS
        ),
    ]


def _format_figure(value: float, figure: str) -> str:
    return f"{value:.1f}" if figure == "psnr" else f"{value:.1e}"


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
