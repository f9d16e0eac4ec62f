"""Fold a power of two into the convolution before or behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.fold_scales import fold_scales
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("factor", [2.0, 0.25, -8.0, 16384.0])
@pytest.mark.parametrize("bias", [True, False])
def test_a_factor_behind_a_convolution_goes_in(
    build: Builder, rewriting: Rewriting, factor: float, bias: bool
) -> None:
    conv = build.conv(build.frames(), 6, bias=bias)
    model = build.model(build.mul(conv, factor))
    assert EXACT_PASS.accepts(rewriting.difference(fold_scales, model, edits=1))
    assert "Mul" not in rewriting.operators(model)


def test_a_factor_behind_a_deconvolution_goes_in(build: Builder, rewriting: Rewriting) -> None:
    raw = build.deconv(build.conv(build.frames(), 6, stride=2), 5)
    model = build.model(build.mul(raw, 4))
    assert EXACT_PASS.accepts(rewriting.difference(fold_scales, model, edits=1))


@pytest.mark.parametrize("bounds", [(0, 2), (2, 4), (-3, -1), (-2, 2**31 - 1)])
@pytest.mark.parametrize("kind", ["conv", "deconv", "shuffle", "shuffled deconv"])
def test_a_factor_of_some_channels_scales_those_alone(
    build: Builder, rewriting: Rewriting, kind: str, bounds: tuple[int, int]
) -> None:
    small = build.conv(build.frames(), 6, stride=4)
    makers = {
        "conv": lambda: build.conv(small, 6),
        "deconv": lambda: build.deconv(small, 6),
        "shuffle": lambda: build.shuffle(build.conv(small, 24), 2),
        "shuffled deconv": lambda: build.shuffle(build.deconv(small, 24), 2),
    }
    raw = makers[kind]()
    start, end, _ = slice(*bounds).indices(6)
    others = [build.slice(raw, *rest) for rest in ((0, start), (end, 6)) if rest[0] < rest[1]]
    enlarge = {"conv": 4, "deconv": 2, "shuffle": 2, "shuffled deconv": 1}[kind]
    model = build.model(build.mul(build.slice(raw, *bounds), 8), *others, enlarge=enlarge)
    assert EXACT_PASS.accepts(rewriting.difference(fold_scales, model, edits=1))
    assert "Mul" not in rewriting.operators(model)


def test_a_factor_before_a_convolution_goes_in(build: Builder, rewriting: Rewriting) -> None:
    resized = build.resize(build.conv(build.frames(), 4), 1 / 2)
    model = build.model(build.conv(build.mul(resized, 0.5), 4), enlarge=2)
    assert EXACT_PASS.accepts(rewriting.difference(fold_scales, model, edits=1))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_factor_before_a_concat_goes_into_its_channels(
    build: Builder, rewriting: Rewriting, place: int
) -> None:
    parts: list[gs.Tensor] = [build.in0, build.in1]
    parts.insert(place, build.mul(build.node("Sigmoid", build.in2), 0.25))
    model = build.model(build.conv(build.concat(*parts), 4))
    assert EXACT_PASS.accepts(rewriting.difference(fold_scales, model, edits=1))


def test_weights_that_two_nodes_share_change_for_one(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.frames(), 6)
    twin = build.node("Conv", *conv.inputs[0].inputs, channels=6)
    twin.inputs[0].attrs = dict(conv.inputs[0].attrs)
    model = build.model(build.mul(conv, 4), twin)
    assert EXACT_PASS.accepts(rewriting.difference(fold_scales, model, edits=1))


@pytest.mark.parametrize("factor", [3.0, 0.1, 1.5, 0.0])
def test_what_is_no_power_of_two_is_refused(
    build: Builder, rewriting: Rewriting, factor: float
) -> None:
    model = build.model(build.mul(build.conv(build.frames(), 4), factor))
    rewriting.refuses(fold_scales, model, "is no power of two")


@pytest.mark.parametrize("factor", [2.0**15, 2.0**-15])
def test_a_factor_that_could_overflow_or_vanish_is_refused(
    build: Builder, rewriting: Rewriting, factor: float
) -> None:
    model = build.model(build.mul(build.conv(build.frames(), 4), factor))
    rewriting.refuses(fold_scales, model, "could overflow or vanish")


def test_other_readers_of_the_unscaled_are_refused(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.frames(), 4)
    rewriting.refuses(fold_scales, build.model(build.mul(conv, 2), conv), "has other readers")


@pytest.mark.parametrize("other", [(0, 1), (1, 3), (-4, -2), (0, 2**31 - 1)])
def test_channels_that_another_slice_takes_are_refused(
    build: Builder, rewriting: Rewriting, other: tuple[int, int]
) -> None:
    raw = build.conv(build.frames(), 5)
    scaled = build.mul(build.slice(raw, 0, 2), 2)
    model = build.model(scaled, build.slice(raw, *other))
    rewriting.refuses(fold_scales, model, "other readers take the same channels")


def test_a_reader_of_all_channels_is_refused(build: Builder, rewriting: Rewriting) -> None:
    raw = build.conv(build.frames(), 5)
    model = build.model(build.mul(build.slice(raw, 0, 2), 2), raw)
    rewriting.refuses(fold_scales, model, "other readers take the same channels")


def test_another_reader_before_the_shuffle_is_refused(build: Builder, rewriting: Rewriting) -> None:
    conv = build.conv(build.frames(), 16, stride=2)
    scaled = build.mul(build.shuffle(conv, 2), 2)
    model = build.model(scaled, build.resize(conv, 2, mode="nearest"))
    rewriting.refuses(fold_scales, model, "has other readers")


def test_groups_are_refused_on_either_side(build: Builder, rewriting: Rewriting) -> None:
    before = build.mul(build.conv(build.conv(build.frames(), 8), 4, group=2), 2)
    rewriting.refuses(fold_scales, build.model(before), "has groups")
    other = type(build)()
    scaled = other.mul(other.node("Sigmoid", other.conv(other.frames(), 8)), 2)
    rewriting.refuses(fold_scales, other.model(other.conv(scaled, 4, group=2)), "has groups")


def test_several_readers_of_the_concat_are_refused(build: Builder, rewriting: Rewriting) -> None:
    joined = build.concat(build.mul(build.in0, 2), build.in1)
    model = build.model(build.conv(joined, 4), joined)
    rewriting.refuses(fold_scales, model, "has several readers")


def test_several_readers_of_the_product_are_refused(build: Builder, rewriting: Rewriting) -> None:
    scaled = build.mul(build.in0, 2)
    model = build.model(build.conv(scaled, 4), scaled)
    rewriting.refuses(fold_scales, model, "it has several readers")


def test_an_output_of_the_graph_is_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(build.mul(build.conv(build.frames(), 3), 2))
    rewriting.refuses(fold_scales, model, "output of the graph")


def test_a_factor_before_anything_else_is_left(build: Builder, rewriting: Rewriting) -> None:
    rewriting.leaves(fold_scales, build.model(build.mul(build.in0, 2)))
