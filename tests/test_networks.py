"""RIFE 1.x to 3.1 from source to the real runtime, and back."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery import conversion, doors
from surgery.engines.frames import read_png, write_png
from surgery.errors import DonorError, RuntimeRefused, SurgeryError
from surgery.formats.ncnn_folder import read_model
from surgery.hub.model import HubModel, load_hub, write_hub
from surgery.inspection import inspect
from surgery.proof.tolerances import RUNTIME_CPU_FP32
from surgery.proof.validate import Validation

Convert = Callable[[str], tuple[Path, Validation]]
MakeNetworks = Callable[..., Path]
Export = Callable[[str], HubModel]
ENGINES = {"torch", "onnxruntime-kernel", "onnxruntime-function", "ncnn"}
RUNTIMES = {"rife-ncnn-vulkan-cpu", "rife-ncnn-vulkan-gpu"}
NETWORKS = ("flownet", "contextnet", "fusionnet")
NAMES = {f"{name}.{end}" for name in NETWORKS for end in ("param", "bin")}


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_conversion_is_proven_in_every_engine_and_in_the_real_runtime(
    kind: str, convert_networks: Convert
) -> None:
    folder, validation = convert_networks(kind)
    assert validation.passed
    assert {row.runs_in for row in validation.rows if row.runs_in} == (ENGINES | RUNTIMES) - {
        "torch"
    }
    assert {row.timestep for row in validation.rows} == {0.5}
    assert any("in the middle" in warning for warning in validation.warnings)
    assert {path.name for path in folder.iterdir()} == {*NAMES, "surgery.json"}


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_three_networks_are_lowered_with_a_proof(
    kind: str, export_networks: Export, tmp_path: Path
) -> None:
    write_hub(export_networks(kind), tmp_path / "hub.onnx")
    doors.lower(tmp_path / "hub.onnx", tmp_path / "plain.onnx")
    assert (tmp_path / "plain.onnx").is_file()


def _swap_flow_halves(text: str) -> str:
    """Let the second frame be warped by the first one's flow, within fusionnet."""
    lines = text.splitlines()
    (slice_line,) = (line for line in lines if line.startswith("Slice "))
    words = slice_line.split()
    words[5], words[6] = words[6], words[5]
    return text.replace(slice_line, " ".join(words))


def _take_negation_away(text: str) -> str:
    lines = text.splitlines(keepends=True)
    (negation,) = (line for line in lines if line.startswith("BinaryOp ") and " flow.0 " in line)
    return text.replace(negation, negation.replace("2=-1", "2=1"))


@pytest.mark.parametrize(
    ("kind", "network", "plant"),
    [("v1", "contextnet", _take_negation_away), ("v2", "fusionnet", _swap_flow_halves)],
)
def test_a_flow_of_the_other_direction_fails_the_proof(
    kind: str,
    network: str,
    plant: Callable[[str], str],
    convert_networks: Convert,
    export_networks: Export,
    tmp_path: Path,
) -> None:
    hub, folder = tmp_path / "hub.onnx", tmp_path / "rife"
    write_hub(export_networks(kind), hub)
    shutil.copytree(convert_networks(kind)[0], folder)
    same = conversion.validate(str(hub), str(folder), sizes=[(64, 64)])
    assert same.passed, same.complaints()
    param = folder / f"{network}.param"
    before = param.read_text(encoding="utf-8")
    after = plant(before)
    assert after != before
    param.write_text(after, encoding="utf-8")
    assert not conversion.validate(str(hub), str(folder), sizes=[(64, 64)]).passed


def test_a_runtime_runs_the_folder_on_pictures(convert_networks: Convert, tmp_path: Path) -> None:
    folder, _ = convert_networks("v2")
    generator = np.random.default_rng(1)
    frames = generator.random((2, 1, 3, 64, 96)).astype(np.float32)
    first, second = tmp_path / "0.png", tmp_path / "1.png"
    for path, frame in zip((first, second), frames, strict=True):
        write_png(path, frame)
    conversion.run(folder, first, second, tmp_path / "middle.png")
    conversion.run(folder, first, second, tmp_path / "plain.png", engine="ncnn")
    middle, plain = (read_png(tmp_path / name) for name in ("middle.png", "plain.png"))
    assert middle.shape == plain.shape == frames[0].shape
    with pytest.raises(SurgeryError, match=r"timestep 0\.25; rife-v2\.3 knows 0\.5 alone"):
        conversion.run(folder, first, second, tmp_path / "quarter.png", timestep=0.25)
    # Each rounds to 8 bits by itself: a level at most.
    assert np.abs(middle - plain).max() * 255 <= 2 * RUNTIME_CPU_FP32.bound


@pytest.mark.parametrize(
    ("kind", "name"), [("v1", "rife-v4"), ("v2", "rife-HD"), ("v2", "rife-v4")]
)
def test_a_name_of_another_mode_is_refused(
    kind: str, name: str, make_networks: MakeNetworks, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeRefused, match="is a name that works"):
        conversion.convert(str(make_networks(kind)), tmp_path / name, random_weights=1, proof=False)
    assert not (tmp_path / name).exists()


def test_a_folder_becomes_a_hub_model_and_a_folder_again(
    convert_networks: Convert, tmp_path: Path
) -> None:
    folder, _ = convert_networks("v1")
    hub = tmp_path / "hub.onnx"
    doors.import_model(folder, hub)
    assert load_hub(hub).metadata.kind == "v1"
    conversion.optimize(hub, tmp_path / "smaller.onnx")
    conversion.translate(tmp_path / "smaller.onnx", tmp_path / "rife", fp16=False)
    again = conversion.validate(str(hub), str(tmp_path / "rife"), sizes=[(64, 64)])
    assert again.passed, again.complaints()


def test_a_folder_is_inspected_as_what_it_is(convert_networks: Convert) -> None:
    folder, _ = convert_networks("v2")
    (found,) = inspect(str(folder))
    assert found.form == "model folder of three networks, RIFE v2"
    assert (found.warps, found.padding, set(found.files)) == (12, 32, NAMES)
    assert set(found.runtimes.values()) == {"runs"}
    graphs = [read_model(folder, name)[0] for name in NETWORKS]
    layers = [layer for graph in graphs for layer in graph.layers]
    assert found.parameters == sum(
        array.size for layer in layers for array in layer.weights.values()
    )
    assert found.layers == Counter(layer.type for layer in layers)


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_folder_is_inspected_without_its_weights(
    kind: str, convert_networks: Convert, export_networks: Export, tmp_path: Path
) -> None:
    folder, hub = tmp_path / convert_networks(kind)[0].name, tmp_path / "hub.onnx"
    shutil.copytree(convert_networks(kind)[0], folder)
    write_hub(export_networks(kind), hub)
    whole, of_hub = inspect(str(folder), str(hub))
    for name in NETWORKS:
        (folder / f"{name}.bin").unlink()
    (bare,) = inspect(str(folder))
    assert dataclasses.replace(bare, files=whole.files) == whole
    # What a hub model holds twice, because contextnet runs twice, is counted once here, too.
    assert of_hub.warps == whole.warps
    assert of_hub.parameters <= 1.5 * whole.parameters


def test_the_doctor_has_nothing_to_say_of_a_good_folder(convert_networks: Convert) -> None:
    examination = doors.doctor(convert_networks("v1")[0]).examination
    assert examination.kind == "v1"
    assert examination.is_healthy, examination.faults


def _append_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(path.read_bytes() + content)


def _replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


FAULTS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a .bin that is too short": (
        "short bin",
        lambda folder: (folder / "contextnet.bin").write_bytes(b""),
        "contextnet: ",
    ),
    "a .bin that is too long": (
        "long bin",
        lambda folder: _append_bytes(folder / "contextnet.bin", bytes(4)),
        "contextnet: ",
    ),
    "a layer that nobody knows": (
        "missing layer",
        lambda folder: _replace_in(folder / "contextnet.param", "PReLU ", "Mystery "),
        "Mystery",
    ),
    "a feature that is missing": (
        "broken graph",
        lambda folder: _replace_in(folder / "contextnet.param", " f3", " g3"),
        "contextnet, f3: no layer makes this output",
    ),
    "an output below 0": (
        "negative output",
        lambda folder: _replace_in(folder / "fusionnet.param", "0=0.0 1=1.0", "0=-1.0 1=1.0"),
        "out0 can go below 0",
    ),
    "a network that is missing": (
        "unreadable param",
        lambda folder: (folder / "fusionnet.param").unlink(),
        "fusionnet.param",
    ),
    "the name of another mode": (
        "folder name",
        lambda folder: folder.rename(folder.with_name("rife-v4")),
        "for a RIFE v4 of one network",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_doctor_names_what_is_wrong_with_one_network(
    name: str, convert_networks: Convert, tmp_path: Path
) -> None:
    kind, plant, words = FAULTS[name]
    folder = tmp_path / "rife-v2.3"
    shutil.copytree(convert_networks("v2")[0], folder)
    plant(folder)
    (folder,) = tmp_path.iterdir()
    examination = doors.doctor(folder).examination
    faults = examination.faults
    assert not examination.is_healthy
    assert kind in {fault.kind for fault in faults}
    assert any(words in fault.what for fault in faults if fault.kind == kind)


def test_three_networks_are_not_repaired(convert_networks: Convert, tmp_path: Path) -> None:
    folder, output = tmp_path / "rife-v2.3", tmp_path / "rife-v2"
    shutil.copytree(convert_networks("v2")[0], folder)
    assert doors.doctor(folder, fix=output).repair is None
    weights = folder / "fusionnet.bin"
    weights.write_bytes(weights.read_bytes() + bytes(8))
    with pytest.raises(SurgeryError, match="holds three networks; --fix repairs a folder of one"):
        doors.doctor(folder, fix=output)
    assert not output.exists()


def test_the_layers_of_three_networks_are_not_compared(
    convert_networks: Convert, export_networks: Export, tmp_path: Path
) -> None:
    hub = tmp_path / "hub.onnx"
    write_hub(export_networks("v2"), hub)
    folder = convert_networks("v2")[0]
    with pytest.raises(SurgeryError, match="holds three networks; layers are compared of one"):
        conversion.validate(str(hub), str(folder), sizes=[(64, 64)], bisect=True)


def test_a_flow_network_alone_is_refused(make_networks: MakeNetworks, tmp_path: Path) -> None:
    folder = make_networks("v2")
    (folder / "RIFE_HD.py").unlink()
    with pytest.raises(DonorError, match=r"IFNet_HD\.py has no scale_list"):
        conversion.convert(str(folder), tmp_path / "rife-v2", random_weights=1)


def test_a_known_flow_network_alone_is_told_what_it_lacks(
    make_networks: MakeNetworks, tmp_path: Path
) -> None:
    folder = make_networks("v2")
    (folder / "RIFE_HD.py").unlink()
    source = (folder / "IFNet_HD.py").read_text(encoding="utf-8")
    wide = source.replace("ConvTranspose2d(8, 4,", "ConvTranspose2d(384, 4,")
    assert wide != source
    (folder / "IFNet_HD.py").write_text(wide, encoding="utf-8")
    with pytest.raises(DonorError, match=r"RIFE 2\.x, one of the three networks .* RIFE_HD\*\.py"):
        conversion.convert(str(folder), tmp_path / "rife-v2", random_weights=1)
