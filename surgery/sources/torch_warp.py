"""`rife::warp` as a real torch operator, and what both of torch's exporters need to know of it.

The stock sources call a Python function named `warp`; `surgery.sources.stock` puts `call_warp` in
its place. In an export it becomes one `rife::Warp` node; run eagerly it computes the same as the
stock function.

Source of the signatures: torch.library.custom_op, torch.onnx.register_custom_op_symbolic and the
`custom_translation_table` of torch.onnx.export in torch's public documentation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from surgery.hub import warp as hub_warp

BILINEAR, BORDER = 0, 1  # torch's GridSamplerInterpolation and GridSamplerPadding


@torch.library.custom_op("rife::warp", mutates_args=(), device_types="cpu")
def warp_op(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Sample `image` at every pixel's position plus its flow.

    Shapes: image [N,C,H,W], flow [N,2,H,W] with x first; the result is shaped like the image.
    Units: flow in pixels of the image.
    """
    height, width = image.shape[-2:]
    axes = [
        torch.arange(width, dtype=flow.dtype).view(1, 1, width).expand(1, height, width),
        torch.arange(height, dtype=flow.dtype).view(1, height, 1).expand(1, height, width),
    ]
    grid = torch.stack(
        [
            (axis + flow[:, i]).clamp(0, size - 1) * (2.0 / max(size - 1, 1)) - 1.0
            for i, (axis, size) in enumerate(zip(axes, (width, height), strict=True))
        ],
        dim=-1,
    )
    # The ATen operator itself: torch.nn.functional.grid_sample is forbidden while exporting.
    sampled = torch.ops.aten.grid_sampler_2d(
        image, torch.nan_to_num(grid, nan=0.0), BILINEAR, BORDER, True
    )
    return torch.where(flow.isnan().any(dim=1, keepdim=True), 0.0, sampled)


@warp_op.register_fake
def _fake_warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    torch._check(flow.shape[1] == 2, lambda: f"a flow has 2 channels, found {flow.shape[1]}")
    return torch.empty_like(image)


def call_warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Warp through the operator; what replaces a stock source's own `warp`."""
    result: torch.Tensor = torch.ops.rife.warp(image, flow)
    return result


def register_symbolic(opset: int) -> None:
    """Tell the TorchScript exporter that `rife::warp` is the node `rife::Warp`."""

    def emit(graph: Any, image: Any, flow: Any) -> Any:
        result = graph.op(f"{hub_warp.DOMAIN}::{hub_warp.OP_TYPE}", image, flow)
        result.setType(image.type())
        return result

    torch.onnx.register_custom_op_symbolic("rife::warp", emit, opset)


@functools.cache
def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What the dynamo exporter's `custom_translation_table` takes.

    The exporter wants an operator with a schema; a bare opset call has none and is refused.
    """
    from onnxscript import values

    operator = values.Op(
        values.Opset(hub_warp.DOMAIN, hub_warp.VERSION),
        hub_warp.OP_TYPE,
        hub_warp.warp_schema(),
    )

    def translate(image: Any, flow: Any) -> Any:
        return operator(image, flow)

    return {torch.ops.rife.warp.default: translate}
