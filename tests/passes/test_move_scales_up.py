"""Multiply where the picture is small."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from surgery.passes.move_scales_up import move_scales_up
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("factor", [2.0, -0.3, 7.0])
@pytest.mark.parametrize("constant_first", [False, True])
def test_the_factor_goes_before_the_enlargement(
    build: Builder, rewriting: Rewriting, factor: float, constant_first: bool
) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=4), 4)
    operands = [up, build.constant([[[[factor]]]])]
    if constant_first:
        operands.reverse()
    model = build.model(build.node("Mul", *operands, channels=4))
    assert EXACT_PASS.accepts(rewriting.difference(move_scales_up, model, edits=1))
    assert rewriting.operators(model) == ["Concat", "Conv", "Mul", "Resize", "Sigmoid", "Conv"]


def test_two_enlargements_are_passed(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.resize(build.conv(build.frames(), 4, stride=4), 2), 2)
    model = build.model(build.mul(up, 3))
    assert EXACT_PASS.accepts(rewriting.difference(move_scales_up, model, edits=2))


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(build.mul(build.resize(build.conv(build.frames(), 3, stride=2), 2), 3))
    assert EXACT_PASS.accepts(rewriting.difference(move_scales_up, model, edits=1))


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest"},
        {"coordinate_transformation_mode": "align_corners"},
        {"antialias": 1},
    ],
    ids=lambda attributes: "_".join(map(str, attributes.values())),
)
def test_anything_but_plain_bilinear_is_refused(
    build: Builder, rewriting: Rewriting, attributes: dict[str, Any]
) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=2), 2, **attributes)
    rewriting.refuses(move_scales_up, build.model(build.mul(up, 2)), "does not enlarge bilinearly")


def test_a_reduction_is_refused(build: Builder, rewriting: Rewriting) -> None:
    down = build.resize(build.conv(build.frames(), 4), 1 / 2)
    model = build.model(build.mul(down, 2), enlarge=2)
    rewriting.refuses(move_scales_up, model, "does not enlarge bilinearly")


def test_an_enlargement_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=2), 2)
    rewriting.refuses(move_scales_up, build.model(build.mul(up, 2), up), "has other readers")


def test_factors_for_each_channel_are_left(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=2), 2)
    scaled = build.node("Mul", up, build.random(1, 4, 1, 1))
    rewriting.leaves(move_scales_up, build.model(scaled))


def test_a_computed_factor_is_left(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=2), 2)
    rewriting.leaves(move_scales_up, build.model(build.node("Mul", up, build.in2)))
