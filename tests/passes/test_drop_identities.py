"""Drop nodes that return what they are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes import edit
from surgery.passes.drop_identities import drop_identities

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def _make_identity(build: Builder, kind: str) -> gs.Tensor:
    x = build.conv(build.frames(), 5)
    one, zero = build.constant(1.0), build.constant([[[[0.0]]]])
    makers = {
        "Identity": lambda: build.node("Identity", x),
        "Mul": lambda: build.node("Mul", x, one),
        "Mul, constant first": lambda: build.node("Mul", one, x, channels=5),
        "Add": lambda: build.node("Add", x, zero),
        "Add, constant first": lambda: build.node("Add", zero, x, channels=5),
        "Sub": lambda: build.node("Sub", x, zero),
        "Div": lambda: build.node("Div", x, one),
        "Resize": lambda: build.resize(x, 1),
        "Resize, nearest": lambda: build.resize(x, 1, mode="nearest"),
        "Resize, corners": lambda: build.resize(
            x, 1, coordinate_transformation_mode="align_corners"
        ),
    }
    return makers[kind]()


@pytest.mark.parametrize(
    "kind",
    [
        "Identity",
        "Mul",
        "Mul, constant first",
        "Add",
        "Add, constant first",
        "Sub",
        "Div",
        "Resize",
        "Resize, nearest",
        "Resize, corners",
    ],
)
def test_it_goes_and_no_bit_changes(build: Builder, rewriting: Rewriting, kind: str) -> None:
    model = build.model(_make_identity(build, kind))
    assert rewriting.difference(drop_identities, model, edits=1) == 0
    assert rewriting.operators(model) == ["Concat", "Conv", "Sigmoid", "Conv"]


def test_a_row_of_them_goes(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 5)
    model = build.model(build.mul(build.node("Identity", build.resize(x, 1)), 1))
    assert rewriting.difference(drop_identities, model, edits=3) == 0


@pytest.mark.parametrize(
    ("operator", "value", "constant_first"),
    [
        ("Mul", 0.0, False),
        ("Mul", 1.0000001, False),
        ("Add", 1.0, False),
        ("Sub", 1.0, False),
        ("Div", 0.5, False),
        ("Sub", 0.0, True),
        ("Div", 1.0, True),
    ],
)
def test_what_changes_its_input_stays(
    build: Builder, rewriting: Rewriting, operator: str, value: float, constant_first: bool
) -> None:
    x = build.conv(build.frames(), 5)
    operands = [x, build.constant(value)]
    if constant_first:
        operands.reverse()
    rewriting.leaves(drop_identities, build.model(build.node(operator, *operands, channels=5)))


def test_a_factor_for_each_channel_stays_even_where_all_are_1(
    build: Builder, rewriting: Rewriting
) -> None:
    ones = build.constant([[[[1.0]]] * 5])
    rewriting.leaves(
        drop_identities, build.model(build.node("Mul", build.conv(build.frames(), 5), ones))
    )


def test_a_resize_of_one_side_stays(build: Builder, rewriting: Rewriting) -> None:
    once = build.resize(build.conv(build.frames(), 4), 1, 2)
    rewriting.leaves(drop_identities, build.model(build.resize(once, 1, 1 / 2)))


def test_one_that_makes_the_output_leaves_that_to_the_node_before(
    build: Builder, rewriting: Rewriting
) -> None:
    model = build.output_of(build.mul(build.node("Identity", build.conv(build.frames(), 3)), 1))
    assert rewriting.difference(drop_identities, model, edits=2) == 0
    assert rewriting.operators(model) == ["Concat", "Conv"]
    assert [one.name for one in model.graph.outputs] == ["out0"]


def test_an_input_that_is_the_output_is_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(build.node("Identity", build.in0))
    rewriting.refuses(drop_identities, model, "output of the graph")


def test_an_output_whose_source_others_read_is_refused(
    build: Builder, rewriting: Rewriting
) -> None:
    model = build.output_of(build.node("Identity", build.conv(build.frames(), 3)))
    (last,) = (node for node in model.graph.nodes if node.op == "Identity")
    model.graph.outputs.append(edit.add_node(model.graph, "/side", "Sigmoid", [last.inputs[0]]))
    rewriting.refuses(drop_identities, model, "output of the graph")
