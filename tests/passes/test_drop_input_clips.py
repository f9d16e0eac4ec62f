"""Drop the clamp of the frames, for a runtime that feeds 0..1."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from surgery.passes.drop_input_clips import drop_input_clips

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from tests.passes.conftest import Builder, Rewriting


def _clip(build: Builder, x: gs.Tensor, low: float | None, high: float | None) -> gs.Tensor:
    import onnx_graphsurgeon as gs

    bounds = [
        gs.Variable.empty() if bound is None else build.constant(bound) for bound in (low, high)
    ]
    return build.node("Clip", x, *bounds)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 2), (None, 1), (0, None), (None, None)])
def test_both_clips_go_and_no_bit_changes(
    build: Builder, rewriting: Rewriting, low: float | None, high: float | None
) -> None:
    frames = [_clip(build, frame, low, high) for frame in (build.in0, build.in1)]
    model = build.model(build.conv(build.concat(*frames), 4))
    assert rewriting.difference(drop_input_clips, model, edits=2) == 0
    assert "Clip" not in rewriting.operators(model)


@pytest.mark.parametrize(("low", "high"), [(0.1, 1), (0, 0.9), (None, 0.5), (0.5, None)])
def test_a_clip_that_frames_can_meet_is_refused(
    build: Builder, rewriting: Rewriting, low: float | None, high: float | None
) -> None:
    model = build.model(build.conv(_clip(build, build.in0, low, high), 4))
    rewriting.refuses(drop_input_clips, model, "refused: it clips to")


def test_a_clip_of_anything_else_stays(build: Builder, rewriting: Rewriting) -> None:
    clipped = [_clip(build, x, 0, 1) for x in (build.in2, build.conv(build.frames(), 4))]
    rewriting.leaves(drop_input_clips, build.model(*clipped))


def test_an_output_of_the_graph_is_refused(build: Builder, rewriting: Rewriting) -> None:
    model = build.output_of(_clip(build, build.in0, 0, 1))
    rewriting.refuses(drop_input_clips, model, "output of the graph")
