"""A validation as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from surgery.proof.tolerances import Metric

if TYPE_CHECKING:
    from rich.table import Table

    from surgery.proof.validate import FrameFlows, Row, Validation


def make_table(validation: Validation) -> Table:
    """Make a table of 80 columns or less: one line for each engine and frame size.

    Timesteps of one engine and size share a line, which shows the worst of them.
    """
    from rich.markup import escape
    from rich.table import Table

    verdict = "[green]same[/green]" if validation.passed else "[red]DIFFERENT[/red]"
    table = Table(
        title=f"{escape(validation.reference)}: {verdict}",
        title_justify="left",
        caption=describe_flows(validation.flows),
        caption_justify="left",
    )
    for heading in ("engine", "frame", "max error", "PSNR dB", "accepted", ""):
        right = heading in ("max error", "PSNR dB")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    groups: dict[tuple[str, int, int], list[Row]] = {}
    for row in validation.rows:
        groups.setdefault((row.engine, row.width, row.height), []).append(row)
    for (engine, width, height), rows in groups.items():
        worst = max(rows, key=lambda row: (not row.verdict.passed, row.comparison.max_abs))
        table.add_row(
            escape(engine),
            f"{width}x{height}",
            write_number(worst.comparison.max_abs, ".1e"),
            write_number(min(row.comparison.psnr for row in rows), ".1f"),
            describe_bound(worst),
            "ok" if worst.verdict.passed else "[red]FAILED[/red]",
        )
    return table


def describe_flows(flows: Sequence[FrameFlows]) -> str:
    """How far the warps of the reference moved their images, over all frames."""
    warps = [one for frame in flows for one in frame.warps]
    if not warps:
        return ""
    medians = [one.median for one in warps]
    return (
        f"flows: median {min(medians):.1f} to {max(medians):.1f} px, 99 % within "
        f"{max(one.p99 for one in warps):.1f} px, at {len(flows[0].warps)} warps"
    )


def describe_bound(row: Row) -> str:
    """What was accepted, in a few characters."""
    tolerance = row.tolerance
    if tolerance.metric is Metric.PSNR:
        return f">= {tolerance.bound:g} dB"
    if tolerance.metric is Metric.MAX_LEVELS:
        return f"<= {tolerance.bound:g} level"
    return f"<= {tolerance.bound:.0e}"


def write_number(value: float, form: str) -> str:
    """A measured number; a dash where nothing could be measured."""
    return "-" if math.isnan(value) else f"{value:{form}}"
