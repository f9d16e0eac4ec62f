"""Give every 1x1 convolution a 3x3 kernel, which Vulkan builds of rife-ncnn-vulkan can load."""

from __future__ import annotations

import math

import numpy as np

from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_layers import read_int
from surgery.formats.ncnn_param import Layer, NcnnGraph

_PADS = (
    ncnn.Convolution.PAD_LEFT,
    ncnn.Convolution.PAD_RIGHT,
    ncnn.Convolution.PAD_TOP,
    ncnn.Convolution.PAD_BOTTOM,
)
WIDE = 3


def widen_convolutions(graph: NcnnGraph) -> int:
    """Surround the weights of every 1x1 Convolution with zeros; returns how many there were.

    Exact when: always; the zeros meet one more pixel of zero padding on each side. ncnn's Vulkan
    path of a 1x1 Convolution creates a Reshape, which the bundled builds leave out, and dies.

    Source: ncnn convolution_vulkan.cpp, `create_pipeline`.
    """
    widened = [layer for layer in graph.layers if is_1x1(layer)]
    for layer in widened:
        pads = [read_int(layer.params, pad) for pad in _PADS]
        weight = np.pad(layer.weights["weight"], ((0, 0), (0, 0), (1, 1), (1, 1)))
        layer.weights["weight"] = weight
        for key in (ncnn.Convolution.KERNEL_H, ncnn.Convolution.DILATION_H):
            layer.params.pop(key, None)
        layer.params |= {int(pad): value + 1 for pad, value in zip(_PADS, pads, strict=True)}
        layer.params |= {
            int(ncnn.Convolution.KERNEL_W): WIDE,
            int(ncnn.Convolution.DILATION_W): 1,
            int(ncnn.Convolution.WEIGHT_COUNT): math.prod(weight.shape),
        }
    return len(widened)


def is_1x1(layer: Layer) -> bool:
    """Whether a layer is a Convolution of one pixel with weights of its own."""
    if layer.type != "Convolution" or "weight" not in layer.weights:
        return False
    pads = [read_int(layer.params, pad) for pad in _PADS]
    return layer.weights["weight"].shape[2:] == (1, 1) and min(pads) >= 0
