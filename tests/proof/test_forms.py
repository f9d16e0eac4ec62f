"""Opening what a command line names, and what each form says about itself."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.engines.rife_ncnn_vulkan import CPU
from surgery.errors import EngineError, FormatError, HubError, SurgeryError
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.hub.model import from_onnx
from surgery.output import FACTS_FILE
from surgery.proof.forms import (
    DonorForm,
    FolderForm,
    HubForm,
    guess_padding,
    open_file_form,
    read_facts,
)
from surgery.proof.tolerances import (
    NCNN_FP32,
    RUNTIME_CPU_FP16_WEIGHTS,
    RUNTIME_CPU_FP32,
    RUNTIME_VULKAN,
)
from surgery.sources.open_donor import OpenDonor
from surgery.targets.make_ncnn import NcnnModel
from surgery.targets.to_onnx import OnnxOptions, lower_model

WARPS = 14


def test_a_hub_file_and_a_model_folder_are_opened(
    tmp_path: Path, hub_bytes: bytes, folder: Path
) -> None:
    (tmp_path / "rife.onnx").write_bytes(hub_bytes)
    hub = open_file_form(tmp_path / "rife.onnx")
    assert isinstance(hub, HubForm)
    assert (hub.label, hub.padding, hub.warps) == ("rife.onnx", 32, WARPS)
    opened = open_file_form(folder)
    assert isinstance(opened, FolderForm)
    assert (opened.label, opened.padding, opened.warps) == ("rife-v4", 32, None)


def test_every_engine_of_a_hub_model_can_be_made(hub: onnx.ModelProto) -> None:
    form = HubForm(hub, "hub")
    names = [form.make_engine(name).name for name in (*form.engines, *form.more_engines)]
    assert names == ["onnxruntime, native warp", "onnxruntime, function warp", "onnx reference"]


def test_without_a_kernel_the_function_body_is_what_runs(
    hub: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgery.proof.forms.has_kernel", lambda: False)
    form = HubForm(hub, "hub")
    assert form.engines == ("onnxruntime-function",)
    assert set(form.more_engines) == {"onnxruntime-kernel", "onnx-reference"}
    monkeypatch.undo()
    assert HubForm(hub, "hub").engines[0] == "onnxruntime-kernel"


def test_what_is_neither_is_left_to_others(tmp_path: Path, hub: onnx.ModelProto) -> None:
    assert open_file_form(tmp_path) is None
    assert open_file_form(tmp_path / "IFNet.py") is None
    foreign = lower_model(from_onnx(hub), OnnxOptions())
    del foreign.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(foreign.SerializeToString())
    assert open_file_form(tmp_path / "foreign.onnx") is None


def test_a_broken_hub_file_is_named(tmp_path: Path, hub: onnx.ModelProto) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(HubError, match=r"broken\.onnx"):
        open_file_form(path)
    del hub.graph.output[:]
    path.write_bytes(hub.SerializeToString())
    with pytest.raises(HubError, match=r"broken\.onnx"):
        open_file_form(path)


@pytest.mark.parametrize("missing", ["flownet.param", "flownet.bin"])
def test_a_folder_without_one_of_its_files_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(FormatError, match=f"no {missing} in it; a model folder holds"):
        FolderForm(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such folder; a model folder holds"):
        FolderForm(tmp_path / "nowhere")


def test_the_facts_beside_a_model_tell_padding_warps_and_rewrites(
    tmp_path: Path, made: NcnnModel
) -> None:
    (tmp_path / "model").mkdir()
    made.write(tmp_path / "model")
    form = FolderForm(tmp_path / "model")
    assert (form.padding, form.warps, form.is_fp16, form.is_fast) == (32, WARPS, True, False)
    facts = json.loads((tmp_path / "model" / FACTS_FILE).read_text())
    facts["options"]["fast"], facts["model"]["padding"] = True, 64
    (tmp_path / "model" / FACTS_FILE).write_text(json.dumps(facts))
    assert (FolderForm(tmp_path / "model").padding, FolderForm(tmp_path / "model").is_fast) == (
        64,
        True,
    )


@pytest.mark.parametrize("text", ["{", "[]"])
def test_facts_that_are_no_json_object_are_refused(folder: Path, text: str) -> None:
    (folder / FACTS_FILE).write_text(text)
    with pytest.raises(FormatError, match="delete it, or convert again"):
        FolderForm(folder)


def test_a_padding_that_nobody_tells_is_guessed_from_the_strongest_reduction(folder: Path) -> None:
    form = FolderForm(folder)
    assert guess_padding(form.graph) == 32
    for layer in form.graph.layers:
        if layer.type == "Interp":
            layer.params = {
                key: 0.0625 if value == 0.125 else value for key, value in layer.params.items()
            }
    assert guess_padding(form.graph) == 64


def test_the_tolerance_follows_engine_and_weights(
    tmp_path: Path, folder: Path, made: NcnnModel
) -> None:
    write_model(tmp_path / "half", made.graph)
    single, half = FolderForm(folder), FolderForm(tmp_path / "half")
    assert single.tolerance("ncnn") is half.tolerance("ncnn") is NCNN_FP32
    assert single.tolerance("rife-ncnn-vulkan-cpu") is RUNTIME_CPU_FP32
    assert half.tolerance("rife-ncnn-vulkan-cpu") is RUNTIME_CPU_FP16_WEIGHTS
    assert single.tolerance("rife-ncnn-vulkan-gpu") is RUNTIME_VULKAN


def test_engines_are_made_by_name_and_others_refused(folder: Path, hub: onnx.ModelProto) -> None:
    form = FolderForm(folder)
    names = [form.make_engine(name).name for name in (*form.engines, *form.more_engines)]
    assert names == ["ncnn", "rife-ncnn-vulkan, CPU", "rife-ncnn-vulkan, Vulkan device 0"]
    assert CPU not in (0, 1)
    with pytest.raises(EngineError, match="does not run in 'torch'; accepted: ncnn"):
        form.make_engine("torch")
    assert "function" in HubForm(hub, "hub").make_engine("onnxruntime-function").name


def test_a_donor_and_a_hub_round_to_the_same_weights(
    opened: OpenDonor, hub: onnx.ModelProto
) -> None:
    donor = DonorForm(opened).round_weights(fast=False)
    assert isinstance(donor, DonorForm)
    rounded = HubForm(hub, "hub").round_weights(fast=False)
    assert isinstance(rounded, HubForm)
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in rounded.model.graph.initializer
    }
    weight = weights["/block0.convblock.3.conv/Conv.weight"]
    assert np.array_equal(weight, weight.astype(np.float16).astype(np.float32))
    name = "block0.convblock.3"
    wanted = donor.opened.state[f"{name}.conv.weight"] * donor.opened.state[f"{name}.beta"].view(
        -1, 1, 1, 1
    )
    assert np.allclose(weight, wanted.numpy(), rtol=1e-6, atol=0)
    # The control: unrounded weights are further away than that.
    plain = opened.state[f"{name}.conv.weight"] * opened.state[f"{name}.beta"].view(-1, 1, 1, 1)
    assert not np.allclose(weight, plain.numpy(), rtol=1e-6, atol=0)


def test_a_folder_is_rounded_to_what_its_fp16_twin_holds(
    tmp_path: Path, folder: Path, graph: NcnnGraph
) -> None:
    write_model(tmp_path / "half", graph)
    rounded = FolderForm(folder).round_weights(fast=False)
    assert isinstance(rounded, FolderForm)
    assert rounded.is_fp16
    place = rounded.folder
    for name in ("flownet.param", "flownet.bin"):
        assert (place / name).read_bytes() == (tmp_path / "half" / name).read_bytes()
    # The control: the weights were others before.
    assert (place / "flownet.bin").stat().st_size < (folder / "flownet.bin").stat().st_size
    del rounded
    gc.collect()
    assert not place.exists()


def test_a_folder_is_rounded_only_as_it_was_made(tmp_path: Path, folder: Path) -> None:
    write_model(tmp_path / "half", FolderForm(folder).graph)
    for form, fast in ((FolderForm(folder), True), (FolderForm(tmp_path / "half"), False)):
        assert not form.can_round(fast, keep_betas=False)
        with pytest.raises(SurgeryError, match="cannot be rounded"):
            form.round_weights(fast)


def test_betas_that_someone_else_kept_are_seen(folder: Path) -> None:
    form = FolderForm(folder)
    assert not form.keeps_betas
    form.graph.layers.append(Layer("MemoryData", "beta", [], ["beta"]))
    assert form.keeps_betas


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({"model": ["no object"]}, "'model' is"),
        ({"options": 1}, "'options' is 1"),
        ({"model": {"padding": 0}}, "padding is 0"),
        ({"model": {"padding": "wide"}}, "padding is 'wide'"),
        ({"model": {"warps": True}}, "warps is True"),
        ({"model": {"scale_list": 5}}, "scale_list is 5"),
        ({"model": {"scale_list": ["a"]}}, r"scale_list is \['a'\]"),
        ({"model": {"scale_list": [4, 0]}}, r"scale_list is \[4, 0\]"),
        ({"model": {"scale_list": [[1]]}}, r"scale_list is \[\[1\]\]"),
        ({"model": {"scale_list": [True]}}, r"scale_list is \[True\]"),
        ({"model": {"scale_list": [10**400]}}, "scale_list is .1000"),
        ({"model": {"scale_list": [float("nan")]}}, "scale_list is .nan"),
        ({"model": {"timestep": "fixed 0.3"}}, "timestep is 'fixed 0.3'"),
        ({"model": {"timestep": [0.5]}}, r"timestep is \[0.5\]"),
    ],
)
def test_facts_of_the_wrong_kind_are_refused(
    tmp_path: Path, facts: dict[str, object], found: str
) -> None:
    (tmp_path / FACTS_FILE).write_text(json.dumps(facts))
    with pytest.raises(FormatError, match=f"{found}.* is expected; delete the file"):
        read_facts(tmp_path)
