"""Does one form of a model compute what another does? Structure, then numbers, then a verdict."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.engines import Engine, Sample
from surgery.errors import EngineError, KernelMissing, ProofFailed
from surgery.progress import Progress, silent
from surgery.proof.compare import Comparison, Verdict, compare, judge
from surgery.proof.forms import DonorForm, Form, HubForm, open_folder
from surgery.proof.inputs import make_samples
from surgery.proof.ranges import find_overflows
from surgery.proof.statistics import measure_flows, pick_largest, too_small
from surgery.proof.structure import Finding
from surgery.proof.tolerances import PROVING_FLOW, Tolerance

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from surgery.proof.bisect import Bisection
    from surgery.proof.blame import Blame
    from surgery.sources.open_donor import OpenDonor
    from surgery.targets.make_ncnn import NcnnModel

Size = tuple[int, int]
Pair = tuple[Sample, "np.ndarray"]

INPUT_SEED = 1
TIMESTEPS = (0.25, 0.5)
# Smaller frames than these show the coarsest block a handful of pixels.
LEAST_WIDTH, LEAST_HEIGHT = 256, 192
# Neither is a multiple of any padding: the border has to be padded and cropped away. By less than
# the smallest padding there is: so runtimes, which pad to 32 at least, pad to the same size.
ODD_CUT = (7, 5)


RUNTIME = "rife-ncnn-vulkan"


@dataclasses.dataclass(frozen=True)
class Row:
    """One engine against the reference, for one frame.

    Attributes:
        engine: what ran, in words.
        reference: what it was compared with, in words.
        width: of the frame, in pixels.
        height: of the frame, in pixels.
        timestep: between 0 and 1.
        comparison: what was measured.
        tolerance: what was accepted.
        verdict: what follows.
        runs_in: the name of the engine, as `--engine` takes it.
    """

    engine: str
    reference: str
    width: int
    height: int
    timestep: float
    comparison: Comparison
    tolerance: Tolerance
    verdict: Verdict
    runs_in: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Exhibit:
    """What one engine computed where it was furthest from the reference.

    Attributes:
        row: the comparison.
        sample: what both computed from.
        wanted: the reference's frame, [1,3,H,W].
        found: the engine's.
    """

    row: Row
    sample: Sample
    wanted: np.ndarray
    found: np.ndarray


@dataclasses.dataclass
class Validation:
    """Everything that was found; `passed` is the verdict.

    Attributes:
        reference: what everything was compared with.
        rows: the comparisons.
        findings: faults of structure and blobs beyond fp16, each with the form it was found in.
        warnings: what weakens the verdict without changing it: engines that are not installed,
            flows too small to prove a warp, branches that the donor alone would have taken.
        bisection: where the two forms part, if that was asked for.
        exhibits: the worst frame of every engine, for a report.
        blame: who is at fault on this machine, if that was asked for or a runtime failed.
    """

    reference: str
    rows: list[Row] = dataclasses.field(default_factory=list)
    findings: list[tuple[str, Finding]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    bisection: Bisection | None = None
    exhibits: list[Exhibit] = dataclasses.field(default_factory=list)
    blame: Blame | None = None

    @property
    def passed(self) -> bool:
        """True when something was compared, nothing differs and no structure is at fault."""
        return bool(self.rows) and not self.findings and all(r.verdict.passed for r in self.rows)

    def has_right_folder(self) -> bool:
        """Whether plain ncnn computes the reference's frames, whatever runtimes make of them."""
        return self.has_run_ncnn() and all(
            row.verdict.passed for row in self.rows if row.runs_in == "ncnn"
        )

    def has_run_ncnn(self) -> bool:
        """Whether plain ncnn was among the engines, and ran."""
        return any(row.runs_in == "ncnn" for row in self.rows)

    def has_failed_runtime(self) -> bool:
        """Whether a rife-ncnn-vulkan gave another frame."""
        return any(not row.verdict.passed for row in self.rows if row.runs_in.startswith(RUNTIME))

    def complaints(self) -> list[str]:
        """Why it did not pass, one sentence each."""
        sentences = [f"{form}: {finding}" for form, finding in self.findings]
        sentences += [
            f"{row.engine}, {row.width}x{row.height}, t={row.timestep:g}: {row.verdict.sentence}"
            for row in self.rows
            if not row.verdict.passed
        ]
        if not self.rows:
            sentences.append("nothing was compared")
        return sentences

    def to_json(self) -> str:
        """Render as JSON; numbers that are not finite are null."""
        return (
            json.dumps(
                _finite(
                    {
                        "passed": self.passed,
                        "reference": self.reference,
                        "rows": [dataclasses.asdict(row) for row in self.rows],
                        "findings": [
                            {"form": form, "finding": str(finding)}
                            for form, finding in self.findings
                        ],
                        "warnings": self.warnings,
                        "blame": dataclasses.asdict(self.blame) if self.blame else None,
                        "bisection": self.bisection.to_facts() if self.bisection else None,
                    }
                ),
                indent=2,
                default=str,
            )
            + "\n"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def refuse_failed(validation: Validation) -> None:
    """Turn a verdict into an error.

    Raises:
        ProofFailed: the validation did not pass; the message lists why.
    """
    if not validation.passed:
        listed = "\n".join(f"  {sentence}" for sentence in validation.complaints()[:12])
        raise ProofFailed(f"the conversion differs from {validation.reference}:\n{listed}")


def choose_sizes(padding: int) -> tuple[Size, Size]:
    """Two frame sizes (width, height): multiples of the padding, and not."""
    width = math.ceil(LEAST_WIDTH / padding) * padding
    height = math.ceil(LEAST_HEIGHT / padding) * padding
    return (width, height), (width - ODD_CUT[0], height - ODD_CUT[1])


def validate_forms(
    reference: Form,
    candidates: Sequence[Form],
    *,
    engines: Sequence[str] = (),
    sizes: Sequence[Size] = (),
    timesteps: Sequence[float] = TIMESTEPS,
    progress: Progress = silent,
) -> Validation:
    """Compare forms of one model with a reference.

    A folder with fp16 weights is compared with the reference whose weights are rounded in the
    same way, as strictly as one with fp32 weights; rife-ncnn-vulkan's own frames, which have 8
    bits, with the reference as it is.

    Args:
        reference: runs in its most trusted engine.
        candidates: run in their default engines, and in those of `engines` that they have.
        engines: names of engines; empty for the defaults.
        sizes: of the frames, (width, height) in pixels; empty for two that suit the padding.
        timesteps: between 0 and 1.
        progress: called with one line for each step.

    Raises:
        EngineError: an engine that was asked for is not there or did not run.
    """
    for name in engines:
        _refuse_unknown(name, [reference, *candidates])
    own, *others = _chosen(reference, engines) or reference.engines[:1]
    samples = make_samples(sizes or choose_sizes(reference.padding), timesteps, INPUT_SEED)
    contest = _Contest(reference, own, samples, progress)
    for form in (reference, *candidates):
        contest.check_structure(form)
    for name in others:
        contest.judge(reference, name)
    for form in candidates:
        for name in _chosen(form, engines) or form.engines:
            contest.judge_if_sound(form, name)
    return contest.validation


def _chosen(form: Form, engines: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in engines if name in (*form.engines, *form.more_engines))


def _refuse_unknown(name: str, forms: Sequence[Form]) -> None:
    known = dict.fromkeys(one for form in forms for one in (*form.engines, *form.more_engines))
    if name not in known:
        raise EngineError(
            f"engine {name!r} runs none of the given forms; accepted: {', '.join(known)}"
        )


class _Contest:
    """Runs engines on the same samples, against one reference, and notes what comes out."""

    def __init__(
        self, reference: Form, engine: str, samples: Sequence[Sample], progress: Progress
    ) -> None:
        self.validation = Validation(reference.label)
        self._reference = reference
        self._engine = engine
        self._samples = samples
        self._progress = progress
        # The reference's frames by its weights: as they are, or rounded as a folder's options do.
        self._truths: dict[str, list[np.ndarray]] = {}

    def check_structure(self, form: Form) -> None:
        self._progress(f"checking the structure of {form.label}")
        found = form.check_structure(self._reference.warps)
        self.validation.findings += [(form.label, finding) for finding in found]

    def judge(self, form: Form, name: str, *, few: bool = False) -> None:
        """Compare one engine with the reference, rounded where that is the fair comparison.

        `few` takes one sample of each size, with the timesteps in turn.
        """
        against, truth = self._find_truth(form, name)
        tolerance = form.tolerance(name)
        engine = form.make_engine(name)
        pairs = list(zip(self._samples, truth, strict=True))
        if few:
            pairs = _pick_each_size(pairs)
        frames = self._run(engine, [sample for sample, _ in pairs])
        # Only ncnn measures its blobs.
        overflows = find_overflows(getattr(engine, "largest", {}))
        self.validation.findings += [(form.label, overflow) for overflow in overflows]
        exhibits = []
        for (sample, wanted), found in zip(pairs, frames, strict=True):
            comparison = compare(wanted, found)
            height, width = sample.in0.shape[-2:]
            row = Row(
                f"{form.label}: {engine.name}",
                against,
                width,
                height,
                sample.timestep,
                comparison,
                tolerance,
                judge(comparison, tolerance),
                runs_in=name,
            )
            self.validation.rows.append(row)
            exhibits.append(Exhibit(row, sample, wanted, found))
        self.validation.exhibits.append(max(exhibits, key=_order_exhibits))

    def judge_if_sound(self, form: Form, name: str, *, few: bool = False) -> None:
        """As `judge`; where the structure is at fault already, an engine may refuse the model."""
        try:
            self.judge(form, name, few=few)
        except EngineError as error:
            if form.label not in [label for label, _ in self.validation.findings]:
                raise
            self._warn(f"not run: {error}")

    def _find_truth(self, form: Form, name: str) -> tuple[str, list[np.ndarray]]:
        against = self._engine
        rounded = form.is_fp16 and name == "ncnn"
        if rounded:
            against += ", weights rounded to fp16" + (" after --fast" if form.is_fast else "")
            against += " beside --keep-betas" if form.keeps_betas else ""
        if against not in self._truths:
            source = self._reference
            if rounded:
                source = source.round_weights(form.is_fast, form.keeps_betas)
            self._truths[against] = self._run(source.make_engine(self._engine), self._samples)
        return against, self._truths[against]

    def _run(self, engine: Engine, samples: Sequence[Sample]) -> list[np.ndarray]:
        self._progress(f"running {engine.name} on {len(samples)} frames")
        frames = engine.run(samples)
        # Only torch shows its flows, and where its source would have branched otherwise.
        for decision in getattr(engine, "overruled", ()):
            self._warn(
                f"torch alone would have taken another branch than the model has: {decision.words}"
            )
        measured = [measure_flows(flows) for flows in getattr(engine, "flows", ())]
        complaint = too_small(pick_largest(measured, PROVING_FLOW), PROVING_FLOW)
        if complaint:
            self._warn(f"the flows may be too small to prove the warps: {complaint}")
        return frames

    def _warn(self, sentence: str) -> None:
        if sentence not in self.validation.warnings:
            self.validation.warnings.append(sentence)


def _order_exhibits(exhibit: Exhibit) -> tuple[bool, float]:
    """The failed before the passed, then by the largest difference; NaN is none."""
    error = exhibit.row.comparison.max_abs
    return not exhibit.row.verdict.passed, error if math.isfinite(error) else math.inf


def _pick_each_size(pairs: Sequence[Pair]) -> list[Pair]:
    groups: dict[tuple[int, ...], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair[0].in0.shape, []).append(pair)
    return [group[index % len(group)] for index, group in enumerate(groups.values())]


def prove_conversion(
    opened: OpenDonor | Form,
    hub: onnx.ModelProto,
    made: NcnnModel,
    scratch: Path,
    *,
    sizes: Sequence[Size] = (),
    timesteps: Sequence[float] = (),
    progress: Progress = silent,
) -> Validation:
    """Prove a conversion in every engine that is there.

    The donor in torch is the reference, or another form of the model where that is all there is.
    The hub runs in onnxruntime, the folder in ncnn with
    fp32 weights and as it was made, and in rife-ncnn-vulkan on CPU and Vulkan. What is not
    installed is named in a warning; only torch, onnxruntime and ncnn are required.

    The kernel and the folder in ncnn run at every size and timestep. The rest, which runs the same
    two graphs by other means, runs once at each size, with the timesteps in turn.
    """
    donor = opened if isinstance(opened, Form) else DonorForm(opened)
    hub_form = HubForm(hub, "hub")
    folder = open_folder(_write(made, scratch / "model"))
    folder.label = "fp16 folder" if folder.is_fp16 else "folder"
    timesteps = timesteps or donor.timesteps or TIMESTEPS
    samples = make_samples(sizes or choose_sizes(donor.padding), timesteps, INPUT_SEED)
    contest = _Contest(donor, donor.engines[0], samples, progress)
    contest.validation.warnings += () if isinstance(opened, Form) else opened.notes
    contest.check_structure(hub_form)
    contest.check_structure(folder)
    for name in HubForm.engines:
        try:
            contest.judge_if_sound(hub_form, name, few=name != hub_form.engines[0])
        except KernelMissing as error:
            # The function body alone computes the same, and runs as well.
            contest.validation.warnings.append(f"not run: {error}")
    if folder.is_fp16:
        exact = dataclasses.replace(made, options=dataclasses.replace(made.options, fp16=False))
        form = open_folder(_write(exact, scratch / "fp32"))
        form.label = "fp32 twin"
        contest.judge_if_sound(form, "ncnn", few=True)
    contest.judge_if_sound(folder, "ncnn")
    for name in folder.more_engines:
        try:
            contest.judge(folder, name, few=True)
        except EngineError as error:
            # A runtime that is not installed here is no fault of the model.
            contest.validation.warnings.append(f"not run: {error}")
    return contest.validation


def _write(made: NcnnModel, folder: Path) -> Path:
    folder.mkdir()
    made.write(folder)
    return folder
