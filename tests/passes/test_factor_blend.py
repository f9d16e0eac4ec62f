"""Blend two frames with one multiplication."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from surgery.passes.factor_blend import factor_blend
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def _complement(build: Builder, mask: gs.Tensor, one: float = 1.0) -> gs.Tensor:
    return build.node("Sub", build.constant(one), mask, channels=1)


def _mask(build: Builder) -> gs.Tensor:
    return build.node("Sigmoid", build.conv(build.frames(), 1))


@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=3)))
def test_every_order_of_the_operands_is_one_product(
    build: Builder, rewriting: Rewriting, flips: tuple[bool, bool, bool]
) -> None:
    mask = _mask(build)
    factors = [(build.in0, mask), (build.in1, _complement(build, mask))]
    products = [
        build.node("Mul", *(pair[::-1] if flip else pair), channels=3)
        for pair, flip in zip(factors, flips[:2], strict=True)
    ]
    if flips[2]:
        products.reverse()
    model = build.output_of(build.add(*products))
    assert EXACT_PASS.accepts(rewriting.difference(factor_blend, model, edits=1))
    assert rewriting.operators(model).count("Mul") == 1


def test_a_frame_that_is_the_mask_itself_is_blended_too(
    build: Builder, rewriting: Rewriting
) -> None:
    mask = _mask(build)
    products = [
        build.node("Mul", mask, mask),
        build.node("Mul", build.in2, _complement(build, mask)),
    ]
    model = build.model(build.add(*products))
    assert EXACT_PASS.accepts(rewriting.difference(factor_blend, model, edits=1))


def test_a_constant_against_a_frame_is_blended(build: Builder, rewriting: Rewriting) -> None:
    mask = _mask(build)
    products = [
        build.mul(mask, 0.3),
        build.node("Mul", build.in1, _complement(build, mask), channels=3),
    ]
    model = build.model(build.node("Add", *products, channels=3))
    assert EXACT_PASS.accepts(rewriting.difference(factor_blend, model, edits=1))


def test_two_constants_are_refused(build: Builder, rewriting: Rewriting) -> None:
    mask = _mask(build)
    products = [build.mul(mask, 0.3), build.mul(_complement(build, mask), 0.8)]
    model = build.model(build.add(*products))
    rewriting.refuses(factor_blend, model, "both of what it blends are constants")


def test_another_mask_is_left(build: Builder, rewriting: Rewriting) -> None:
    products = [
        build.node("Mul", build.in0, _mask(build)),
        build.node("Mul", build.in1, _complement(build, _mask(build))),
    ]
    rewriting.leaves(factor_blend, build.output_of(build.add(*products)))


def test_a_complement_to_another_number_is_left(build: Builder, rewriting: Rewriting) -> None:
    mask = _mask(build)
    products = [
        build.node("Mul", build.in0, mask),
        build.node("Mul", build.in1, _complement(build, mask, 1.5)),
    ]
    rewriting.leaves(factor_blend, build.output_of(build.add(*products)))


def test_a_complement_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    mask = _mask(build)
    rest = _complement(build, mask)
    products = [build.node("Mul", build.in0, mask), build.node("Mul", build.in1, rest)]
    model = build.model(build.add(*products), rest)
    rewriting.refuses(factor_blend, model, "1-m has other readers")


def test_a_product_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    mask = _mask(build)
    products = [
        build.node("Mul", build.in0, mask),
        build.node("Mul", build.in1, _complement(build, mask)),
    ]
    model = build.model(build.add(*products), products[0])
    rewriting.refuses(factor_blend, model, "no two products that it alone reads")


def test_one_product_added_to_itself_is_refused(build: Builder, rewriting: Rewriting) -> None:
    product = build.node("Mul", build.in0, _complement(build, _mask(build)))
    model = build.output_of(build.add(product, product))
    rewriting.refuses(factor_blend, model, "no two products that it alone reads")
