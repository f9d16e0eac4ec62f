"""Does one form of a model compute what another does? Structure, then numbers, then a verdict."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.engines import Engine, Sample
from surgery.errors import EngineDied, EngineError, KernelMissing, ProofCutShort, ProofFailed
from surgery.progress import Progress, silent
from surgery.proof.compare import Comparison, Verdict, compare, judge
from surgery.proof.flows import read_flows
from surgery.proof.forms import (
    ON_CPU,
    ON_VULKAN,
    RUNTIME,
    Form,
    HubForm,
    Rounding,
    choose_rounding,
    open_folder,
)
from surgery.proof.inputs import make_samples
from surgery.proof.ranges import find_overflows
from surgery.proof.statistics import FlowStatistics, measure_flows, pick_largest, too_small
from surgery.proof.structure import Finding
from surgery.proof.tolerances import (
    LOWERED_FP16,
    NCNN_FP16_WEIGHTS,
    PROVING_FLOW,
    RUNTIME_CPU_FP16_WEIGHTS,
    RUNTIME_VULKAN,
    Tolerance,
)

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from surgery.proof.bisect import Bisection
    from surgery.proof.blame import Blame
    from surgery.targets.make_ncnn import NcnnModel

Size = tuple[int, int]

INPUT_SEED = 1
TIMESTEPS = (0.25, 0.5)
# Smaller frames than these show the coarsest block a handful of pixels.
LEAST_WIDTH, LEAST_HEIGHT = 256, 192
# Neither is a multiple of any padding: the border has to be padded and cropped away. By less than
# the smallest padding there is: so runtimes, which pad to 32 at least, pad to the same size.
ODD_CUT = (7, 5)
# Where two forms were rounded to fp16 in different ways, rounding is all that can be bounded.
ROUNDED_APART = {ON_CPU: RUNTIME_CPU_FP16_WEIGHTS, ON_VULKAN: RUNTIME_VULKAN}


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
        runs_in: the name of the engine, as `--engine` takes it; empty where the row tells what
            rounding costs.
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
        found: the engine's; None where it died of the samples.
    """

    row: Row
    sample: Sample
    wanted: np.ndarray
    found: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class FrameFlows:
    """The flows of the reference on one frame.

    Attributes:
        width: of the frame, in pixels.
        height: of the frame, in pixels.
        timestep: between 0 and 1.
        warps: what was measured, in the order of the warps.
    """

    width: int
    height: int
    timestep: float
    warps: tuple[FlowStatistics, ...]


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
        flows: those of the reference at every size and timestep; empty where it shows none.
        blame: who is at fault on this machine, if that was asked for or a runtime failed.
    """

    reference: str
    rows: list[Row] = dataclasses.field(default_factory=list)
    findings: list[tuple[str, Finding]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    bisection: Bisection | None = None
    exhibits: list[Exhibit] = dataclasses.field(default_factory=list)
    flows: list[FrameFlows] = dataclasses.field(default_factory=list)
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

    def find_runtime_failure(self) -> Exhibit | None:
        """Where a rife-ncnn-vulkan gave another frame, or died."""
        ran = (exhibit for exhibit in self.exhibits if exhibit.row.runs_in.startswith(RUNTIME))
        return next((exhibit for exhibit in ran if not exhibit.row.verdict.passed), None)

    @property
    def is_cut_short(self) -> bool:
        """Whether nothing failed but engines that died, of the model or of this machine."""
        failed = [exhibit for exhibit in self.exhibits if not exhibit.row.verdict.passed]
        all_died = all(exhibit.found is None for exhibit in failed)
        return bool(failed) and all_died and not self.findings

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
                        "flows": [dataclasses.asdict(one) for one in self.flows],
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
        ProofCutShort: all that did not pass are engines that died.
        ProofFailed: the validation did not pass; the message lists why.
    """
    if not validation.passed:
        listed = "\n".join(f"  {sentence}" for sentence in validation.complaints()[:12])
        if validation.is_cut_short:
            raise ProofCutShort(f"the conversion could not be proven, an engine died:\n{listed}")
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

    Where one of two forms has fp16 weights, those of the other are rounded in the same way, and
    the two are compared as strictly as with fp32 weights; what the rounding costs is measured
    apart. rife-ncnn-vulkan's own frames, which have 8 bits, are compared with the reference as it
    is.

    Args:
        reference: its most trusted engine gives the frames to compare with; its others are judged
            where `engines` names them.
        candidates: run in their default engines, and in those of `engines` that they have.
        engines: names of engines; empty for the defaults.
        sizes: of the frames, (width, height) in pixels; empty for two that suit the padding.
        timesteps: between 0 and 1.
        progress: called with one line for each step.

    Raises:
        EngineError: an engine that was asked for is not there, or the reference did not run.
    """
    for name in engines:
        _refuse_unknown(name, [reference, *candidates])
    samples = make_samples(sizes or choose_sizes(reference.padding), timesteps, INPUT_SEED)
    contest = _Contest(reference, samples, progress)
    for form in (reference, *candidates):
        contest.check_structure(form)
    for name in _chosen(reference, engines):
        if name != reference.engines[0]:
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


@dataclasses.dataclass(frozen=True)
class _Pairing:
    """What runs, and what its frames are compared with.

    Attributes:
        judged: the form that runs, rounded where that is fair.
        engine: what to call it, in words.
        runs_in: the name of its engine; empty where the row tells what rounding costs.
        against: what to call the reference, in words.
        truth: the reference's frames, one for each sample.
        tolerance: what is accepted.
    """

    judged: Form
    engine: str
    runs_in: str
    against: str
    truth: Sequence[np.ndarray]
    tolerance: Tolerance


class _Contest:
    """Runs engines on the same samples, against one reference, and notes what comes out."""

    def __init__(self, reference: Form, samples: Sequence[Sample], progress: Progress) -> None:
        self.validation = Validation(reference.label)
        self._reference = reference
        self._engine = reference.engines[0]
        self._samples = samples
        self._progress = progress
        # Forms as they are and rounded, and the reference's frames, by what was done to them.
        self._rounded: dict[tuple[Form, str], Form] = {}
        self._truths: dict[str, list[np.ndarray]] = {}

    def check_structure(self, form: Form) -> None:
        self._progress(f"checking the structure of {form.label}")
        found = form.check_structure(self._reference.warps)
        self.validation.findings += [(form.label, finding) for finding in found]

    def judge(self, form: Form, name: str, *, few: bool = False) -> None:
        """Compare one engine with the reference, after rounding where that is fair.

        An engine that dies of the samples fails: its absence alone is no fault of the model.
        `few` takes one sample of each size, with the timesteps in turn.
        """
        rounding = choose_rounding(self._reference, form, name)
        pairing = self._pair(form, name, rounding)
        chosen = self._choose_samples(few)
        frames = self._hear(pairing, name, chosen)
        is_first = name == form.engines[0]
        if rounding in (Rounding.REFERENCE, Rounding.CANDIDATE) and frames and is_first:
            kept = frames if pairing.judged is form else None
            self._measure_rounding(form, name, dict(zip(chosen, kept or (), strict=False)))

    def judge_if_sound(self, form: Form, name: str, *, few: bool = False) -> None:
        """As `judge`; where the structure is at fault already, an engine may refuse the model."""
        try:
            self.judge(form, name, few=few)
        except EngineError as error:
            if form.label not in [label for label, _ in self.validation.findings]:
                raise
            self._warn(f"not run: {error}")

    def judge_if_there(self, form: Form, name: str, *, few: bool = False) -> None:
        """As `judge`; an engine that is not installed here is no fault of the model."""
        try:
            self.judge(form, name, few=few)
        except EngineError as error:
            self._warn(f"not run: {error}")

    def _pair(self, form: Form, name: str, rounding: Rounding) -> _Pairing:
        judged, reference, note, against = form, self._reference, "", self._engine
        tolerance = form.tolerance(name)
        if rounding is Rounding.REFERENCE:
            reference, how = self._round(reference, form)
            against += how
        elif rounding is Rounding.CANDIDATE:
            judged, note = self._round(form, reference)
        elif rounding is Rounding.IMPOSSIBLE:
            tolerance = ROUNDED_APART.get(name, NCNN_FP16_WEIGHTS)
        elif reference.is_halved and not name.startswith(RUNTIME):
            tolerance = LOWERED_FP16
        truth = self._find_truth(reference, against)
        return _Pairing(judged, f"{form.label}{note}", name, against, truth, tolerance)

    def _round(self, form: Form, other: Form) -> tuple[Form, str]:
        """A form with its weights rounded as those of another are, and that in words."""
        words = ", weights rounded to fp16" + (" after --fast" if other.is_fast else "")
        words += " beside --keep-betas" if other.keeps_betas else ""
        if (form, words) not in self._rounded:
            rounded = form.round_weights(other.is_fast, other.keeps_betas)
            self._rounded[form, words] = rounded
        return self._rounded[form, words], words

    def _find_truth(self, reference: Form, against: str) -> list[np.ndarray]:
        if against not in self._truths:
            engine = reference.make_engine(self._engine)
            self._truths[against] = self._run(engine, self._samples)
            if not self.validation.flows:
                # Rounded or not, they are as large.
                self._measure_flows(reference, engine)
        return self._truths[against]

    def _choose_samples(self, few: bool) -> list[int]:
        every = range(len(self._samples))
        return _pick_each_size(self._samples) if few else list(every)

    def _hear(self, pairing: _Pairing, name: str, chosen: Sequence[int]) -> list[np.ndarray]:
        """Run and judge the chosen samples; the frames, none where the engine died."""
        engine = pairing.judged.make_engine(name)
        heard = dataclasses.replace(pairing, engine=f"{pairing.engine}: {engine.name}")
        try:
            frames = self._run(engine, [self._samples[index] for index in chosen])
        except EngineDied as error:
            death = Verdict(False, f"failed: {error}")
            self._note(heard, chosen, [None] * len(chosen), death)
            return []
        # Only ncnn measures its blobs.
        overflows = find_overflows(getattr(engine, "largest", {}))
        self.validation.findings += [(pairing.judged.label, one) for one in overflows]
        self._note(heard, chosen, frames)
        return frames

    def _measure_rounding(self, form: Form, name: str, known: dict[int, np.ndarray]) -> None:
        """Compare a form with the reference, both as they are, one of which has fp16 weights."""
        chosen = self._choose_samples(few=True)
        truth = self._find_truth(self._reference, self._engine)
        title = f"{form.label}: cost of fp16 weights"
        pairing = _Pairing(form, title, "", self._engine, truth, NCNN_FP16_WEIGHTS)
        if not set(chosen) <= set(known):
            samples = [self._samples[index] for index in chosen]
            try:
                frames = self._run(form.make_engine(name), samples)
            except EngineDied as error:
                death = Verdict(False, f"failed: {error}")
                self._note(pairing, chosen, [None] * len(chosen), death)
                return
            known = dict(zip(chosen, frames, strict=True))
        self._note(pairing, chosen, [known[index] for index in chosen])

    def _note(
        self,
        pairing: _Pairing,
        chosen: Sequence[int],
        frames: Sequence[np.ndarray | None],
        death: Verdict | None = None,
    ) -> None:
        exhibits = [
            _make_exhibit(pairing, self._samples[index], pairing.truth[index], found, death)
            for index, found in zip(chosen, frames, strict=True)
        ]
        self.validation.rows += [exhibit.row for exhibit in exhibits]
        self.validation.exhibits.append(max(exhibits, key=_order_exhibits))

    def _run(self, engine: Engine, samples: Sequence[Sample]) -> list[np.ndarray]:
        self._progress(f"running {engine.name} on {len(samples)} frames")
        frames = engine.run(samples)
        # Only torch knows where its source would have branched otherwise.
        for decision in getattr(engine, "overruled", ()):
            self._warn(
                f"torch alone would have taken another branch than the model has: {decision.words}"
            )
        return frames

    def _measure_flows(self, reference: Form, engine: Engine) -> None:
        # Torch shows its flows as it runs.
        flows = getattr(engine, "flows", None) or read_flows(reference, self._samples)
        measured = [measure_flows(one) for one in flows]
        for sample, one in zip(self._samples, measured, strict=bool(measured)):
            height, width = sample.in0.shape[-2:]
            frame = FrameFlows(width, height, sample.timestep, tuple(one))
            self.validation.flows.append(frame)
        complaint = too_small(pick_largest(measured, PROVING_FLOW), PROVING_FLOW)
        if complaint:
            self._warn(f"the flows may be too small to prove the warps: {complaint}")

    def _warn(self, sentence: str) -> None:
        if sentence not in self.validation.warnings:
            self.validation.warnings.append(sentence)


def _make_exhibit(
    pairing: _Pairing,
    sample: Sample,
    wanted: np.ndarray,
    found: np.ndarray | None,
    death: Verdict | None,
) -> Exhibit:
    comparison = Comparison(wanted.shape, ()) if found is None else compare(wanted, found)
    height, width = sample.in0.shape[-2:]
    row = Row(
        pairing.engine,
        pairing.against,
        width,
        height,
        sample.timestep,
        comparison,
        pairing.tolerance,
        death or judge(comparison, pairing.tolerance),
        pairing.runs_in,
    )
    return Exhibit(row, sample, wanted, found)


def _order_exhibits(exhibit: Exhibit) -> tuple[bool, float]:
    """The failed before the passed, then by the largest difference; NaN is none."""
    error = exhibit.row.comparison.max_abs
    return not exhibit.row.verdict.passed, error if math.isfinite(error) else math.inf


def _pick_each_size(samples: Sequence[Sample]) -> list[int]:
    """One sample of each size, by number, with the timesteps in turn."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(sample.in0.shape, []).append(index)
    return [group[turn % len(group)] for turn, group in enumerate(groups.values())]


def prove_conversion(
    reference: Form,
    hub: onnx.ModelProto,
    made: NcnnModel,
    scratch: Path,
    *,
    sizes: Sequence[Size] = (),
    timesteps: Sequence[float] = (),
    progress: Progress = silent,
) -> Validation:
    """Prove a conversion in every engine that is there.

    The hub runs in onnxruntime, the folder in ncnn with fp32 weights and as it was made, and in
    rife-ncnn-vulkan on CPU and Vulkan. What is not installed is named in a warning; only torch,
    onnxruntime and ncnn are required.

    The kernel and the folder in ncnn run at every size and timestep. The rest, which runs the same
    two graphs by other means, runs once at each size, with the timesteps in turn.

    Args:
        reference: the donor in torch, or another form of the model where that is all there is.
        hub: the closed hub model.
        made: the folder, not yet written.
        scratch: an empty folder to write to.
        sizes: of the frames, (width, height) in pixels; empty for two that suit the padding.
        timesteps: between 0 and 1; empty for those that the reference knows.
        progress: called with one line for each step.

    Raises:
        EngineError: a required engine does not run.
    """
    hub_form = HubForm(hub, "hub")
    folder = open_folder(_write(made, scratch / "model"))
    folder.label = "fp16 folder" if folder.is_fp16 else "folder"
    timesteps = timesteps or reference.timesteps or TIMESTEPS
    samples = make_samples(sizes or choose_sizes(reference.padding), timesteps, INPUT_SEED)
    contest = _Contest(reference, samples, progress)
    contest.validation.warnings += reference.notes
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
        contest.judge_if_there(folder, name, few=True)
    return contest.validation


def _write(made: NcnnModel, folder: Path) -> Path:
    folder.mkdir()
    made.write(folder)
    return folder
