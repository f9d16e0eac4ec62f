"""Compute everything once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs
import pytest

from surgery.passes.merge_duplicates import merge_duplicates

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


def _twins(build: Builder, operator: str) -> list[gs.Tensor]:
    x = build.conv(build.frames(), 4)
    flow = build.conv(build.frames(), 2)
    makers = {
        "Resize": lambda: build.resize(x, 2),
        "Mul": lambda: build.resize(build.mul(x, 3), 2),
        "Slice": lambda: build.resize(build.slice(x, 1, 3), 2),
        "Warp": lambda: build.resize(build.warp(build.in0, flow), 2),
    }
    return [makers[operator](), makers[operator]()]


@pytest.mark.parametrize(("operator", "edits"), [("Resize", 1), ("Mul", 2), ("Slice", 2)])
def test_equal_nodes_on_equal_constants_become_one(
    build: Builder, rewriting: Rewriting, operator: str, edits: int
) -> None:
    both = build.add(*_twins(build, operator))
    model = build.model(build.resize(both, 1 / 2))
    assert rewriting.difference(merge_duplicates, model, edits=edits) == 0
    assert rewriting.operators(model).count(operator) == (2 if operator == "Resize" else 1)


def test_equal_convolutions_become_one(build: Builder, rewriting: Rewriting) -> None:
    first = build.conv(build.in0, 4)
    weights = [build.constant(t.values) for t in first.inputs[0].inputs[1:]]
    second = build.node("Conv", build.in0, *weights, channels=4, **first.inputs[0].attrs)
    model = build.model(build.add(first, second))
    assert rewriting.difference(merge_duplicates, model, edits=1) == 0


@pytest.mark.parametrize("change", ["attribute", "constant", "shape of a constant", "order"])
def test_nodes_that_differ_in_anything_stay(
    build: Builder, rewriting: Rewriting, change: str
) -> None:
    frames = build.frames()
    x, y = build.conv(frames, 4), build.conv(frames, 4)
    pairs = {
        "attribute": lambda: [build.node("LeakyRelu", x, alpha=alpha) for alpha in (0.1, 0.2)],
        "constant": lambda: [build.mul(x, factor) for factor in (0.5, 0.25)],
        "shape of a constant": lambda: [
            build.node("Mul", x, build.constant(factor)) for factor in (0.5, [0.5])
        ],
        "order": lambda: [build.node("Sub", x, y), build.node("Sub", y, x)],
    }
    rewriting.leaves(merge_duplicates, build.model(*pairs[change]()))


def test_the_same_operator_of_another_domain_stays(build: Builder, rewriting: Rewriting) -> None:
    flow = build.conv(build.frames(), 2)
    warped = build.warp(build.in0, flow)
    model = build.model(warped, build.warp(build.in1, flow))
    rewriting.leaves(merge_duplicates, model)


def test_an_output_of_the_graph_stays(build: Builder, rewriting: Rewriting) -> None:
    first, second = build.mul(build.in0, 3), build.mul(build.in0, 3)
    model = build.output_of(build.mul(build.add(first, second), 3))
    assert rewriting.difference(merge_duplicates, model, edits=1) == 0


def test_two_equal_makers_of_the_output_keep_its_name(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 3)
    output = build.mul(x, 0.5)
    build.mul(x, 0.5)
    model = build.output_of(output)
    rewriting.leaves(merge_duplicates, model)
