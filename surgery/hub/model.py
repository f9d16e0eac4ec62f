"""Open and close a hub model: the one place where ONNX files become graphs and graphs files.

A hub model is ONNX opset 18 plus the domain `rife` version 1, whose one operator is `rife::Warp`
(`surgery.hub.warp`). Everything that is known about a model beyond its arithmetic is text in
`metadata_props` under keys that start with `surgery.`; onnx-graphsurgeon drops every metadata
property, so it is taken out when a model is opened and put back when it is closed. The function
body of `rife::Warp` is handled the same way, so that a file always carries the current one.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.errors import HubError
from surgery.hub import warp
from surgery.hub.check_content import check_content

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

OPSET = 18
# The newest IR version that every onnxruntime of the last two years reads (IR 10: 1.18).
IR_VERSION = 10
KEY_PREFIX = "surgery."
# What every runtime pads to at least (rife.cpp).
LEAST_PADDING = 32
# The strongest reduction that any scale list asks for is 512; frames are padded to this in memory.
MAX_PADDING = 4096
SCALES = f"numbers above 0 and up to {MAX_PADDING}"
# What a model knows of its donor, and no graph tells.
DONOR_FACTS = (
    "donor",
    "version",
    "architecture",
    "weights",
    "weights_sha256",
    "source_sha256",
    "baked",
)
V4_INPUTS = {"in0": 3, "in1": 3, "in2": 1}
V4_OUTPUT = "out0"
# What a model may say of its timesteps, and the only ones it knows; none for any.
TIMESTEPS: Mapping[str, tuple[float, ...]] = {"plane": (), "fixed 0.5": (0.5,)}
# What the inputs of an operator are called where they are constants.
CONSTANT_NAMES = {
    "Conv": ("", "weight", "bias"),
    "ConvTranspose": ("", "weight", "bias"),
    "PRelu": ("", "slope"),
    "Resize": ("", "roi", "scales", "sizes"),
    "Slice": ("", "start", "end", "axis", "step"),
    "Clip": ("", "min", "max"),
}
# protobuf's own limit for one message; beyond it tensors have to live in external data.
MAX_MODEL_BYTES = 2**31 - 1
ACCEPTED = (
    "an .onnx file is accepted, as 'surgery export' (from PyTorch), 'surgery lift' (from other "
    "ONNX) and 'surgery import' (from an ncnn folder) make it"
)


@dataclasses.dataclass(frozen=True)
class HubMetadata:
    """What a hub model says about itself.

    Attributes:
        kind: `v4` for a single network, `v1` or `v2` for three (`surgery.hub.networks`); all have
            the inputs in0, in1 and in2. What three networks are cut into is a kind of its own:
            `flownet`, `contextnet`, `fusionnet`.
        timestep: `plane` when `in2` is obeyed, `fixed 0.5` when the donor knows no other.
        padding: height and width must be multiples of this many pixels.
        scale_list: the resolution each block works at, as the donor's divisors.
        warps: how many `rife::Warp` the donor calls in one frame.
        version: the donor's version (`4.26`), empty when nobody knows it.
        architecture: the group of versions with the same code and shapes.
        donor: what was converted, without any path.
        exporter: what made the graph.
        ensemble: whether every block is evaluated in both directions and averaged.
        folded_betas: whether the donor's ResConv betas have been folded into weights.
        source_sha256: hash of the donor's source file.
        weights_sha256: hash of the donor's weights (names, shapes and values).
        weights: where the weights came from (`random, seed 1` or a file name).
        baked: decisions that the graph can no longer take, in words.
        tools: versions of what made the file.
    """

    kind: str = "v4"
    timestep: str = "plane"
    padding: int = 32
    scale_list: tuple[float, ...] = ()
    warps: int = 0
    version: str = ""
    architecture: str = ""
    donor: str = ""
    exporter: str = ""
    ensemble: bool = False
    folded_betas: bool = False
    source_sha256: str = ""
    weights_sha256: str = ""
    weights: str = ""
    baked: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The only ones that the model knows; empty where it obeys `in2`."""
        return TIMESTEPS[self.timestep]

    def to_properties(self) -> dict[str, str]:
        """Render as `metadata_props`: strings as they are, everything else as JSON."""
        properties = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            properties[KEY_PREFIX + field.name] = (
                value if isinstance(value, str) else json.dumps(value)
            )
        return properties

    @classmethod
    def from_properties(cls, properties: dict[str, str]) -> HubMetadata:
        """Read back what `to_properties` wrote.

        Raises:
            HubError: the properties are not a hub model's, or a value does not parse.
        """
        if KEY_PREFIX + "kind" not in properties:
            raise HubError(
                "this ONNX file is not a hub model: it has no metadata 'surgery.kind'; make one "
                "with 'surgery export' (from PyTorch), 'surgery lift' (from ONNX with GridSample) "
                "or 'surgery import' (from an ncnn folder)"
            )
        values: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            text = properties.get(KEY_PREFIX + field.name)
            if text is not None:
                values[field.name] = _read_property(field.name, text, field.default)
        return cls(**values)


def is_scale(value: object) -> bool:
    """Whether a value can stand in a scale list: a number, finite, and no stronger than padding."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 < value <= MAX_PADDING  # type: ignore[operator]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


# What the lists among the metadata hold.
ITEMS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "scale_list": (is_scale, SCALES),
    "baked": (_is_text, "texts"),
    "tools": (_is_text, "texts"),
}


def _read_property(name: str, text: str, default: object) -> object:
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text)
    # Of numbers with thousands of digits, and of lists in lists without end.
    except (ValueError, RecursionError) as error:
        raise HubError(f"metadata 'surgery.{name}' is {text[:40]!r}, which is not JSON") from error
    if isinstance(default, tuple):
        if not isinstance(value, list):
            raise HubError(f"metadata 'surgery.{name}' is {text!r}; a JSON list is expected")
        accepts, what = ITEMS[name]
        if not all(map(accepts, value)):
            raise HubError(
                f"metadata 'surgery.{name}' is {text[:40]!r}; a JSON list of {what} is expected"
            )
        return tuple(value)
    if type(value) is not type(default):  # isinstance would take true for an int
        raise HubError(
            f"metadata 'surgery.{name}' is {text!r}; JSON of type {type(default).__name__} "
            "is expected"
        )
    return value


@dataclasses.dataclass
class HubModel:
    """A hub model that is open for surgery.

    Attributes:
        graph: the onnx-graphsurgeon graph, without the function body of `rife::Warp`.
        metadata: everything else that the file says.
    """

    graph: gs.Graph
    metadata: HubMetadata

    def warps(self) -> Iterator[gs.Node]:
        """Yield the `rife::Warp` nodes in the order of the graph."""
        return (node for node in self.graph.nodes if is_warp(node))

    def to_onnx(self) -> onnx.ModelProto:
        """Close the model: a self-contained ModelProto with body, metadata and sorted nodes."""
        import onnx
        import onnx_graphsurgeon as gs

        self.graph.cleanup().toposort()
        _name_constants(self.graph)
        self.graph.opset = OPSET
        self.graph.import_domains = None
        self.graph.functions = []
        model: onnx.ModelProto = gs.export_onnx(self.graph, do_type_check=False)
        del model.opset_import[:]
        model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
        model.opset_import.append(onnx.helper.make_opsetid(warp.DOMAIN, warp.VERSION))
        model.ir_version = IR_VERSION
        model.producer_name = "surgery"
        model.producer_version = ""
        model.doc_string = model.graph.doc_string = ""
        model.functions.append(warp.warp_function())
        onnx.helper.set_model_props(model, self.metadata.to_properties())
        return model

    def replace_metadata(self, **changes: object) -> None:
        """Change some fields of the metadata."""
        self.metadata = dataclasses.replace(self.metadata, **changes)  # type: ignore[arg-type]


def _name_constants(graph: gs.Graph) -> None:
    """Name every constant after its first reader and its place there: `/block0.conv0/Conv.weight`.

    Exporters and passes each have names of their own; the same model gets the same names.
    """
    import onnx_graphsurgeon as gs

    named: set[int] = set()
    for node in graph.nodes:
        places = CONSTANT_NAMES.get(node.op, ())
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and id(tensor) not in named:
                named.add(id(tensor))
                place = places[index] if index < len(places) else f"constant{index}"
                tensor.name = f"{node.name}.{place}"


def is_warp(node: gs.Node) -> bool:
    """Tell whether a node is a `rife::Warp`."""
    return bool(node.op == warp.OP_TYPE and node.domain == warp.DOMAIN)


def from_onnx(model: onnx.ModelProto) -> HubModel:
    """Open a hub model that is in memory.

    Raises:
        HubError: the model carries no hub metadata.
    """
    import onnx_graphsurgeon as gs

    metadata = HubMetadata.from_properties({p.key: p.value for p in model.metadata_props})
    bare = type(model)()
    bare.CopyFrom(model)
    # Inference results of an earlier graph would outlive the nodes they described.
    del bare.graph.value_info[:]
    kept = [f for f in bare.functions if (f.domain, f.name) != (warp.DOMAIN, warp.OP_TYPE)]
    if kept:
        raise HubError(
            f"the model holds the local function {kept[0].domain}::{kept[0].name}; "
            "a hub model has rife::Warp alone"
        )
    del bare.functions[:]
    return HubModel(gs.import_onnx(bare), metadata)


def load_hub(path: Path) -> HubModel:
    """Open a hub model file.

    Raises:
        HubError: the file is absent, is not ONNX, or is not a legal hub model.
    """
    from surgery.hub.verify import read_hub

    return from_onnx(read_hub(path))


def read_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file whose weights are all inside it.

    Raises:
        HubError: the file is absent, too large, not ONNX, holds tensors that are not what they
            say, or points at external data.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if path.is_dir():
        raise HubError(
            f"{path}: a folder, which 'surgery import' makes an .onnx file of and 'surgery "
            f"convert' takes as it is; {ACCEPTED}"
        )
    if not path.is_file():
        raise HubError(f"{path}: no such file; {ACCEPTED}")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise HubError(
            f"{path}: over 2 GiB, which one ONNX message cannot be; one file of at most 2 GiB is "
            "accepted (the largest RIFE has 70 MB), so export the network alone"
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise HubError(f"{path}: not an ONNX file ({error}); {ACCEPTED}") from error
    if not model.HasField("graph") or not model.opset_import:
        raise HubError(f"{path}: not an ONNX model (no graph or no opset); {ACCEPTED}")
    if faults := check_content(model):
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise HubError(
            f"{path}: {faults[0]}{more}; a model is accepted whose tensors all lie in its own file"
        )
    return model


def write_hub(model: HubModel, path: Path, *, force: bool = False) -> None:
    """Verify a hub model and write it, beside and then renamed.

    Raises:
        HubError: the model is not legal; nothing is written.
        OutputExists: `path` is taken and `force` is not given.
    """
    from surgery.hub.verify import verify_hub
    from surgery.output import write_file_atomically

    closed = model.to_onnx()
    verify_hub(closed)
    write_file_atomically(path, closed.SerializeToString(deterministic=True), force=force)
