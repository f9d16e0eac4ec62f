"""Slice first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.hub import ops
from surgery.passes.move_slices_up import move_slices_up
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting

BOUNDS = [(0, 2), (2, 4), (-2, 2**31 - 1), (-6, -3), (1, -1)]


def _source(build: Builder, kind: str) -> gs.Tensor:
    if kind == "Mul":
        return build.mul(build.conv(build.frames(), 6), 0.7)
    return build.resize(build.conv(build.frames(), 6, stride=2), 2, mode=kind)


@pytest.mark.parametrize("kind", ["linear", "nearest", "cubic", "Mul"])
@pytest.mark.parametrize("bounds", BOUNDS)
def test_it_goes_before_what_treats_channels_alike(
    build: Builder, rewriting: Rewriting, kind: str, bounds: tuple[int, int]
) -> None:
    model = build.model(build.slice(_source(build, kind), *bounds))
    assert EXACT_PASS.accepts(rewriting.difference(move_slices_up, model, edits=1))
    operator = "Mul" if kind == "Mul" else "Resize"
    assert rewriting.operators(model)[2:4] == ["Slice", operator]


@pytest.mark.parametrize("outer", [(0, 2), (2, 4), (-2, -1), (-1, 2**31 - 1)])
@pytest.mark.parametrize("inner", [(1, 5), (-5, -1), (-4, 2**31 - 1)])
def test_a_slice_of_a_slice_is_one(
    build: Builder, rewriting: Rewriting, inner: tuple[int, int], outer: tuple[int, int]
) -> None:
    raw = build.conv(build.frames(), 6)
    model = build.model(build.slice(build.slice(raw, *inner), *outer))
    assert rewriting.difference(move_slices_up, model, edits=1) == 0
    (cut,) = [node for node in model.graph.nodes if node.op == "Slice"]
    kept = range(6)[slice(*inner)][slice(*outer)]
    assert ops.channel_range(cut, 6) == (kept[0], kept[-1] + 1)


@pytest.mark.parametrize("bounds", [(0, 6), (0, 2**31 - 1), (-6, 2**31 - 1), (-99, 99)])
def test_a_slice_of_everything_goes(
    build: Builder, rewriting: Rewriting, bounds: tuple[int, int]
) -> None:
    model = build.model(build.slice(build.conv(build.frames(), 6), *bounds))
    assert rewriting.difference(move_slices_up, model, edits=1) == 0
    assert "Slice" not in rewriting.operators(model)


@pytest.mark.parametrize(
    ("bounds", "concats"), [((0, 3), 1), ((3, 7), 2), ((0, 6), 2), ((-1, 7), 1)]
)
def test_whole_parts_of_a_concat_are_read_instead(
    build: Builder, rewriting: Rewriting, bounds: tuple[int, int], concats: int
) -> None:
    joined = build.frames()
    model = build.model(build.slice(joined, *bounds), joined)
    assert rewriting.difference(move_slices_up, model, edits=1) == 0
    assert rewriting.operators(model).count("Concat") == concats + 1
    assert "Slice" not in rewriting.operators(model)


def test_a_row_of_everything_moves_to_the_front(build: Builder, rewriting: Rewriting) -> None:
    x = build.resize(build.resize(build.conv(build.frames(), 6, stride=4), 2), 2)
    model = build.model(build.slice(build.slice(build.mul(x, 3), -5, -1), 1, 3))
    assert EXACT_PASS.accepts(rewriting.difference(move_slices_up, model))
    assert rewriting.operators(model)[2:6] == ["Slice", "Resize", "Resize", "Mul"]


def test_slices_of_what_this_run_has_just_made_wait_for_the_next(
    build: Builder, rewriting: Rewriting
) -> None:
    up = build.resize(build.conv(build.frames(), 8, stride=2), 2)
    cut = build.slice(build.slice(build.slice(up, 1, 7), 1, 5), 1, 3)
    assert EXACT_PASS.accepts(rewriting.difference(move_slices_up, build.model(cut)))


def test_a_cut_through_a_part_is_refused(build: Builder, rewriting: Rewriting) -> None:
    joined = build.frames()
    model = build.model(build.slice(joined, 1, 4), joined)
    rewriting.refuses(move_slices_up, model, "it cuts a part of the Concat")


def test_a_slice_of_a_convolution_is_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.slice(build.conv(build.frames(), 6), 1, 4))
    rewriting.refuses(move_slices_up, model, "it reads a Conv")


def test_a_factor_for_each_channel_is_refused(build: Builder, rewriting: Rewriting) -> None:
    scaled = build.node("Mul", build.conv(build.frames(), 6), build.random(1, 6, 1, 1))
    rewriting.refuses(move_slices_up, build.model(build.slice(scaled, 1, 4)), "it reads a Mul")


def test_an_output_of_the_graph_is_refused(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 6, stride=2), 2)
    rewriting.refuses(move_slices_up, build.output_of(build.slice(up, 1, 4)), "output of the graph")
