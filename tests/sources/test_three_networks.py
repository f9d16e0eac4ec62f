"""RIFE 1.x to 3.1: the three networks are found, filled, and played as their authors do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.engines.onnxruntime import OnnxRuntimeEngine
from surgery.engines.torch import TorchEngine
from surgery.errors import CheckpointError, DonorError
from surgery.hub.model import HubModel
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import ONNXRUNTIME_FP32
from surgery.sources.find_donor import find_donor
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.sources.stock import build_network

MakeNetworks = Callable[..., Path]
FILES = {"flownet": "flownet", "contextnet": "contextnet", "fusionnet": "unet"}


@pytest.mark.parametrize("path", ["", "IFNet_HD.py", "RIFE_HD.py"])
def test_the_model_is_found_from_wherever_it_is_named(
    path: str, make_networks: MakeNetworks
) -> None:
    donor = find_donor(str(make_networks("v2") / path))
    assert donor.has_three_networks
    assert donor.source.name == "RIFE_HD.py"
    assert donor.label.endswith("RIFE_HD.py")


def test_a_model_with_one_network_is_none_of_these(make_networks: MakeNetworks) -> None:
    folder = make_networks("v2")
    (folder / "RIFE_HD.py").write_text("class Model: pass\n", encoding="utf-8")
    assert not find_donor(str(folder)).has_three_networks


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_the_hub_computes_what_inference_does(
    kind: str,
    open_networks: Callable[[str], OpenDonor],
    export_networks: Callable[[str], HubModel],
) -> None:
    opened, model = open_networks(kind), export_networks(kind)
    assert (model.metadata.kind, model.metadata.timestep) == (kind, "fixed 0.5")
    assert model.metadata.padding == opened.network.padding == 32
    samples = make_samples([(96, 64)], [0.5], 1)
    (expected,) = TorchEngine(opened.network).run(samples)
    (found,) = OnnxRuntimeEngine(model.to_onnx().SerializeToString()).run(samples)
    verdict = judge(compare(expected, found), ONNXRUNTIME_FP32)
    assert verdict.passed, verdict.sentence


@pytest.mark.parametrize(("kind", "second"), [("v1", "flow"), ("v2", "flow[:, :2]")])
def test_a_contextnet_that_gets_the_other_frames_flow_is_refused(
    kind: str, second: str, make_networks: MakeNetworks
) -> None:
    """The runtime hands the flows on by itself, and would make another frame."""
    donor = find_donor(str(make_networks(kind, second=second)))
    with pytest.raises(DonorError, match="not called by frame 1 and the flow of that frame"):
        build_network(donor)


def test_a_flow_of_another_form_is_refused(make_networks: MakeNetworks) -> None:
    folder = make_networks("v2")
    source = folder / "IFNet_HD.py"
    text = source.read_text(encoding="utf-8")
    more = text.replace("return second,", "return torch.cat((second, second[:, :1]), 1),")
    source.write_text(more, encoding="utf-8")
    model = folder / "RIFE_HD.py"
    fitted = model.read_text(encoding="utf-8").replace(
        "(img0, img1, flow, c0", "(img0, img1, flow[:, :4], c0"
    )
    model.write_text(fitted, encoding="utf-8")
    with pytest.raises(DonorError, match="a flow of 5 channels; accepted are 2"):
        build_network(find_donor(str(folder)))


def test_a_scale_is_refused(make_networks: MakeNetworks) -> None:
    with pytest.raises(DonorError, match="has no scale"):
        build_network(find_donor(str(make_networks("v2"))), scale=0.5)


def _save(state: dict[str, torch.Tensor], folder: Path, *, prefix: str = "module.") -> None:
    """As `Model.save_model` does, of networks that were trained in parallel."""
    for network, file in FILES.items():
        own = {
            prefix + name.removeprefix(f"{network}."): tensor
            for name, tensor in state.items()
            if name.startswith(f"{network}.")
        }
        torch.save(own, folder / f"{file}.pkl")


def test_three_files_beside_the_source_are_its_weights(
    open_networks: Callable[[str], OpenDonor], make_networks: MakeNetworks
) -> None:
    folder = make_networks("v1")
    expected = open_networks("v1").state
    counted = {
        f"flownet.block{index}.conv0.1.num_batches_tracked": torch.tensor(7) for index in (0, 1)
    }
    _save({**expected, **counted}, folder)
    opened = open_donor(str(folder), Weights())
    assert opened.weights.label == "flownet.pkl"
    assert opened.state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(opened.state[name], tensor), name


def test_one_file_of_all_three_is_taken(
    open_networks: Callable[[str], OpenDonor], make_networks: MakeNetworks, tmp_path: Path
) -> None:
    state = open_networks("v2").state
    torch.save(state, tmp_path / "all.pth")
    opened = open_donor(str(make_networks("v2")), Weights(tmp_path / "all.pth"))
    assert torch.equal(opened.state["fusionnet.conv.weight"], state["fusionnet.conv.weight"])


def test_a_network_without_weights_is_named(
    open_networks: Callable[[str], OpenDonor], make_networks: MakeNetworks, tmp_path: Path
) -> None:
    _save(open_networks("v2").state, tmp_path)
    (tmp_path / "unet.pkl").unlink()
    with pytest.raises(CheckpointError, match="no unet beside it"):
        open_donor(str(make_networks("v2")), Weights(tmp_path / "flownet.pkl"))


def test_weights_of_another_kind_do_not_fit(
    open_networks: Callable[[str], OpenDonor], make_networks: MakeNetworks, tmp_path: Path
) -> None:
    _save(open_networks("v2").state, tmp_path)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        open_donor(str(make_networks("v1")), Weights(tmp_path / "flownet.pkl"))
