"""Networks of every family, called by hand as their authors do, and through our one interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.engines.torch import TorchEngine
from surgery.errors import DonorError, HubError
from surgery.hub.model import HubModel
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import KERNEL_FP32
from surgery.sources import call_forward, from_torch, stock
from surgery.sources.find_donor import Donor, find_donor
from surgery.sources.load_source import load_source
from surgery.sources.stock import StockNetwork, build_network
from surgery.sources.torch_warp import call_warp

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MakeInputs = Callable[[int, int], Inputs]
MakeCheckout = Callable[..., Path]
State = dict[str, torch.Tensor]

IFNET, RIFE = "train_log/IFNet_HDv3.py", "train_log/RIFE_HDv3.py"
PAPER_IFNET, PAPER_M = "model/IFNet.py", "model/IFNet_m.py"


def _read(checkout: Path, name: str = IFNET) -> str:
    return (checkout / name).read_text(encoding="utf-8")


def _build(path: Path, **options: float | bool) -> StockNetwork:
    torch.manual_seed(5)
    return build_network(find_donor(str(path)), warp=call_warp, **options)  # type: ignore[arg-type]


@torch.no_grad()
def _by_hand(network: StockNetwork, *args: object, image: int, **kwargs: object) -> torch.Tensor:
    """Call an untouched copy of the network, with its own warp, as its authors' inference does."""
    module = load_source(network.donor.source, "by hand", None).module
    net = getattr(module, type(network.net).__name__)()
    net.load_state_dict(network.net.state_dict())
    result: torch.Tensor = net.eval()(*args, **kwargs)[2][image]
    return result


@torch.no_grad()
def _run(network: StockNetwork, inputs: Inputs) -> torch.Tensor:
    result: torch.Tensor = network(*inputs)
    return result


def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def _export(network: StockNetwork) -> HubModel:
    state = network.net.state_dict()
    return from_torch.export_hub(network.donor, state)


def test_practical_rife_is_called_as_its_own_inference_does(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    network = _build(make_checkout("practical"))
    in0, in1, in2 = make_inputs(32, 48)
    frames = torch.cat((in0, in1), 1)
    expected = _by_hand(network, frames, 0.3, [4.0, 1.0], image=1)
    assert _difference(_run(network, (in0, in1, in2)), expected) <= KERNEL_FP32.bound
    # Trap 6: the default of forward is another list, and a call with it another frame.
    other = _by_hand(network, frames, 0.3, image=1)
    assert _difference(other, expected) > 100 * KERNEL_FP32.bound
    assert (network.scale_list, network.padding, network.warp_count) == ((4, 1), 16, 4)
    assert network.timestep == "plane"


def test_practical_rife_works_at_another_scale(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    network = _build(make_checkout("practical"), scale=0.5)
    in0, in1, in2 = make_inputs(32, 48)
    expected = _by_hand(network, torch.cat((in0, in1), 1), 0.3, [8.0, 2.0], image=1)
    assert _difference(_run(network, (in0, in1, in2)), expected) <= KERNEL_FP32.bound


@pytest.mark.parametrize(("name", "image"), [(PAPER_IFNET, 1), (PAPER_M, 1)])
def test_the_paper_is_called_as_its_own_inference_does(
    make_checkout: MakeCheckout, make_inputs: MakeInputs, name: str, image: int
) -> None:
    network = _build(make_checkout("paper") / name)
    in0, in1, in2 = make_inputs(32, 48)
    in2 = in2 if name == PAPER_M else torch.full_like(in2, 0.5)
    timestep = float(in2[0, 0, 0, 0])
    frames = torch.cat((in0, in1), 1)
    # Trap 7: here the second argument is the scale, in 4.x it is the timestep.
    expected = _by_hand(network, frames, [2.0, 1.0], timestep=timestep, image=image)
    # Traps 2 and 4: four of the eight warps are in another file, on features of smaller sizes.
    assert network.warp_count == 8
    assert _difference(_run(network, (in0, in1, in2)), expected) <= KERNEL_FP32.bound
    assert network.padding == 16


def test_an_old_network_is_called_as_its_own_inference_does(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    network = _build(make_checkout("old"))
    in0, in1, _ = make_inputs(32, 48)
    expected = _by_hand(network, torch.cat((in0, in1), 1), [2.0, 1.0], image=1)
    found = _run(network, (in0, in1, torch.full_like(in0[:, :1], 0.5)))
    assert _difference(found, expected) <= KERNEL_FP32.bound
    assert (network.timestep, network.warp_count) == ("fixed 0.5", 4)


def test_an_adaptive_scale_is_left_alone_and_said(make_checkout: MakeCheckout) -> None:
    """3.8 cannot be told not to adapt: a name is bound twice. An export takes the plain branch."""
    hub = _export(_build(make_checkout("old")))
    (decision,) = hub.metadata.baked
    assert "trial.abs().max() > scales[0] * 16" in decision
    assert decision.endswith("not taken")
    assert hub.metadata.scale_list == (2, 1)


def test_an_adaptive_scale_that_would_adapt_is_told(make_checkout: MakeCheckout) -> None:
    text = _read(make_checkout("old")).replace("scales[0] * 16", "scales[0] * 1e-9")
    donor = find_donor(str(make_checkout("old", **{IFNET: text})))
    engine = TorchEngine(build_network(donor))
    engine.run(make_samples([(64, 48)], [0.5], 1))
    assert [decision.data_says for decision in engine.overruled] == [True]
    engine = TorchEngine(build_network(find_donor(str(make_checkout("old")))))
    engine.run(make_samples([(64, 48)], [0.5], 1))
    assert engine.overruled == []


def test_the_paper_knows_one_timestep_and_its_sibling_all(make_checkout: MakeCheckout) -> None:
    checkout = make_checkout("paper")
    assert _build(checkout / PAPER_IFNET).timestep == "fixed 0.5"
    assert _build(checkout / PAPER_M).timestep == "plane"


def test_a_timestep_is_taken_pixel_by_pixel(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    """Trap 11: a corner of the plane stands for all of it only where it is constant."""
    network = _build(make_checkout("practical"))
    in0, in1, in2 = make_inputs(32, 48)
    early, late = _run(network, (in0, in1, in2)), _run(network, (in0, in1, in2 + 0.4))
    half = in2 + 0.4 * (torch.arange(48) >= 24)
    mixed = _run(network, (in0, in1, half))
    assert _difference(mixed[..., :4], early[..., :4]) <= KERNEL_FP32.bound
    assert _difference(mixed[..., -4:], late[..., -4:]) <= KERNEL_FP32.bound
    assert _difference(early, late) > 100 * KERNEL_FP32.bound


def test_the_timestep_survives_an_export(make_checkout: MakeCheckout) -> None:
    hub = _export(_build(make_checkout("practical")))
    assert hub.metadata.timestep == "plane"
    assert any(tensor.name == "in2" and tensor.outputs for tensor in hub.graph.inputs)
    # The plane passes for a number times ones; neither the ones nor the product are left.
    ops = {
        node.op for tensor in hub.graph.inputs if tensor.name == "in2" for node in tensor.outputs
    }
    assert "Mul" not in ops


def test_a_number_for_a_timestep_would_vanish_and_is_found(
    make_checkout: MakeCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 1, with the defence taken away."""
    monkeypatch.setattr(call_forward, "_TimestepFactor", lambda _plane: 0.5)
    with pytest.raises(HubError, match="in2 is read by no node"):
        _export(_build(make_checkout("practical")))


def test_a_network_of_one_timestep_keeps_an_input_for_it(make_checkout: MakeCheckout) -> None:
    hub = _export(_build(make_checkout("paper")))
    assert hub.metadata.timestep == "fixed 0.5"
    assert [tensor.name for tensor in hub.graph.inputs] == ["in0", "in1", "in2"]


def test_a_warp_that_another_file_calls_is_replaced_or_found(
    make_checkout: MakeCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trap 2, with the defence taken away: only the network's own file gets our warp."""
    donor = find_donor(str(make_checkout("paper")))
    hub = from_torch.export_hub(donor, build_network(donor).net.state_dict())
    assert sum(1 for _ in hub.warps()) == 8

    def replace_in_file_alone(path: Path, label: str, warp: object) -> object:
        source = load_source(path, label, None)
        if warp is not None:
            vars(source.module)["warp"] = call_warp
        return source

    monkeypatch.setattr(stock, "load_source", replace_in_file_alone)
    with pytest.raises(DonorError, match="samples a grid"):
        from_torch.export_hub(donor, build_network(donor).net.state_dict())


def test_the_image_is_a_tensor_among_tuples(make_checkout: MakeCheckout) -> None:
    """Trap 8: the last entry of `merged` is a pair of warped frames."""
    checkout = make_checkout("practical")
    assert _build(checkout).calling.image == (2, 1)
    (checkout / RIFE).unlink()
    (checkout / IFNET).write_text(_read(checkout).replace("[8, 4]", "[4, 1]"))
    assert _build(checkout).calling.image == (2, 1)
    wrong = _read(make_checkout("practical"), RIFE).replace("merged[1]", "merged[-1]")
    with pytest.raises(DonorError, match=r"forward returns \(.*an image of 3 channels"):
        _build(make_checkout("practical", **{RIFE: wrong}))


def test_an_ensemble_that_only_warns_is_refused(
    make_checkout: MakeCheckout, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trap 5."""
    checkout = make_checkout("practical")
    with pytest.raises(DonorError, match=r"no ensemble \(exchanging the frames changes"):
        _build(checkout, ensemble=True)
    _build(checkout)


def test_an_ensemble_that_averages_is_accepted(make_checkout: MakeCheckout) -> None:
    text = _read(make_checkout("practical"))
    first = "flow, mask = self.block0(torch.cat((img0, img1, timestep), 1), scale_list[0])\n"
    both = """
        if ensemble:
            f, m = self.block0(torch.cat((img1, img0, 1 - timestep), 1), scale_list[0])
            flow = (flow + torch.cat((f[:, 2:4], f[:, :2]), 1)) / 2
            mask = (mask - m) / 2
"""
    second = "mask = mask if ensemble else m\n"
    both_again = """
        if ensemble:
            f, n = self.block1(torch.cat((warped[1], warped[0], 1 - timestep, flow[:, 2:4],
                                          flow[:, :2], -mask), 1), scale_list[1])
            more = (more + torch.cat((f[:, 2:4], f[:, :2]), 1)) / 2
            m = (m - n) / 2
        mask = m
"""
    assert first in text
    assert second in text
    text = text.replace(first, first + both).replace(second, both_again)
    network = _build(make_checkout("practical", **{IFNET: text}), ensemble=True)
    assert network.averages_directions


def test_a_list_that_forward_changes_is_new_in_every_call(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    """Trap 10: doubled entries would compound from frame to frame."""
    text = _read(make_checkout("practical")).replace("flow.abs().max() > 1000", "True")
    network = _build(make_checkout("practical", **{IFNET: text}))
    inputs = make_inputs(32, 32)
    first = _run(network, inputs)
    assert torch.equal(_run(network, inputs), first)
    assert network.scale_list == (4, 1)


def test_scales_that_shrink_frames_but_not_flows_are_refused(make_checkout: MakeCheckout) -> None:
    """Trap 10: 3.5 takes a scale beside its list of scales."""
    text = _read(make_checkout("practical"))
    text = text.replace("scale_list=[8, 4],", "scale_list=[8, 4], scale=1.0,")
    checkout = make_checkout("practical", **{IFNET: text})
    _build(checkout)
    with pytest.raises(DonorError, match="warps shrunken frames by full-size flows"):
        _build(checkout, scale=0.5)


def test_a_scale_list_for_another_number_of_blocks_is_refused(make_checkout: MakeCheckout) -> None:
    """Trap 6: five blocks with the four entries of an older file."""
    text = _read(make_checkout("practical"), RIFE).replace("[4/scale,", "[8/scale, 4/scale,")
    with pytest.raises(DonorError, match=r"has 2 blocks, and RIFE_HDv3\.py has .* for 3"):
        _build(make_checkout("practical", **{RIFE: text}))


def test_a_second_stage_runs_where_it_is_asked_for(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    text = _read(make_checkout("practical"))
    text = text.replace(
        "self.teacher = Block(7), Block(12), Block(15)",
        "self.contextnet = Block(7), Block(12), torch.nn.Conv2d(3, 3, 1)",
    )
    text = text.replace(
        "        return [flow]",
        "        if not fastmode:\n"
        "            more = self.contextnet(warp(img0, flow[:, :2]))\n"
        "            merged[1] = torch.clamp(merged[1] + more, 0, 1)\n"
        "        return [flow]",
    )
    donor = find_donor(str(make_checkout("practical", **{IFNET: text})))
    both = dataclasses.replace(donor, second_stage=True)
    torch.manual_seed(5)
    network = build_network(both, warp=call_warp)
    assert network.warp_count == build_network(donor).warp_count + 1
    assert "contextnet.weight" in network.reads - build_network(donor).reads
    in0, in1, in2 = make_inputs(32, 48)
    frames = torch.cat((in0, in1), 1)
    expected = _by_hand(network, frames, 0.3, [4.0, 1.0], fastmode=False, image=1)
    assert _difference(_run(network, (in0, in1, in2)), expected) <= KERNEL_FP32.bound


def test_a_second_stage_is_refused_where_there_is_none(make_checkout: MakeCheckout) -> None:
    donor = find_donor(str(make_checkout("practical")))
    with pytest.raises(DonorError, match="has no second stage"):
        build_network(dataclasses.replace(donor, second_stage=True))


def test_one_network_of_three_is_refused(make_donor: Callable[[str], Donor]) -> None:
    donor = make_donor("""
import torch
from .warplayer import warp

class IFNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block0 = torch.nn.Module()
        self.block0.conv1 = torch.nn.ConvTranspose2d(384, 4, 4, 2, 1)

    def forward(self, x, scale=1.0):
        return x[:, :4], [x[:, :4]]
""")
    with pytest.raises(DonorError, match=r"the flow network of RIFE 2\.x, one of the three"):
        build_network(donor)


def test_a_network_that_remembers_is_refused(make_checkout: MakeCheckout) -> None:
    text = _read(make_checkout("practical")).replace(
        "merged = [warped]", "merged = [warped]; self.last = flow"
    )
    with pytest.raises(DonorError, match="keeps last from frame to frame"):
        _build(make_checkout("practical", **{IFNET: text}))


def test_a_network_that_fails_is_refused_with_its_reason(make_checkout: MakeCheckout) -> None:
    text = _read(make_checkout("practical")).replace("merged = [warped]", "merged = [img2]")
    with pytest.raises(DonorError, match=r"does not run on frames of 16x16: NameError.*img2"):
        _build(make_checkout("practical", **{IFNET: text}))


def test_a_folder_without_its_warp_is_lent_one(
    make_checkout: MakeCheckout, make_inputs: MakeInputs
) -> None:
    inputs = make_inputs(32, 32)
    whole = _build(make_checkout("practical"))
    assert not whole.lacks_warp
    expected = _run(whole, inputs)
    checkout = make_checkout("practical", **{"model/warplayer.py": None})
    torch.manual_seed(5)
    lent = build_network(find_donor(str(checkout)))
    assert lent.lacks_warp
    assert _difference(_run(lent, inputs), expected) <= KERNEL_FP32.bound


def test_what_only_training_reads_is_told_from_what_forward_reads(
    make_checkout: MakeCheckout,
) -> None:
    practical = _build(make_checkout("practical"))
    assert {name.split(".")[0] for name in practical.reads} == {"block0", "block1"}
    paper = _build(make_checkout("paper") / PAPER_IFNET)
    # What 4.x never reads, the paper needs.
    assert {"contextnet", "unet"} <= {name.split(".")[0] for name in paper.reads}
    assert not any(name.startswith("block_tea") for name in paper.reads)


@pytest.mark.parametrize(
    ("constructor", "made", "forward", "call"),
    [
        ("device", "", "x, timestep", "device"),
        ("device, scale=1, ensemble=False", "", "img0, img1, timestep", "device"),
        ("scale=1, ensemble=False", "", "img0, img1, timestep", ""),
        (
            "tenFlow_div, backwarp_tenGrid, scale=1, ensemble=False",
            "self.tenFlow_div, self.backwarp_tenGrid = tenFlow_div, backwarp_tenGrid",
            "img0, img1, timestep",
            "self.tenFlow_div, self.backwarp_tenGrid",
        ),
        (
            "scale=1, ensemble=False",
            "",
            "img0, img1, timestep, tenFlow_div, backwarp_tenGrid",
            "tenFlow_div, backwarp_tenGrid",
        ),
        (
            "scale=1, ensemble=False",
            "",
            "img0, img1, timestep, tenFlow_div, backwarp_tenGrid, f0, f1",
            "tenFlow_div, backwarp_tenGrid",
        ),
    ],
)
def test_every_form_that_vs_rife_had_is_called(
    make_donor: Callable[[str], Donor],
    make_inputs: MakeInputs,
    constructor: str,
    made: str,
    forward: str,
    call: str,
) -> None:
    """The six forms from 2021 on; each warps in its own way."""
    grid = "tenFlow_div" in call
    together = "img0, img1 = x[:, :3], x[:, 3:]" if "x," in forward else "pass"
    encoded = "f0.mean() - f1.mean()" if "f0" in forward else "0"
    text = f"""
import torch
{"from .warplayer import warp" if grid else ""}
from .own import *

class IFNet(torch.nn.Module):
    def __init__(self, {constructor}):
        super().__init__()
        self.conv, self.encode = torch.nn.Conv2d(7, 4, 3, 1, 1), torch.nn.Conv2d(3, 2, 1)
        self.scale_list = [2, 1]
        {made or "pass"}
        {"self.device = device" if "device" in constructor else "pass"}

    def forward(self, {forward}):
        {together}
        flow = self.conv(torch.cat((img0, img1, timestep), 1)) * 9 + {encoded}
        args = ({"self.device," if "device" in call else call + ("," if call else "")})
        first, second = warp(img0, flow[:, :2], *args), warp(img1, flow[:, 2:], *args)
        return first * timestep + second * (1 - timestep)
"""
    own = "" if grid else OWN_WARP.format(more=", device" if "device" in call else "")
    donor = make_donor(text)
    (donor.source.parent / "own.py").write_text(own)
    torch.manual_seed(5)
    untouched = build_network(donor)
    torch.manual_seed(5)
    ours = build_network(donor, warp=call_warp)
    inputs = make_inputs(16, 24)
    assert _difference(_run(ours, inputs), _run(untouched, inputs)) <= KERNEL_FP32.bound
    later = (inputs[0], inputs[1], inputs[2] + 0.3)
    assert _difference(_run(ours, later), _run(ours, inputs)) > 100 * KERNEL_FP32.bound


OWN_WARP = """
import torch

def warp(img, flow{more}):
    height, width = img.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    step = torch.tensor([2 / (width - 1), 2 / (height - 1)]).view(1, 2, 1, 1)
    grid = ((torch.stack([x, y])[None] + flow) * step - 1).permute(0, 2, 3, 1)
    return torch.nn.functional.grid_sample(
        img, grid, padding_mode="border", align_corners=True
    )
"""
