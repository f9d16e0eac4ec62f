"""The few graph edits that passes are written with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from surgery.hub import ops
from surgery.passes import edit

if TYPE_CHECKING:
    from tests.passes.conftest import Builder


@pytest.fixture
def chain() -> Any:
    """`x -> first -> (second, third) -> y`; `third` reads `first` twice."""
    x, first, second, y = (gs.Variable(name, np.float32) for name in ("x", "a:0", "b:0", "y"))
    nodes = [
        gs.Node("Identity", "a", inputs=[x], outputs=[first]),
        gs.Node("Sigmoid", "b", inputs=[first], outputs=[second]),
        gs.Node("Add", "c", inputs=[first, first], outputs=[y]),
    ]
    return gs.Graph(nodes, [x], [y, second])


def _is_same(found: object, expected: object) -> bool:
    """Nodes compare by contents, and two can be equal."""
    return found is expected


def test_a_sole_consumer_is_one_read_of_what_is_no_output(chain: Any) -> None:
    first, second, third = chain.nodes
    assert _is_same(edit.sole_consumer(chain, first.inputs[0]), first)
    assert edit.sole_consumer(chain, first.outputs[0]) is None
    second.inputs.clear()
    assert edit.sole_consumer(chain, first.outputs[0]) is None  # third reads it twice
    third.inputs = [first.outputs[0]]
    assert _is_same(edit.sole_consumer(chain, first.outputs[0]), third)
    assert edit.is_read_only_by(chain, first.outputs[0], third)
    assert not edit.is_read_only_by(chain, first.outputs[0], second)
    chain.outputs.append(first.outputs[0])
    assert edit.sole_consumer(chain, first.outputs[0]) is None


def test_a_producer_is_told_by_operator_and_domain(chain: Any) -> None:
    first = chain.nodes[0]
    assert _is_same(edit.producer(first.outputs[0]), first)
    assert _is_same(edit.producer(first.outputs[0], "Conv", "Identity"), first)
    assert edit.producer(first.outputs[0], "Conv") is None
    assert edit.producer(first.inputs[0]) is None
    first.domain = "elsewhere"
    assert edit.producer(first.outputs[0], "Identity") is None


def test_every_use_is_replaced(chain: Any) -> None:
    first, second, third = chain.nodes
    edit.replace_uses(first.outputs[0], first.inputs[0])
    assert [tensor.name for tensor in (*second.inputs, *third.inputs)] == ["x", "x", "x"]
    assert first.outputs[0].outputs == []


def test_what_makes_an_output_is_not_bypassed(chain: Any) -> None:
    first, second, third = chain.nodes
    assert not edit.bypass(chain, second, first.outputs[0])
    assert second.inputs[0] is first.outputs[0]
    assert edit.bypass(chain, first, first.inputs[0])
    assert third.inputs[0].name == "x"


def test_new_nodes_and_tensors_get_names_of_their_own(chain: Any) -> None:
    x = chain.inputs[0]
    made = [edit.add_node(chain, "a", "Relu", [x]) for _ in range(2)]
    assert [node.name for node in chain.nodes[-2:]] == ["a_1", "a_2"]
    assert len({tensor.name for node in chain.nodes for tensor in node.outputs}) == 5
    edit.take_output(chain.nodes[-1], chain.nodes[0])
    assert made[1].inputs == [chain.nodes[0]]
    # The tensor `a_2:0` lives on behind another node, and its name stays taken.
    assert edit.add_node(chain, "a_2", "Relu", [x]).name != made[1].name


def test_an_output_keeps_its_tensor_when_another_node_makes_it(chain: Any) -> None:
    first, _, third = chain.nodes
    output = chain.outputs[0]
    edit.take_output(third, first)
    assert first.outputs == [output]
    assert third.outputs == []
    assert chain.outputs[0] is output


def test_a_copy_shares_no_attributes(chain: Any) -> None:
    chain.nodes[1].attrs = {"alpha": 0.1}
    edit.add_copy(chain, chain.nodes[1], "copy", [chain.inputs[0]])
    chain.nodes[-1].attrs["alpha"] = 0.2
    assert chain.nodes[1].attrs == {"alpha": 0.1}
    assert chain.nodes[-1].op == "Sigmoid"


def test_constants_of_other_values_have_other_names() -> None:
    names = {edit.make_constant("w", np.asarray([value], np.float32)).name for value in (1, 1, 2)}
    assert len(names) == 2


def test_a_constant_is_contiguous_whatever_it_is_made_of() -> None:
    made = edit.make_constant("w", np.arange(6, dtype=np.float32).reshape(2, 3).T)
    assert made.values.flags.c_contiguous
    assert np.array_equal(made.values, [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize("bias", [True, False])
def test_output_channels_are_selected_in_order(build: Builder, bias: bool) -> None:
    conv = build.conv(build.frames(), 4, bias=bias).inputs[0]
    before = [np.array(tensor.values) for tensor in conv.inputs[1:]]
    edit.select_output_channels(conv, np.array([3, 1]))
    after = [tensor.values for tensor in conv.inputs[1:]]
    assert len(after) == len(before) == 1 + bias
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(new, old[[3, 1]])


def test_a_left_out_bias_stays_left_out(build: Builder) -> None:
    conv = build.conv(build.frames(), 4, bias=False).inputs[0]
    conv.inputs.append(gs.Variable.empty())
    edit.select_output_channels(conv, np.array([3, 1]))
    assert ops.optional_input(conv, 2) is None


def test_a_slice_is_set_in_place(build: Builder) -> None:
    cut = build.slice(build.conv(build.frames(), 8), -3, -1).inputs[0]
    read = cut.inputs[0]
    edit.set_slice(cut, 1, 4)
    assert cut.inputs[0] is read
    assert ops.channel_range(cut, 8) == (1, 4)
