"""Model folders: round trip, refusals, and the folder as ncnn itself loads and runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from surgery.errors import FormatError, OutputExists, SurgeryError
from surgery.formats.ncnn_folder import read_model, require_files, write_model
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.formats.ncnn_random import fill_random_weights
from surgery.formats.ncnn_splits import insert_splits


def _make_graph() -> NcnnGraph:
    """A little of everything that a RIFE block holds, at a size that runs in no time."""
    graph = NcnnGraph(
        [
            Layer("Input", "in0", [], ["in0"]),
            Layer("Input", "in1", [], ["in1"]),
            Layer("Concat", "pair", ["in0", "in1"], ["1"]),
            Layer("Interp", "down", ["1"], ["2"], {0: 2, 1: 0.5, 2: 0.5}),
            Layer("Convolution", "conv0", ["2"], ["3"], {
                0: 8, 1: 3, 3: 2, 4: 1, 5: 1, 6: 432, 9: 2, 10: [0.2],
            }),
            Layer("MemoryData", "beta", [], ["4"], {0: 1, 1: 1, 2: 8}),
            Layer("Convolution", "conv1", ["3"], ["5"], {0: 8, 1: 3, 4: 1, 5: 1, 6: 576}),
            Layer("BinaryOp", "mul", ["5", "4"], ["6"], {0: 2}),
            Layer("BinaryOp", "add", ["6", "3"], ["7"], {0: 0}),
            Layer("PReLU", "act", ["7"], ["8"], {0: 8}),
            Layer("Deconvolution", "up", ["8"], ["9"], {0: 24, 1: 4, 3: 2, 4: 1, 5: 1, 6: 3072}),
            Layer("PixelShuffle", "shuffle", ["9"], ["10"], {0: 2}),
            Layer("Crop", "mask", ["10"], ["11"], {9: [4], 10: [5], 11: [0]}),
            Layer("Sigmoid", "sigmoid", ["11"], ["12"]),
            Layer("BinaryOp", "scale", ["12"], ["out0"], {0: 2, 1: 1, 2: 0.25}),
        ]
    )  # fmt: skip
    insert_splits(graph)
    return graph


def _list_folder(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fp16", [True, False])
def test_a_written_model_reads_back(tmp_path: Path, fp16: bool) -> None:
    graph = _make_graph()
    fill_random_weights(graph, seed=0)
    write_model(tmp_path / "new" / "rife-v4", graph, fp16=fp16)
    assert _list_folder(tmp_path / "new" / "rife-v4") == ["flownet.bin", "flownet.param"]
    assert _list_folder(tmp_path / "new") == ["rife-v4"]

    read, found = read_model(tmp_path / "new" / "rife-v4")

    assert found.trailing_bytes == 0
    assert (found.float16_arrays > 0) == fp16
    # The graph says 0.2, the file and what is read from it the nearest float32.
    conv = next(layer for layer in graph.layers if layer.name == "conv0")
    conv.params[10] = [float(np.float32(0.2))]
    assert read == graph
    for mine, theirs in zip(graph.layers, read.layers, strict=True):
        for name, values in mine.weights.items():
            rounded = values.astype(np.float16) if fp16 and name == "weight" else values
            np.testing.assert_array_equal(theirs.weights[name], rounded.astype(np.float32))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        graph = _make_graph()
        fill_random_weights(graph, seed=0)
        write_model(tmp_path / name, graph)
    for file in ("flownet.param", "flownet.bin"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert b"\r" not in (tmp_path / "a" / "flownet.param").read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xef\xbb\xbf<!DOCTYPE html><html></html>", "a page of HTML"),
        (b"\n <html></html>", "a page of HTML"),
    ],
)
@pytest.mark.parametrize("name", ["flownet.param", "flownet.bin"])
def test_what_a_failed_download_left_is_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    graph = _make_graph()
    fill_random_weights(graph, seed=0)
    write_model(tmp_path / "out", graph)
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(FormatError, match=f"{name}: .*{words}"):
        read_model(tmp_path / "out")


def test_weights_that_are_not_there_are_asked_for(tmp_path: Path) -> None:
    graph = _make_graph()
    fill_random_weights(graph, seed=0)
    write_model(tmp_path / "out", graph)
    (tmp_path / "out" / "flownet.bin").unlink()
    with pytest.raises(FormatError, match=r"no flownet\.bin in it.*put the weights .* beside it"):
        require_files(tmp_path / "out")


def test_an_existing_folder_is_replaced_only_on_demand(tmp_path: Path) -> None:
    graph = _make_graph()
    fill_random_weights(graph, seed=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "surgery.json").touch()
    with pytest.raises(OutputExists, match="out exists; --force replaces it"):
        write_model(tmp_path / "out", graph)
    assert _list_folder(tmp_path / "out") == ["surgery.json"]
    write_model(tmp_path / "out", graph, force=True)
    assert _list_folder(tmp_path / "out") == ["flownet.bin", "flownet.param"]
    assert _list_folder(tmp_path) == ["out"]


def test_nothing_is_written_when_the_graph_or_the_weights_are_wrong(tmp_path: Path) -> None:
    graph = _make_graph()
    with pytest.raises(SurgeryError, match=r"conv0: weight is missing"):
        write_model(tmp_path / "out", graph)
    fill_random_weights(graph, seed=0)
    graph.layers[-1].inputs = ["nowhere"]
    with pytest.raises(FormatError, match="reads nowhere, which is made by no layer"):
        write_model(tmp_path / "out", graph)
    assert _list_folder(tmp_path) == []


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"flownet\.param cannot be read: No such file"):
        read_model(tmp_path)
    (tmp_path / "flownet.param").write_bytes(b"\xff\xfe")
    with pytest.raises(FormatError, match="byte 0: not UTF-8 text"):
        read_model(tmp_path)
    (tmp_path / "flownet.param").write_text("7767517\n1 1\nInput a 0 1 a\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"flownet\.bin cannot be read: No such file"):
        read_model(tmp_path)


def test_ncnn_loads_and_runs_what_is_written(tmp_path: Path) -> None:
    ncnn = pytest.importorskip("ncnn")
    graph = _make_graph()
    fill_random_weights(graph, seed=0)
    write_model(tmp_path / "m", graph)
    net = ncnn.Net()
    assert net.load_param(str(tmp_path / "m" / "flownet.param")) == 0
    assert net.load_model(str(tmp_path / "m" / "flownet.bin")) == 0
    images = np.random.default_rng(0).random((2, 3, 32, 48), np.float32)
    extractor = net.create_extractor()
    for name, image in zip(("in0", "in1"), images, strict=True):
        extractor.input(name, ncnn.Mat(image).clone())
    code, out = extractor.extract("out0")
    assert code == 0
    frame = np.array(out).copy()
    # 1/2 by Interp, 1/2 by the stride, x2 by the deconvolution, x2 by the shuffle.
    assert frame.shape == (1, 32, 48)
    assert np.isfinite(frame).all()
    # A sigmoid's quarter, and of a mask that varies.
    assert 0 < frame.min() < frame.max() < 0.25
    assert frame.std() > 1e-3
