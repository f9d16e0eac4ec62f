"""Weights made up from a graph's shapes alone, to load and time graphs that came without any.

They give finite activations through any depth and flows of a few pixels, so the warps do the work
they do in a real model. They make no picture worth looking at.
"""

from __future__ import annotations

import math

import numpy as np

from surgery.errors import FormatError
from surgery.formats.ncnn_bin import MAX_BYTES, list_weights
from surgery.formats.ncnn_layers import Deconvolution, WeightArray, read_int
from surgery.formats.ncnn_param import Layer, NcnnGraph

# Gain 1 halves the variance at each leaky rectifier that no residual sum makes up for, and keeps a
# chain of residual blocks from growing. Measured on published graphs of 4.0 to 4.26: the median
# flow at every warp lies between 1 and 40 px, and at nearly all of them between 2 and 10.
KERNEL_GAIN = 1.0
BIAS_RANGE = (-0.1, 0.1)
SLOPE_RANGE = (0.1, 0.3)
# The constants of published graphs are the betas of residual blocks.
CONSTANT_RANGE = (0.5, 1.2)


def fill_random_weights(graph: NcnnGraph, seed: int) -> None:
    """Fill `weights` of every layer; the same graph and seed give the same weights.

    Raises:
        FormatError: a layer type whose weights are not known, sizes that do not fit each other,
            or more than `ncnn_bin.MAX_BYTES` in all.
    """
    arrays = [list_weights(layer) for layer in graph.layers]
    size = 4 * sum(math.prod(array.shape) for each in arrays for array in each)
    if size > MAX_BYTES:
        raise FormatError(f"the graph asks for {size} bytes of weights; at most {MAX_BYTES}")
    generator = np.random.default_rng(seed)
    for layer, each in zip(graph.layers, arrays, strict=True):
        layer.weights = {array.name: _draw(layer, array, generator) for array in each}


def _draw(layer: Layer, array: WeightArray, generator: np.random.Generator) -> np.ndarray:
    low, high = _choose_range(layer, array)
    return (low + (high - low) * generator.random(array.shape, np.float32)).astype(np.float32)


def _choose_range(layer: Layer, array: WeightArray) -> tuple[float, float]:
    if array.name == "weight":
        # A uniform distribution of half width sqrt(3) has variance 1.
        half_width = KERNEL_GAIN * math.sqrt(3 / _count_terms(layer, array))
        return -half_width, half_width
    named = {"bias": BIAS_RANGE, "slope": SLOPE_RANGE, "data": CONSTANT_RANGE}
    return named.get(array.name, CONSTANT_RANGE)


def _count_terms(layer: Layer, array: WeightArray) -> float:
    """How many products add up to one output value."""
    terms = float(math.prod(array.shape[1:]))
    if layer.type == "Deconvolution":
        strides = (Deconvolution.STRIDE_W, Deconvolution.STRIDE_H)
        terms /= math.prod(max(read_int(layer.params, stride), 1) for stride in strides)
    return terms
