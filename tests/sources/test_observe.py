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
    """A sum of a frame and the first of so many numbers."""
    model = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 18]>
        sum (float[1,1,H,W] in0) => (float[1,1,H,W] out0) <int64 first = {0}>
        {
            one = Gather (numbers, first)
            out0 = Add (in0, one)
        }
        """
    )
    numbers = onnx.numpy_helper.from_array(np.ones(items, np.float32), "numbers")
    model.graph.initializer.append(numbers)
    return model


def test_what_is_run_may_take_what_a_network_takes_whatever_is_held() -> None:
    held = np.ones(observe.LEAST_BYTES // 4, np.float32)
    assert observe.run_once(make_model(2**24), FEED).max() == 1 + held[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux alone")
def test_a_model_that_takes_more_is_refused_before_it_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observe, "LEAST_BYTES", 2**20)
    with pytest.raises(HubError, match="takes more than 1 MiB at 4x4"):
        observe.run_once(make_model(2**24), FEED)
