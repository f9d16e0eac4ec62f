"""What is no legal hub model is refused, each fault with a sentence of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery.errors import HubError
from surgery.hub.model import from_onnx
from surgery.hub.verify import read_hub, verify_hub, verify_open
from surgery.targets.to_onnx import OnnxOptions, lower_model

FLOAT = onnx.TensorProto.FLOAT
Fault = Callable[[onnx.ModelProto], None]


def _node(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def _retype(model: onnx.ModelProto, name: str, dtype: int, shape: list[int | str] | None) -> None:
    entry = next(v for v in (*model.graph.input, *model.graph.output) if v.name == name)
    entry.CopyFrom(onnx.helper.make_tensor_value_info(name, dtype, shape))


def _set_property(model: onnx.ModelProto, key: str, value: str) -> None:
    entry = next(e for e in model.metadata_props if e.key == f"surgery.{key}")
    entry.value = value


def _replace_weights(model: onnx.ModelProto, values: np.ndarray, name: str) -> None:
    entry = next(t for t in model.graph.initializer if t.name == name)
    entry.CopyFrom(onnx.numpy_helper.from_array(values, name))


def cycle(model: onnx.ModelProto) -> None:
    _node(model, "frames").input[0] = "out0"


def no_rife_domain_version(model: onnx.ModelProto) -> None:
    model.opset_import[1].version = 2


def another_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 19


def a_domain_too_many(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))


def no_body(model: onnx.ModelProto) -> None:
    del model.functions[:]


def two_nodes_of_one_name(model: onnx.ModelProto) -> None:
    model.graph.node[1].name = model.graph.node[2].name


def a_nameless_node(model: onnx.ModelProto) -> None:
    model.graph.node[1].name = ""


def another_kind(model: onnx.ModelProto) -> None:
    _set_property(model, "kind", "v9")


def another_timestep(model: onnx.ModelProto) -> None:
    _set_property(model, "timestep", "fixed 0.3")


def too_little_padding(model: onnx.ModelProto) -> None:
    _set_property(model, "padding", "3")


def no_metadata(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def another_input_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "img0"
    _node(model, "frames").input[0] = "img0"
    _node(model, "warped0").input[0] = "img0"


def four_channels_in(model: onnx.ModelProto) -> None:
    _retype(model, "in1", FLOAT, [1, 4, "H", "W"])


def a_batch_of_two(model: onnx.ModelProto) -> None:
    _retype(model, "in1", FLOAT, [2, 3, "H", "W"])


def double_input(model: onnx.ModelProto) -> None:
    _retype(model, "in1", onnx.TensorProto.DOUBLE, [1, 3, "H", "W"])


def a_fixed_size(model: onnx.ModelProto) -> None:
    _retype(model, "in1", FLOAT, [1, 3, 64, "W"])


def an_input_of_rank_three(model: onnx.ModelProto) -> None:
    _retype(model, "in1", FLOAT, [3, "H", "W"])


def an_input_without_shape(model: onnx.ModelProto) -> None:
    _retype(model, "in1", FLOAT, None)


def another_output_name(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = _node(model, "out0").output[0] = "merged"


def a_second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(onnx.helper.make_tensor_value_info("flows", FLOAT, [1, 5, "H", "W"]))


def a_foreign_operator(model: onnx.ModelProto) -> None:
    _node(model, "out0").op_type = "Max"


def half_the_size_out(model: onnx.ModelProto) -> None:
    node = _node(model, "out0")
    node.op_type, node.input[:] = "Slice", ["raw", "zero", "three", "axis"]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "three"))
    _set_property(model, "warps", "0")


def two_channels_out(model: onnx.ModelProto) -> None:
    node = _node(model, "out0")
    node.input[:] = ["flow0", "flow1"]


def three_channels_of_flow(model: onnx.ModelProto) -> None:
    _node(model, "flow0").input[2] = "three"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3]), "three"))


def four_channels_of_flow(model: onnx.ModelProto) -> None:
    _node(model, "flow0").input[2] = "four"


def a_slice_of_rows(model: onnx.ModelProto) -> None:
    _node(model, "flow0").input[3] = "two"


def in2_unread(model: onnx.ModelProto) -> None:
    _node(model, "frames").input[2] = "in0"
    _replace_weights(model, np.ones((5, 9, 3, 3), np.float32), "w")


def one_warp_less(model: onnx.ModelProto) -> None:
    _node(model, "out0").input[1] = "in1"


def double_weights(model: onnx.ModelProto) -> None:
    _replace_weights(model, np.ones((5, 7, 3, 3), np.float64), "w")


def _append(model: onnx.ModelProto, kind: str, inputs: list[str], output: str, **more: Any) -> None:
    name = f"/more/{output}"
    model.graph.node.append(onnx.helper.make_node(kind, inputs, [output], name=name, **more))


def _add_constant(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))


def _add_to_output(model: onnx.ModelProto, name: str) -> None:
    """Let the output wait for three channels of a tensor, so that they count."""
    _node(model, "out0").output[0] = "blend"
    _add_constant(model, "three", np.array([3], np.int64))
    _append(model, "Slice", [name, "zero", "three", "axis"], "cut")
    _append(model, "Add", ["blend", "cut"], "out0")


def a_giant_frame(model: onnx.ModelProto) -> None:
    for name, factor in (("giant", 64.0), ("small", 1 / 64)):
        _add_constant(model, f"{name}_by", np.array([1, 1, factor, factor], np.float32))
    _append(model, "Resize", ["in0", "", "giant_by"], "giant")
    _append(model, "Resize", ["giant", "", "small_by"], "small")
    _add_to_output(model, "small")


def many_channels(model: onnx.ModelProto) -> None:
    _append(model, "GlobalAveragePool", ["in0"], "pixel")
    doubled = "pixel"
    for index in range(22):
        _append(model, "Concat", [doubled, doubled], f"double{index}", axis=1)
        doubled = f"double{index}"
    _append(model, "Slice", [doubled, "zero", "two", "axis"], "few")
    _append(model, "Slice", ["few", "zero", "axis", "axis"], "one")
    _node(model, "out0").output[0] = "blend"
    _append(model, "Mul", ["blend", "one"], "out0")


def many_tensors(model: onnx.ModelProto) -> None:
    wide = "in0"
    for index in range(10):
        _append(model, "Concat", [wide, wide], f"wide{index}", axis=1)
        wide = f"wide{index}"
    for index in range(25):
        _append(model, "Neg", [wide], f"again{index}")
        wide = f"again{index}"
    _add_to_output(model, wide)


FAULTS: dict[Fault, str] = {
    cycle: "not a legal ONNX model",
    no_rife_domain_version: "opsets .*'rife': 2",
    another_opset: "opsets .*'': 19",
    a_domain_too_many: "opsets .*ai.onnx.ml",
    no_body: "rife::Warp|Warp",
    two_nodes_of_one_name: r"without a name of their own: \['/block/flows'\]",
    a_nameless_node: "without a name of their own",
    another_kind: "kind 'v9'; accepted: v4, v1, v2",
    another_timestep: "timestep 'fixed 0.3'; accepted: plane, fixed 0.5",
    too_little_padding: "padding 3; its graph works at sizes that need a multiple of 2",
    no_metadata: "no metadata 'surgery.kind'",
    another_input_name: "inputs .*'img0': 3",
    four_channels_in: "inputs .*'in1': 4",
    a_batch_of_two: r"in1 is float32 \[2, 3",
    double_input: "in1 is float64",
    a_fixed_size: r"in1 has the fixed size \[64, 'W'\]",
    an_input_of_rank_three: r"in1 has the shape \[3, 'H', 'W'\]",
    an_input_without_shape: "not a legal ONNX model",
    another_output_name: r"outputs \['merged'\]",
    a_second_output: r"outputs \['out0', 'flows'\]",
    a_foreign_operator: "/block/out0: Max; a hub model is made of",
    half_the_size_out: "out0 has 3 channels at 1/2 x 1/2",
    two_channels_out: "out0 has 2 channels at 1 x 1",
    three_channels_of_flow: "/block/warped0: the flow has 3 channels; exactly 2",
    four_channels_of_flow: "/block/warped0: the flow has 4 channels; exactly 2",
    a_slice_of_rows: "axis=2; slices of channels are accepted",
    in2_unread: "in2 is read by no node",
    one_warp_less: "1 rife::Warp nodes; the donor calls 2 warps",
    a_giant_frame: "giant has 3 channels at 64 x 64 .*; 4096 numbers for each pixel",
    many_channels: "double21 has 12582912 channels at 0 x 0 .*; 4096 numbers for each pixel",
    many_tensors: "its tensors hold 8[0-9]{4} numbers for each pixel of the frame; 65536 are",
    double_weights: "/block/raw reads a constant of float64; float32 is accepted",
}


def test_the_model_that_faults_are_planted_in_is_legal(closed: onnx.ModelProto) -> None:
    verify_hub(closed)
    verify_open(from_onnx(closed))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_each_fault_is_refused(closed: onnx.ModelProto, fault: Fault) -> None:
    fault(closed)
    with pytest.raises(HubError, match=FAULTS[fault]):
        verify_hub(closed)


def test_an_open_model_whose_input_lost_its_shape_is_refused(closed: onnx.ModelProto) -> None:
    opened = from_onnx(closed)
    opened.graph.inputs[1].shape = None
    with pytest.raises(HubError, match="in1 has the shape None"):
        verify_open(opened)


def test_a_fixed_timestep_need_not_be_read(closed: onnx.ModelProto) -> None:
    in2_unread(closed)
    _set_property(closed, "timestep", "fixed 0.5")
    verify_hub(closed)


def test_all_faults_are_told_at_once(closed: onnx.ModelProto) -> None:
    a_batch_of_two(closed)
    a_second_output(closed)
    another_input_name(closed)
    with pytest.raises(HubError) as caught:
        verify_hub(closed)
    for fault in ("in1 is float32 [2", "outputs ['out0', 'flows']", "'img0': 3"):
        assert fault in str(caught.value)


def test_a_file_is_refused_by_its_name(closed: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    one_warp_less(closed)
    path.write_bytes(closed.SerializeToString())
    with pytest.raises(HubError, match=r"model\.onnx: not a legal hub model"):
        read_hub(path)


def test_a_legal_file_is_read(closed: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(closed.SerializeToString())
    assert read_hub(path) == closed


def test_a_lowered_model_is_told_from_a_hub_model(closed: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    lowered = lower_model(from_onnx(closed), OnnxOptions())
    path.write_bytes(lowered.SerializeToString())
    with pytest.raises(HubError, match="plain ONNX, whose warps are GridSample"):
        read_hub(path)
