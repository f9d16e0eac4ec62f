"""The order of the passes, the fixpoint, and what is said when a pass fails."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import surgery.passes
from surgery.errors import HubError
from surgery.passes import pipeline
from surgery.passes.drop_identities import drop_identities
from surgery.passes.fold_betas import fold_betas
from surgery.passes.pipeline import Pass, run_passes
from surgery.passes.turn_divisions import turn_divisions
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    from surgery.hub.model import HubModel
    from tests.passes.conftest import Builder, Rewriting

# What holds no pass: the edits they are made of, and their order.
OTHER_MODULES = {"__init__", "edit", "pipeline"}


def _every_pass() -> list[Pass]:
    lists = (pipeline.CLAMPED_INPUTS, pipeline.PORTABLE, pipeline.FAST, pipeline.DENSE)
    return [one for passes in lists for one in passes]


def _divided(build: Builder) -> HubModel:
    """Something for each of three passes to do."""
    x = build.node("Mul", build.conv(build.frames(), 5), build.random(1, 5, 1, 1))
    return build.model(build.node("Div", build.node("Identity", x), build.constant(2.0)))


def drop_in2(model: HubModel) -> int:
    """A pass that breaks the graph: it takes an input away."""
    del model.graph.inputs[2]
    return 1


def rename_forever(model: HubModel) -> int:
    """A pass that never rests."""
    model.graph.nodes[0].name += "'"
    return 1


def stumble(model: HubModel) -> int:
    """A pass that meets what it did not expect."""
    raise ValueError("pads of an odd kind")


def test_each_pass_is_a_module_and_is_listed_once() -> None:
    names = [one.name for one in _every_pass()]
    folder = Path(str(surgery.passes.__path__[0]))
    modules = {path.stem for path in folder.glob("*.py")} - OTHER_MODULES
    assert len(set(names)) == len(names)
    assert set(names) <= modules
    for name in names:
        module = importlib.import_module(f"surgery.passes.{name}")
        assert "exact when" in getattr(module, name).__doc__.lower() or "Rounding:" in (
            getattr(module, name).__doc__
        )


def test_only_the_fast_ones_change_rounding() -> None:
    assert {one.promise for one in pipeline.FAST} == {"rounding"}
    others = [one for one in _every_pass() if one not in pipeline.FAST]
    assert {one.promise for one in others} == {"exact"}


def test_edits_are_counted_by_pass(build: Builder, rewriting: Rewriting) -> None:
    model = _divided(build)
    before = model.to_onnx()
    passes = [Pass(drop_identities), Pass(turn_divisions), Pass(fold_betas)]
    edits = run_passes(model, passes)
    assert edits == {"drop_identities": 1, "turn_divisions": 1, "fold_betas": 1}
    assert EXACT_PASS.accepts(rewriting.largest_difference(before, model.to_onnx()))


def test_passes_run_again_until_none_edits(build: Builder) -> None:
    x = build.node("Div", build.conv(build.frames(), 5), build.constant(1.0))
    runs: list[str] = []

    def first(model: HubModel) -> int:
        runs.append("first")
        return drop_identities(model)

    def second(model: HubModel) -> int:
        runs.append("second")
        return turn_divisions(model)

    model = build.model(build.node("Div", x, build.constant(2.0)))
    assert run_passes(model, [Pass(second), Pass(first)]) == {"first": 1, "second": 2}
    assert runs == ["second", "first"] * 2


def test_what_each_pass_did_is_logged(build: Builder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="surgery.passes")
    run_passes(_divided(build), [Pass(drop_identities), Pass(fold_betas)])
    assert caplog.messages == ["drop_identities: 1 edit(s)", "fold_betas: 1 edit(s)"]


def test_a_pass_that_breaks_the_graph_is_named_with_those_before_it(build: Builder) -> None:
    passes = [Pass(drop_identities), Pass(turn_divisions), Pass(drop_in2), Pass(fold_betas)]
    with pytest.raises(HubError) as caught:
        run_passes(_divided(build), passes)
    message = str(caught.value)
    assert message.startswith(
        "pass drop_in2 broke the graph (after drop_identities, turn_divisions): "
    )
    assert "inputs" in message


def test_the_first_pass_has_none_before_it(build: Builder) -> None:
    with pytest.raises(HubError, match=r"pass drop_in2 broke the graph \(after none\)"):
        run_passes(_divided(build), [Pass(drop_in2)])


def test_a_pass_that_stumbles_is_named(build: Builder) -> None:
    passes = [Pass(drop_identities), Pass(stumble)]
    with pytest.raises(HubError, match=r"pass stumble .*after drop_identities.*odd kind"):
        run_passes(_divided(build), passes)


def test_a_graph_that_is_illegal_as_it_comes_is_not_blamed_on_a_pass(build: Builder) -> None:
    model = build.model(build.slice(build.conv(build.frames(), 6), 0, 3))
    cut = next(node for node in model.graph.nodes if node.op == "Slice")
    cut.inputs[3] = build.constant([2], int)
    with pytest.raises(HubError, match="axis=2; slices of channels are accepted") as caught:
        run_passes(model, pipeline.PORTABLE)
    assert "broke" not in str(caught.value)


def test_passes_that_never_rest_are_stopped(build: Builder) -> None:
    with pytest.raises(HubError, match=f"still edit after {pipeline.MAX_ROUNDS} rounds"):
        run_passes(_divided(build), [Pass(rename_forever)])


def test_the_same_model_gives_the_same_bytes(build: Builder) -> None:
    closed = []
    for _ in range(2):
        model = _divided(type(build)())
        run_passes(model, pipeline.PORTABLE)
        closed.append(model.to_onnx().SerializeToString(deterministic=True))
    assert closed[0] == closed[1]
