"""A deconvolution that doubles the size becomes a convolution and a pixel shuffle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from surgery.passes.replace_deconvolutions import replace_deconvolutions
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from tests.passes.conftest import Builder, Rewriting


@pytest.mark.parametrize("channels", [1, 5])
def test_the_four_phases_are_a_convolution(
    build: Builder, rewriting: Rewriting, channels: int
) -> None:
    model = build.model(build.deconv(build.conv(build.frames(), 6, stride=2), channels))
    assert EXACT_PASS.accepts(rewriting.difference(replace_deconvolutions, model, edits=1))
    assert rewriting.operators(model)[2:4] == ["Conv", "DepthToSpace"]


def test_one_without_bias_is_replaced_too(build: Builder, rewriting: Rewriting) -> None:
    raw = build.deconv(build.conv(build.frames(), 6, stride=2), 3)
    raw.inputs[0].inputs.pop()
    assert EXACT_PASS.accepts(
        rewriting.difference(replace_deconvolutions, build.model(raw), edits=1)
    )


def test_an_output_of_the_graph_keeps_its_name(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(build.deconv(build.conv(build.frames(), 6, stride=2), 3))
    assert EXACT_PASS.accepts(rewriting.difference(replace_deconvolutions, model, edits=1))


@pytest.mark.parametrize(
    ("kernel", "pad", "attributes"),
    [
        (2, 0, {}),
        (6, 2, {}),
        (3, 1, {"output_padding": [1, 1]}),
        (4, 2, {"output_padding": [2, 2]}),
    ],
    ids=str,
)
def test_another_window_is_refused(
    build: Builder, rewriting: Rewriting, kernel: int, pad: int, attributes: dict[str, Any]
) -> None:
    small = build.conv(build.frames(), 6, stride=2)
    model = build.model(build.deconv(small, 5, kernel, pad, **attributes))
    rewriting.refuses(replace_deconvolutions, model, "is not kernel 4, stride 2, padding 1")


def test_groups_are_refused(build: Builder, rewriting: Rewriting) -> None:
    small = build.conv(build.frames(), 6, stride=2)
    raw = build.deconv(small, 2, group=2)
    raw.inputs[0].inputs.pop()
    build.channels[raw.name] = 4
    rewriting.refuses(
        replace_deconvolutions, build.model(raw), "is not kernel 4, stride 2, padding 1"
    )
