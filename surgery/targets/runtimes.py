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
from collections.abc import Iterable, Iterator
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
        is_recent: its ncnn is known to be of 2025 or later.
        reads_paths_like: the runtime whose rules on folder names it shares; empty for its own.
    """

    name: str
    description: str
    layers: frozenset[str] | None
    paddings: tuple[int, ...]
    clamped_inputs: bool = True
    breaks_1x1_convolution: bool = True
    is_recent: bool = False
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
        Runtime(
            "tntwise",
            "TNTwise's rife-ncnn-vulkan",
            _TNTWISE,
            (32, 64, 128),
            is_recent=True,
        ),
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
            is_recent=True,
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
            is_recent=True,
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


@dataclasses.dataclass(frozen=True)
class Refusal:
    """One reason why a runtime cannot run a graph.

    Attributes:
        kind: a name for it: `missing layer`, `1x1 convolution`, `late parameter`, ...
        what: the layers and what is wrong with them, as a sentence.
        effect: what the runtime does.
        layer_type: of the layers.
    """

    kind: str
    what: str
    effect: str
    layer_type: str


def refuse_graph(runtime: Runtime, graph: NcnnGraph, padding: int) -> str:
    """Say why a runtime cannot run a graph, with a layer for each reason; empty when it can.

    Units: padding in pixels, what the model needs.
    """
    reasons = [one.what for one in find_refusals(runtime, graph)]
    return "; ".join([*reasons, *filter(None, [refuse_padding(runtime, padding)])])


def find_refusals(runtime: Runtime, graph: NcnnGraph) -> list[Refusal]:
    """Every reason why a runtime cannot run a graph, whatever it pads to."""
    return [
        *_refuse_types(runtime, graph),
        *_refuse_1x1(runtime, graph),
        *_refuse_activations(runtime, graph),
        *_refuse_late_parameters(runtime, graph),
    ]


def _refuse_types(runtime: Runtime, graph: NcnnGraph) -> Iterator[Refusal]:
    for kind in runtime.lacks(layer.type for layer in graph.layers):
        names = [layer.name for layer in graph.layers if layer.type == kind]
        # A layer is named after the torch module that it came from, and the operator in it.
        what = f"{kind} ({_name_some(names)}) is not compiled in"
        yield Refusal("missing layer", what, "it dies at load", kind)


def _refuse_1x1(runtime: Runtime, graph: NcnnGraph) -> Iterator[Refusal]:
    if not runtime.breaks_1x1_convolution:
        return
    names = [layer.name for layer in graph.layers if _is_1x1(layer)]
    if names:
        what = f"Convolution of 1x1 ({_name_some(names)}) crashes on Vulkan"
        yield Refusal("1x1 convolution", what, "it dies at load on Vulkan", "Convolution")


# What a convolution on a CPU creates for an activation (fused_activation.h).
ACTIVATION_LAYERS = {ncnn.Activation.MISH: "Mish", ncnn.Activation.HARD_SWISH: "HardSwish"}


def _refuse_activations(runtime: Runtime, graph: NcnnGraph) -> Iterator[Refusal]:
    for activation, created in ACTIVATION_LAYERS.items():
        found = [layer for layer in graph.layers if _fuses(layer, activation)]
        for kind in sorted({layer.type for layer in found}) if runtime.lacks([created]) else ():
            names = [layer.name for layer in found if layer.type == kind]
            what = (
                f"{kind} ({_name_some(names)}) has the fused activation {activation.value}, which "
                f"is {created} on a CPU, and {created} is not compiled in"
            )
            yield Refusal("fused activation", what, "it dies at load on a CPU", kind)


def _fuses(layer: Layer, activation: ncnn.Activation) -> bool:
    known = ncnn.LAYER_TYPES.get(layer.type)
    # All layers that fuse an activation keep it under the same key.
    return (
        known is not None
        and ncnn.Convolution.ACTIVATION_TYPE.name in known.params.__members__
        and ncnn.read_int(layer.params, ncnn.Convolution.ACTIVATION_TYPE) == activation
    )


def _refuse_late_parameters(runtime: Runtime, graph: NcnnGraph) -> Iterator[Refusal]:
    if runtime.is_recent:
        return
    for kind, (is_late, meaning, effect) in _LATE_PARAMETERS.items():
        names = [layer.name for layer in graph.layers if layer.type == kind and is_late(layer)]
        if names:
            what = f"{kind} ({_name_some(names)}) {meaning}, which only ncnn since 2025 reads"
            yield Refusal("late parameter", what, effect, kind)


def _slices_at_indices(layer: Layer) -> bool:
    return bool(ncnn.read_ints(layer.params, ncnn.Slice.INDICES))


def _is_tagged(layer: Layer) -> bool:
    return ncnn.read_int(layer.params, ncnn.MemoryData.LOAD_TYPE) == 0


_LATE_PARAMETERS = {
    "Slice": (_slices_at_indices, "is cut at indices (key 2)", "its parts have no channels"),
    "MemoryData": (_is_tagged, "has a tag (key 21)", "it and all weights after it are misread"),
}


def _name_some(names: list[str]) -> str:
    module = names[0].rpartition("/")[0]
    origin = f", torch module {module}" if module else ""
    return names[0] + origin + (f", and {len(names) - 1} more" if len(names) > 1 else "")


def _is_1x1(layer: Layer) -> bool:
    kernel = (ncnn.Convolution.KERNEL_W, ncnn.Convolution.KERNEL_H)
    return layer.type == "Convolution" and all(
        ncnn.read_int(layer.params, key) == 1 for key in kernel
    )
