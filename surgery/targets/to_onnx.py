"""Lower a hub model to plain ONNX: GridSample in the place of `rife::Warp`, no custom domain."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import SurgeryError
from surgery.hub.model import KEY_PREFIX, from_onnx
from surgery.output import write_file_atomically
from surgery.targets.lowering.halve_precision import halve_precision
from surgery.targets.lowering.lower_warps import lower_warps, measure_warps
from surgery.targets.lowering.pack_inputs import LAYOUTS

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

    from surgery.hub.model import HubModel

# GridSample came with 16; beyond 20 nothing is gained, and few hosts read it.
OPSETS = range(16, 21)
# What vs-mlrt wants widths and heights to be multiples of, for layout v1: 32 for all versions but
# these, and 64 from 4.26 on (scripts/vsmlrt.py, `RIFE`).
VSMLRT_MULTIPLES = {"4.25.lite": 128, "4.25.heavy": 64}
# What `RIFEModel` has a name for, but for 4.1 (vs-mlrt scripts/vsmlrt.py).
VSMLRT_VERSION = re.compile(r"4\.(\d+)(\.lite|\.heavy)?")
UNKNOWN_TO_VSMLRT = ("4.1",)
LAYOUT_KEY = KEY_PREFIX + "layout"
# Resize has these since 18, and the hub's are the defaults.
NEW_ATTRIBUTES = {"Resize": ("antialias", "axes", "keep_aspect_ratio_policy")}
NEW_SINCE = 18


@dataclasses.dataclass(frozen=True)
class OnnxOptions:
    """How to lower.

    Attributes:
        layout: `plain` for in0, in1, in2 and out0; `vsmlrt-v1` or `vsmlrt-v2` for one input.
        opset: of ONNX's own domain, 16 to 20.
        fp16: compute in fp16, positions of warps excepted; inputs and output stay float32.
    """

    layout: str = "plain"
    opset: int = 18
    fp16: bool = False


def lower_model(model: HubModel, options: OnnxOptions | None = None) -> onnx.ModelProto:
    """Lower a hub model, which stays as it is; the hub's metadata stays with the result.

    Height and width stay open: multiples of the model's padding, or any size for `vsmlrt-v2`.

    Raises:
        SurgeryError: there is no such layout or opset, or the layout cannot express the model.
    """
    import onnx

    options = options or OnnxOptions()
    if options.layout not in LAYOUTS:
        raise SurgeryError(f"layout {options.layout!r}; accepted: {', '.join(LAYOUTS)}")
    if options.opset not in OPSETS:
        raise SurgeryError(f"opset {options.opset}; {OPSETS[0]} to {OPSETS[-1]} are accepted")
    copy = from_onnx(model.to_onnx())
    graph = copy.graph.toposort()
    sizes = measure_warps(graph)
    for node in graph.nodes:
        node.outputs[0].dtype = np.dtype(np.float32)  # the only type a hub graph computes with
    grid = LAYOUTS[options.layout](graph, model.metadata.padding)
    lower_warps(graph, sizes, options.opset, grid)
    _drop_new_attributes(graph, options.opset)
    graph.cleanup().toposort()
    if options.fp16:
        halve_precision(graph)
        graph.cleanup().toposort()
    lowered = _close(graph, options)
    properties = model.metadata.to_properties() | {LAYOUT_KEY: options.layout}
    onnx.helper.set_model_props(lowered, properties)
    onnx.checker.check_model(lowered, full_check=True)
    return lowered


def _drop_new_attributes(graph: gs.Graph, opset: int) -> None:
    if opset >= NEW_SINCE:
        return
    for node in graph.nodes:
        for name in NEW_ATTRIBUTES.get(node.op, ()):
            node.attrs.pop(name, None)


def _close(graph: gs.Graph, options: OnnxOptions) -> onnx.ModelProto:
    import onnx
    import onnx_graphsurgeon as gs

    graph.opset = options.opset
    graph.import_domains = None
    graph.functions = []
    lowered: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    opset = onnx.helper.make_opsetid("", options.opset)
    del lowered.opset_import[:]
    lowered.opset_import.append(opset)
    lowered.ir_version = onnx.helper.find_min_ir_version_for([opset])
    lowered.producer_name, lowered.producer_version = "surgery", ""
    lowered.doc_string = ""
    # Hosts infer shapes for the size they set; old ones would contradict it.
    del lowered.graph.value_info[:]
    return lowered


def write_lowered(
    model: HubModel, path: Path, options: OnnxOptions | None = None, *, force: bool = False
) -> onnx.ModelProto:
    """Write `lower_model` to a file, beside and then renamed.

    Raises:
        SurgeryError: as `lower_model`.
        OutputExists: `path` is taken and `force` is not given.
    """
    lowered = lower_model(model, options)
    write_file_atomically(path, lowered.SerializeToString(deterministic=True), force=force)
    return lowered


def name_for_vsmlrt(model: HubModel, layout: str) -> str:
    """The path below vs-mlrt's `models` folder where it looks for this model.

    Empty for `plain`, and for a version that it does not know.

    Source: vs-mlrt scripts/vsmlrt.py, `RIFEModel` and `RIFEMerge`.
    """
    folders = {"vsmlrt-v1": "rife", "vsmlrt-v2": "rife_v2"}
    version = model.metadata.version
    if layout not in folders or _read_vsmlrt_version(version) is None:
        return ""
    version = version.replace(".lite", "_lite").replace(".heavy", "_heavy")
    ending = "_ensemble" if model.metadata.ensemble else ""
    return f"{folders[layout]}/rife_v{version}{ending}.onnx"


def _read_vsmlrt_version(version: str) -> re.Match[str] | None:
    return None if version in UNKNOWN_TO_VSMLRT else VSMLRT_VERSION.fullmatch(version)


def warn_of_vsmlrt(model: HubModel, layout: str) -> str:
    """A sentence on sizes that vs-mlrt lets through to a model that needs larger multiples.

    Empty where it refuses them, for versions that it does not know, and for layouts that pad by
    themselves. `lower_model` does not judge it: who pads frames may do so for a host of their own.
    """
    version, padding = model.metadata.version, model.metadata.padding
    known = _read_vsmlrt_version(version)
    if layout != "vsmlrt-v1" or known is None:
        return ""
    checked = VSMLRT_MULTIPLES.get(version, 64 if int(known[1]) >= 26 else 32)
    if padding <= checked:
        return ""
    return (
        f"vs-mlrt lets multiples of {checked} through to this model, which needs {padding}: pad "
        f"frames to {padding} first, or use --layout vsmlrt-v2, which pads by itself"
    )
