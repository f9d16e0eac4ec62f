"""Fold conv(x) + x into the convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from surgery.passes.fold_residuals import fold_residuals
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def _residual(build: Builder, x: gs.Tensor, *, flip: bool = False, **how: Any) -> gs.Tensor:
    channels = build.channels[x.name]
    operands = [build.conv(x, channels, **how), x]
    if flip:
        operands.reverse()
    return build.add(*operands)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"group": 2},
        {"group": 8},
        {"bias": False},
        {"dilation": 2},
        {"kernel": 1},
        {"kernel": 5},
    ],
    ids=str,
)
def test_one_is_added_on_the_centre_tap(
    build: Builder, rewriting: Rewriting, how: dict[str, Any], flip: bool
) -> None:
    x = build.conv(build.frames(), 8)
    model = build.model(_residual(build, x, flip=flip, **how))
    assert EXACT_PASS.accepts(rewriting.difference(fold_residuals, model, edits=1))
    assert "Add" not in rewriting.operators(model)


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(_residual(build, build.conv(build.frames(), 3)))
    assert EXACT_PASS.accepts(rewriting.difference(fold_residuals, model, edits=1))


def test_other_readers_of_the_convolution_are_refused(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 8)
    conv = build.conv(x, 8)
    rewriting.refuses(fold_residuals, build.model(build.add(conv, x), conv), "has other readers")


def test_an_even_kernel_is_refused(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 8)
    model = build.model(_residual(build, x, kernel=2, pads=[0, 0, 1, 1]))
    rewriting.refuses(fold_residuals, model, "has no centre tap")


def test_a_shifted_picture_is_refused(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 8)
    model = build.model(_residual(build, x, pads=[0, 2, 2, 0]))
    rewriting.refuses(fold_residuals, model, "shift the picture")


def test_one_channel_for_many_is_refused(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 1)
    model = build.model(build.node("Add", build.conv(x, 8), x, channels=8))
    rewriting.refuses(fold_residuals, model, "1 channels in, 8 out")


def test_a_sum_with_something_else_is_left(build: Builder, rewriting: Rewriting) -> None:
    x = build.conv(build.frames(), 8)
    rewriting.leaves(fold_residuals, build.model(build.add(build.conv(x, 8), build.conv(x, 8))))
