"""Two pixel shuffles in a row become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.merge_pixel_shuffles import merge_pixel_shuffles

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting

SIZE = (24, 36)  # height, width


@pytest.mark.parametrize(("inner", "outer"), [(2, 2), (2, 3), (3, 2), (1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_order_of_channels_makes_up_for_it(
    build: Builder, rewriting: Rewriting, inner: int, outer: int, bias: bool
) -> None:
    small = build.conv(build.frames(), 5, stride=inner * outer)
    conv = build.conv(small, 3 * (inner * outer) ** 2, bias=bias)
    model = build.model(build.shuffle(build.shuffle(conv, inner), outer))
    assert rewriting.difference(merge_pixel_shuffles, model, edits=1, size=SIZE) == 0
    assert rewriting.operators(model).count("DepthToSpace") == 1


def test_three_become_one(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.conv(build.frames(), 5, stride=8), 128)
    model = build.model(build.shuffle(build.shuffle(build.shuffle(raw, 2), 2), 2))
    assert rewriting.difference(merge_pixel_shuffles, model, edits=2) == 0


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.conv(build.frames(), 5, stride=4), 48)
    model = build.output_of(build.shuffle(build.shuffle(raw, 2), 2))
    assert rewriting.difference(merge_pixel_shuffles, model, edits=1) == 0


@pytest.mark.parametrize("place", ["convolution", "inner"])
def test_other_readers_in_between_are_refused(
    build: Builder, rewriting: Rewriting, place: str
) -> None:
    conv = build.conv(build.conv(build.frames(), 5, stride=4), 32)
    inner = build.shuffle(conv, 2)
    other = build.resize(*{"convolution": (conv, 4), "inner": (inner, 2)}[place], mode="nearest")
    model = build.model(build.shuffle(inner, 2), other)
    rewriting.refuses(merge_pixel_shuffles, model, "something else reads in between")


def test_groups_are_refused(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.conv(build.frames(), 8, stride=4), 32, group=2)
    model = build.model(build.shuffle(build.shuffle(conv, 2), 2))
    rewriting.refuses(merge_pixel_shuffles, model, "has groups")


def test_an_activation_in_between_is_left(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.conv(build.frames(), 5, stride=4), 32)
    active = build.node("LeakyRelu", build.shuffle(conv, 2), alpha=0.2)
    rewriting.leaves(merge_pixel_shuffles, build.model(build.shuffle(active, 2)))
