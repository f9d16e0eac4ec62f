"""The pages of collections and scores: HTML that stands alone, from the same facts as its JSON."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.engines.frames import from_8bit
from surgery.proof.pictures import draw_error, draw_frame, to_data_uri
from surgery.proof.report import choose_window, read_style
from surgery.sources.open_donor import RANDOM

if TYPE_CHECKING:
    import jinja2

    from surgery.collection.score import Exhibit
    from surgery.collection.tally import Score


def render_index(index: Mapping[str, Any]) -> str:
    """The page of a release folder, which links to its archives and proofs."""
    return _open_templates().get_template("index.html").render(style=read_style(), **index)


def render_score(found: Score, exhibits: Sequence[Exhibit]) -> str:
    """The page of a score: totals, the worst clips with pictures, and every clip."""
    return (
        _open_templates()
        .get_template("score.html")
        .render(
            style=read_style(),
            title=f"{found.dataset}: scores",
            score=found,
            exhibits=[_draw(one) for one in exhibits],
            columns={
                one.key: (one.label, found.figures[one.key])
                for one in found.standings
                if one.key in found.figures
            },
        )
    )


def _draw(exhibit: Exhibit) -> dict[str, Any]:
    """A clip's pictures as data; large frames are cut to what lies around the worst pixel."""
    truth = from_8bit(exhibit.truth)
    frames = [from_8bit(frame) for _, frame, _ in exhibit.frames]
    window = choose_window(truth.shape, _find_worst(truth, frames))
    shown = []
    for (label, _, figure), frame in zip(exhibit.frames, frames, strict=True):
        heat, brightest = draw_error(truth[window], frame[window])
        shown.append(
            {
                "label": label,
                "figure": figure,
                "frame": to_data_uri(draw_frame(frame[window])),
                "heat": to_data_uri(heat),
                "brightest": brightest,
            }
        )
    return {
        "clip": exhibit.clip,
        "timestep": exhibit.timestep,
        "truth": to_data_uri(draw_frame(truth[window])),
        "frames": shown,
    }


def _find_worst(truth: np.ndarray, frames: Sequence[np.ndarray]) -> tuple[int, ...]:
    errors = max((abs(frame - truth) for frame in frames), key=np.max)
    return tuple(int(place) for place in np.unravel_index(int(errors.argmax()), errors.shape))


@functools.cache
def _open_templates() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read_template),
        # Whatever is told may hold a bracket: names, reasons, file names.
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["random"] = _is_random
    return environment


def _is_random(row: Mapping[str, Any]) -> bool:
    """Whether the model of a row has weights that were not trained."""
    return str(row["weights"]).startswith(RANDOM.partition("{")[0])


def _read_template(name: str) -> str:
    return resources.files("surgery.collection").joinpath(name).read_text(encoding="utf-8")
