from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest

from surgery.errors import HubError
from surgery.sources.lift import observe

SIDE = 4
FEED = {"in0": np.ones((1, 1, SIDE, SIDE), np.float32)}


def make_model(items: int) -> onnx.ModelProto:
    """A sum of a frame and the largest of so many ones, which are made when it is run."""
    return onnx.parser.parse_model(
        f"""
        <ir_version: 10, opset_import: ["" : 18]>
        sum (float[1,1,H,W] in0) => (float[1,1,H,W] out0) <int64[1] items = {{{items}}}>
        {{
            ones = ConstantOfShape <value = float[1] {{1}}> (items)
            one = ReduceMax <keepdims = 0> (ones)
            out0 = Add (in0, one)
        }}
        """
    )


def test_what_is_run_may_take_what_a_network_takes_whatever_is_held() -> None:
    held = np.ones(observe.LEAST_BYTES // 4, np.float32)
    assert observe.run_once(make_model(2**24), FEED).max() == 1 + held[-1]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("Failed to allocate memory for requested buffer of size 1"), MemoryError),
        (RuntimeError("std::bad_alloc"), MemoryError),
        (MemoryError(), MemoryError),
        (RuntimeError("Invalid rank for input"), HubError),
    ],
)
def test_a_lack_of_memory_is_told_from_anything_else(
    error: Exception, kind: type[Exception]
) -> None:
    assert type(observe._explain(error, "onnxruntime refuses the model")) is kind


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux alone")
def test_a_model_that_takes_more_is_refused_before_it_has_it() -> None:
    # More than may be left over from what ran before, which a bound on what is mapped lets through.
    with pytest.raises(HubError, match="takes more than 1536 MiB at 4x4"):
        observe.run_once(make_model(2**30), FEED)
