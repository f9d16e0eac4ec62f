"""Run a foreign graph at a few sizes: the shape of every tensor, and what depends on sizes alone.

Exporters of different years compute the same sizes and grids in ways that have little in common.
What they compute is the same, so it is computed here instead of being recognised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.engines import Sample
from surgery.engines.child import bound_memory
from surgery.errors import HubError
from surgery.hub import warp
from surgery.hub.model import V4_INPUTS
from surgery.proof.inputs import make_samples
from surgery.sources.lift.unpack_inputs import DIVISOR, Unpacked

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

Size = tuple[int, int]
# Height and width of different sizes, each a multiple of every padding that RIFE knows.
SIZES: tuple[Size, ...] = ((128, 256), (384, 128))
SEED = 11
TIMESTEP = 0.3
# Their output is a size, whatever the values of their input are.
SIZE_READERS = ("Shape", "Size")
_ERRORS_ONLY = 3
# What onnxruntime says when it gets no memory, under the same error as anything else.
# Source: onnxruntime bfc_arena.cc; C++ for what is thrown elsewhere in it.
OUT_OF_MEMORY = ("Failed to allocate memory", "bad_alloc")
# What all tensors of the largest RIFE take together, with room: 1.5 GB at 512x512.
LEAST_BYTES = 3 * 2**29
BYTES_PER_PIXEL = 8 * 2**10


@dataclasses.dataclass(frozen=True)
class Observation:
    """What one run of the graph showed.

    Attributes:
        size: height and width of the frames.
        shapes: of every tensor, by name.
        values: of every tensor that depends on sizes alone, by name.
        output: what the graph gives, [1,3,H,W].
        inputs: what it was given.
    """

    size: Size
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, np.ndarray]
    output: np.ndarray
    inputs: dict[str, np.ndarray]


def choose_sizes(fixed: tuple[int | None, int | None]) -> tuple[Size, ...]:
    """The sizes to observe at: that of the graph where it is fixed."""
    height, width = fixed
    sizes = [(height or rows, width or columns) for rows, columns in SIZES]
    return tuple(dict.fromkeys(sizes))


def make_inputs(size: Size, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Two frames of a moving scene, a timestep, and the grid as vs-mlrt feeds it."""
    height, width = size
    sample = _draw_sample(size)
    x = np.linspace(-1, 1, width, dtype=np.float32)
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, np.newaxis]
    planes: dict[str, Any] = {
        "in2": sample.timestep,
        "grid_x": x,
        "grid_y": y,
        "step_x": 2 / (width - 1),
        "step_y": 2 / (height - 1),
    }
    inputs = {
        name: np.broadcast_to(np.float32(plane), (1, 1, height, width)).astype(np.float32)
        for name, plane in planes.items()
    }
    inputs |= {"in0": sample.in0.copy(), "in1": sample.in1.copy()}
    inputs[DIVISOR] = np.asarray([(width - 1) / 2, (height - 1) / 2], np.float32)
    return {name: inputs[name] for name in names}


@functools.lru_cache(maxsize=2)  # a lift asks a dozen times, for no more sizes
def _draw_sample(size: Size) -> Sample:
    height, width = size
    (sample,) = make_samples([(width, height)], [TIMESTEP], SEED)
    return sample


def pack_inputs(unpacked: Unpacked, size: Size) -> dict[str, np.ndarray]:
    """What `make_inputs` gives, as a graph takes it whose inputs have been unpacked."""
    packed = {}
    for name, ((height, width), parts) in unpacked.packed.items():
        arrays = list(make_inputs(size, parts).values())
        joined = np.concatenate(arrays, axis=1) if len(arrays) > 1 else arrays[0]
        packed[name] = joined if joined.ndim == 1 else joined[..., :height, :width]
    return packed


def find_tainted(graph: gs.Graph) -> set[str]:
    """Names of the tensors whose values depend on frames or timestep, in a sorted graph."""
    tainted = set(V4_INPUTS)
    for node in graph.nodes:
        if node.op not in SIZE_READERS and any(one.name in tainted for one in node.inputs):
            tainted |= {one.name for one in node.outputs}
    return tainted


def export(graph: gs.Graph) -> onnx.ModelProto:
    """Close a foreign graph; warps in it get the body of `rife::Warp`.

    Raises:
        HubError: a node has an attribute that ONNX cannot write.
    """
    import onnx
    import onnx_graphsurgeon as gs

    domain = onnx.helper.make_opsetid(warp.DOMAIN, warp.VERSION)
    graph.import_domains = None
    graph.functions = []
    try:
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    except ValueError as error:
        raise HubError(f"an attribute of a node is empty: {_first_line(error)}") from error
    del model.graph.value_info[:]
    if any(node.domain == warp.DOMAIN for node in model.graph.node):
        own = [one for one in model.opset_import if one.domain != warp.DOMAIN]
        del model.opset_import[:]
        model.opset_import.extend([*own, domain])
        model.functions.append(warp.warp_function())
    return model


def observe(
    graph: gs.Graph, model: onnx.ModelProto, sizes: Sequence[Size]
) -> tuple[Observation, ...]:
    """Run a graph at some sizes of its frames.

    `model` is the graph, exported.

    Raises:
        HubError: onnxruntime refuses the graph, or one of the sizes; or it takes more memory than
            any RIFE takes at that size.
    """
    import onnx

    tainted = find_tainted(graph)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in graph.nodes for name in (one.name for one in node.outputs) if name]
    known = {value.name for value in shown.graph.output}
    for name in names:
        if name not in known:
            shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    with _bounded(max(sizes, key=math.prod)):
        session = _open(shown)
        inputs = [one.name for one in session.get_inputs()]
        return tuple(
            _run(session, size, inputs, names, tainted, graph.outputs[0].name) for size in sizes
        )


@contextlib.contextmanager
def _bounded(size: Size) -> Iterator[None]:
    """Bound the memory that a graph may take at a size: a few bytes of it can ask for any amount.

    Raises:
        HubError: it asks for more.
    """
    import onnxruntime  # noqa: F401 (what a library maps would count)

    most = LEAST_BYTES + BYTES_PER_PIXEL * math.prod(size)
    try:
        with bound_memory(most):
            yield
    except MemoryError as error:
        raise HubError(
            f"the model takes more than {most >> 20} MiB at {size[1]}x{size[0]}, or than this "
            "machine gives; no RIFE takes that much: export it again, with height and width open"
        ) from error


def _run(
    session: Any,
    size: Size,
    inputs: Sequence[str],
    names: Sequence[str],
    tainted: set[str],
    output: str,
) -> Observation:
    feed = make_inputs(size, inputs)
    made = dict(zip(names, _try_run(session, names, feed, size), strict=True))
    shapes = {name: tuple(array.shape) for name, array in {**feed, **made}.items()}
    values = {name: array for name, array in {**feed, **made}.items() if name not in tainted}
    return Observation(size, shapes, values, made[output], feed)


def _try_run(
    session: Any, names: Sequence[str] | None, feed: Mapping[str, np.ndarray], size: Size
) -> list[np.ndarray]:
    try:
        results: list[np.ndarray] = session.run(names and list(names), feed)
    # onnxruntime's exceptions share no base class but Exception.
    except Exception as error:
        what = f"onnxruntime cannot run the model at {size[1]}x{size[0]}"
        raise _explain(error, what) from error
    return results


def _open(model: onnx.ModelProto) -> Any:
    import onnxruntime as ort
    from google.protobuf.message import EncodeError

    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = 2
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        content = model.SerializeToString()
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except EncodeError as error:  # of what was a file, it can only say that memory is short
        raise MemoryError from error
    except Exception as error:  # as in _try_run
        raise _explain(error, "onnxruntime refuses the model") from error


def compute_part(
    model: onnx.ModelProto,
    source: str,
    value: np.ndarray,
    target: str,
    observation: Observation,
) -> np.ndarray:
    """What `target` is when `source` has a value of its own; sizes are those observed.

    Nothing that depends on the frames may lie between the two but through `source`.
    """
    import onnx

    every = list(model.graph.node)
    makers = {name: index for index, node in enumerate(every) for name in node.output}
    constants = {one.name: one for one in model.graph.initializer}
    wanted: set[int] = set()
    given: dict[str, onnx.TensorProto] = {}
    waiting = [target]
    while waiting:
        name = waiting.pop()
        if not name or name in given or name == source:
            continue
        if name in constants:
            given[name] = constants[name]
        elif name in observation.values:
            given[name] = onnx.numpy_helper.from_array(observation.values[name], name)
        elif makers[name] not in wanted:
            wanted.add(makers[name])
            waiting += every[makers[name]].input
    nodes = [every[index] for index in sorted(wanted)]
    graph = onnx.helper.make_graph(
        nodes,
        "part",
        [onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, value.shape)],
        [onnx.helper.make_empty_tensor_value_info(target)],
        list(given.values()),
    )
    opsets = [one for one in model.opset_import if one.domain == ""]
    part = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    with _bounded(observation.size):
        (result,) = _try_run(_open(part), [target], {source: value}, observation.size)
    return result


def run_once(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a model gives for values of its inputs; those it does not have are left out.

    Raises:
        HubError: onnxruntime refuses the model, or what it is fed.
    """
    planes = (array.shape for array in feed.values() if array.ndim == 4)
    size = max(((shape[2], shape[3]) for shape in planes), key=math.prod)
    with _bounded(size):
        session = _open(model)
        own = {one.name for one in session.get_inputs()}
        return _try_run(session, None, {n: one for n, one in feed.items() if n in own}, size)[0]


def _explain(error: Exception, what: str) -> Exception:
    """What to raise instead of an error of onnxruntime: `MemoryError` if it got too little."""
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return MemoryError()
    return HubError(f"{what}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
