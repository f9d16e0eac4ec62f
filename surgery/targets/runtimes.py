"""What each runtime of the rife-ncnn-vulkan family can load and run, as data.

Sources, each read at a commit: nihui/rife-ncnn-vulkan a7532fc (src/CMakeLists.txt switches layers
off; src/rife.cpp pads), TNTwise/rife-ncnn-vulkan b9742c8, the PyPI package
rife-ncnn-vulkan-python-tntwise 1.4.5, styler00dollar/VapourSynth-RIFE-ncnn-Vulkan 48da541,
k4yt3x/video2x's librife, and Tencent/ncnn.

Why a model that needs more than 32 does not run in a runtime that pads to 32, not even with a
graph made for it: the graph would have to pad what it is given up to the next multiple of 64, and
crop the result. Of the layers the official build has, Padding adds a constant number of rows and
Crop takes constant bounds (what follows another blob's size exists for Crop alone, and there is no
such blob), Interp resizes by a constant factor, or to a constant size: none of them knows whether
the height that arrives is an odd multiple of 32. Padding by 32 always makes the odd multiples fit
and breaks the even ones. Resizing to a multiple of 64 and back is another computation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from surgery.errors import RuntimeRefused
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_param import Layer, NcnnGraph

_OFFICIAL = frozenset(
    [
        "Input",
        "Split",
        "Concat",
        "Slice",
        "Crop",
        "Convolution",
        "Deconvolution",
        "InnerProduct",
        "Pooling",
        "Padding",
        "Interp",
        "PixelShuffle",
        "BinaryOp",
        "UnaryOp",
        "Eltwise",
        "ReLU",
        "PReLU",
        "Sigmoid",
        "Clip",
        "Flatten",
        "Packing",
        "Cast",
        "rife.Warp",
    ]
)
_TNTWISE = _OFFICIAL | {"MemoryData", "ConvolutionDepthWise", "Tile", "ExpandDims"}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """One runtime.

    Attributes:
        name: what `--runtime` takes.
        description: what it is, for tables and messages.
        layers: the layer types compiled in; None when nothing is left out.
        paddings: the multiples it can pad frames to, whatever the folder is called.
        clamped_inputs: frames arrive in 0..1 (8-bit values over 255).
        breaks_1x1_convolution: a 1x1 Convolution creates a layer on Vulkan that was left out.
        reads_paths_like: the runtime whose rules on folder names it shares; empty for its own.
    """

    name: str
    description: str
    layers: frozenset[str] | None
    paddings: tuple[int, ...]
    clamped_inputs: bool = True
    breaks_1x1_convolution: bool = True
    reads_paths_like: str = ""

    def lacks(self, types: Iterable[str]) -> list[str]:
        """Name the layer types among `types` that this runtime was built without."""
        return [] if self.layers is None else sorted(set(types) - self.layers)


RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        Runtime("nihui", "rife-ncnn-vulkan, the official build", _OFFICIAL, (32,)),
        Runtime(
            "nihui-memorydata",
            "rife-ncnn-vulkan built with -DWITH_LAYER_memorydata=ON",
            _OFFICIAL | {"MemoryData"},
            (32,),
        ),
        Runtime("tntwise", "TNTwise's rife-ncnn-vulkan", _TNTWISE, (32, 64, 128)),
        Runtime(
            "wheel",
            "the PyPI package rife-ncnn-vulkan-python-tntwise",
            _OFFICIAL | {"MemoryData", "ConvolutionDepthWise"},
            (32, 64),
        ),
        Runtime(
            "vapoursynth",
            "VapourSynth-RIFE-ncnn-Vulkan",
            _TNTWISE | {"Gemm"},
            (32, 64, 128),
            # Its frames are floats that a script may push outside 0..1.
            clamped_inputs=False,
        ),
        Runtime(
            "video2x",
            "video2x's librife",
            _OFFICIAL | {"MemoryData", "GridSample", "Reduction", "Reshape", "Scale"},
            (32, 64, 128),
            breaks_1x1_convolution=False,
        ),
        Runtime(
            "ncnn",
            "plain ncnn with rife.Warp registered; the host pads",
            None,
            (),
            clamped_inputs=False,
            breaks_1x1_convolution=False,
        ),
    )
}


def find_runtime(name: str) -> Runtime:
    """Look a runtime up: by its name, or by the path of a checkout it is built of.

    Raises:
        RuntimeRefused: there is none of that name, and no checkout; the message lists those there
            are.
    """
    if name in RUNTIMES:
        return RUNTIMES[name]
    if Path(name).exists():
        from surgery.targets.read_checkout import read_checkout

        return read_checkout(Path(name))
    raise RuntimeRefused(
        f"runtime {name!r}; accepted: {', '.join(RUNTIMES)}, or the path of a rife-ncnn-vulkan's "
        "src/CMakeLists.txt"
    )


def refuse_padding(runtime: Runtime, padding: int) -> str:
    """Say why a runtime cannot pad frames as a model needs; empty when it can."""
    if not runtime.paddings or any(pad % padding == 0 for pad in runtime.paddings):
        return ""
    return (
        f"the model needs frames padded to {padding}; {runtime.name} pads to "
        f"{' or '.join(map(str, runtime.paddings))}, and frames of other sizes would corrupt memory"
    )


def refuse_graph(runtime: Runtime, graph: NcnnGraph, padding: int) -> str:
    """Say why a runtime cannot run a graph, with a layer for each reason; empty when it can.

    Units: padding in pixels, what the model needs.
    """
    reasons = []
    for kind in runtime.lacks(layer.type for layer in graph.layers):
        names = [layer.name for layer in graph.layers if layer.type == kind]
        # A layer is named after the torch module that it came from, and the operator in it.
        reasons.append(f"{kind} ({_name_some(names)}) is not compiled in")
    if runtime.breaks_1x1_convolution:
        names = [layer.name for layer in graph.layers if _is_1x1(layer)]
        if names:
            reasons.append(f"Convolution of 1x1 ({_name_some(names)}) crashes on Vulkan")
    return "; ".join([*reasons, *filter(None, [refuse_padding(runtime, padding)])])


def _name_some(names: list[str]) -> str:
    module = names[0].rpartition("/")[0]
    origin = f", torch module {module}" if module else ""
    return names[0] + origin + (f", and {len(names) - 1} more" if len(names) > 1 else "")


def _is_1x1(layer: Layer) -> bool:
    kernel = (ncnn.Convolution.KERNEL_W, ncnn.Convolution.KERNEL_H)
    return layer.type == "Convolution" and all(
        ncnn.read_int(layer.params, key) == 1 for key in kernel
    )
