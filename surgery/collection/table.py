"""A score as tables for the terminal."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from surgery.collection.tally import Mean, Score, Standing


def make_table(found: Score) -> Table:
    """Make a table of 80 columns or less: every contender, and below it its parts and timesteps."""
    from rich.markup import escape
    from rich.table import Table

    title = f"{found.dataset}: {len(found.clips)} clips, arranged as {found.layout}"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("contender", overflow="fold")
    # Against the donor: in the mean, and where it is furthest off.
    for heading in ("frames", "PSNR dB", "SSIM", "to donor\ndB", "at most\ndB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found.standings:
        table.add_row(escape(one.label), *_list_figures(one.total), *_list_differences(one))
        for name, mean in _list_parts(one):
            table.add_row(f"  {escape(name)}", *_list_figures(mean), style="dim")
    return table


def _list_figures(mean: Mean | None) -> tuple[str, str, str]:
    return (
        ("0", "-", "-")
        if mean is None
        else (
            str(mean.frames),
            f"{mean.psnr:.3f}",
            f"{mean.ssim:.5f}",
        )
    )


def _list_differences(standing: Standing) -> tuple[str, ...]:
    difference = standing.difference
    return () if difference is None else (f"{difference.mean:+.3f}", f"{difference.largest:+.3f}")


def _list_parts(standing: Standing) -> list[tuple[str, Mean]]:
    times = [(f"t = {name}", mean) for name, mean in standing.timesteps.items()]
    return [*standing.groups.items(), *times]


def make_clips_table(found: Score, count: int) -> Table | None:
    """Make a table of 80 columns or less: the worst clips, each with the model worst on it.

    None where there are no clips to choose from.
    """
    from rich.markup import escape
    from rich.table import Table

    models = {one.key: one.label for one in found.standings if one.is_model and one.total}
    worst = found.find_worst(count)
    if not worst or len(found.clips) == 1:
        return None
    table = Table(title="worst clips", title_justify="left")
    table.add_column("clip", overflow="fold")
    table.add_column("model", overflow="fold")
    table.add_column("PSNR dB", justify="right", no_wrap=True)
    for index in worst:
        means = {key: fmean(one.psnr for one in found.figures[key][index]) for key in models}
        key = min(means, key=means.__getitem__)
        table.add_row(escape(found.clips[index].name), escape(models[key]), f"{means[key]:.3f}")
    return table
