"""Multiply what is reduced already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from surgery.passes.move_scales_down import move_scales_down
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("factor", [-1.0, 0.3])
@pytest.mark.parametrize("constant_first", [False, True])
def test_the_factor_goes_behind_the_reduction(
    build: Builder, rewriting: Rewriting, factor: float, constant_first: bool
) -> None:
    operands = [build.conv(build.frames(), 4), build.constant(factor)]
    if constant_first:
        operands.reverse()
    down = build.resize(build.node("Mul", *operands, channels=4), 1 / 4)
    model = build.model(down, enlarge=4)
    assert EXACT_PASS.accepts(rewriting.difference(move_scales_down, model, edits=1))
    assert rewriting.operators(model)[:4] == ["Concat", "Conv", "Resize", "Mul"]


def test_other_readers_keep_what_they_read(build: Builder, rewriting: Rewriting) -> None:
    scaled = build.mul(build.conv(build.frames(), 4), -1)
    small = build.resize(build.resize(scaled, 1 / 2), 2, mode="nearest")
    model = build.model(small, scaled)
    assert EXACT_PASS.accepts(rewriting.difference(move_scales_down, model, edits=1))
    assert rewriting.operators(model).count("Mul") == 2


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
    down = build.resize(build.mul(build.conv(build.frames(), 4), 2), 1 / 2, **attributes)
    model = build.model(down, enlarge=2)
    rewriting.refuses(move_scales_down, model, "does not reduce bilinearly")


def test_an_enlargement_is_refused(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.mul(build.conv(build.frames(), 4, stride=2), 2), 2)
    rewriting.refuses(move_scales_down, build.model(up), "does not reduce bilinearly")


def test_factors_for_each_channel_are_left(build: Builder, rewriting: Rewriting) -> None:
    scaled = build.node("Mul", build.conv(build.frames(), 4), build.random(1, 4, 1, 1))
    rewriting.leaves(move_scales_down, build.model(build.resize(scaled, 1 / 2), enlarge=2))
