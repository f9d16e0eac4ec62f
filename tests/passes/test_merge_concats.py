"""A Concat of Concats becomes one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.merge_concats import merge_concats

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_parts_stay_in_order(build: Builder, rewriting: Rewriting, place: int) -> None:
    parts = [build.in0, build.in2]
    parts.insert(place, build.concat(build.in1, build.conv(build.in0, 2)))
    model = build.model(build.conv(build.concat(*parts), 4))
    assert rewriting.difference(merge_concats, model, edits=1) == 0
    assert rewriting.operators(model).count("Concat") == 1


def test_a_row_of_three_becomes_one(build: Builder, rewriting: Rewriting) -> None:
    joined = build.concat(build.in2, build.concat(build.in1, build.concat(build.in0, build.in2)))
    assert rewriting.difference(merge_concats, build.model(build.conv(joined, 4)), edits=2) == 0


def test_an_axis_from_the_end_is_the_same_axis(build: Builder, rewriting: Rewriting) -> None:
    joined = build.concat(build.in2, build.concat(build.in0, build.in1, axis=-3))
    assert rewriting.difference(merge_concats, build.model(build.conv(joined, 4)), edits=1) == 0


def test_a_concat_with_other_readers_stays(build: Builder, rewriting: Rewriting) -> None:
    inner = build.concat(build.in0, build.in1)
    model = build.model(build.conv(build.concat(inner, build.in2), 4), inner)
    rewriting.refuses(merge_concats, model, "it has other readers")


def test_a_concat_that_is_read_twice_stays(build: Builder, rewriting: Rewriting) -> None:
    inner = build.concat(build.in0, build.in1)
    model = build.model(build.conv(build.concat(inner, inner), 4))
    rewriting.refuses(merge_concats, model, "it has other readers")


def test_a_concat_that_a_convolution_reads_is_left(build: Builder, rewriting: Rewriting) -> None:
    rewriting.leaves(merge_concats, build.model(build.conv(build.frames(), 4)))
