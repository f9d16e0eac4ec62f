"""Does one form of a model compute what another does? Structure, then numbers, then a verdict."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.engines import Engine, Sample
from surgery.errors import EngineError, KernelMissing, ProofFailed

from surgery.proof.compare import Comparison, Verdict, compare, judge
from surgery.proof.forms import DonorForm, FolderForm, Form, HubForm
from surgery.proof.inputs import make_samples
from surgery.proof.statistics import measure_flows, too_small
from surgery.proof.structure import Finding
from surgery.proof.tolerances import PROVING_FLOW, Tolerance

if TYPE_CHECKING:
    import onnx

    from surgery.convert import OpenDonor
    from surgery.targets.make_ncnn import NcnnModel

Progress = Callable[[str], None]
Size = tuple[int, int]

INPUT_SEED = 1
TIMESTEPS = (0.25, 0.5)
# Smaller frames than these show the coarsest block a handful of pixels.
LEAST_WIDTH, LEAST_HEIGHT = 256, 192
# Neither is a multiple of any padding: the border has to be padded and cropped away.
ODD_CUT = (23, 37)


@dataclasses.dataclass(frozen=True)
class Row:
    """One engine against the reference, for one frame."""

    engine: str
    reference: str
    width: int
    height: int
    timestep: float
    comparison: Comparison
    tolerance: Tolerance
    verdict: Verdict


@dataclasses.dataclass
class Validation:
    """Everything that was found; `passed` is the verdict.

    Attributes:
        reference: what everything was compared with.
        rows: the comparisons.
        findings: faults of structure, each with the form it was found in.
        warnings: what weakens the verdict without changing it: engines that are not installed,
            flows too small to prove a warp, branches that the donor alone would have taken.
    """

    reference: str
    rows: list[Row] = dataclasses.field(default_factory=list)
    findings: list[tuple[str, Finding]] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    @property
    def passed(self) -> bool:
        """True when something was compared, nothing differs and no structure is at fault."""
        return bool(self.rows) and not self.findings and all(r.verdict.passed for r in self.rows)

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
        return json.dumps(_finite(
            {
                "passed": self.passed,
                "reference": self.reference,
                "rows": [dataclasses.asdict(row) for row in self.rows],
                "findings": [
                    {"form": form, "finding": str(finding)} for form, finding in self.findings
                ],
                "warnings": self.warnings,
            }
        ), indent=2, default=str) + "\n"


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
    progress: Progress = lambda message: None,
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
    validation = Validation(reference.label)
    expected = reference.warps
    for form in (reference, *candidates):
        progress(f"checking the structure of {form.label}")
        validation.findings += [(form.label, f) for f in form.check_structure(expected)]
    samples = list(
        make_samples(sizes or choose_sizes(reference.padding), timesteps, INPUT_SEED)
    )
    contest = _Contest(validation, samples, progress)
    own, *others = _chosen(reference, engines) or reference.engines[:1]
    truth = contest.run(reference.make_engine(own))
    for name in others:
        contest.judge(reference.make_engine(name), truth, own, reference.tolerance(name))
    for form in candidates:
        for name in _chosen(form, engines) or form.engines:
            frames, against = truth, own
            if name == "ncnn" and form.is_fp16:
                progress("rounding the reference to fp16 weights")
                rounded = reference.round_weights(form.is_fast)
                frames = contest.run(rounded.make_engine(own))
                against = f"{own}, fp16 weights"
            contest.judge(form.make_engine(name), frames, against, form.tolerance(name))
    return validation


def _chosen(form: Form, engines: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in engines if name in (*form.engines, *form.more_engines))


def _refuse_unknown(name: str, forms: Sequence[Form]) -> None:
    known = [engine for form in forms for engine in (*form.engines, *form.more_engines)]
    if name not in known:
        raise EngineError(
            f"engine {name!r} runs none of the given forms; accepted: {', '.join(known)}"
        )


class _Contest:
    """Runs engines on the same samples and notes what comes out."""

    def __init__(
        self, validation: Validation, samples: Sequence[Sample], progress: Progress
    ) -> None:
        self.validation = validation
        self.samples = samples
        self.progress = progress

    def run(self, engine: Engine) -> list[Any]:
        self.progress(f"running {engine.name} on {len(self.samples)} frame(s)")
        frames = engine.run(self.samples)
        self._note_torch(engine)
        return frames

    def judge(
        self, engine: Engine, truth: Sequence[Any], against: str, tolerance: Tolerance
    ) -> None:
        for sample, wanted, found in zip(self.samples, truth, self.run(engine), strict=True):
            comparison = compare(wanted, found)
            height, width = sample.in0.shape[-2:]
            self.validation.rows.append(
                Row(
                    engine.name,
                    against,
                    width,
                    height,
                    sample.timestep,
                    comparison,
                    tolerance,
                    judge(comparison, tolerance),
                )
            )

    def _note_torch(self, engine: Engine) -> None:
        """Only torch shows its flows, and where its source would have branched otherwise."""
        for decision in getattr(engine, "overruled", ()):
            self._warn(
                "torch alone would have taken another branch than the model has: "
                f"{decision.words}"
            )
        for flows in getattr(engine, "flows", ()):
            complaint = too_small(measure_flows(flows), PROVING_FLOW)
            if complaint:
                self._warn(f"the flows may be too small to prove the warps: {complaint}")

    def _warn(self, sentence: str) -> None:
        if sentence not in self.validation.warnings:
            self.validation.warnings.append(sentence)


def prove_conversion(
    opened: OpenDonor,
    hub: onnx.ModelProto,
    made: NcnnModel,
    scratch: Path,
    progress: Progress,
) -> Validation:
    """Prove a conversion in every engine that is there.

    The donor in torch is the reference. The hub runs in onnxruntime, the folder in ncnn with
    fp32 weights and as it was made, and in rife-ncnn-vulkan on CPU and Vulkan. What is not
    installed is named in a warning; only torch, onnxruntime and ncnn are required.
    """
    donor = DonorForm(opened)
    hub_form = HubForm(hub, "the hub model")
    folder = FolderForm(_write(made, scratch / "model"))
    validation = validate_forms(
        donor, [hub_form, folder], engines=_proving_engines(donor), progress=progress
    )
    if folder.is_fp16:
        exact = dataclasses.replace(made, options=dataclasses.replace(made.options, fp16=False))
        form = FolderForm(_write(exact, scratch / "fp32"))
        form.label = "the model with fp32 weights"
        more = validate_forms(donor, [form], progress=progress)
        validation.rows += more.rows
        validation.findings += more.findings
    _run_real_runtime(donor, folder, validation, progress)
    return validation


def _write(made: NcnnModel, folder: Path) -> Path:
    folder.mkdir()
    made.write(folder)
    return folder


def _proving_engines(donor: Form) -> tuple[str, ...]:
    """The kernel where it was built; the function body otherwise, which computes the same."""
    from surgery.ops_library import ops_library

    try:
        ops_library()
    except KernelMissing:
        return (*donor.engines, "onnxruntime-function", "ncnn")
    return (*donor.engines, *HubForm.engines, "ncnn")


def _run_real_runtime(
    donor: Form, folder: FolderForm, validation: Validation, progress: Progress
) -> None:
    """Where the runtime or a Vulkan device is missing, say so: it is no fault of the model."""
    for name in folder.more_engines:
        try:
            more = validate_forms(
                donor, [folder], engines=(*donor.engines, name), progress=progress
            )
        except EngineError as error:
            validation.warnings.append(f"not run: {error}")
        else:
            validation.rows += more.rows


