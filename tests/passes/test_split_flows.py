"""Flows of two frames stay apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.split_flows import split_flows
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def _raw(build: Builder, stride: int = 4, channels: int = 5) -> gs.Tensor:
    """What a block makes: flows of several pixels."""
    return build.mul(build.conv(build.frames(), channels, stride=stride), 3)


def _warps(build: Builder, flow: gs.Tensor) -> list[gs.Tensor]:
    return [
        build.warp(build.in0, build.slice(flow, 0, 2)),
        build.warp(build.in1, build.slice(flow, 2, 4)),
    ]


@pytest.mark.parametrize("bounds", [(0, 4), (1, 5), (-4, 2**31 - 1), (-5, -1)])
def test_a_sum_of_enlarged_flows_is_split_from_the_blocks_on(
    build: Builder, rewriting: Rewriting, bounds: tuple[int, int]
) -> None:
    terms = [
        build.mul(build.resize(build.slice(_raw(build, stride), *bounds), stride), stride / 2)
        for stride in (8, 4)
    ]
    model = build.model(*_warps(build, build.add(*terms)))
    assert EXACT_PASS.accepts(rewriting.difference(split_flows, model, edits=1))
    flows = [node.inputs[1].inputs[0].op for node in model.warps()]
    assert flows == ["Add", "Add"]


def test_a_concat_that_reads_the_flow_reads_its_halves(
    build: Builder, rewriting: Rewriting
) -> None:
    flow = build.resize(build.slice(_raw(build), 0, 4), 4)
    model = build.model(*_warps(build, flow), build.conv(build.concat(build.in2, flow), 4))
    assert EXACT_PASS.accepts(rewriting.difference(split_flows, model, edits=1))


def test_halves_counted_from_the_end_are_halves(build: Builder, rewriting: Rewriting) -> None:
    flow = build.resize(build.slice(_raw(build), 0, 4), 4)
    warped = [
        build.warp(build.in0, build.slice(flow, -4, -2)),
        build.warp(build.in1, build.slice(flow, -2, 2**31 - 1)),
    ]
    assert EXACT_PASS.accepts(rewriting.difference(split_flows, build.model(*warped), edits=1))


def test_halves_that_were_joined_are_taken_apart(build: Builder, rewriting: Rewriting) -> None:
    raw = _raw(build, 1)
    joined = build.concat(build.slice(raw, 2, 4), build.slice(raw, 0, 2))
    flow = build.add(joined, build.slice(raw, 1, 5))
    model = build.model(*_warps(build, flow))
    assert EXACT_PASS.accepts(rewriting.difference(split_flows, model, edits=1))


def test_flows_of_one_block_after_another_are_split_all(
    build: Builder, rewriting: Rewriting
) -> None:
    first = build.resize(build.slice(_raw(build, 8), 0, 4), 8)
    second = build.add(first, build.resize(build.slice(_raw(build, 4), 0, 4), 4))
    model = build.model(*_warps(build, first), *_warps(build, second))
    assert EXACT_PASS.accepts(rewriting.difference(split_flows, model, edits=1))
    assert all(node.inputs[1].inputs[0].op != "Slice" for node in model.warps())


def test_a_cut_across_the_halves_is_refused(build: Builder, rewriting: Rewriting) -> None:
    flow = build.resize(build.slice(_raw(build), 0, 4), 4)
    model = build.model(*_warps(build, flow), build.slice(flow, 1, 3))
    rewriting.refuses(split_flows, model, "read by Slice, which needs both flows together")


def test_a_convolution_that_reads_the_flow_is_refused(build: Builder, rewriting: Rewriting) -> None:
    flow = build.resize(build.slice(_raw(build), 0, 4), 4)
    model = build.model(*_warps(build, flow), build.conv(flow, 4))
    rewriting.refuses(split_flows, model, "read by Conv, which needs both flows together")


def test_a_warp_of_the_flow_itself_is_refused(build: Builder, rewriting: Rewriting) -> None:
    flow = build.resize(build.slice(_raw(build), 0, 4), 4)
    moved = build.warp(flow, build.slice(flow, 0, 2))
    rewriting.refuses(split_flows, build.model(moved), "read by Warp")


def test_a_constant_that_is_added_is_refused(build: Builder, rewriting: Rewriting) -> None:
    flow = build.node("Add", build.slice(_raw(build, 1), 0, 4), build.random(1, 4, 1, 1))
    rewriting.refuses(split_flows, build.model(*_warps(build, flow)), "made by Add")


def test_a_single_channel_that_is_added_is_refused(build: Builder, rewriting: Rewriting) -> None:
    flow = build.add(build.slice(_raw(build, 1), 0, 4), build.in2)
    model = build.model(*_warps(build, flow))
    rewriting.refuses(split_flows, model, "refused")


def test_a_flow_that_a_block_makes_itself_is_refused(build: Builder, rewriting: Rewriting) -> None:
    flow = build.conv(build.frames(), 4)
    rewriting.refuses(split_flows, build.model(*_warps(build, flow)), "made by Conv")


def test_a_flow_of_its_own_is_left(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.warp(build.in0, build.conv(build.frames(), 2)))
    rewriting.leaves(split_flows, model)


def test_slices_of_a_blocks_output_are_left(build: Builder, rewriting: Rewriting) -> None:
    rewriting.leaves(split_flows, build.model(*_warps(build, _raw(build, 1, 6))))
