"""Three networks in one hub model: what is cut is what is joined, and what cannot be cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from surgery.errors import HubError
from surgery.hub import networks
from surgery.hub.model import HubModel
from surgery.hub.verify import verify_hub, verify_open
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import EXACT_PASS

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Export = Callable[[str], HubModel]
KINDS = tuple(networks.KINDS)


def _run(model: HubModel) -> np.ndarray:
    from surgery.engines.onnxruntime import OnnxRuntimeEngine

    engine = OnnxRuntimeEngine(model.to_onnx().SerializeToString(), optimise=False)
    return engine.run(make_samples([(64, 64)], [0.5], 1))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_joins_to_the_same_model(kind: str, export_networks: Export) -> None:
    model = export_networks(kind)
    joined = networks.join_networks(networks.cut_networks(model), model.metadata)
    verify_hub(joined.to_onnx())
    assert joined.metadata == model.metadata
    assert sorted(node.name for node in joined.graph.nodes) == sorted(
        node.name for node in model.graph.nodes
    )
    verdict = judge(compare(_run(model), _run(joined)), EXACT_PASS)
    assert verdict.passed, verdict.sentence


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_is_a_model_of_its_own(kind: str, export_networks: Export) -> None:
    model = export_networks(kind)
    cut = networks.cut_networks(model)
    assert tuple(cut) == networks.NETWORKS
    for one in cut.values():
        verify_open(one)
    warps = [cut[name].metadata.warps for name in networks.NETWORKS]
    assert warps == [2, 4, 2]
    assert model.metadata.warps == 2 + 2 * 4 + 2


def test_both_calls_of_contextnet_share_one_set_of_weights(export_networks: Export) -> None:
    import onnx_graphsurgeon as gs

    graph = export_networks("v2").graph
    weights = [
        [id(tensor) for tensor in node.inputs if isinstance(tensor, gs.Constant)]
        for node in graph.nodes
        if node.op == "Conv" and node.name.startswith("/contextnet")
    ]
    assert len(weights) == 10
    assert len({tuple(one) for one in weights}) == 5


def _rename(name: str) -> Callable[[HubModel], None]:
    def plant(model: HubModel) -> None:
        model.graph.tensors()[name].name = "other"

    return plant


def _find_second_call(model: HubModel) -> gs.Node:
    """The first convolution that the second frame goes through."""
    frame = model.graph.tensors()["in1"]
    (node,) = (node for node in frame.outputs if node.name.startswith("/contextnet"))
    return node


def _give_second_call_its_own_weights(model: HubModel) -> None:
    import onnx_graphsurgeon as gs

    node = _find_second_call(model)
    node.inputs[1] = gs.Constant("own", node.inputs[1].values + np.float32(1))


def _give_second_call_its_own_stride(model: HubModel) -> None:
    _find_second_call(model).attrs["dilations"] = [1, 1]
    _find_second_call(model).attrs["auto_pad"] = "NOTSET"


def _feed_second_call_the_first_frame(model: HubModel) -> None:
    _find_second_call(model).inputs[0] = model.graph.tensors()["in0"]


def _give_both_frames_one_flow(model: HubModel) -> None:
    (node,) = (node for node in model.graph.nodes if node.name == "/flow.1/Slice")
    node.inputs[1].values = np.asarray([0], np.int64)
    node.inputs[2].values = np.asarray([2], np.int64)


def _feed_one_frame_twice(model: HubModel) -> None:
    (node,) = (node for node in model.graph.nodes if node.name == "/flow.1/Slice")
    node.inputs[2].values = np.asarray([3], np.int64)


FAULTS: dict[str, tuple[Callable[[HubModel], None], str]] = {
    "no flow": (_rename("flow"), "kind v2 without flow; it is cut along them"),
    "no flow of a frame": (_rename("flow.0"), r"kind v2 without flow\.0; it is cut along them"),
    "weights of the second call's own": (
        _give_second_call_its_own_weights,
        "contextnet: .* and own differ; both frames have to go through one network",
    ),
    "a node of the second call's own": (
        _give_second_call_its_own_stride,
        "contextnet: .* are made differently; both frames have to go through one network",
    ),
    "a frame of the other call": (
        _feed_second_call_the_first_frame,
        r"contextnet, to f1\.1: reads in0; in1, flow\.1 are accepted",
    ),
    "one flow for both frames": (
        _give_both_frames_one_flow,
        r"flow\.1 is Slice \[0:2\] of flow; Slice \[2:4\] of flow is expected",
    ),
    "another kind": (
        lambda model: model.replace_metadata(kind="v1"),
        "flow is 4 channels at 1/2 x 1/2 of the frame's size; 2 channels at 1/2 of it is expected",
    ),
    "a timestep": (
        lambda model: model.replace_metadata(timestep="plane"),
        "three networks, and timestep 'plane'; they know 'fixed 0.5' alone",
    ),
    "a flow of one channel": (_feed_one_frame_twice, "the flow has 1 channels"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_cut_is_no_hub_model(name: str, export_networks: Export) -> None:
    plant, sentence = FAULTS[name]
    model = export_networks("v2")
    verify_open(model)
    plant(model)
    with pytest.raises(HubError, match=sentence):
        verify_open(model)


def test_a_network_without_a_port_is_refused(export_networks: Export) -> None:
    fusionnet = networks.cut_networks(export_networks("v2"))[networks.FUSIONNET]
    fusionnet.graph.inputs.pop()
    with pytest.raises(HubError, match=r"inputs and outputs .* are expected"):
        verify_open(fusionnet)


def test_a_flow_of_another_size_is_refused(export_networks: Export) -> None:
    contextnet = networks.cut_networks(export_networks("v2"))[networks.CONTEXTNET]
    contextnet.graph.inputs[1].shape = [1, 2, "H", "W"]
    with pytest.raises(HubError, match="image and flow differ in size"):
        verify_open(contextnet)
