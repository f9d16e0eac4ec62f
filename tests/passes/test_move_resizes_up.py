"""Resize before concatenating."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.move_resizes_up import move_resizes_up

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_each_part_is_reduced_on_its_own(
    build: Builder, rewriting: Rewriting, factor: int, mode: str
) -> None:
    model = build.model(build.resize(build.frames(), 1 / factor, mode=mode), enlarge=factor)
    size = (24, 36)
    assert rewriting.difference(move_resizes_up, model, edits=1, size=size) == 0
    assert rewriting.operators(model)[:4] == ["Resize", "Resize", "Resize", "Concat"]


def test_concats_of_concats_are_passed_one_by_one(build: Builder, rewriting: Rewriting) -> None:
    joined = build.concat(build.concat(build.in0, build.in1), build.in2)
    model = build.model(build.resize(joined, 1 / 2), enlarge=2)
    assert rewriting.difference(move_resizes_up, model, edits=2) == 0


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    big = build.resize(build.concat(build.in2, build.slice(build.in0, 1, 3)), 4)
    model = build.output_of(
        build.resize(build.concat(build.slice(big, 0, 1), build.slice(big, 1, 3)), 1 / 4)
    )
    assert rewriting.difference(move_resizes_up, model, edits=1) == 0


@pytest.mark.parametrize(("height", "width"), [(2, 2), (1 / 2, 1), (1, 1 / 2), (1 / 2, 2)])
def test_what_does_not_reduce_both_sides_is_refused(
    build: Builder, rewriting: Rewriting, height: float, width: float
) -> None:
    resized = build.resize(build.frames(), height, width)
    model = build.model(build.resize(resized, 1 / height, 1 / width))
    rewriting.refuses(move_resizes_up, model, "it enlarges")


def test_a_concat_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    joined = build.frames()
    small = build.resize(joined, 1 / 2)
    model = build.model(build.resize(small, 2), joined)
    rewriting.refuses(move_resizes_up, model, "the Concat has other readers")


def test_a_resize_of_anything_else_is_left(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.resize(build.conv(build.frames(), 4), 1 / 2), enlarge=2)
    rewriting.leaves(move_resizes_up, model)
