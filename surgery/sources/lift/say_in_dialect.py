"""Say the rest of a foreign graph in the operators that the hub has, or list what cannot be.

Sizes that the graph computes are known from observation, so a Resize to a computed size becomes one
by a factor, and what pads, crops or reshapes nothing at a padded size goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from surgery.errors import UnsupportedOp
from surgery.hub import ops, shapes
from surgery.hub.shapes import exact_fraction
from surgery.passes import edit
from surgery.sources.lift.observe import Observation, find_tainted

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

FLOATS = (1, 10)  # onnx.TensorProto.FLOAT and FLOAT16
CHANNEL_AXIS = 1
# torch writes both; they differ for outputs of one pixel alone.
HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
# torch's pixel_shuffle where an exporter knows no DepthToSpace: [N,C,r,r,H,W] to [N,C,H,r,W,r].
SHUFFLED_AXES = [0, 1, 4, 2, 5, 3]


@dataclasses.dataclass
class Saying:
    """What the functions of the table share."""

    graph: gs.Graph
    observations: Sequence[Observation]

    def shape(self, tensor: gs.Tensor, which: int = 0) -> tuple[int, ...]:
        """The shape of a tensor at one of the observed sizes."""
        array = ops.constant(tensor)
        return (
            tuple(array.shape)
            if array is not None
            else (self.observations[which].shapes[tensor.name])
        )

    def keeps_shape(self, node: gs.Node) -> bool:
        """Whether output and first input have the same shape at every size."""
        return all(
            self.shape(node.inputs[0], which) == self.shape(node.outputs[0], which)
            for which in range(len(self.observations))
        )

    def value(self, tensor: gs.Tensor) -> np.ndarray | None:
        """What a tensor is at every size; None where it is computed from frames, or varies."""
        array = ops.constant(tensor)
        if array is not None:
            return array
        found = [one.values.get(tensor.name) for one in self.observations]
        first = found[0]
        if first is None or any(
            one is None or one.shape != first.shape or not np.array_equal(one, first)
            for one in found[1:]
        ):
            return None
        return first

    def bypass(self, node: gs.Node) -> None:
        """Let the readers of a node read its input; what makes the graph's output says so."""
        source, output = node.inputs[0], node.outputs[0]
        if not edit.is_output(self.graph, output):
            edit.replace_uses(output, source)
            return
        node.op = "Identity"
        node.attrs.clear()
        node.inputs = [source]


Sayer = Callable[[Saying, "gs.Node"], None]


def say_in_dialect(graph: gs.Graph, observations: Sequence[Observation]) -> None:
    """Rewrite a foreign graph, its warps found already, in the hub's operators.

    Raises:
        UnsupportedOp: nodes that the hub cannot express; all of them are listed.
    """
    saying = Saying(graph, observations)
    _fix_constants(saying)
    _drop_dead(graph)
    refusals = []
    tainted = find_tainted(graph)
    for node in list(graph.nodes):
        if not any(one.name in tainted for one in node.outputs):
            continue  # computes a size; whoever reads it is rewritten below
        key = f"{node.domain}::{node.op}" if node.domain else node.op
        try:
            SAYERS.get(key, _refuse_operator)(saying, node)
        except ValueError as reason:
            refusals.append(f"{node.name}: {key}: {reason}")
    if refusals:
        raise UnsupportedOp("the hub", refusals)
    _drop_dead(graph)
    _drop_last_identity(graph)


def _drop_dead(graph: gs.Graph) -> None:
    graph.cleanup().toposort()


def _drop_last_identity(graph: gs.Graph) -> None:
    """Now that those who read a size off its input are gone."""
    for node in list(graph.nodes):
        if node.op == "Identity" and edit.move_output(graph, node, node.inputs[0]):
            _drop_dead(graph)


def _fix_constants(saying: Saying) -> None:
    """Make a constant of every value that is the same whatever the size."""
    fixed: dict[str, gs.Tensor] = {}
    for node in saying.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            if tensor.is_empty() or ops.constant(tensor) is not None:
                continue
            value = saying.value(tensor)
            if value is not None and tensor.name not in fixed:
                fixed[tensor.name] = edit.make_constant(f"{tensor.name}.fixed", value)
            node.inputs[index] = fixed.get(tensor.name, tensor)


def _refuse_operator(saying: Saying, node: gs.Node) -> None:
    if saying.keeps_shape(node) and node.op in NEUTRAL:
        saying.bypass(node)
        return
    raise ValueError(f"a hub model is made of {', '.join(shapes.RULES)}")


# Change nothing where they keep the shape.
NEUTRAL = ("Reshape", "Expand", "Squeeze", "Unsqueeze", "Tile", "Flatten", "Dropout")


def _keep(saying: Saying, node: gs.Node) -> None:
    """The hub has it as it is."""


def _drop(saying: Saying, node: gs.Node) -> None:
    saying.bypass(node)


def _cast(saying: Saying, node: gs.Node) -> None:
    if node.attrs["to"] not in FLOATS:
        raise ValueError(f"to={node.attrs['to']}; casts between floats are accepted")
    saying.bypass(node)


def _clip(saying: Saying, node: gs.Node) -> None:
    for index in (1, 2):
        bound = ops.optional_input(node, index)
        if bound is not None and ops.constant(bound) is None:
            raise ValueError("its bounds are computed; constants are accepted")


def _limit(index: int) -> Sayer:
    """Max and Min with a number are a Clip that is open on one side."""

    def say_limit(saying: Saying, node: gs.Node) -> None:
        import onnx_graphsurgeon as gs

        computed = ops.data_inputs(node)
        numbers = [one for one in node.inputs if ops.scalar(one) is not None]
        if len(computed) != 1 or len(numbers) != 1:
            raise ValueError("two computed operands; one and a number are accepted")
        bound = edit.make_constant(
            f"{node.name}.bound", np.asarray(ops.scalar(numbers[0]), np.float32)
        )
        bounds = [gs.Variable.empty(), gs.Variable.empty()]
        bounds[index] = bound
        node.op = "Clip"
        node.inputs = [computed[0], *bounds]

    return say_limit


def _arithmetic(saying: Saying, node: gs.Node) -> None:
    """One number everywhere is a number, in whatever shape; what is equal per size is not."""
    for index, tensor in enumerate(node.inputs):
        array = ops.constant(tensor)
        if array is None and tensor.name not in saying.observations[0].values:
            continue
        if array is None:
            array = _uniform(saying, tensor)
        if array is None:
            raise ValueError("an operand depends on the size of the frame; numbers are accepted")
        if array.size > 1 and (array == array.flat[0]).all():
            array = array.reshape(-1)[:1].reshape(())
        constant = edit.make_constant(f"{node.name}.constant", array.astype(np.float32))
        node.inputs[index] = constant
    if node.op in ("Add", "Mul") and ops.constant(node.inputs[0]) is not None:
        # The passes look for constants in second place.
        node.inputs = [node.inputs[1], node.inputs[0]]


def _add(saying: Saying, node: gs.Node) -> None:
    """Adding a tensor times 0 only tells shape inference a size."""
    for index, tensor in enumerate(node.inputs):
        maker = edit.producer(tensor, "Mul")
        other = node.inputs[1 - index]
        if maker is None or 0.0 not in [ops.scalar(one) for one in maker.inputs]:
            continue
        if ops.constant(other) is None and saying.shape(other) == saying.shape(node.outputs[0]):
            node.inputs = [other]
            saying.bypass(node)
            return
    _arithmetic(saying, node)


def _uniform(saying: Saying, tensor: gs.Tensor) -> np.ndarray | None:
    """The number that a plane holds at every size, None when there is no one number."""
    planes = [one.values[tensor.name] for one in saying.observations]
    first = planes[0].reshape(-1)[:1]
    return first.reshape(()) if all((plane == first).all() for plane in planes) else None


def _concat(saying: Saying, node: gs.Node) -> None:
    if ops.concat_axis(node) != CHANNEL_AXIS:
        raise ValueError(f"axis={node.attrs['axis']}; concatenation of channels is accepted")
    if any(ops.constant(one) is not None for one in node.inputs):
        raise ValueError("a constant is concatenated; computed tensors are accepted")
    node.attrs["axis"] = CHANNEL_AXIS
    if len(node.inputs) == 1:
        saying.bypass(node)


def _slice(saying: Saying, node: gs.Node) -> None:
    given = ops.optional_input(node, 4)
    steps = np.ones(1) if given is None else saying.value(given)
    if steps is None or (steps != 1).any():
        raise ValueError(f"steps={steps}; 1 is accepted")
    if saying.keeps_shape(node):
        saying.bypass(node)
        return
    before, after = saying.shape(node.inputs[0]), saying.shape(node.outputs[0])
    if before[:1] + before[2:] != after[:1] + after[2:]:
        raise ValueError(f"cuts {before} to {after}; slices of channels are accepted")
    start = _slice_start(node, before[CHANNEL_AXIS])
    _take_channels(saying, node, node.outputs[0], start, start + after[CHANNEL_AXIS])
    node.outputs.clear()


def _slice_start(node: gs.Node, channels: int) -> int:
    arrays = [ops.constant(ops.optional_input(node, index)) for index in (1, 3)]
    starts, axes = (None if one is None else one.reshape(-1).tolist() for one in arrays)
    if starts is None:
        raise ValueError("its bounds are computed; constants are accepted")
    for axis, start in zip(axes or range(len(starts)), starts, strict=False):
        if axis % 4 == CHANNEL_AXIS:
            return int(start + channels if start < 0 else start)
    raise ValueError("does not say where its channels start")


def _take_channels(saying: Saying, node: gs.Node, output: gs.Tensor, start: int, end: int) -> None:
    """Let a Slice of the hub's own kind make a tensor that another node made."""
    cut = edit.add_slice(saying.graph, node.name, node.inputs[0], start, end)
    maker = cut.inputs[0]
    output.inputs.clear()
    maker.outputs = [output]


def _split(saying: Saying, node: gs.Node) -> None:
    if int(node.attrs.get("axis", 0)) % 4 != CHANNEL_AXIS:
        raise ValueError(f"axis={node.attrs.get('axis', 0)}; splits of channels are accepted")
    start = 0
    for output in list(node.outputs):
        end = start + saying.shape(output)[CHANNEL_AXIS]
        _take_channels(saying, node, output, start, end)
        start = end
    node.outputs.clear()


def _resize(saying: Saying, node: gs.Node) -> None:
    mode = str(node.attrs.get("mode", "nearest"))
    coordinates = str(node.attrs.get("coordinate_transformation_mode", "half_pixel"))
    if mode != "linear" or coordinates not in HALF_PIXEL or node.attrs.get("antialias", 0):
        raise ValueError(
            f"mode={mode}, {coordinates}, antialias={node.attrs.get('antialias', 0)}; linear, "
            "half_pixel, without antialias is accepted"
        )
    import onnx_graphsurgeon as gs

    factors = {_measure_factors(saying, node, which) for which in range(len(saying.observations))}
    if len(factors) > 1:
        raise ValueError("resizes to a fixed size; factors are accepted")
    scales = np.asarray([1, 1, *factors.pop()], np.float32)
    node.inputs = [
        node.inputs[0],
        gs.Variable.empty(),
        edit.make_constant(f"{node.name}.scales", scales),
    ]
    node.attrs.clear()
    node.attrs.update(mode="linear", coordinate_transformation_mode="half_pixel")


def _measure_factors(saying: Saying, node: gs.Node, which: int) -> tuple[float, float]:
    before, after = (saying.shape(one, which) for one in (node.inputs[0], node.outputs[0]))
    if len(before) != 4 or before[:2] != after[:2]:
        raise ValueError(f"resizes {before} to {after}; height and width are accepted")
    height, width = (exact_fraction(after[axis] / before[axis]) for axis in (2, 3))
    return float(height), float(width)


def _pad(saying: Saying, node: gs.Node) -> None:
    if not saying.keeps_shape(node):
        raise ValueError("pads its input; padding of frames to a multiple is accepted")
    saying.bypass(node)


def _pixel_shuffle(saying: Saying, node: gs.Node) -> None:
    """Reshape, Transpose, Reshape: torch's pixel_shuffle, seen from its Transpose."""
    first, last = edit.producer(node.inputs[0], "Reshape"), node.outputs[0].outputs
    if list(node.attrs.get("perm", [])) != SHUFFLED_AXES or first is None or len(last) != 1:
        raise ValueError(f"perm={node.attrs.get('perm')}; that of pixel_shuffle is accepted")
    parts = saying.shape(first.outputs[0])
    whole = saying.shape(last[0].outputs[0])
    if last[0].op != "Reshape" or parts[2] != parts[3] or len(whole) != 4:
        raise ValueError(f"turns {parts} to {whole}; pixel_shuffle is accepted")
    shuffle = last[0]
    shuffle.op = "DepthToSpace"
    shuffle.inputs = [first.inputs[0]]
    shuffle.attrs = {"blocksize": int(parts[2]), "mode": "CRD"}
    first.outputs.clear()
    node.outputs.clear()


def _reshape(saying: Saying, node: gs.Node) -> None:
    readers = node.outputs[0].outputs if node.outputs else []
    if saying.keeps_shape(node):
        saying.bypass(node)
    elif len(readers) == 1 and readers[0].op == "Transpose":
        return  # the first half of a pixel_shuffle, which its Transpose takes or refuses
    else:
        before, after = (saying.shape(one) for one in (node.inputs[0], node.outputs[0]))
        raise ValueError(f"turns {before} to {after}; a reshape that keeps the shape is accepted")


SAYERS: dict[str, Sayer] = {
    "Add": _add,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _keep,
    "ConvTranspose": _keep,
    "DepthToSpace": _keep,
    "Div": _arithmetic,
    "Dropout": _drop,
    "Identity": _drop,
    "LeakyRelu": _keep,
    "Max": _limit(0),
    "Min": _limit(1),
    "Mul": _arithmetic,
    "Neg": _keep,
    "PRelu": _keep,
    "Pad": _pad,
    "Relu": _keep,
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _keep,
    "Slice": _slice,
    "Split": _split,
    "Sub": _arithmetic,
    "Transpose": _pixel_shuffle,
    "rife::Warp": _keep,
}
