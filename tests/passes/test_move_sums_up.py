"""Add up what is small, then enlarge once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from surgery.passes.move_sums_up import move_sums_up
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def small(build: Builder, channels: int = 4, stride: int = 4) -> gs.Variable:
    return build.conv(build.frames(), channels, stride=stride)


def test_the_sum_goes_before_the_enlargement(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(build.add(build.resize(small(build), 4), build.resize(small(build), 4)))
    assert EXACT_PASS.accepts(rewriting.difference(move_sums_up, model, edits=1))
    assert rewriting.operators(model).count("Resize") == 1


def test_sums_of_sums_move_as_a_whole(build: Builder, rewriting: Rewriting) -> None:
    ups = [build.resize(small(build), 4) for _ in range(3)]
    model = build.model(build.add(build.add(ups[0], ups[1]), ups[2]))
    assert EXACT_PASS.accepts(rewriting.difference(move_sums_up, model, edits=2))
    assert rewriting.operators(model).count("Resize") == 1


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    ups = [build.resize(small(build, 3), 4) for _ in range(2)]
    model = build.output_of(build.add(*ups))
    assert EXACT_PASS.accepts(rewriting.difference(move_sums_up, model, edits=1))


def test_different_enlargements_are_refused(build: Builder, rewriting: Rewriting) -> None:
    total = build.add(build.resize(small(build), 4), build.resize(small(build, stride=2), 2))
    rewriting.refuses(move_sums_up, build.model(total), "differ")


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
    ups = [build.resize(small(build), 4, **attributes) for _ in range(2)]
    model = build.model(build.add(*ups))
    rewriting.refuses(move_sums_up, model, "does not enlarge bilinearly")


def test_reductions_are_refused(build: Builder, rewriting: Rewriting) -> None:
    # `distribute_resizes` goes the other way there.
    downs = [build.resize(build.conv(build.frames(), 4), 1 / 2) for _ in range(2)]
    model = build.model(build.add(*downs), enlarge=2)
    rewriting.refuses(move_sums_up, model, "does not enlarge bilinearly")


def test_an_enlargement_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(small(build), 4)
    model = build.model(build.add(up, build.resize(small(build), 4)), up)
    rewriting.refuses(move_sums_up, model, "other readers")


def test_a_broadcast_is_refused(build: Builder, rewriting: Rewriting) -> None:
    total = build.add(build.resize(small(build), 4), build.resize(small(build, 1), 4))
    rewriting.refuses(move_sums_up, build.model(total), "differ in size or channels")


def test_other_sums_are_left(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(small(build), 4)
    model = build.model(build.add(up, build.conv(build.frames(), 4)), build.add(up, up))
    rewriting.leaves(move_sums_up, model)
