"""A negation is a multiplication by -1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.passes.turn_negations import turn_negations
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


def test_a_negation_becomes_a_factor(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.node("Neg", build.conv(build.frames(), 4)))
    assert EXACT_PASS.accepts(rewriting.difference(turn_negations, model, edits=1))
    assert rewriting.operators(model) == ["Concat", "Conv", "Mul", "Sigmoid", "Conv"]


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(build.node("Neg", build.conv(build.frames(), 3)))
    assert EXACT_PASS.accepts(rewriting.difference(turn_negations, model, edits=1))


def test_other_operators_are_left(build: Builder, rewriting: Rewriting) -> None:
    rewriting.leaves(turn_negations, build.model(build.mul(build.conv(build.frames(), 4), -1)))
