"""The other doors of the hub: models without PyTorch source come in, plain ONNX goes out.

Each verb of the command line is one function here, as in `surgery.conversion`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.errors import HubError, ProofFailed, UnsupportedOp
from surgery.file_path import FilePath, to_path
from surgery.output import MODEL_FILES, refuse_model_file, refuse_taken
from surgery.progress import Progress, silent

if TYPE_CHECKING:
    import onnx

    from surgery.diagnosis.examine import Examination
    from surgery.diagnosis.repair import Repair
    from surgery.hub.model import HubModel


LEAST_SIDE = 64
# Another one than the middle, where a timestep that is read backwards would not show.
PROOF_TIMESTEP = 0.25


def open_door(text: str, progress: Progress = silent) -> HubModel | None:
    """Open what comes without PyTorch source: a hub model, a foreign ONNX, or a model folder.

    None for anything else, which then is a donor or nothing.

    Raises:
        SurgeryError: it is one of the three and cannot be opened.
        ProofFailed: what was imported or lifted does not compute what its original does.
    """
    from surgery.formats.ncnn_folder import NETWORK
    from surgery.hub.model import from_onnx, read_onnx
    from surgery.hub.verify import is_hub, require_hub

    path = Path(text)
    if path.is_dir() and (path / f"{NETWORK}.param").is_file():
        return _import_and_prove(path, progress)
    if path.suffix != ".onnx":
        return None
    read = read_onnx(path)
    if is_hub(read):
        require_hub(read, path)
        return from_onnx(read)
    progress(f"lifting {path}")
    return _lift(read, path)


def _lift(model: onnx.ModelProto, path: Path) -> HubModel:
    """Lift what was read from a file, which errors name: a command may be given two."""
    from surgery.sources.lift.lift_apart import lift_apart

    try:
        return lift_apart(model, label=path.stem)
    except UnsupportedOp as error:
        raise UnsupportedOp(f"{path}: the hub", error.refusals) from error
    except (HubError, ProofFailed) as error:
        raise type(error)(f"{path}: {error}") from error


def _import_and_prove(folder: Path, progress: Progress) -> HubModel:
    from surgery.sources.from_ncnn import import_folder

    progress(f"importing {folder}")
    model = import_folder(folder)
    progress("proving the import")
    _prove_import(folder, model)
    return model


def _prove_import(folder: Path, model: HubModel) -> None:
    """Compare an imported model with its folder, run by ncnn.

    Raises:
        ProofFailed: they differ.
        EngineError: ncnn does not run the folder; `surgery doctor` says why.
    """
    from surgery.proof.forms import HubForm, open_folder
    from surgery.proof.validate import refuse_failed, validate_forms

    original, hub = open_folder(folder), HubForm(model.to_onnx(), "imported hub")
    # One small frame: a layer that is read wrong shows anywhere. Three networks have levels of a
    # 32th of it, and one pixel is too small for ncnn to resize (interp.cpp).
    side = max(LEAST_SIDE, original.padding)
    size = (2 * side, side)
    timesteps = hub.timesteps or (PROOF_TIMESTEP,)
    validation = validate_forms(original, [hub], sizes=[size], timesteps=timesteps)
    refuse_failed(validation)


def import_model(
    folder: FilePath, output: FilePath, *, force: bool = False, progress: Progress = silent
) -> HubModel:
    """Import a model folder of rife-ncnn-vulkan, whoever made it, to a hub model file.

    The import is proven first: the hub model in onnxruntime against the folder in ncnn.

    Args:
        folder: holds `flownet.param` and `flownet.bin`; of RIFE 1 to 3 `contextnet` and
            `fusionnet`, too.
        output: the `.onnx` file to write.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: with what was found, what is accepted and what to do; nothing is written.
        ProofFailed: the hub model does not compute what the folder does; nothing is written.
    """
    from surgery.hub.model import write_hub

    folder, output = Path(folder), Path(output)
    refuse_model_file(output, force=force)
    model = _import_and_prove(folder, progress)
    write_hub(model, output, force=force)
    return model


def lift(
    source: FilePath, output: FilePath, *, force: bool = False, progress: Progress = silent
) -> HubModel:
    """Lift an ONNX file whose warps are spelled out, or placeholders, to a hub model file.

    Args:
        source: a foreign `.onnx` of RIFE 4, its inputs packed or not.
        output: the `.onnx` file to write.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: with what was found, what is accepted and what to do; nothing is written.
    """
    from surgery.hub.model import read_onnx, write_hub

    source, output = Path(source), Path(output)
    refuse_model_file(output, force=force)
    progress(f"lifting {source}")
    model = _lift(read_onnx(source), source)
    write_hub(model, output, force=force)
    return model


def lower(
    source: FilePath,
    output: FilePath,
    *,
    layout: str = "plain",
    opset: int = 18,
    fp16: bool = False,
    proof: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> onnx.ModelProto:
    """Lower a hub model file to plain ONNX, which needs no library of ours.

    The result is proven before it is written: in a bare onnxruntime against the hub model.

    Args:
        source: the hub model.
        output: the `.onnx` file to write.
        layout: `plain` for in0, in1, in2 and out0; `vsmlrt-v1` (11 channels, padded outside) or
            `vsmlrt-v2` (7 channels, any size) for the one input that vs-mlrt and VSGAN feed.
        opset: 16 to 20.
        fp16: compute in fp16, positions of warps excepted.
        proof: run both before anything is written.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: with what was found, what is accepted and what to do; nothing is written.
        ProofFailed: the result does not compute what the hub model does; nothing is written.
    """
    from surgery.hub.model import load_hub
    from surgery.output import write_file_atomically
    from surgery.targets import to_onnx

    source, output = Path(source), Path(output)
    refuse_model_file(output, force=force)
    model = load_hub(source)
    progress(f"lowering to {layout}")
    lowered = to_onnx.lower_model(model, to_onnx.OnnxOptions(layout, opset, fp16))
    if proof:
        progress("proving the lowered model")
        _prove_lowering(model, lowered, source.name)
    write_file_atomically(output, lowered.SerializeToString(deterministic=True), force=force)
    return lowered


def _prove_lowering(model: HubModel, lowered: onnx.ModelProto, label: str) -> None:
    """Compare a lowered model with its hub model.

    Raises:
        ProofFailed: they differ.
    """
    from surgery.proof.forms import HubForm
    from surgery.proof.lowered import LoweredForm
    from surgery.proof.validate import ODD_CUT, refuse_failed, validate_forms

    hub, form = HubForm(model.to_onnx(), label), LoweredForm(lowered, "lowered model")
    side = max(LEAST_SIDE, hub.padding)
    # Of no padding's size: what pads and crops by itself has to do so.
    size = (2 * side - ODD_CUT[0], side - ODD_CUT[1])
    validation = validate_forms(
        hub, [form], sizes=[size], timesteps=hub.timesteps or (PROOF_TIMESTEP,)
    )
    refuse_failed(validation)


@dataclasses.dataclass(frozen=True)
class CheckUp:
    """What `doctor` found and did.

    Attributes:
        examination: of the folder as it came.
        repair: what was repaired, with its proof; None when nothing was to be.
        afterwards: the examination of what was written; None when nothing was.
    """

    examination: Examination
    repair: Repair | None = None
    afterwards: Examination | None = None

    def to_json(self) -> str:
        """What was found and what is left, for a script."""
        largest = self.repair.exact.max_abs if self.repair is not None else None
        facts = {
            "found": self.examination.to_facts(),
            "repaired": self.afterwards.to_facts() if self.afterwards is not None else None,
            "largest_difference": largest,
        }
        return json.dumps(facts, indent=2) + "\n"


def doctor(
    folder: FilePath,
    *,
    runtime: str | None = None,
    fix: FilePath | None = None,
    fp16: bool = True,
    force: bool = False,
    progress: Progress = silent,
) -> CheckUp:
    """Say what is wrong with a model folder that anybody made, and repair it where asked.

    Args:
        folder: holds `flownet.param` and `flownet.bin`; of RIFE 1 to 3 `contextnet` and
            `fusionnet`, too.
        runtime: judge for this runtime alone, and repair for it.
        fix: the folder to make of what could be repaired; where nothing is wrong, none is made.
        fp16: store the weights of the repaired folder as fp16.
        force: replace an existing output.
        progress: called with one line for each step.

    Raises:
        SurgeryError: there is no model in the folder, a fault is beyond repair, or every runtime
            would misread the name `fix`; nothing is written.
        ProofFailed: the repaired model differs from the original; nothing is written.
    """
    from surgery.diagnosis.examine import examine
    from surgery.diagnosis.repair import repair
    from surgery.output import new_folder
    from surgery.targets.make_ncnn import NcnnOptions
    from surgery.targets.runtimes import find_runtime

    folder = Path(folder)
    fix = to_path(fix)
    if fix is not None:
        refuse_taken(fix, force=force, files=MODEL_FILES)
    runtimes = [find_runtime(runtime)] if runtime else []
    progress(f"examining {folder}")
    examination = examine(folder, runtimes)
    if fix is None or examination.is_healthy:
        return CheckUp(examination)
    examination.refuse_name(fix)
    mended = repair(examination, NcnnOptions(runtime, fp16), progress)
    with new_folder(fix, force=force) as temporary:
        mended.made.write(temporary)
    return CheckUp(examination, mended, examine(fix, runtimes))
