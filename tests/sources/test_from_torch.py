from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from surgery.errors import DonorError, HubError
from surgery.hub.model import HubModel
from surgery.proof.tolerances import ONNXRUNTIME_FP32
from surgery.sources.find_donor import Donor
from surgery.sources.from_torch import export_hub, export_network
from surgery.sources.stock import build_network
from surgery.sources.torch_warp import call_warp

MakeDonor = Callable[[str], Donor]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MakeInputs = Callable[[int, int], Inputs]

EXPORTERS = ("torchscript", "dynamo")
LABEL = "random, for a test"
FIRST_WARP = "first = warp"


def _export(donor: Donor, exporter: str = "torchscript") -> tuple[HubModel, torch.nn.Module]:
    """The hub of a donor, and the network as its authors left it, of the same weights."""
    torch.manual_seed(4)
    network = build_network(donor)
    state = network.net.state_dict()
    return export_hub(donor, state, exporter=exporter, weights_label=LABEL), network


def _run(model: onnx.ModelProto, inputs: Inputs) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {f"in{index}": tensor.numpy() for index, tensor in enumerate(inputs)}
    (frame,) = session.run(None, feed)
    return np.asarray(frame)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_export_computes_what_the_untouched_network_does_at_any_size(
    make_donor: MakeDonor, tiny_source: str, make_inputs: MakeInputs, exporter: str
) -> None:
    hub, network = _export(make_donor(tiny_source), exporter)
    closed = hub.to_onnx()
    for height, width in ((16, 24), (40, 8)):
        inputs = make_inputs(height, width)
        with torch.no_grad():
            expected = network(*inputs).numpy()
        frame = _run(closed, inputs)
        assert ONNXRUNTIME_FP32.accepts(float(np.abs(frame - expected).max()))
        in0, in1, in2 = inputs
        other = _run(closed, (in1, in0, in2))
        assert not ONNXRUNTIME_FP32.accepts(float(np.abs(other - expected).max()))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_an_export_is_tidy(make_donor: MakeDonor, tiny_source: str, exporter: str) -> None:
    donor = make_donor(tiny_source)
    hub, _ = _export(donor, exporter)
    model = hub.to_onnx()
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Warp"] == 2
    assert not operators.keys() & {"Constant", "Identity", "Cast", "GridSample"}
    assert [node.name for node in model.graph.node if node.op_type == "Conv"] == ["/conv/Conv"]
    assert hub.graph.inputs[0].shape[2:] == hub.graph.inputs[2].shape[2:]
    assert all(isinstance(size, str) for size in hub.graph.inputs[0].shape[2:])
    data = model.SerializeToString()
    for folder in (donor.source.parent, Path(torch.__file__).parent, Path.cwd()):
        assert str(folder).encode() not in data


def test_both_exporters_write_the_same_operators(make_donor: MakeDonor, tiny_source: str) -> None:
    donor = make_donor(tiny_source)
    operators = [
        Counter(node.op for node in _export(donor, exporter)[0].graph.nodes)
        for exporter in EXPORTERS
    ]
    assert operators[0] == operators[1]


def test_two_exports_are_the_same_bytes(make_donor: MakeDonor, tiny_source: str) -> None:
    donor = make_donor(tiny_source)
    first, second = (_export(donor)[0].to_onnx() for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_metadata_says_where_the_model_came_from(
    make_donor: MakeDonor, tiny_source: str, exporter: str
) -> None:
    donor = make_donor(tiny_source)
    metadata = _export(donor, exporter)[0].metadata
    assert (metadata.kind, metadata.timestep) == ("v4", "plane")
    assert (metadata.padding, metadata.scale_list, metadata.warps) == (8, (2.0, 1.0), 2)
    assert metadata.donor == donor.label
    assert metadata.exporter == exporter
    assert metadata.source_sha256 == donor.sha256
    assert len(metadata.weights_sha256) == 64
    assert metadata.weights == LABEL
    assert metadata.baked == ()
    assert f"torch {torch.__version__}" in metadata.tools


def test_an_unknown_exporter_is_refused(make_donor: MakeDonor, tiny_source: str) -> None:
    network = build_network(make_donor(tiny_source), warp=call_warp)
    with pytest.raises(DonorError, match="'jax'; accepted: torchscript, dynamo"):
        export_network(network, network.padding, "jax")


def test_a_branch_on_data_is_baked_in_by_torchscript_and_told(
    make_donor: MakeDonor, tiny_source: str
) -> None:
    branching = tiny_source.replace(
        FIRST_WARP, "if x.abs().max() > 0:\n            x = -x\n        first = warp"
    )
    hub, _ = _export(make_donor(branching))
    (baked,) = hub.metadata.baked
    assert "if x.abs().max() > 0): not taken" in baked
    assert all(node.op != "Neg" for node in hub.graph.nodes)


def test_a_branch_on_data_is_refused_by_dynamo(make_donor: MakeDonor, tiny_source: str) -> None:
    branching = tiny_source.replace(
        FIRST_WARP, "x = -x if x.max() > 0 else x\n        first = warp"
    )
    with pytest.raises(DonorError, match=r"branches on its data .*--exporter torchscript"):
        _export(make_donor(branching), "dynamo")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_network_that_computes_with_python_numbers_is_refused(
    make_donor: MakeDonor, tiny_source: str, exporter: str
) -> None:
    baking = tiny_source.replace(
        FIRST_WARP, "x = x * float(x.mean().abs() + 1)\n        first = warp"
    )
    with pytest.raises(DonorError, match=f"the {exporter} exporter cannot express this network"):
        _export(make_donor(baking), exporter)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_warp_that_slips_past_the_operator_is_refused(
    make_donor: MakeDonor, tiny_source: str, exporter: str
) -> None:
    slipping = tiny_source.replace(
        FIRST_WARP,
        "x = torch.nn.functional.grid_sample(x, torch.stack((x[:, 0], x[:, 1]), 3), "
        "align_corners=True)\n        first = warp",
    )
    with pytest.raises(DonorError, match="samples a grid beside its warp"):
        _export(make_donor(slipping), exporter)


def test_an_operator_that_no_hub_has_is_refused(make_donor: MakeDonor, tiny_source: str) -> None:
    other = tiny_source.replace(FIRST_WARP, "x = torch.tanh(x)\n        first = warp")
    with pytest.raises(HubError, match="Tanh"):
        _export(make_donor(other))
