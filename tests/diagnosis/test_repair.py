from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from surgery.diagnosis.examine import examine
from surgery.diagnosis.repair import Repair, repair
from surgery.errors import ProofFailed, SurgeryError
from surgery.formats.ncnn_layers import Convolution, read_int
from surgery.formats.ncnn_param import NcnnGraph
from surgery.hub.model import HubModel
from surgery.proof.tolerances import NCNN_FP32
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn

WriteFolder = Callable[[Path, NcnnGraph], Path]


def mend(folder: Path, output: Path) -> Repair:
    """Repair a folder, write the result and see that it is in health."""
    mended = repair(examine(folder), NcnnOptions())
    output.mkdir(parents=True)
    mended.made.write(output)
    after = examine(output)
    assert after.is_healthy, after.faults
    assert NCNN_FP32.accepts(mended.exact.max_abs)
    assert mended.rounded is not None
    return mended


def change_text(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "flownet.param"
    text = "\n".join(" ".join(line.split()) for line in path.read_text().splitlines()) + "\n"
    changed = change(text)
    assert changed != text, "nothing was planted"
    path.write_text(changed, encoding="utf-8")


def test_constants_are_folded_away(add_beta: NcnnGraph, tmp_path: Path, write: WriteFolder) -> None:
    mended = mend(write(tmp_path / "rife-v4.6", add_beta), tmp_path / "out" / "rife-v4.6")
    assert "MemoryData" not in {layer.type for layer in mended.made.graph.layers}


def test_1x1_convolutions_are_widened(
    narrow: NcnnGraph, tmp_path: Path, write: WriteFolder
) -> None:
    mended = mend(write(tmp_path / "rife-v4.6", narrow), tmp_path / "out" / "rife-v4.6")
    kernels = {
        read_int(layer.params, Convolution.KERNEL_W)
        for layer in mended.made.graph.layers
        if layer.type == "Convolution"
    }
    assert kernels == {3}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: re.sub("\n.*\n", "\n9 999\n", text, count=1),
        lambda text: text.replace("2=1.0", "2=1"),
        lambda text: text.replace("2=1.0", "2=1.0000000000000000"),
        lambda text: text.replace("-23310=1,0.2", "10=0.2,"),
        lambda text: text.replace("flow", "floe"),
        lambda text: text.replace("flow0", "?").replace("flow1", "flow0").replace("?", "flow1"),
        lambda text: text.replace("to0_1 -23309=1,0 -23310=1,2", "to0_1 -23309=1,0 -23310=1,3"),
        lambda text: text.replace("left right out0 0=0", "left right out0 0=1"),
    ],
    ids=[
        "counts",
        "float",
        "long",
        "array",
        "flow names",
        "flow order",
        "flow channels",
        "negative output",
    ],
)
def test_faults_of_the_text_are_repaired(
    change: Callable[[str], str], good: Path, tmp_path: Path
) -> None:
    change_text(good, change)
    assert not examine(good).is_healthy
    mend(good, tmp_path / "out" / "rife-v4.6")


def test_a_missing_split_is_made(graph: NcnnGraph, good: Path, tmp_path: Path) -> None:
    copies = {
        name: layer.inputs[0]
        for layer in graph.layers
        if layer.type == "Split"
        for name in layer.outputs
    }

    def unsplit(text: str) -> str:
        kept = [line for line in text.splitlines() if not line.startswith("Split")]
        words = [[copies.get(word, word) for word in line.split(" ")] for line in kept]
        return "\n".join(" ".join(line) for line in words) + "\n"

    change_text(good, unsplit)
    mend(good, tmp_path / "out" / "rife-v4.6")


def test_a_split_whose_line_is_gone_is_put_back(good: Path, tmp_path: Path) -> None:
    change_text(good, lambda text: re.sub("Split .*\n", "", text, count=1))
    mend(good, tmp_path / "out" / "rife-v4.6")


def test_a_bin_that_is_too_long_is_cut(good: Path, tmp_path: Path) -> None:
    path = good / "flownet.bin"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(64))
    mend(good, tmp_path / "out" / "rife-v4.6")
    assert size < path.stat().st_size


def test_placeholders_become_warps(good: Path, tmp_path: Path) -> None:
    change_text(
        good,
        lambda text: (
            text.replace("to0_1 -23309=1,0 -23310=1,2", "to0_1 -23309=1,0 -23310=1,3")
            .replace("rife.Warp warp0_1", "BinaryOp warp0_1")
            .replace("to0_1 warp0_1\n", "to0_1 warp0_1 0=6\n")
        ),
    )
    mended = mend(good, tmp_path / "out" / "rife-v4.6")
    assert mended.made.metadata.warps == 8


@pytest.mark.parametrize("fault", ["short", "unreadable", "broken"])
def test_what_cannot_be_mended_is_refused(fault: str, good: Path) -> None:
    if fault == "short":
        path = good / "flownet.bin"
        path.write_bytes(path.read_bytes()[:-8])
    elif fault == "unreadable":
        change_text(good, lambda text: text.replace("7767517", "7"))
    else:
        change_text(good, lambda text: text.replace("mask3 m\n", "maskless m\n"))
    with pytest.raises(SurgeryError, match="cannot be repaired"):
        repair(examine(good), NcnnOptions())


def test_weights_are_asked_for_before_anything_else_is_told(good: Path) -> None:
    change_text(good, lambda text: text.replace("Sigmoid ", "TanH "))
    (good / "flownet.bin").unlink()
    examination = examine(good)
    assert len(examination.faults) > 1
    with pytest.raises(SurgeryError, match="cannot be repaired") as caught:
        repair(examination, NcnnOptions())
    (line,) = str(caught.value).splitlines()[1:]
    assert "put the one that belongs to the .param beside it" in line


def test_a_repair_that_changes_the_picture_is_not_given_out(
    add_beta: NcnnGraph, tmp_path: Path, write: WriteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(model: HubModel, options: NcnnOptions) -> NcnnModel:
        made = make_ncnn(model, options)
        layer = next(one for one in made.graph.layers if one.type == "Convolution")
        layer.weights["weight"] = layer.weights["weight"] * np.float32(1.01)
        return made

    monkeypatch.setattr("surgery.diagnosis.repair.make_ncnn", spoil)
    folder = write(tmp_path / "rife-v4.6", add_beta)
    with pytest.raises(ProofFailed, match="differs from the original"):
        repair(examine(folder), NcnnOptions())
