"""A validation as one HTML page that stands alone: no network, no other file.

The page says first whether the two forms are the same, then what was measured, and shows the frames
beside the reference, the flows that moved them, every layer, and how to run the comparison again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import math
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from surgery.proof.flows import read_flows
from surgery.proof.forms import DonorForm, FolderForm, Form, HubForm
from surgery.proof.inputs import make_samples
from surgery.proof.lowered import LoweredForm
from surgery.proof.pictures import draw_error, draw_flow, draw_frame, to_data_uri
from surgery.proof.table import describe_bound, write_number
from surgery.proof.validate import INPUT_SEED, TIMESTEPS, choose_sizes
from surgery.versions import describe_versions

if TYPE_CHECKING:
    from surgery.proof.bisect import Bisection, LayerDifference
    from surgery.proof.validate import Exhibit, FrameFlows, Row, Validation

TEMPLATE, STYLE = "report.html", "page.css"
# Pictures show a window of large frames, around the worst place.
WINDOW = (960, 540)
MOST_FLOWS = 18
MARKS = {"same": "good", "inherited": "note", "born here": "bad", "not run": "note"}


@dataclasses.dataclass(frozen=True)
class Origin:
    """One of the compared forms, as a report tells it.

    Attributes:
        label: what it is called.
        facts: names and values: hashes, version, padding.
    """

    label: str
    facts: Mapping[str, str]


def render_report(
    validation: Validation, forms: Sequence[Form], command: str, note: str = ""
) -> str:
    """Render a validation.

    Args:
        validation: what was found; with a bisection, the page has a table of layers.
        forms: what was compared, the reference first.
        command: the command line that does it again.
        note: why something is missing, if it is.
    """
    template = _read_resource(TEMPLATE)
    labels = " and ".join(form.label for form in forms)
    facts = validation.to_json().replace("</", "<\\/")
    return string.Template(template).substitute(
        title=html.escape(f"surgery: {labels}"),
        style=read_style(),
        verdict=_render_verdict(validation, note),
        measured=_render_rows(validation.rows),
        exhibits=_render_exhibits(validation.exhibits),
        flows=_render_flow_table(validation.flows) + _render_flows(find_flows(forms[0])),
        layers=_render_layers(validation.bisection),
        origins=_render_origins([describe_origin(form) for form in forms]),
        again=_render_again(command),
        facts=facts,
    )


def read_style() -> str:
    """The style sheet of every page that this package writes."""
    return _read_resource(STYLE)


def _read_resource(name: str) -> str:
    return resources.files("surgery.proof").joinpath(name).read_text(encoding="utf-8")


# ---- what is told ------------------------------------------------------------------------------


def describe_origin(form: Form) -> Origin:
    """Hashes and facts of a form; no path of this machine."""
    facts: dict[str, str] = {"padding": f"{form.padding} px"}
    if isinstance(form, DonorForm):
        from surgery.sources.checkpoint import fingerprint

        facts |= {
            "form": "donor, unmodified source in torch",
            "source SHA-256": form.opened.donor.sha256,
            "weights": form.opened.weights.label,
            "weights SHA-256": fingerprint(form.opened.state),
        }
    elif isinstance(form, HubForm):
        metadata = form.opened.metadata
        content = form.model.SerializeToString(deterministic=True)
        facts |= {
            "form": "hub model, ONNX",
            "content SHA-256": hashlib.sha256(content).hexdigest(),
            "donor": metadata.donor,
            "weights": metadata.weights,
            "source SHA-256": metadata.source_sha256,
            "weights SHA-256": metadata.weights_sha256,
            "made with": ", ".join(metadata.tools),
        }
    elif isinstance(form, LoweredForm):
        content = form.model.SerializeToString(deterministic=True)
        facts |= {
            "form": f"lowered ONNX, layout {form.layout}",
            "content SHA-256": hashlib.sha256(content).hexdigest(),
            "donor": form.metadata.donor,
            "weights": form.metadata.weights,
        }
    elif isinstance(form, FolderForm):
        facts |= {"form": "model folder, ncnn"}
        for name in (f"{network}.{end}" for network in form.graphs for end in ("param", "bin")):
            content = (form.folder / name).read_bytes()
            facts[f"{name} SHA-256"] = hashlib.sha256(content).hexdigest()
        facts["weights are stored as"] = "fp16" if form.is_fp16 else "fp32"
        donor = form.facts.get("model", {}).get("donor")
        facts |= {"donor": str(donor)} if donor else {}
    return Origin(form.label, {name: value for name, value in facts.items() if value})


def find_flows(form: Form) -> list[np.ndarray]:
    """The flows [1,2,H,W] at the warps of a form, on a frame that suits its padding."""
    samples = make_samples([choose_sizes(form.padding)[0]], TIMESTEPS[-1:], INPUT_SEED)
    return next(iter(read_flows(form, samples)), [])


# ---- how it looks ------------------------------------------------------------------------------


def _render_verdict(validation: Validation, note: str) -> str:
    passed = validation.passed
    complaints = [] if passed else validation.complaints()
    if validation.bisection is not None and validation.bisection.first is not None:
        complaints.insert(0, validation.bisection.describe())
    if validation.blame is not None:
        complaints.insert(0, validation.blame.sentence)
    engines = len({row.engine for row in validation.rows})
    frames = len({(row.width, row.height, row.timestep) for row in validation.rows})
    summary = (
        f"{engines} engine(s) against {validation.reference}, {frames} different frame(s), "
        f"{len(validation.rows)} comparison(s), {len(validation.findings)} fault(s) of structure"
    )
    word = "✓ SAME" if passed else "✗ DIFFERENT"
    paragraphs = "".join(f"<p>{html.escape(one)}</p>" for one in complaints[:8])
    more = len(complaints) - 8
    if more > 0:
        paragraphs += f"<p>{more} more, in the table and in the facts of this page.</p>"
    notes = [*validation.warnings, *([note] if note else [])]
    boxes = "".join(f'<div class="note">Note: {html.escape(one)}</div>' for one in notes)
    return (
        f'<div class="verdict {"good" if passed else "bad"}"><strong>{word}</strong>'
        f"<p>{html.escape(summary)}</p>{paragraphs}</div>{boxes}"
    )


def _render_rows(rows: Sequence[Row]) -> str:
    if not rows:
        return '<p class="soft">Nothing was run.</p>'
    heads = ("", "engine", "frame", "t")
    numbers = ("max error", "mean", "99.9 %", "PSNR dB", "SSIM", "accepted")
    return _render_table(heads, numbers, [_render_row(row) for row in rows])


def _render_row(row: Row) -> str:
    one = row.comparison
    passed = row.verdict.passed
    return "".join(
        (
            f"<td>{_mark('ok' if passed else 'FAILED', 'good' if passed else 'bad')}</td>",
            f'<td class="name">{html.escape(row.engine)}</td>',
            f"<td>{row.width}x{row.height}</td><td>{row.timestep:g}</td>",
            *(
                _number(write_number(value, ".1e"))
                for value in (one.max_abs, one.mean_abs, one.p999_abs)
            ),
            _number("exact" if math.isinf(one.psnr) else write_number(one.psnr, ".1f")),
            _number(write_number(one.ssim, ".5f")),
            _number(html.escape(describe_bound(row))),
        )
    )


def _render_table(heads: Sequence[str], numbers: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th>{one}</th>" for one in heads)
    head += "".join(f'<th class="number">{one}</th>' for one in numbers)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _number(text: str) -> str:
    return f'<td class="number">{text}</td>'


def _mark(text: str, kind: str) -> str:
    return f'<span class="mark {kind}">{html.escape(text)}</span>'


def _render_exhibits(exhibits: Sequence[Exhibit]) -> str:
    if not exhibits:
        return '<p class="soft">No frame was computed.</p>'
    return f'<div class="exhibits">{"".join(_render_exhibit(one) for one in exhibits)}</div>'


def _render_exhibit(exhibit: Exhibit) -> str:
    row = exhibit.row
    if exhibit.found is None or exhibit.wanted.shape != exhibit.found.shape:
        pictures = f"<p>{html.escape(row.verdict.sentence)}</p>"
    else:
        pictures = _render_pictures(row, exhibit.wanted, exhibit.found)
    kind = "good" if row.verdict.passed else "bad"
    verdict = _mark("ok" if row.verdict.passed else "FAILED", kind)
    return (
        f'<div class="exhibit"><h3>{verdict} {html.escape(row.engine)}</h3>'
        f'<p class="soft">Compared with {html.escape(row.reference)}; its worst frame: '
        f"{row.width}x{row.height}, t = {row.timestep:g}. "
        f"{html.escape(row.verdict.sentence)}</p>{pictures}</div>"
    )


def _render_pictures(row: Row, wanted: np.ndarray, found: np.ndarray) -> str:
    window = choose_window(wanted.shape, row.comparison.worst)
    wanted, found = wanted[window], found[window]
    heat, brightest = draw_error(wanted, found)
    name = html.escape(row.engine)
    slider = (
        '<figure><div class="slider">'
        f'<img alt="the reference" src="{to_data_uri(draw_frame(wanted))}">'
        f'<img alt="{name}" src="{to_data_uri(draw_frame(found))}"></div>'
        f'<input type="range" min="0" max="100" value="50" aria-label="reference or {name}">'
        "<figcaption>Left of the line the reference, right of it this engine.</figcaption></figure>"
    )
    error = (
        f'<figure><img alt="where {name} differs" src="{to_data_uri(heat)}">'
        '<div class="legend"></div>'
        f"<figcaption>Difference, from 0 (black) to {brightest:.2g} or more (brightest), where 1 "
        f"is white; the largest is {row.comparison.max_abs:.2g}.</figcaption></figure>"
    )
    return f'<div class="pictures">{slider}{error}</div>'


def choose_window(shape: Sequence[int], worst: Sequence[int] = ()) -> tuple[slice, ...]:
    """The part of a frame that pictures show: all of it, or what lies around the worst pixel.

    `shape` is that of a frame [1,3,H,W], `worst` an index into it, empty for the middle.
    """
    height, width = shape[-2:]
    worst = worst or (0, 0, height // 2, width // 2)
    parts = []
    for size, most, place in ((height, WINDOW[1], worst[-2]), (width, WINDOW[0], worst[-1])):
        start = min(max(place - most // 2, 0), max(size - most, 0))
        parts.append(slice(start, start + most))
    return (slice(None), slice(None), *parts)


def _render_flow_table(flows: Sequence[FrameFlows]) -> str:
    """How large the flows were at every size and timestep, from the stillest to the fastest."""
    if not flows:
        return ""
    numbers = ("warps", "median px", "99 % px", "varies in x by", "in y by")
    return _render_table(("frame", "t"), numbers, [_render_frame_flows(one) for one in flows])


def _render_frame_flows(flows: FrameFlows) -> str:
    def span(values: Sequence[float]) -> str:
        return _number(f"{min(values):.1f} to {max(values):.1f}" if values else "-")

    return "".join(
        (
            f"<td>{flows.width}x{flows.height}</td><td>{flows.timestep:g}</td>",
            _number(str(len(flows.warps))),
            *(
                span([getattr(one, name) for one in flows.warps])
                for name in ("median", "p99", "std_x", "std_y")
            ),
        )
    )


def _render_flows(flows: Sequence[np.ndarray]) -> str:
    if not flows:
        return '<p class="soft">The flows were not recorded.</p>'
    figures = [_render_flow(index, flow) for index, flow in enumerate(flows[:MOST_FLOWS])]
    return (
        '<p class="soft">What each warp of the reference moved its image by, in the order of the '
        "warps: hue is the direction, brightness the length.</p>"
        f'<div class="flows">{"".join(figures)}</div>'
    )


def _render_flow(index: int, flow: np.ndarray) -> str:
    picture, longest = draw_flow(flow)
    median = float(np.median(np.hypot(flow[0, 0], flow[0, 1])))
    return (
        f'<figure><img alt="flow at warp {index}" src="{to_data_uri(picture)}">'
        f"<figcaption>warp {index}: median {median:.1f} px, brightest {longest:.1f} px"
        "</figcaption></figure>"
    )


def _render_layers(bisection: Bisection | None) -> str:
    if bisection is None:
        return '<p class="soft">The layers were not compared.</p>'
    table = _render_table(
        ("", "layer", "torch module", "type", "shape"),
        ("error", "of it born here"),
        [_render_layer(one) for one in bisection.layers],
    ).replace('class="scroll"', 'class="scroll layers"')
    is_open = " open" if bisection.first is not None else ""
    return (
        f"<p>{html.escape(bisection.describe())}.</p>"
        '<p class="soft">Every layer runs twice: inside its own network, and from the values of '
        "the reference. Errors are parts of the largest value that the layer makes.</p>"
        f"<details{is_open}><summary>{len(bisection.layers)} layers</summary>{table}</details>"
    )


def _render_layer(one: LayerDifference) -> str:
    return "".join(
        (
            f"<td>{_mark(one.state, MARKS[one.state])}</td>",
            f"<td>{html.escape(one.place.name)}</td>",
            f"<td>{html.escape(one.place.module or '-')}</td>",
            f"<td>{html.escape(one.place.kind)}</td>",
            f"<td>{'x'.join(str(size) for size in one.shape)}</td>",
            _number(f"{one.error:.1e}"),
            _number(f"{one.own_error:.1e}"),
        )
    )


def _render_origins(origins: Sequence[Origin]) -> str:
    rows = [
        f'<td class="name">{html.escape(origin.label)}</td><td>{html.escape(name)}</td>'
        f'<td class="long"><code>{html.escape(value)}</code></td>'
        for origin in origins
        for name, value in origin.facts.items()
    ]
    return _render_table(("form", "", ""), (), rows)


def _render_again(command: str) -> str:
    return (
        f"<pre>{html.escape(command or 'surgery validate REFERENCE CANDIDATE')}</pre>"
        '<p class="soft">The input is drawn from formulas, so the same command compares the same '
        "frames. Versions of what ran:</p>"
        f"<pre>{html.escape(describe_versions())}</pre>"
        '<p class="soft">All figures are in this page as JSON, in its element <code>facts</code>.'
        "</p>"
    )
