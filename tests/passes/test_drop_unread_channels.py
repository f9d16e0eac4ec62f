"""Do not compute what nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.hub import ops
from surgery.passes.drop_unread_channels import drop_unread_channels
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from surgery.hub.model import HubModel
    from tests.passes.conftest import Builder, Rewriting


def _kept_channels(model: HubModel) -> int:
    """Output channels of the convolution in the middle, in weights and bias alike."""
    conv = [node for node in model.graph.nodes if node.op == "Conv"][1]
    weight, bias = (ops.constant(conv.inputs[index]) for index in (1, 2))
    assert weight is not None
    assert bias is not None
    assert len(weight) == len(bias)
    return len(weight)


@pytest.mark.parametrize(
    ("ranges", "kept"),
    [
        ([(0, 2), (4, 5)], 3),
        ([(1, 3), (2, 6)], 5),
        ([(-3, -1), (0, 1)], 3),
        ([(-6, 2**31 - 1), (-2, -1)], 6),
        ([(5, 2**31 - 1)], 8),
    ],
)
def test_unread_channels_leave_the_weights(
    build: Builder, rewriting: Rewriting, ranges: list[tuple[int, int]], kept: int
) -> None:
    raw = build.conv(build.conv(build.frames(), 8), 13)
    model = build.model(*(build.slice(raw, *bounds) for bounds in ranges))
    assert EXACT_PASS.accepts(rewriting.difference(drop_unread_channels, model, edits=1))
    assert _kept_channels(model) == kept


def test_channels_of_a_pixel_shuffle_leave_in_fours(build: Builder, rewriting: Rewriting) -> None:
    raw = build.shuffle(build.conv(build.conv(build.frames(), 8, stride=2), 24), 2)
    parts = [build.slice(raw, 0, 2), build.slice(raw, 3, 5)]
    assert EXACT_PASS.accepts(
        rewriting.difference(drop_unread_channels, model := build.model(*parts), edits=1)
    )
    assert _kept_channels(model) == 16


def test_a_slice_that_is_the_output_moves_along(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.conv(build.frames(), 8), 9)
    model = build.output_of(build.slice(raw, 4, 7))
    assert EXACT_PASS.accepts(rewriting.difference(drop_unread_channels, model, edits=1))
    assert _kept_channels(model) == 3


def test_a_convolution_without_bias_is_cut_too(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.conv(build.frames(), 8), 9, bias=False)
    model = build.model(build.slice(raw, 4, 7))
    assert EXACT_PASS.accepts(rewriting.difference(drop_unread_channels, model, edits=1))


def test_weights_that_two_nodes_share_are_cut_for_one(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.frames(), 9)
    twin = build.node("Conv", build.conv(build.frames(), 7), *raw.inputs[0].inputs[1:], channels=9)
    twin.inputs[0].attrs = dict(raw.inputs[0].attrs)
    model = build.model(build.slice(raw, 4, 7), twin)
    assert EXACT_PASS.accepts(rewriting.difference(drop_unread_channels, model, edits=1))


def test_a_reader_of_everything_keeps_everything(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.frames(), 9)
    rewriting.leaves(drop_unread_channels, build.model(build.slice(raw, 4, 7), raw))


def test_channels_that_are_all_read_stay(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.frames(), 9)
    parts = [build.slice(raw, 0, 5), build.slice(raw, 4, 9)]
    rewriting.leaves(drop_unread_channels, build.model(*parts))


def test_groups_are_refused(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.conv(build.frames(), 8), 10, group=2)
    model = build.model(build.slice(raw, 4, 7))
    rewriting.refuses(drop_unread_channels, model, "has groups")


def test_another_reader_in_front_of_the_shuffle_is_refused(
    build: Builder, rewriting: Rewriting
) -> None:
    conv = build.conv(build.frames(), 24, stride=2)
    cut = build.slice(build.shuffle(conv, 2), 0, 4)
    model = build.model(cut, build.resize(conv, 2, mode="nearest"))
    rewriting.refuses(drop_unread_channels, model, "its convolution has other readers")
