"""A grouped convolution becomes a dense one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.ungroup_convolutions import ungroup_convolutions
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize(("group", "outputs"), [(2, 8), (2, 4), (4, 16), (8, 8)])
@pytest.mark.parametrize("stride", [1, 2])
def test_zeros_between_the_groups_change_nothing(
    build: Builder, rewriting: Rewriting, group: int, outputs: int, stride: int
) -> None:
    grouped = build.conv(build.conv(build.frames(), 8), outputs, group=group, stride=stride)
    model = build.model(grouped, enlarge=stride)
    assert EXACT_PASS.accepts(rewriting.difference(ungroup_convolutions, model, edits=1))
    assert all(node.attrs.get("group", 1) == 1 for node in model.graph.nodes)


def test_weights_that_two_nodes_share_change_for_one(build: Builder, rewriting: Rewriting) -> None:
    grouped = build.conv(build.conv(build.frames(), 8), 8, group=2)
    dense = build.node(
        "Conv", build.conv(build.frames(), 4), *grouped.inputs[0].inputs[1:], channels=8
    )
    dense.inputs[0].attrs = {"pads": [1, 1, 1, 1]}
    model = build.model(grouped, dense)
    assert EXACT_PASS.accepts(rewriting.difference(ungroup_convolutions, model, edits=1))


def test_a_dense_convolution_is_left(build: Builder, rewriting: Rewriting) -> None:
    rewriting.leaves(ungroup_convolutions, build.model(build.conv(build.frames(), 8)))


def test_a_grouped_deconvolution_is_left(build: Builder, rewriting: Rewriting) -> None:
    raw = build.deconv(build.conv(build.frames(), 6, stride=2), 2, group=2)
    raw.inputs[0].inputs.pop()
    build.channels[raw.name] = 4
    rewriting.leaves(ungroup_convolutions, build.model(raw))
