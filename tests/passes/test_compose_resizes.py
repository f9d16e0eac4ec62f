"""One Resize for two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from surgery.hub import ops
from surgery.passes.compose_resizes import compose_resizes
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting

NOT_THE_SAME = "not the same function"


@pytest.mark.parametrize(
    ("up", "down"), [(32, 16), (16, 8), (8, 4), (4, 2), (16, 4), (8, 2), (16, 2), (12, 2)]
)
def test_up_then_down_is_one_resize(
    build: Builder, rewriting: Rewriting, up: int, down: int
) -> None:
    small = build.conv(build.frames(), 4, stride=up)
    model = build.model(build.resize(build.resize(small, up), 1 / down), enlarge=down)
    size = (96, 192)
    assert EXACT_PASS.accepts(rewriting.difference(compose_resizes, model, edits=1, size=size))
    (resize, _) = [node for node in model.graph.nodes if node.op == "Resize"]
    assert ops.read_resize(resize).scale_h == up / down


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_equal_factors_are_no_identity(build: Builder, rewriting: Rewriting, factor: int) -> None:
    small = build.conv(build.frames(), 4, stride=factor)
    model = build.model(build.resize(build.resize(small, factor), 1 / factor), enlarge=factor)
    identity = type(build)()
    plain = identity.model(identity.conv(identity.frames(), 4, stride=factor), enlarge=factor)
    rewriting.refuses(compose_resizes, model, NOT_THE_SAME)
    assert rewriting.largest_difference(model.to_onnx(), plain.to_onnx()) > 1e-2


@pytest.mark.parametrize(
    ("up", "down"), [(6, 2), (3, 1.5), (4, 8), (2, 4), (9, 3), (6, 3), (4, 1.6), (5, 2)]
)
def test_a_ratio_that_is_not_even_is_refused(
    build: Builder, rewriting: Rewriting, up: float, down: float
) -> None:
    small = build.conv(build.frames(), 4, stride=4)
    model = build.model(build.resize(build.resize(small, up), 1 / down), enlarge=4 * down / up)
    rewriting.refuses(compose_resizes, model, NOT_THE_SAME)


@pytest.mark.parametrize("is_up", [True, False])
@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "nearest"},
        {"mode": "cubic"},
        {"coordinate_transformation_mode": "align_corners"},
        {"coordinate_transformation_mode": "asymmetric"},
        {"antialias": 1},
    ],
    ids=lambda attributes: "_".join(map(str, attributes.values())),
)
def test_anything_but_plain_bilinear_is_refused(
    build: Builder, rewriting: Rewriting, attributes: dict[str, Any], is_up: bool
) -> None:
    small = build.conv(build.frames(), 4, stride=4)
    up = build.resize(small, 4, **(attributes if is_up else {}))
    down = build.resize(up, 1 / 2, **({} if is_up else attributes))
    rewriting.refuses(compose_resizes, build.model(down, enlarge=2), NOT_THE_SAME)


def test_other_factors_for_height_and_width_are_refused(
    build: Builder, rewriting: Rewriting
) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=4), 4, 8)
    model = build.model(build.resize(up, 1 / 2, 1 / 4), enlarge=2)
    rewriting.refuses(compose_resizes, model, NOT_THE_SAME)


def test_the_enlargement_stays_for_its_other_readers(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=4), 4)
    model = build.model(up, build.resize(build.resize(up, 1 / 2), 2, mode="nearest"))
    assert EXACT_PASS.accepts(rewriting.difference(compose_resizes, model, edits=1))


def test_an_output_of_the_graph_is_refused(build: Builder, rewriting: Rewriting) -> None:
    up = build.resize(build.conv(build.frames(), 3, stride=2), 4)
    rewriting.refuses(
        compose_resizes, build.output_of(build.resize(up, 1 / 2)), "output of the graph"
    )


def test_factors_that_float_rounds_are_read_as_fractions(
    build: Builder, rewriting: Rewriting
) -> None:
    up = build.resize(build.conv(build.frames(), 4, stride=4), 24)
    model = build.model(build.resize(up, np.float32(1 / 6)))
    assert EXACT_PASS.accepts(rewriting.difference(compose_resizes, model, edits=1))
