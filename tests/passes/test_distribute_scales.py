"""Scale the slices that are added up, so that their convolutions can do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.passes.distribute_scales import distribute_scales
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def cut(build: Builder) -> gs.Variable:
    return build.slice(build.conv(build.frames(), 5), 0, 4)


def test_the_factor_goes_to_both_slices(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.mul(build.add(cut(build), cut(build)), 0.5))
    assert EXACT_PASS.accepts(rewriting.difference(distribute_scales, model, edits=1))
    assert rewriting.operators(model)[-5:] == ["Mul", "Mul", "Add", "Sigmoid", "Conv"]


def test_the_constant_may_come_first(build: Builder, rewriting: Rewriting) -> None:
    total = build.add(cut(build), cut(build))
    model = build.model(build.node("Mul", build.constant(-2.0), total, channels=4))
    assert EXACT_PASS.accepts(rewriting.difference(distribute_scales, model, edits=1))


def test_a_factor_that_would_round_is_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.mul(build.add(cut(build), cut(build)), 0.3))
    rewriting.refuses(distribute_scales, model, "no power of two")


def test_a_sum_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    total = build.add(cut(build), cut(build))
    rewriting.refuses(
        distribute_scales, build.model(build.mul(total, 0.5), total), "the sum has other readers"
    )


def test_a_slice_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    first = cut(build)
    model = build.model(build.mul(build.add(first, cut(build)), 0.5), first)
    rewriting.refuses(distribute_scales, model, "no sum of two slices")


def test_a_sum_of_anything_else_is_refused(build: Builder, rewriting: Rewriting) -> None:
    total = build.add(cut(build), build.conv(build.frames(), 4))
    rewriting.refuses(distribute_scales, build.model(build.mul(total, 0.5)), "no sum of two slices")


def test_an_output_of_the_graph_is_left(build: Builder, rewriting: Rewriting) -> None:
    cuts = [build.slice(build.conv(build.frames(), 5), 0, 3) for _ in range(2)]
    rewriting.leaves(distribute_scales, build.output_of(build.mul(build.add(*cuts), 0.5)))
