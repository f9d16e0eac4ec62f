from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.diagnosis.examine import MISSING_BIN, Examination, examine
from surgery.diagnosis.repair import repair
from surgery.errors import RuntimeRefused, SurgeryError
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_layers import MemoryData, ParamValue, Slice
from surgery.formats.ncnn_param import Layer, NcnnGraph, parse, render
from surgery.formats.ncnn_random import fill_random_weights
from surgery.targets.make_ncnn import NcnnOptions
from surgery.targets.runtimes import RUNTIMES

Plant = Callable[[str], str]
WriteFolder = Callable[[Path, NcnnGraph], Path]


def kinds(examination: Examination) -> set[str]:
    return {fault.kind for fault in examination.faults}


def plant(folder: Path, change: Plant) -> Examination:
    path = folder / "flownet.param"
    before = path.read_text(encoding="utf-8")
    after = change(before)
    assert after != before, "nothing was planted"
    path.write_text(after, encoding="utf-8")
    return examine(folder)


def squeeze(text: str) -> str:
    """One blank between words, so that lines can be written out."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines()) + "\n"


def swap(old: str, new: str) -> Plant:
    return lambda text: squeeze(text).replace(old, new, 1)


def test_a_good_model_is_given_a_clean_bill(good: Path) -> None:
    found = examine(good)
    assert found.faults == []
    assert found.is_healthy
    assert set(found.verdicts()) == set(RUNTIMES)
    assert not any(found.verdicts().values())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("wrong counts", lambda text: re.sub("\n.*\n", "\n9 999\n", text, count=1)),
        ("wrong counts", lambda text: re.sub(" .*\n", " 7\n", text, count=1)),
        ("float without a point", swap("2=1.0", "2=1")),
        ("long value", swap("2=1.0", "2=1.000000000000000")),
        ("key twice", swap("2=1.0", "2=2.0 2=1.0")),
        ("new array", swap("-23310=1,0.2", "10=0.2,")),
        ("flow channels", swap("to0_1 -23309=1,0 -23310=1,2", "to0_1 -23309=1,0 -23310=1,4")),
        ("flow channels", swap("to0_1 -23309=1,0 -23310=1,2", "to0_1 -23309=1,0 -23310=1,3")),
        ("broken graph", swap("mask3 m\n", "maskless m\n")),
        ("broken graph", swap("Input in1 0 1 in1", "Input in1 0 1 in9")),
        ("missing flow names", lambda text: text.replace("flow", "floe")),
        ("negative output", swap("left right out0 0=0", "left right out0 0=1")),
        ("unreadable param", swap("7767517", "7767518")),
        ("unreadable param", swap("BinaryOp end 2 1", "BinaryOp end 2 2")),
        ("flow layout", lambda text: text.replace("flow0", "?").replace("flow1", "flow0").replace(
            "?", "flow1")),
        ("not examined", lambda text: swap("left right out0 0=0", "left right out0 0=1")(
            swap("Sigmoid m 1 1 mask3 m", "UnaryOp m 1 1 mask3 m 0=0")(text))),
        ("fused activation", swap("9=2 -23310=1,0.2", "9=5")),
        ("placeholder of a warp", lambda text: swap("rife.Warp", "BinaryOp")(text).replace(
            "to0_0 warp0_0", "to0_0 warp0_0 0=6")),
    ],
)  # fmt: skip
def test_a_fault_of_the_text_is_named(kind: str, change: Plant, good: Path) -> None:
    found = plant(good, change)
    assert kind in kinds(found), found.faults
    hit = {name for fault in found.faults if fault.kind == kind for name in fault.runtimes}
    assert hit >= set(RUNTIMES) - {"ncnn"}


def test_a_reduction_that_the_hub_cannot_read_shows_in_the_padding(
    graph: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    index = next(i for i, layer in enumerate(graph.layers) if layer.name == "conv0")
    graph.layers[index].outputs = ["sharp"]
    # An absolute value is nothing that the hub has.
    graph.layers[index + 1 : index + 1] = [
        Layer("Interp", "down", ["sharp"], ["down"], {0: 2, 1: 1 / 64, 2: 1 / 64}),
        Layer("UnaryOp", "abs", ["down"], ["abs"], {0: 0}),
        Layer("Interp", "up", ["abs"], ["conv0"], {0: 2, 1: 64.0, 2: 64.0}),
    ]
    found = examine(write(tmp_path / "rife-v4.6", graph))
    assert kinds(found) == {"folder name", "not examined"}
    assert "padded to 256" in next(one.what for one in found.faults if one.kind == "folder name")
    assert not any(one.repairable for one in found.faults)


@pytest.mark.parametrize("kind", ["GELU", "TanH"])
def test_a_layer_that_is_unknown_here_is_no_fault_where_it_exists(
    kind: str, good: Path, tmp_path: Path
) -> None:
    found = plant(good, swap("Sigmoid m 1 1", f"{kind} m 1 1"))
    assert kinds(found) == {"missing layer", "not examined"}
    assert found.verdicts()["ncnn"] == "not examined"
    assert found.verdicts()["nihui"] == "not examined; missing layer"
    assert not any(one.repairable for one in found.faults)
    with pytest.raises(SurgeryError, match="cannot be repaired"):
        repair(found, NcnnOptions())


def test_what_only_recent_builds_read_is_told_by_runtime(
    add_beta: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    old = {"nihui", "nihui-memorydata", "wheel", "video2x"}
    beta = next(layer for layer in add_beta.layers if layer.type == "MemoryData")
    beta.params[MemoryData.LOAD_TYPE] = 0
    index = next(i for i, layer in enumerate(add_beta.layers) if layer.name == "to0_1")
    crop = add_beta.layers[index]
    cut: dict[int, ParamValue] = {Slice.INDICES: [2], Slice.AXIS: 0}
    add_beta.layers[index] = Layer("Slice", "cut", crop.inputs, [*crop.outputs, "spare"], cut)
    found = examine(write(tmp_path / "rife-v4.6", add_beta))
    late = [one for one in found.faults if one.kind == "late parameter"]
    assert sorted(one.what.split(" ", 1)[0] for one in late) == ["MemoryData", "Slice"]
    assert all(set(one.runtimes) == old and one.repairable for one in late)
    assert kinds(found) == {"late parameter", "missing layer"}


def test_operands_that_are_both_stretched_are_told_by_runtime(
    graph: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    size: dict[int, ParamValue] = {MemoryData.W: 1, MemoryData.H: 1, MemoryData.C: 3}
    tint = {"data": np.full((3, 1, 1), 0.5, np.float32)}
    index = next(i for i, layer in enumerate(graph.layers) if layer.name == "left")
    mask = graph.layers[index].inputs[1]
    graph.layers[index].inputs[1] = "tinted"
    graph.layers[index:index] = [
        Layer("MemoryData", "tint", [], ["tint"], size, tint),
        Layer("BinaryOp", "mul", [mask, "tint"], ["tinted"], {0: 2}),
    ]
    found = examine(write(tmp_path / "rife-v4.6", graph))
    (fault,) = [one for one in found.faults if one.kind == "two stretched operands"]
    assert set(fault.runtimes) == {"nihui", "nihui-memorydata", "wheel", "video2x"}
    assert "BinaryOp mul" in fault.what


def test_a_missing_split_is_named(good: Path, graph: NcnnGraph) -> None:
    split = next(layer for layer in graph.layers if layer.type == "Split")

    def change(text: str) -> str:
        lines = [line for line in text.splitlines() if f" {split.name} " not in line]
        text = squeeze("\n".join(lines)).replace(" 0 1 in0\n", " 0 1 in0\n")
        for copy in split.outputs:
            text = text.replace(f" {copy} ", f" {split.inputs[0]} ")
        return text

    assert "missing split" in kinds(plant(good, change))


def test_a_split_whose_line_is_gone_is_the_first_fault_and_the_cause_of_all(good: Path) -> None:
    def drop_first_split(text: str) -> str:
        lines = text.splitlines(keepends=True)
        lines.remove(next(line for line in lines if line.startswith("Split")))
        return "".join(lines)

    found = plant(good, drop_first_split)
    assert [fault.kind for fault in found.faults] == ["missing split", "wrong counts"]
    assert "no Split makes in0_splitncnn_0, in0_splitncnn_1" in found.faults[0].what
    assert all(fault.repairable for fault in found.faults)


def test_a_misspelt_layer_is_told_with_the_one_that_was_meant(good: Path) -> None:
    (fault,) = plant(good, swap("Sigmoid", "Sigmiod")).faults
    assert (fault.kind, fault.runtimes) == ("unknown layer", tuple(RUNTIMES))
    assert "Sigmiod (m) is no layer type known here; did you mean Sigmoid?" in fault.what
    assert not fault.repairable


@pytest.mark.parametrize("name", ["Convolution1D", "HardSigmoid", "Whatever"])
def test_a_layer_that_is_another_is_not_taken_for_a_misspelt_one(name: str, good: Path) -> None:
    found = plant(good, swap("Sigmoid", name))
    assert "unknown layer" not in kinds(found)
    assert not any("did you mean" in fault.what for fault in found.faults)


def test_a_name_that_every_runtime_misreads_is_refused(good: Path, tmp_path: Path) -> None:
    found = examine(good)
    found.refuse_name(tmp_path / "rife-v4")
    with pytest.raises(RuntimeRefused, match="nothing"):
        found.refuse_name(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("short bin", lambda data: data[:-8]),
        ("long bin", lambda data: data + bytes(8)),
        ("wrong bin", lambda data: b"\xff" * 4 + data[4:]),
    ],
)
def test_a_fault_of_the_weights_is_named(
    kind: str, change: Callable[[bytes], bytes], good: Path
) -> None:
    path = good / "flownet.bin"
    path.write_bytes(change(path.read_bytes()))
    assert kinds(examine(good)) == {kind}


def test_values_that_are_no_numbers_are_named(
    graph: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    folder = write(tmp_path / "rife-v4.6", graph)
    weights = bytearray((folder / "flownet.bin").read_bytes())
    weights[4:8] = np.float32("nan").tobytes()
    (folder / "flownet.bin").write_bytes(weights)
    found = examine(folder)
    (fault,) = [one for one in found.faults if one.kind == "values that are no numbers"]
    assert " 1 of " in fault.what
    assert set(fault.runtimes) == set(RUNTIMES)
    assert not fault.repairable
    assert all(found.verdicts().values())


def test_missing_files_are_told_apart(good: Path, tmp_path: Path) -> None:
    (good / "flownet.bin").unlink()
    assert kinds(examine(good)) == {MISSING_BIN}
    with pytest.raises(SurgeryError, match=r"no flownet\.param in it"):
        examine(tmp_path)


def test_layers_that_runtimes_lack_are_told_by_runtime(
    add_beta: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    found = examine(write(tmp_path / "rife-v4.6", add_beta))
    assert kinds(found) == {"missing layer"}
    verdicts = found.verdicts()
    assert {name for name, reason in verdicts.items() if reason} == {"nihui"}


def test_a_1x1_convolution_hits_builds_without_reshape(
    narrow: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    found = examine(write(tmp_path / "rife-v4.6", narrow))
    assert kinds(found) == {"1x1 convolution"}
    verdicts = found.verdicts()
    assert verdicts["tntwise"]
    assert not verdicts["ncnn"]


@pytest.mark.parametrize(
    ("name", "hit"),
    [("rife-v2.3", "nihui"), ("model", "nihui"), ("rife-v3", "wheel"), ("rife-v4" * 40, "nihui")],
)
def test_a_name_that_selects_another_mode_is_named(
    name: str, hit: str, graph: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    if len(name) > 200:
        name = "rife-v4/" + "x" * 120 + "/" + "y" * 120
    found = examine(write(tmp_path / name, graph))
    assert kinds(found) == {"folder name"}
    assert found.verdicts()[hit]


def test_flows_that_nobody_can_name_are_a_limit_and_no_illness(
    graph: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    unnamed = parse(render(graph).replace("flow", "floe"))
    fill_random_weights(unnamed, 1)
    found = examine(write(tmp_path / "rife-v4.6", unnamed))
    assert kinds(found) == {"missing flow names"}
    assert not found.is_healthy  # --fix names them
    for index, layer in reversed(list(enumerate(unnamed.layers))):
        if layer.name.startswith("floe"):
            raw, shown = f"raw_{layer.name}", layer.outputs
            layer.outputs = [raw]
            unnamed.layers.insert(index + 1, Layer("Sigmoid", f"hide_{raw}", [raw], shown))
    found = examine(write(tmp_path / "hidden" / "rife-v4.6", unnamed))
    assert kinds(found) == {"missing flow names"}
    assert found.is_healthy
    assert not any(found.verdicts().values())


def test_only_the_runtimes_that_were_asked_about_are_judged(
    add_beta: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    folder = write(tmp_path / "rife-v4.6", add_beta)
    assert examine(folder, [RUNTIMES["wheel"]]).is_healthy
    assert not examine(folder, [RUNTIMES["nihui"]]).is_healthy


@pytest.mark.parametrize(
    ("name", "folder", "expected"),
    [
        ("nihui-rife-v4", "rife-v4", set()),
        ("nihui-rife-v4.6", "rife-v4.6", set()),
        ("styler-rife-v4.22_lite_ensembleFalse", "rife-v4.22-lite", {"missing layer"}),
        # Its name makes no runtime pad to the 64 pixels that it needs.
        (
            "styler-rife-v4.26_ensembleFalse",
            "rife-v4.6",
            {"missing layer", "missing flow names", "folder name"},
        ),
    ],
)
def test_published_graphs_are_judged_as_their_users_know_them(
    name: str,
    folder: str,
    expected: set[str],
    published_folder: Path,
    tmp_path: Path,
) -> None:
    text = (published_folder / f"{name}.param").read_text(encoding="utf-8")
    graph = parse(text)
    fill_random_weights(graph, 1)
    path = tmp_path / folder
    path.mkdir()
    (path / "flownet.param").write_text(text, encoding="utf-8")
    (path / "flownet.bin").write_bytes(write_weights(graph))
    found = examine(path)
    assert kinds(found) == expected
    assert found.is_healthy == (not expected)
    if "folder name" in expected:
        assert "folder name" in found.verdicts()["tntwise"]


def test_the_same_fault_of_two_networks_is_told_of_both(
    convert_networks: Callable[[str], tuple[Path, object]], tmp_path: Path
) -> None:
    folder = tmp_path / "rife-v2.3"
    shutil.copytree(convert_networks("v2")[0], folder)
    assert examine(folder).faults == []
    for network in ("flownet", "contextnet"):
        path = folder / f"{network}.param"
        head, counts, *lines = path.read_text(encoding="utf-8").splitlines()
        layers, blobs = map(int, counts.split())
        at, reader = next((n, one) for n, one in enumerate(lines) if one.startswith("Interp "))
        doubled = reader.split()[4]
        lines.insert(at + 1, f"Sigmoid again 1 1 {doubled} again")
        text = "\n".join([head, f"{layers + 1} {blobs + 1}", *lines]) + "\n"
        path.write_text(text, encoding="utf-8")
    splits = [one.what for one in examine(folder).faults if one.kind == "missing split"]
    assert sorted(what.split(",", 1)[0] for what in splits) == ["contextnet", "flownet"]
