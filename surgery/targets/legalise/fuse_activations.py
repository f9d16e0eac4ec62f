"""Let convolutions apply the activation that follows them."""

from __future__ import annotations

from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_param import Layer, NcnnGraph

# All share the ids of ACTIVATION_TYPE and ACTIVATION_PARAMS.
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "InnerProduct")


def fuse_activations(graph: NcnnGraph) -> int:
    """Fuse ReLU (leaky or not) and Sigmoid into the convolution before them.

    Exact when: the convolution has no other reader; the same arithmetic, one pass over memory less.
    Types 5 and 6 (Mish, HardSwish) are never written: their CPU path creates layers that
    rife-ncnn-vulkan builds leave out.
    """
    readers = graph.count_consumers()
    makers = graph.find_producers()
    fused: set[int] = set()
    for layer in graph.layers:
        if layer.type not in ("ReLU", "Sigmoid"):
            continue
        conv = makers[layer.inputs[0]]
        if conv.type not in CONVOLUTIONS or readers[layer.inputs[0]] != 1:
            continue
        if ncnn.Convolution.ACTIVATION_TYPE in conv.params:
            continue
        conv.params |= _activation(layer)
        conv.outputs = list(layer.outputs)
        makers[layer.outputs[0]] = conv
        fused.add(id(layer))
    graph.layers = [layer for layer in graph.layers if id(layer) not in fused]
    return len(fused)


def _activation(layer: Layer) -> dict[int, ncnn.ParamValue]:
    kind = int(ncnn.Convolution.ACTIVATION_TYPE)
    if layer.type == "Sigmoid":
        return {kind: int(ncnn.Activation.SIGMOID)}
    slope = ncnn.read_float(layer.params, ncnn.ReLU.SLOPE)
    if slope == 0.0:
        return {kind: int(ncnn.Activation.RELU)}
    return {
        kind: int(ncnn.Activation.LEAKY_RELU),
        int(ncnn.Convolution.ACTIVATION_PARAMS): [slope],
    }
