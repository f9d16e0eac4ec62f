"""Write the deconvolution that doubles the size as a 3x3 convolution and a pixel shuffle."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from surgery.hub import ops
from surgery.hub.ops import ConvSpec
from surgery.passes import edit

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

log = logging.getLogger(__name__)

DOUBLING = ConvSpec(
    kernel=(4, 4),
    strides=(2, 2),
    pads=(1, 1, 1, 1),
    dilations=(1, 1),
    group=1,
    output_padding=(0, 0),
)
# For an even and an odd output position: which tap of the 4 meets the input one before, at, and
# one after. Output 2h+i takes input h' through tap 2(h-h')+i+1.
TAPS = ((3, 1, None), (None, 2, 0))


def replace_deconvolutions(model: HubModel) -> int:
    """Replace ConvTranspose (kernel 4, stride 2, padding 1) by Conv 3x3 and DepthToSpace.

    Exact when: always; each of the four output phases is a 2x2 convolution, and zero padding
    stands for the inputs that a deconvolution does not have at the border. The 3x3 kernel is the
    form that runtimes have their fastest code for, and it leaves ncnn's Deconvolution unused.
    """
    return sum(_replace(model.graph, node) for node in list(model.graph.nodes))


def _replace(graph: gs.Graph, node: gs.Node) -> bool:
    if node.op != "ConvTranspose":
        return False
    spec = ops.read_conv(node)
    if spec != DOUBLING:
        log.debug("%s: refused: %s is not kernel 4, stride 2, padding 1", node.name, spec)
        return False
    weight = ops.constant(node.inputs[1])
    assert weight is not None  # read_conv has checked it
    bias = ops.constant(ops.optional_input(node, 2))
    # The Conv takes the name: layers named after the module stay where people look for them.
    stem = node.name
    node.name = f"{stem}.shuffle"
    inputs = [node.inputs[0], edit.make_constant(f"{stem}.weight", spread_kernel(weight))]
    if bias is not None:
        inputs.append(edit.make_constant(f"{stem}.bias", np.repeat(bias, 4)))
    phases = edit.add_node(
        graph, stem, "Conv", inputs, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    )
    edit.add_node(
        graph, f"{stem}.shuffle", "DepthToSpace", [phases], {"blocksize": 2, "mode": "CRD"}
    )
    edit.take_output(node, graph.nodes[-1])
    return True


def spread_kernel(weight: np.ndarray) -> np.ndarray:
    """Spread a deconvolution kernel [in,out,4,4] into a convolution's [4 out,in,3,3]."""
    inputs, outputs = weight.shape[:2]
    spread = np.zeros((outputs, 2, 2, inputs, 3, 3), weight.dtype)
    for i, rows in enumerate(TAPS):
        for j, columns in enumerate(TAPS):
            for y, row in enumerate(rows):
                for x, column in enumerate(columns):
                    if row is not None and column is not None:
                        spread[:, i, j, :, y, x] = weight[:, :, row, column].T
    return spread.reshape(outputs * 4, inputs, 3, 3)
