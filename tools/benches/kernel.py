"""The compiled kernel of `rife::Warp` against its function body, both in onnxruntime.

One warp of a whole frame, with inputs and outputs bound to memory that stays, timed in turn. The
flow is like a network's: a smooth field of several pixels, with a little noise on every pixel
(`--noise`); the noise decides how many neighbouring pixels read neighbouring pixels. Both results
are compared with each other before anything is timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benches import timing
from surgery.hub import warp
from surgery.kernel_library import ops_library
from surgery.proof.tolerances import KERNEL_FP32

Float32Array = npt.NDArray[np.float32]

# Pixels between the nodes of the smooth flow and image, and the flow's standard deviation.
FLOW_CELL = 60
IMAGE_CELL = 8
FLOW_PIXELS = 6.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--size", default="1920x1080", metavar="WxH")
    parser.add_argument("--channels", type=int, nargs="+", default=[3, 4, 16])
    parser.add_argument("--pairs", type=int, default=11, help="measurements of each (default 11)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--noise", type=float, default=0.1, help="of the flow, in pixels")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure, print a table; 1 when kernel and body do not agree."""
    import onnxruntime

    width, height = (int(side) for side in arguments.size.split("x"))
    report: dict[str, Any] = {
        "processor": timing.name_processor(),
        "onnxruntime": onnxruntime.__version__,
        "size": [width, height],
        "threads": arguments.threads,
        "pairs": arguments.pairs,
        "noise_px": arguments.noise,
        "channels": {},
    }
    flow = draw_flow(height, width, arguments.noise)
    print(f"{report['processor']}, onnxruntime {report['onnxruntime']}, {width}x{height}, ", end="")
    print(f"{arguments.threads} threads, {arguments.pairs} pairs")
    print("channels   kernel ms     body ms   times as fast (lowest to highest pair)")
    for channels in arguments.channels:
        measured = measure(channels, flow, arguments.threads, arguments.pairs)
        report["channels"][channels] = measured
        print(
            f"{channels:8}{measured['candidate_ms']:12.2f}{measured['baseline_ms']:12.2f}"
            f"{measured['ratio']:10.1f}   ({measured['lowest_ratio']:.1f} to "
            f"{measured['highest_ratio']:.1f})"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    worst = max(entry["largest_difference"] for entry in report["channels"].values())
    if not KERNEL_FP32.accepts(worst):
        print(f"kernel and body differ by {worst}; {KERNEL_FP32.bound} is accepted")
        return 1
    return 0


def draw_flow(height: int, width: int, noise: float, seed: int = 0) -> Float32Array:
    """Draw a flow [1,2,H,W] in pixels: smooth over FLOW_CELL pixels, plus noise."""
    rng = np.random.default_rng(seed)
    smooth = draw_smooth(rng, 2, height, width, FLOW_CELL) * FLOW_PIXELS
    noisy: Float32Array = (smooth + rng.normal(0, noise, smooth.shape)).astype(np.float32)
    return noisy


def draw_image(channels: int, height: int, width: int, seed: int = 1) -> Float32Array:
    """Draw an image [1,C,H,W] without harsh edges, which would magnify a position's rounding."""
    rng = np.random.default_rng(seed)
    smooth = draw_smooth(rng, channels, height, width, IMAGE_CELL)
    image: Float32Array = np.clip(smooth * 0.2 + 0.5, 0, 1).astype(np.float32)
    return image


def draw_smooth(
    rng: np.random.Generator, planes: int, height: int, width: int, cell: int
) -> npt.NDArray[np.float64]:
    """Draw [1,planes,H,W], bilinear between normally distributed nodes every `cell` pixels."""
    rows, columns = np.arange(height) / cell, np.arange(width) / cell
    nodes = rng.standard_normal((planes, int(rows[-1]) + 2, int(columns[-1]) + 2))
    below, right = (axis.astype(np.int64) for axis in (rows, columns))
    weight_y, weight_x = (rows - below)[:, np.newaxis], columns - right
    lines = nodes[:, :, right] * (1 - weight_x) + nodes[:, :, right + 1] * weight_x
    smooth = lines[:, below] * (1 - weight_y) + lines[:, below + 1] * weight_y
    return smooth[np.newaxis]


def measure(channels: int, flow: Float32Array, threads: int, pairs: int) -> dict[str, float]:
    """Time kernel and body on one frame with so many channels."""
    image = draw_image(channels, *flow.shape[2:])
    kernel, body = (BoundWarp(image, flow, threads, has_kernel) for has_kernel in (True, False))
    kernel.run()
    body.run()
    times = timing.time_in_turn(kernel.run, body.run, pairs)
    difference = np.abs(kernel.output() - body.output()).max()
    return {**times.describe(), "largest_difference": float(difference)}


class BoundWarp:
    """A session of one warp whose inputs and output stay where they are."""

    def __init__(self, image: Float32Array, flow: Float32Array, threads: int, has_kernel: bool):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        if has_kernel:
            options.register_custom_ops_library(str(ops_library()))
        self._session = onnxruntime.InferenceSession(
            make_model(), options, providers=["CPUExecutionProvider"]
        )
        values = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(array)
            for name, array in (("image", image), ("flow", flow), ("out", np.zeros_like(image)))
        }
        self._output = values.pop("out")
        self._binding = self._session.io_binding()
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)
        self._binding.bind_ortvalue_output("out", self._output)

    def run(self) -> None:
        """Warp once."""
        self._session.run_with_iobinding(self._binding)

    def output(self) -> Float32Array:
        """The last result."""
        array: Float32Array = self._output.numpy()
        return array


def make_model() -> bytes:
    """Make a hub-like model of one warp, function body included."""
    from onnx import TensorProto, helper

    node = helper.make_node(warp.OP_TYPE, ["image", "flow"], ["out"], "/warp", domain=warp.DOMAIN)
    dims: dict[str, list[str | int]] = {
        "image": ["n", "c", "h", "w"],
        "flow": ["n", 2, "h", "w"],
        "out": ["n", "c", "h", "w"],
    }
    image, flow, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in dims.items()
    )
    model = helper.make_model(
        helper.make_graph([node], "one_warp", [image, flow], [out]),
        functions=[warp.warp_function()],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid(warp.DOMAIN, warp.VERSION)],
        ir_version=10,
    )
    serialised: bytes = model.SerializeToString()
    return serialised
