"""What a model computes on the way, under names that all forms of the model share.

The name of a value is that of the layer that makes it, which is the hub node's, which begins with
the torch module's: `block0.convblock.3.conv/Conv`. A form gives its own values, and values
recomputed from those of another form: what differs then went wrong between the two.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgery.engines.ncnn_probe import Probe as NcnnProbe
from surgery.engines.ncnn_probe import run_probes
from surgery.errors import EngineError, FormatError
from surgery.formats.ncnn_folder import read_model
from surgery.formats.ncnn_param import Layer, NcnnGraph
from surgery.formats.ncnn_shapes import infer_shapes_from
from surgery.hub import warp
from surgery.hub.model import V4_INPUTS, V4_OUTPUT
from surgery.hub.ops import torch_module

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from surgery.sources.stock import StockNetwork

Values = Mapping[str, "np.ndarray"]
# Only pass on what they read, under other names.
COPYING = ("Split",)
# What is given to a cut graph has the tensor's name behind this.
GIVEN = "given:"
_COUNTED = re.compile(r"_(\d+)$")


@dataclass(frozen=True)
class Place:
    """Where a value is made.

    Attributes:
        name: of the value, shared by all forms.
        layer: what makes it in this form: an ncnn layer or a hub node.
        kind: the type of the layer or node.
        module: the torch module it came from, empty for the network itself.
        inputs: names of the values that it is made from.
    """

    name: str
    layer: str
    kind: str
    module: str
    inputs: tuple[str, ...]


class Form(Protocol):
    """A form of a model that can be looked into."""

    places: Sequence[Place]

    def record(self, inputs: Values) -> dict[str, np.ndarray]:
        """Every value, from the inputs of the network."""
        ...

    def recompute(self, inputs: Values, known: Values) -> tuple[dict[str, np.ndarray], Faults]:
        """Every value, from the nearest known ones before it; and why some cannot be computed."""
        ...

    def list_region(self, name: str, known: Values) -> list[Place]:
        """What lies between a value and the nearest known ones before it, the value included."""
        ...


Faults = dict[str, str]


class ProbedHub:
    """A hub model in onnxruntime, by the function body and without its optimisations.

    Attributes:
        model: the model.
        places: in the order in which they run.
    """

    def __init__(self, model: onnx.ModelProto, names: Mapping[str, str] | None = None) -> None:
        """Name the values; `names` gives tensors the names that a host looks for (`flow0`)."""
        self.model = model
        self._names = {name: name for name in (*V4_INPUTS, V4_OUTPUT)} | dict(names or {})
        for node in model.graph.node:
            for output in node.output:
                self._names.setdefault(output, name_layer(node.name))
        self.places = [self._make_place(node) for node in model.graph.node]
        self._nodes = {self._names[node.output[0]]: node for node in model.graph.node}

    def _make_place(self, node: onnx.NodeProto) -> Place:
        return Place(
            name=self._names[node.output[0]],
            layer=node.name,
            kind=node.op_type,
            module=torch_module(node.name),
            inputs=tuple(self._names[one] for one in node.input if one in self._names),
        )

    def record(self, inputs: Values) -> dict[str, np.ndarray]:
        """Every value, from the inputs of the network."""
        return self._run(self.cut({}), dict(inputs))

    def record_only(self, inputs: Values, names: Container[str]) -> dict[str, np.ndarray]:
        """Some values, from the inputs of the network, without keeping the others."""
        model = self.cut({})
        _replace(model.graph.output, [one for one in model.graph.output if one.name in names])
        return self._run(model, dict(inputs))

    def recompute(self, inputs: Values, known: Values) -> tuple[dict[str, np.ndarray], Faults]:
        """Every value, from the nearest known ones before it."""
        model = self.cut(known)
        wanted = {value.name for value in model.graph.input}
        feed = {GIVEN + name: array for name, array in known.items()} | dict(inputs)
        return self._run(model, {name: feed[name] for name in wanted}), {}

    def cut(self, known: Values, only: Sequence[Place] | None = None) -> onnx.ModelProto:
        """The model, or some places of it, reading known values from inputs of their own.

        Every value is an output, under its shared name; a given one is an input behind `given:`.
        """
        import onnx

        cut = onnx.ModelProto()
        cut.CopyFrom(self.model)
        graph = cut.graph
        chosen = {place.name for place in (self.places if only is None else only)}
        nodes = [node for node in graph.node if self._names[node.output[0]] in chosen]
        given: set[str] = set()
        for node in nodes:
            for index, tensor in enumerate(node.input):
                name = self._names.get(tensor)
                if name is None:
                    continue
                is_given = name in known and name not in V4_INPUTS
                node.input[index] = GIVEN + name if is_given else name
                given.add(node.input[index])
            node.output[:] = [self._names[tensor] for tensor in node.output]
        made = {tensor for node in nodes for tensor in node.output}
        read = {tensor for node in nodes for tensor in node.input}
        _replace(graph.node, nodes)
        _replace(graph.initializer, [one for one in graph.initializer if one.name in read])
        _replace(graph.input, [_declare(name) for name in sorted(given - made)])
        _replace(graph.output, [onnx.ValueInfoProto(name=name) for name in sorted(made)])
        del graph.value_info[:]
        return cut

    def list_region(self, name: str, known: Values) -> list[Place]:
        """What lies between a value and the nearest known ones before it, the value included."""
        return find_region(self.places, name, known)

    def _run(self, model: onnx.ModelProto, feed: Values) -> dict[str, np.ndarray]:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            wanted = [value.name for value in session.get_outputs()]
            taken = {value.name for value in session.get_inputs()}
            found = session.run(wanted, {name: feed[name] for name in taken})
        # onnxruntime's exceptions share no base class but Exception.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineError(f"onnxruntime cannot run the model in parts: {reason}") from error
        return dict(zip(wanted, found, strict=True))


def _declare(name: str) -> onnx.ValueInfoProto:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * 4)


def _replace(field: Any, values: Sequence[Any]) -> None:
    kept = [type(value)() for value in values]
    for copy, value in zip(kept, values, strict=True):
        copy.CopyFrom(value)
    del field[:]
    field.extend(kept)


def name_layer(node_name: str) -> str:
    """The name of what a hub node makes."""
    from surgery.targets.to_ncnn import layer_name

    return layer_name(node_name)


class ProbedFolder:
    """A model folder in ncnn, each part in turn.

    Attributes:
        folder: where it lies.
        graph: what it holds, with weights.
        places: in the order in which they run; copies are no places.
    """

    def __init__(self, folder: Path) -> None:
        """Read a folder.

        Raises:
            FormatError: it breaks its format.
        """
        self.folder = folder
        self.graph, _ = read_model(folder)
        self._sources = _trace_copies(self.graph)
        self._layers = {blob: layer for layer in self.graph.layers for blob in layer.outputs}
        self.places = [
            Place(
                name=blob,
                layer=layer.name,
                kind=layer.type,
                module=torch_module(blob),
                inputs=tuple(self._sources[one] for one in layer.inputs if one in self._sources),
            )
            for layer in self.graph.layers
            if layer.type not in (*COPYING, "Input")
            for blob in layer.outputs
        ]

    def record(self, inputs: Values) -> dict[str, np.ndarray]:
        """Every value, from the inputs of the network; nothing where shapes do not fit."""
        fed = {name: array for name, array in inputs.items() if name in self._layers}
        try:
            infer_shapes_from(self.graph, {name: array.shape[1:] for name, array in fed.items()})
        except FormatError:
            return {}
        probe = NcnnProbe({name: name for name in fed}, [place.name for place in self.places])
        return run_probes(self.folder, [probe], fed)

    def recompute(self, inputs: Values, known: Values) -> tuple[dict[str, np.ndarray], Faults]:
        """Every value, from the nearest known ones before it; what would not fit is not run."""
        values = {**known, **inputs}
        probes, faults = [], {}
        for place in self.places:
            region = self.list_region(place.name, known)
            feed = self.feed_region(region, values)
            fault = self._find_misfit(region, feed, values)
            if fault:
                faults[place.name] = fault
            else:
                probes.append(NcnnProbe(feed, [place.name]))
        return run_probes(self.folder, probes, values), faults

    def list_region(self, name: str, known: Values) -> list[Place]:
        """What lies between a value and the nearest known ones before it, the value included."""
        return find_region(self.places, name, known)

    def feed_region(self, region: Sequence[Place], given: Container[str]) -> dict[str, str]:
        """Which blobs of a region are fed by given values, each with the name of its value."""
        own = {place.name for place in region}
        blobs = [blob for place in region for blob in self._layers[place.name].inputs]
        sources = {blob: self._sources.get(blob, blob) for blob in blobs}
        return {
            blob: source
            for blob, source in sources.items()
            if source in given and source not in own
        }

    def extract_region(self, region: Sequence[Place], feed: Mapping[str, str]) -> NcnnGraph:
        """The layers of a region as a graph of their own, with an Input for everything fed."""
        wanted = {place.name for place in region}
        inputs = [Layer("Input", blob, [], [blob]) for blob in feed]
        kept = [
            layer
            for layer in self.graph.layers
            if wanted & set(layer.outputs)
            or (layer.type in COPYING and self._sources[layer.outputs[0]] in wanted)
        ]
        return NcnnGraph([*inputs, *kept])

    def _find_misfit(self, region: Sequence[Place], feed: Mapping[str, str], values: Values) -> str:
        """Why a region cannot take the known values; ncnn itself would read beyond them."""
        missing = [one for place in region for one in place.inputs if one not in self._layers]
        if missing:
            return f"it reads {missing[0]}, which no layer makes"
        shapes = {blob: values[source].shape[1:] for blob, source in feed.items()}
        try:
            infer_shapes_from(self.extract_region(region, feed), shapes)
        except FormatError as error:
            return str(error)
        return ""


def _trace_copies(graph: NcnnGraph) -> dict[str, str]:
    """For each blob the one that it is a copy of; most are their own."""
    sources: dict[str, str] = {}
    for layer in graph.layers:
        for blob in layer.outputs:
            is_copy = layer.type in COPYING and layer.inputs[0] in sources
            sources[blob] = sources[layer.inputs[0]] if is_copy else blob
    return sources


def find_region(places: Sequence[Place], name: str, known: Values) -> list[Place]:
    """The places that a value depends on without passing a known one, in their order."""
    by_name = {place.name: place for place in places}
    waiting, found = [name], {name}
    while waiting:
        for one in by_name[waiting.pop()].inputs:
            if one in by_name and one not in known and one not in found:
                found.add(one)
                waiting.append(one)
    return [place for place in places if place.name in found]


def record_torch(network: StockNetwork, hub: ProbedHub, inputs: Values) -> dict[str, np.ndarray]:
    """What the untouched torch network computes, under the names of its fresh export.

    Seen are the outputs of all modules that have no parts (each is one node), what goes into every
    warp, and the frame. What the stock forward computes by functions lies between those.
    """
    import numpy as np
    import torch

    from surgery.sources.branches import ChosenBranches

    calls: dict[str, list[np.ndarray]] = {}
    warped: list[tuple[np.ndarray, np.ndarray]] = []

    def keep(module: str) -> Any:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            calls.setdefault(module, []).append(output.numpy().copy())

        return hook

    leaves = [(name, one) for name, one in network.net.named_modules() if not list(one.children())]
    hooks = [one.register_forward_hook(keep(name)) for name, one in leaves]
    tensors = [torch.from_numpy(np.array(inputs[name])) for name in V4_INPUTS]
    try:
        with (
            torch.no_grad(),
            ChosenBranches(),
            network.observe_warps(
                lambda image, flow: warped.append((image.numpy().copy(), flow.numpy().copy()))
            ),
        ):
            frame = network(*tensors).numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return {**_name_calls(hub, calls), **_name_warps(hub, warped), V4_OUTPUT: frame}


def _name_calls(hub: ProbedHub, calls: Mapping[str, Sequence[np.ndarray]]) -> dict[str, np.ndarray]:
    nodes: dict[str, list[str]] = {}
    for place in sorted(hub.places, key=_count_calls):
        # The TorchScript exporter counts the calls of a module: `encode.cnn0_1`.
        module = place.module if place.module in calls else _COUNTED.sub("", place.module)
        nodes.setdefault(module, []).append(place.name)
    named: dict[str, np.ndarray] = {}
    for module, values in calls.items():
        # A module that the export took apart, or dropped, has no value of its own.
        if len(nodes.get(module, ())) == len(values):
            named |= dict(zip(nodes[module], values, strict=True))
    return named


def _count_calls(place: Place) -> tuple[int, int]:
    """How many calls came before, by module and then by node; a graph may be sorted otherwise."""
    counts = [_COUNTED.search(name) for name in (place.module, place.layer)]
    first, second = (int(count[1]) if count else 0 for count in counts)
    return first, second


def _name_warps(
    hub: ProbedHub, warped: Sequence[tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    warps = [place for place in hub.places if place.kind == warp.OP_TYPE]
    places = sorted(warps, key=_count_calls)
    named: dict[str, np.ndarray] = {}
    if len(places) == len(warped):
        for place, values in zip(places, warped, strict=True):
            named |= {
                name: value
                for name, value in zip(place.inputs, values, strict=True)
                if name not in V4_INPUTS
            }
    return named
