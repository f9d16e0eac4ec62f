"""Who is at fault when a folder gives a wrong frame: the model, fp16, a driver, or a runtime.

The folder runs in plain ncnn on the CPU in fp32, which is what a validation has judged, and then
one thing is changed at a time: Vulkan in fp32, Vulkan with blobs in fp16, the real runtime on the
CPU, the real runtime on Vulkan. The first change that changes the frame, or that the engine dies
of, is to blame. Where none does, a runtime that failed beside the original failed by what rounding
the weights to fp16 costs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from surgery.engines import Engine, Sample
from surgery.engines.ncnn import NcnnEngine
from surgery.engines.rife_ncnn_vulkan import CPU, RifeNcnnVulkanEngine
from surgery.errors import EngineDied, EngineError
from surgery.progress import Progress, silent
from surgery.proof.compare import compare, judge
from surgery.proof.forms import FolderForm
from surgery.proof.inputs import make_samples
from surgery.proof.ranges import find_overflows
from surgery.proof.tolerances import (
    NCNN_VULKAN_FP32,
    RUNTIME_CPU_FP32,
    RUNTIME_VULKAN,
    Tolerance,
)

if TYPE_CHECKING:
    from surgery.proof.validate import Exhibit

INPUT_SEED = 1
TIMESTEP = 0.25
LEAST_SIDE = 128
VULKAN_FP32, VULKAN_FP16 = "ncnn on Vulkan in fp32", "ncnn on Vulkan with fp16 blobs"
RUNTIME_CPU, RUNTIME_GPU = "rife-ncnn-vulkan on CPU", "rife-ncnn-vulkan on Vulkan"
TOLERANCES: Mapping[str, Tolerance] = {
    VULKAN_FP32: NCNN_VULKAN_FP32,
    VULKAN_FP16: RUNTIME_VULKAN,
    RUNTIME_CPU: RUNTIME_CPU_FP32,
    RUNTIME_GPU: RUNTIME_VULKAN,
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """One change, and what came of it.

    Attributes:
        name: what was changed.
        passed: whether the frame stayed the same, which it does not where the engine died; None
            where it could not be tried.
        words: what was measured, or why it could not be.
    """

    name: str
    passed: bool | None
    words: str


@dataclasses.dataclass(frozen=True)
class Blame:
    """Who is at fault.

    Attributes:
        party: nobody, model, weights, fp16, driver or runtime.
        sentence: that, for a person.
        trials: what it follows from.
    """

    party: str
    sentence: str
    trials: tuple[Trial, ...] = ()


def blame(
    folder: FolderForm,
    model_passed: bool,
    *,
    failure: Exhibit | None = None,
    gpu: int = 0,
    progress: Progress = silent,
) -> Blame:
    """Try a folder on this machine, and say who is at fault.

    Args:
        folder: the model.
        model_passed: whether the folder in plain ncnn, in fp32 on the CPU, is right.
        failure: where the real runtime failed beside a reference; the same sample is tried.
        gpu: the number of the Vulkan device.
        progress: called with one line for each step.

    Raises:
        EngineError: plain ncnn does not run the folder.
    """
    if not model_passed:
        return assign({}, model_passed=False)
    samples = [failure.sample] if failure is not None else _make_samples(folder.padding)
    plain = NcnnEngine(folder.folder, folder.padding, ranges=True)
    progress("running plain ncnn on the CPU")
    (wanted,) = plain.run(samples)
    overflows = find_overflows(plain.largest)
    on_vulkan = {
        half: NcnnEngine(folder.folder, folder.padding, vulkan=gpu, half=half)
        for half in (False, True)
    }
    makers: dict[str, Callable[[], Engine]] = {
        VULKAN_FP32: lambda: on_vulkan[False],
        VULKAN_FP16: lambda: on_vulkan[True],
        RUNTIME_CPU: lambda: RifeNcnnVulkanEngine(folder.folder, folder.padding, gpu=CPU),
        RUNTIME_GPU: lambda: RifeNcnnVulkanEngine(folder.folder, folder.padding, gpu=gpu),
    }
    trials = {}
    for name, make in makers.items():
        progress(f"running {name}")
        trials[name] = try_engine(name, make, samples, wanted)
    device = on_vulkan[False].device or f"Vulkan device {gpu}"
    overflow = str(overflows[0]) if overflows else ""
    found = assign(trials, model_passed=True, device=device, overflow=overflow)
    if failure is not None and found.party == "nobody":
        return _explain(failure, folder, wanted, found)
    return found


def _make_samples(padding: int) -> Sequence[Sample]:
    side = -(-LEAST_SIDE // padding) * padding
    return make_samples([(side, side)], [TIMESTEP], INPUT_SEED)


def _explain(failure: Exhibit, folder: FolderForm, plain: np.ndarray, found: Blame) -> Blame:
    """Why a runtime failed beside a reference, though it computes what plain ncnn does."""
    row = failure.row
    where = f"{row.width}x{row.height}, t={row.timestep:g}"
    rounding = judge(compare(failure.wanted, plain), row.tolerance)
    if folder.is_fp16 and not rounding.passed:
        return Blame(
            "weights",
            f"every engine of this machine computes the same from this folder; at {where} rounding "
            f"its weights to fp16 costs more than is accepted ({rounding.sentence}); convert it "
            "with --fp32",
            found.trials,
        )
    sentence = f"{found.sentence}; what failed at {where} did not fail again"
    return dataclasses.replace(found, sentence=sentence)


def try_engine(
    name: str, make: Callable[[], Engine], samples: Sequence[Sample], wanted: np.ndarray
) -> Trial:
    """Compare one engine's frame with that of plain ncnn on the CPU."""
    try:
        (found,) = make().run(samples)
    except EngineDied as error:
        return Trial(name, False, str(error))
    except EngineError as error:
        return Trial(name, None, str(error))
    verdict = judge(compare(wanted, found), TOLERANCES[name])
    return Trial(name, verdict.passed, verdict.sentence)


def assign(
    trials: Mapping[str, Trial], *, model_passed: bool, device: str = "", overflow: str = ""
) -> Blame:
    """Say who is at fault: the first change that changed the frame."""
    told = tuple(trials.values())
    if not model_passed:
        return Blame(
            "model",
            "the model is wrong: plain ncnn computes another frame than the reference, in fp32 on "
            "the CPU, where no driver has a part",
        )
    failed = {name for name, trial in trials.items() if trial.passed is False}
    for name, party, sentence in _CAUSES:
        if name in failed:
            if party == "fp16" and overflow:
                sentence = f"{sentence} ({overflow})"
            words = trials[name].words
            return Blame(party, f"{sentence.format(device=device)} ({words})", told)
    untried = [f"{name} ({one.words})" for name, one in trials.items() if one.passed is None]
    without = f"; not tried: {', '.join(untried)}" if untried else ""
    tried = [name for name, one in trials.items() if one.passed]
    agreeing = ", ".join(tried) or "nothing else"
    return Blame(
        "nobody",
        f"the model is right, and this machine ({device}) computes the same in {agreeing}{without}",
        told,
    )


# In the order of the changes: what fails behind a failure follows from it.
_CAUSES = (
    (
        VULKAN_FP32,
        "driver",
        "the model is right, this driver is not: {device} fails at the folder that the CPU "
        "computes, in fp32 both; update the driver, or run on the CPU (-g -1)",
    ),
    (
        VULKAN_FP16,
        "fp16",
        "the model is right in fp32, on the CPU and on {device}; with blobs in fp16, as "
        "rife-ncnn-vulkan keeps them, it fails: its values are too large or too fine for fp16, or "
        "the driver's fp16 is wrong; run on the CPU (-g -1)",
    ),
    (
        RUNTIME_CPU,
        "runtime",
        "the model is right, this rife-ncnn-vulkan is not: plain ncnn computes the same folder "
        "correctly on the same CPU; take another build",
    ),
    (
        RUNTIME_GPU,
        "runtime",
        "the model is right, and so is {device} in plain ncnn, in fp32 and fp16: the warp shader "
        "or the older ncnn inside rife-ncnn-vulkan fails on this driver; update either, or run on "
        "the CPU (-g -1)",
    ),
)
