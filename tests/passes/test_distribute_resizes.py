"""Resize the terms of a sum instead of the sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.passes.compose_resizes import compose_resizes
from surgery.passes.distribute_resizes import distribute_resizes
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


def test_each_term_is_reduced_on_its_own(build: Builder, rewriting: Rewriting) -> None:
    first = build.resize(build.conv(build.frames(), 4, stride=16), 16)
    second = build.resize(build.conv(build.frames(), 4, stride=8), 8)
    model = build.model(build.resize(build.add(first, second), 1 / 4), enlarge=4)
    before = model.to_onnx()
    assert EXACT_PASS.accepts(rewriting.difference(distribute_resizes, model, edits=1))
    assert rewriting.operators(model).count("Resize") == 5
    assert rewriting.apply(compose_resizes, model) == 2
    assert EXACT_PASS.accepts(rewriting.largest_difference(before, model.to_onnx()))
    assert rewriting.operators(model).count("Resize") == 3


def test_sums_of_sums_go_down_to_their_terms(build: Builder, rewriting: Rewriting) -> None:
    terms = [build.resize(build.conv(build.frames(), 4, stride=s), s) for s in (16, 16, 8)]
    total = build.add(build.add(terms[0], terms[1]), terms[2])
    model = build.model(build.resize(total, 1 / 4), enlarge=4)
    assert EXACT_PASS.accepts(rewriting.difference(distribute_resizes, model, edits=1))


def test_a_term_at_full_size_is_refused(build: Builder, rewriting: Rewriting) -> None:
    first = build.resize(build.conv(build.frames(), 4, stride=4), 4)
    second = build.conv(build.frames(), 4)
    model = build.model(build.resize(build.add(first, second), 1 / 2), enlarge=2)
    rewriting.refuses(distribute_resizes, model, "not every term is an enlargement that composes")


def test_equal_factors_are_refused(build: Builder, rewriting: Rewriting) -> None:
    terms = [build.resize(build.conv(build.frames(), 4, stride=s), s) for s in (8, 2)]
    model = build.model(build.resize(build.add(*terms), 1 / 2), enlarge=2)
    rewriting.refuses(distribute_resizes, model, "not every term is an enlargement that composes")


def test_a_constant_term_is_refused(build: Builder, rewriting: Rewriting) -> None:
    first = build.resize(build.conv(build.frames(), 4, stride=4), 4)
    model = build.model(
        build.resize(build.node("Add", first, build.constant(0.5)), 1 / 2), enlarge=2
    )
    rewriting.refuses(distribute_resizes, model, "not every term is an enlargement that composes")


def test_more_bytes_than_before_are_refused(build: Builder, rewriting: Rewriting) -> None:
    terms = [build.resize(build.conv(build.frames(), 4, stride=4), 4) for _ in range(4)]
    total = build.add(build.add(terms[0], terms[1]), build.add(terms[2], terms[3]))
    model = build.model(build.resize(total, 1 / 2), enlarge=2)
    rewriting.refuses(distribute_resizes, model, "4 terms would move more bytes")


def test_an_output_of_the_graph_is_refused(build: Builder, rewriting: Rewriting) -> None:
    terms = [build.resize(build.conv(build.frames(), 3, stride=s), 2 * s) for s in (8, 4)]
    model = build.output_of(build.resize(build.add(*terms), 1 / 2))
    rewriting.refuses(distribute_resizes, model, "output of the graph")


def test_a_resize_of_no_sum_is_left(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=4), 4)
    rewriting.leaves(distribute_resizes, build.model(build.resize(up, 1 / 2), enlarge=2))


def test_a_sum_that_an_earlier_edit_has_just_made_is_met_by_the_next_run(
    build: Builder, rewriting: Rewriting
) -> None:
    terms = [build.resize(build.conv(build.frames(), 4, stride=16), 16) for _ in range(2)]
    small = build.resize(build.add(*terms), 1 / 8)
    again = [build.resize(small, 8), build.resize(build.conv(build.frames(), 4, stride=8), 8)]
    model = build.model(build.resize(build.add(*again), 1 / 4), enlarge=4)
    assert EXACT_PASS.accepts(rewriting.difference(distribute_resizes, model, edits=2))
