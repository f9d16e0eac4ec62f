"""A division by a power of two is a multiplication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.turn_divisions import turn_divisions

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("divisor", [2.0, 0.125, -4.0, 2.0**126, 2.0**-126])
def test_no_bit_changes(build: Builder, rewriting: Rewriting, divisor: float) -> None:
    divided = build.node("Div", build.conv(build.frames(), 4), build.constant(divisor))
    model = build.model(divided, build.in0)
    assert rewriting.difference(turn_divisions, model, edits=1) == 0
    assert "Div" not in rewriting.operators(model)


def test_a_divisor_that_two_nodes_share_stays_for_the_other(
    build: Builder, rewriting: Rewriting
) -> None:
    shared = build.constant(4.0)
    divided = build.node("Div", build.conv(build.frames(), 4), shared)
    model = build.model(divided, build.node("Add", build.in0, shared))
    assert rewriting.difference(turn_divisions, model, edits=1) == 0


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(build.node("Div", build.in0, build.constant(2.0)))
    assert rewriting.difference(turn_divisions, model, edits=1) == 0


@pytest.mark.parametrize("divisor", [3.0, 0.1, 0.0])
def test_another_divisor_is_refused(build: Builder, rewriting: Rewriting, divisor: float) -> None:
    model = build.model(build.node("Div", build.in0, build.constant(divisor)))
    rewriting.refuses(turn_divisions, model, "is no power of two")


@pytest.mark.parametrize("divisor", [2.0**127, 2.0**-127, 2.0**-149])
def test_a_divisor_whose_inverse_is_no_normal_number_is_refused(
    build: Builder, rewriting: Rewriting, divisor: float
) -> None:
    model = build.model(build.node("Div", build.in0, build.constant(divisor)))
    rewriting.refuses(turn_divisions, model, "is no normal float32")


def test_a_computed_divisor_is_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.node("Div", build.constant(4.0), build.in0, channels=3))
    rewriting.refuses(turn_divisions, model, "is no power of two")
