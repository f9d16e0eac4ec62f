"""Fold ResConv's beta into its convolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.fold_betas import fold_betas
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def _scaled(build: Builder, x: gs.Tensor, *shape: int, constant_first: bool = False) -> gs.Tensor:
    operands = [x, build.random(*shape)]
    if constant_first:
        operands.reverse()
    return build.node("Mul", *operands, channels=8)


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (8, 1, 1)])
@pytest.mark.parametrize("constant_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("group", [1, 2])
def test_beta_goes_into_weights_and_bias(
    build: Builder,
    rewriting: Rewriting,
    shape: tuple[int, ...],
    constant_first: bool,
    bias: bool,
    group: int,
) -> None:
    conv = build.conv(build.conv(build.frames(), 8), 8, bias=bias, group=group)
    model = build.model(_scaled(build, conv, *shape, constant_first=constant_first))
    assert EXACT_PASS.accepts(rewriting.difference(fold_betas, model, edits=1))
    assert rewriting.operators(model) == ["Concat", "Conv", "Conv", "Sigmoid", "Conv"]
    assert model.metadata.folded_betas


def test_two_betas_in_a_row_both_go(build: Builder, rewriting: Rewriting) -> None:
    once = _scaled(build, build.conv(build.frames(), 8), 1, 8, 1, 1)
    model = build.model(_scaled(build, once, 1, 8, 1, 1))
    assert EXACT_PASS.accepts(rewriting.difference(fold_betas, model, edits=2))


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.frames(), 3)
    model = build.output_of(build.node("Mul", conv, build.random(1, 3, 1, 1)))
    assert EXACT_PASS.accepts(rewriting.difference(fold_betas, model, edits=1))


def test_weights_that_two_nodes_share_change_for_one(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.frames(), 8)
    twin = build.node("Conv", *conv.inputs[0].inputs, channels=8)
    twin.inputs[0].attrs = dict(conv.inputs[0].attrs)
    model = build.model(_scaled(build, conv, 1, 8, 1, 1), twin)
    assert EXACT_PASS.accepts(rewriting.difference(fold_betas, model, edits=1))


def test_a_convolution_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.frames(), 8)
    model = build.model(_scaled(build, conv, 1, 8, 1, 1), conv)
    rewriting.refuses(fold_betas, model, "not the only reader of a Conv")
    assert not model.metadata.folded_betas


def test_a_deconvolution_is_refused(build: Builder, rewriting: Rewriting) -> None:
    raw = build.deconv(build.conv(build.frames(), 6, stride=2), 8)
    model = build.model(_scaled(build, raw, 1, 8, 1, 1))
    rewriting.refuses(fold_betas, model, "not the only reader of a Conv")


def test_factors_that_widen_a_single_channel_are_refused(
    build: Builder, rewriting: Rewriting
) -> None:
    model = build.model(_scaled(build, build.conv(build.frames(), 1), 1, 8, 1, 1))
    rewriting.refuses(fold_betas, model, "is not one factor per channel")


def test_a_scalar_is_left(build: Builder, rewriting: Rewriting) -> None:
    rewriting.leaves(fold_betas, build.model(build.mul(build.conv(build.frames(), 8), 0.7)))


def test_a_computed_factor_is_left(build: Builder, rewriting: Rewriting) -> None:
    product = build.node("Mul", build.conv(build.frames(), 8), build.conv(build.frames(), 8))
    rewriting.leaves(fold_betas, build.model(product))
