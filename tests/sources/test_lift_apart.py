from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from surgery.engines.child import measure_peak_bytes
from surgery.errors import EngineDied, HubError, ProofFailed, SurgeryError, UnsupportedOp
from surgery.sources.from_ncnn import import_folder
from surgery.sources.from_onnx import lift_model
from surgery.sources.lift.lift_apart import lift_apart, read_refusal, write_refusal
from surgery.targets.to_onnx import OnnxOptions, lower_model

GIB = 2**30


@pytest.fixture
def plain(tmp_path: Path, write_tiny_model: Callable[[Path, int], None]) -> onnx.ModelProto:
    write_tiny_model(tmp_path / "rife-v4", 3)
    return lower_model(import_folder(tmp_path / "rife-v4"), OnnxOptions())


def add_bomb(model: onnx.ModelProto, numbers: int) -> None:
    """Let the output wait for the largest of so many zeros, which a few bytes ask for."""
    graph = model.graph
    output = graph.output[0].name
    last = next(node for node in graph.node if output in node.output)
    last.output[list(last.output).index(output)] = "frame"
    shape = np.array([1, numbers], np.int64)
    graph.initializer.append(onnx.numpy_helper.from_array(shape, "shape"))
    make = onnx.helper.make_node
    graph.node.append(make("ConstantOfShape", ["shape"], ["zeros"], name="/zeros"))
    graph.node.append(make("ReduceMax", ["zeros"], ["most"], name="/most", keepdims=0))
    graph.node.append(make("Add", ["frame", "most"], [output], name="/last"))


def test_a_model_is_lifted_as_in_this_process(plain: onnx.ModelProto) -> None:
    expected = lift_model(plain, label="tiny").to_onnx()
    found = lift_apart(plain, label="tiny").to_onnx()
    assert found.SerializeToString(deterministic=True) == expected.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("lift", [lift_apart, lift_model])
def test_a_model_that_asks_for_gigabytes_is_refused(
    plain: onnx.ModelProto, lift: Callable[..., object]
) -> None:
    before = measure_peak_bytes() or 0
    add_bomb(plain, GIB)  # four bytes each
    with pytest.raises(HubError, match=r"takes more than \d+ MiB at (256x128|128x384)"):
        lift(plain, label="tiny")
    assert (measure_peak_bytes() or 0) < before + GIB


def test_a_model_that_asks_for_little_is_not(plain: onnx.ModelProto) -> None:
    add_bomb(plain, 8)
    assert lift_model(plain, label="tiny").metadata.warps == 2


def test_a_model_that_does_not_end_is_ended(plain: onnx.ModelProto) -> None:
    with pytest.raises(
        EngineDied, match=r"tiny was not lifted.* after 0.01 s .*export the model again"
    ):
        lift_apart(plain, label="tiny", time_limit=0.01)


def test_what_is_refused_there_is_told_here(plain: onnx.ModelProto) -> None:
    for node in plain.graph.node:
        for attribute in node.attribute:
            if attribute.name == "padding_mode":
                attribute.s = b"zeros"
    with pytest.raises(UnsupportedOp, match="padding_mode=zeros; border is accepted") as caught:
        lift_apart(plain, label="tiny")
    assert len(caught.value.refusals) == 2


@pytest.mark.parametrize(
    "error", [HubError("a, b"), ProofFailed("0.5"), UnsupportedOp("the hub", ["/a: b", "/c: d"])]
)
def test_a_refusal_is_read_as_it_was_written(error: SurgeryError) -> None:
    again = read_refusal(write_refusal(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
