"""Both directions of an ensemble are averaged where their blocks put out what they found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.join_directions import join_directions
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting

# What a block puts out, and whose channels an ensemble adds to them: flows change places.
FLOWS_AND_MASK = ((0, 2), (2, 4), (4, 5))
OTHER_WAY = ((2, 4), (0, 2), (4, 5))
STEMS = ("Conv", "ConvTranspose", "DepthToSpace")


def raw(build: Builder, stem: str = "DepthToSpace", channels: int = 5) -> gs.Variable:
    """A raw output at half size, made in one of the ways that stock blocks and passes know."""
    if stem == "Conv":
        return build.conv(build.frames(), channels, stride=2)
    if stem == "ConvTranspose":
        return build.deconv(build.conv(build.frames(), 3, stride=4), channels)
    return build.shuffle(build.conv(build.frames(), 16 * channels, stride=8), 4)


def sums(build: Builder, first: gs.Variable, second: gs.Variable) -> list[gs.Variable]:
    return [
        build.add(build.slice(first, *one), build.slice(second, *other))
        for one, other in zip(FLOWS_AND_MASK, OTHER_WAY, strict=True)
    ]


@pytest.mark.parametrize("stem", STEMS)
def test_raw_outputs_are_added_up_whole(build: Builder, rewriting: Rewriting, stem: str) -> None:
    model = build.model(*sums(build, raw(build, stem), raw(build, stem)), enlarge=2)
    assert EXACT_PASS.accepts(rewriting.difference(join_directions, model, edits=1))
    found = rewriting.operators(model)
    assert found.count("Add") == 1
    assert found.count("Slice") == 3
    assert found.count("DepthToSpace") == (stem == "DepthToSpace")


def test_the_order_of_an_additions_terms_does_not_matter(
    build: Builder, rewriting: Rewriting
) -> None:
    first, second = raw(build), raw(build)
    flows = sums(build, first, second)[:2]
    mask = build.add(build.slice(second, 4, 5), build.slice(first, 4, 5))
    model = build.model(*flows, mask, enlarge=2)
    assert EXACT_PASS.accepts(rewriting.difference(join_directions, model, edits=1))


def test_each_block_is_joined(build: Builder, rewriting: Rewriting) -> None:
    pairs = [sums(build, raw(build), raw(build)) for _ in range(2)]
    model = build.model(*(one for pair in pairs for one in pair), enlarge=2)
    assert EXACT_PASS.accepts(rewriting.difference(join_directions, model, edits=2))


def test_the_shuffle_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    first = raw(build)
    name = first.inputs[0].name
    model = build.model(*sums(build, first, raw(build)), enlarge=2)
    rewriting.apply(join_directions, model)
    assert [node.name for node in model.graph.nodes if node.op == "DepthToSpace"] == [name]


def test_a_raw_output_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    first = raw(build)
    model = build.model(*sums(build, first, raw(build)), first, enlarge=2)
    rewriting.refuses(join_directions, model, "is read otherwise, too")


def test_the_other_raw_output_with_other_readers_is_refused(
    build: Builder, rewriting: Rewriting
) -> None:
    second = raw(build)
    model = build.model(*sums(build, raw(build), second), second, enlarge=2)
    rewriting.refuses(join_directions, model, "is read otherwise, too")


def test_a_slice_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    added = sums(build, raw(build), raw(build))
    model = build.model(*added, added[0].inputs[0].inputs[1], enlarge=2)
    rewriting.refuses(join_directions, model, "is read otherwise, too")


def test_channels_that_no_sum_takes_are_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(*sums(build, raw(build), raw(build))[:2], enlarge=2)
    rewriting.refuses(join_directions, model, "is read otherwise, too")


def test_channels_that_two_sums_take_are_refused(build: Builder, rewriting: Rewriting) -> None:
    first, second = raw(build), raw(build)
    again = build.add(build.slice(first, 0, 2), build.slice(second, 0, 2))
    model = build.model(*sums(build, first, second), again, enlarge=2)
    rewriting.refuses(join_directions, model, "is read otherwise, too")


def test_a_convolution_with_other_readers_is_refused(build: Builder, rewriting: Rewriting) -> None:
    first = raw(build)
    conv = first.inputs[0].inputs[0]
    shuffled_otherwise = build.shuffle(conv, 4)
    model = build.model(*sums(build, first, raw(build)), shuffled_otherwise, enlarge=2)
    rewriting.refuses(join_directions, model, "no raw outputs of blocks")


def test_raw_outputs_of_another_making_are_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.model(*sums(build, raw(build), raw(build, "Conv")), enlarge=2)
    rewriting.refuses(join_directions, model, "differ")


@pytest.mark.parametrize("factor", [0.5, -1.0])
def test_a_scale_that_is_on_its_way_is_waited_for(
    build: Builder, rewriting: Rewriting, factor: float
) -> None:
    added = sums(build, raw(build), raw(build))
    scaled = build.mul(build.resize(added[0], 2), factor)
    rest = [build.resize(one, 2) for one in added[1:]]
    rewriting.refuses(
        join_directions, build.model(scaled, *rest), "a scale behind it goes into the convolutions"
    )


def test_a_scale_that_no_convolution_takes_is_not_waited_for(
    build: Builder, rewriting: Rewriting
) -> None:
    added = sums(build, raw(build), raw(build))
    model = build.model(build.mul(added[0], 0.3), *added[1:], enlarge=2)
    assert EXACT_PASS.accepts(rewriting.difference(join_directions, model, edits=1))


def test_sums_of_one_raw_output_are_left(build: Builder, rewriting: Rewriting) -> None:
    only = raw(build)
    total = build.add(build.slice(only, 0, 2), build.slice(only, 2, 4))
    rewriting.leaves(join_directions, build.model(total, build.slice(only, 4, 5), enlarge=2))


def test_one_channel_that_is_added_to_two_is_refused(build: Builder, rewriting: Rewriting) -> None:
    first, second = raw(build, channels=3), raw(build, channels=3)
    widened = [
        build.add(build.slice(second, 0, 2), build.slice(first, 0, 1)),
        build.add(build.slice(first, 1, 3), build.slice(second, 2, 3)),
    ]
    model = build.model(*widened, enlarge=2)
    rewriting.refuses(join_directions, model, "is read otherwise, too")
