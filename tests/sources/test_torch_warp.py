from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from surgery.hub import warp as hub_warp
from surgery.hub.warp import warp_reference
from surgery.proof.tolerances import KERNEL_FP32
from surgery.sources.torch_warp import call_warp, translation_table, warp_op


def _make_pair(channels: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, and a flow that leaves the image on every side."""
    generator = torch.Generator().manual_seed(channels)
    image = torch.rand(1, channels, height, width, generator=generator)
    flow = torch.randn(1, 2, height, width, generator=generator) * 6
    return image, flow


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(3, 24, 40), (1, 7, 5), (16, 9, 8), (3, 1, 6), (2, 6, 1)]
)
def test_the_operator_computes_the_definition(channels: int, height: int, width: int) -> None:
    image, flow = _make_pair(channels, height, width)
    expected = warp_reference(image.numpy(), flow.numpy())
    difference = np.abs(call_warp(image, flow).numpy() - expected).max()
    assert KERNEL_FP32.accepts(float(difference))


def test_another_flow_is_told_from_the_right_one() -> None:
    image, flow = _make_pair(3, 24, 40)
    swapped = warp_reference(image.numpy(), flow.flip(1).numpy())
    assert not KERNEL_FP32.accepts(float(np.abs(call_warp(image, flow).numpy() - swapped).max()))


def test_flows_that_are_not_finite_give_the_border_and_black() -> None:
    image, flow = _make_pair(3, 8, 8)
    flow[0, 0, 1, 1], flow[0, 1, 2, 2], flow[0, 0, 3, 3] = torch.inf, -torch.inf, torch.nan
    warped = call_warp(image, flow)
    expected = warp_reference(image.numpy(), flow.numpy())
    assert torch.equal(warped[0, :, 3, 3], torch.zeros(3))
    assert KERNEL_FP32.accepts(float(np.abs(warped.numpy() - expected).max()))


def test_the_operator_keeps_the_rules_of_torch_library() -> None:
    checks = ("test_schema", "test_faketensor")
    found = torch.library.opcheck(warp_op, _make_pair(3, 8, 8), test_utils=checks)
    assert set(found.values()) == {"SUCCESS"}


def test_without_data_only_the_shape_is_known_and_the_flow_is_checked() -> None:
    image = torch.empty(1, 5, 8, 8, device="meta")
    assert call_warp(image, torch.empty(1, 2, 8, 8, device="meta")).shape == image.shape
    with pytest.raises(RuntimeError, match="a flow has 2 channels, found 4"):
        call_warp(image, torch.empty(1, 4, 8, 8, device="meta"))


def test_the_dynamo_exporter_is_given_an_operator_with_the_schema_of_the_hub() -> None:
    (key,) = translation_table()
    assert key is torch.ops.rife.warp.default
    schema = hub_warp.warp_schema()
    assert (schema.domain, schema.name) == (hub_warp.DOMAIN, hub_warp.OP_TYPE)
    assert isinstance(schema, onnx.defs.OpSchema)
    assert translation_table() is translation_table()
