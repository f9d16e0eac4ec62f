"""Small hub models built by hand, and what a pass may do to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from surgery.hub import warp
from surgery.hub.model import V4_INPUTS, V4_OUTPUT, HubMetadata, HubModel, from_onnx
from surgery.hub.verify import verify_hub

if TYPE_CHECKING:
    import onnxruntime

SIZE = (32, 48)  # height, width: multiples of every factor in these tests
TIMESTEP = 0.35
Frames = dict[str, np.ndarray]
RunPass = Callable[[HubModel], int]


class Builder:
    """Builds a graph on `in0`, `in1` and `in2` node by node; random weights, never near 0 or 1."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[gs.Node] = []
        self.channels: dict[str, int] = dict(V4_INPUTS)
        self.in0, self.in1, self.in2 = (
            gs.Variable(name, np.float32, [1, count, "H", "W"]) for name, count in V4_INPUTS.items()
        )

    def node(
        self,
        operator: str,
        *inputs: gs.Tensor,
        channels: int | None = None,
        domain: str | None = None,
        **attributes: Any,
    ) -> gs.Variable:
        """Append a node, named after its operator and place; the channels are its first input's."""
        name = f"/block/{operator}{len(self.nodes)}"
        output = gs.Variable(f"{name}:out", np.float32)
        self.nodes.append(
            gs.Node(operator, name, attributes, list(inputs), [output], domain=domain)
        )
        self.channels[output.name] = channels or self.channels[inputs[0].name]
        return output

    def constant(self, values: object, dtype: type = np.float32) -> gs.Constant:
        return gs.Constant(f"constant{self.rng.integers(2**60)}", np.asarray(values, dtype))

    def random(self, *shape: int, low: float = 0.5, high: float = 1.4) -> gs.Constant:
        """A constant of either sign whose values are as far from 0 as `low`."""
        values = self.rng.uniform(low, high, shape) * self.rng.choice([-1, 1], shape)
        return self.constant(values)

    def conv(
        self,
        x: gs.Tensor,
        channels: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        group: int = 1,
        bias: bool = True,
        dilation: int = 1,
        pads: Sequence[int] | None = None,
    ) -> gs.Variable:
        """A convolution that keeps the size, or divides it by the stride."""
        taps = self.channels[x.name] // group * kernel**2
        shape = (channels, self.channels[x.name] // group, kernel, kernel)
        weight = self.random(*shape, low=0.2 / taps**0.5, high=1.6 / taps**0.5)
        inputs = [x, weight, *([self.random(channels)] if bias else [])]
        return self.node(
            "Conv",
            *inputs,
            channels=channels,
            strides=[stride, stride],
            dilations=[dilation, dilation],
            group=group,
            pads=list(pads or [dilation * (kernel // 2)] * 4),
        )

    def deconv(
        self, x: gs.Tensor, channels: int, kernel: int = 4, pad: int = 1, **attributes: Any
    ) -> gs.Variable:
        """A deconvolution by stride 2."""
        shape = (self.channels[x.name], channels, kernel, kernel)
        inputs = [x, self.random(*shape, low=0.05, high=0.4), self.random(channels)]
        return self.node(
            "ConvTranspose",
            *inputs,
            channels=channels,
            strides=[2, 2],
            pads=[pad] * 4,
            **attributes,
        )

    def resize(
        self, x: gs.Tensor, scale: float, width_scale: float | None = None, **attributes: Any
    ) -> gs.Variable:
        """A half-pixel bilinear Resize, unless attributes say otherwise."""
        scales = self.constant([1, 1, scale, width_scale or scale])
        defaults: dict[str, Any] = {
            "mode": "linear",
            "coordinate_transformation_mode": "half_pixel",
        }
        return self.node("Resize", x, gs.Variable.empty(), scales, **(defaults | attributes))

    def slice(self, x: gs.Tensor, start: int, end: int, axis: int = 1) -> gs.Variable:
        """A Slice of channels; start and end may count from the end."""
        bounds = [self.constant([value], np.int64) for value in (start, end, axis)]
        first, last, _ = slice(start, end).indices(self.channels[x.name])
        return self.node("Slice", x, *bounds, channels=last - first)

    def concat(self, *parts: gs.Tensor, axis: int = 1) -> gs.Variable:
        total = sum(self.channels[part.name] for part in parts)
        return self.node("Concat", *parts, channels=total, axis=axis)

    def mul(self, x: gs.Tensor, factor: float) -> gs.Variable:
        return self.node("Mul", x, self.constant(factor))

    def add(self, first: gs.Tensor, second: gs.Tensor) -> gs.Variable:
        return self.node("Add", first, second)

    def shuffle(self, x: gs.Tensor, factor: int, mode: str = "CRD") -> gs.Variable:
        channels = self.channels[x.name] // factor**2
        return self.node("DepthToSpace", x, channels=channels, blocksize=factor, mode=mode)

    def warp(self, image: gs.Tensor, flow: gs.Tensor) -> gs.Variable:
        return self.node(warp.OP_TYPE, image, flow, domain=warp.DOMAIN)

    def frames(self) -> gs.Variable:
        """All inputs together: 7 channels."""
        return self.concat(self.in0, self.in1, self.in2)

    def output_of(self, tensor: gs.Tensor) -> HubModel:
        """Close with `tensor` itself as `out0`."""
        tensor.name = V4_OUTPUT
        self.channels[V4_OUTPUT] = 3
        tensor.shape = [1, 3, "H", "W"]
        inputs = [self.in0, self.in1, self.in2]
        graph = gs.Graph(self.nodes, inputs, [tensor], name="built", opset=18)
        count = sum(node.op == warp.OP_TYPE for node in graph.cleanup().nodes)
        # Tests scale by 3, too, which no padding of a RIFE allows.
        model = HubModel(graph, HubMetadata(padding=96, timestep="fixed 0.5", warps=count))
        closed = model.to_onnx()
        verify_hub(closed)
        return from_onnx(closed)

    def model(self, *results: gs.Tensor, enlarge: float = 1) -> HubModel:
        """Close the graph: every result counts, behind a Sigmoid that no pass moves across."""
        bounded = [self.node("Sigmoid", result) for result in results]
        joined = self.concat(*bounded) if len(bounded) > 1 else bounded[0]
        if enlarge != 1:
            # Not bilinear, so that no pass takes it for a part of what it looks for.
            joined = self.resize(joined, enlarge, mode="nearest")
        return self.output_of(self.conv(joined, 3, kernel=1))


def operators(model: HubModel) -> list[str]:
    """The operators in the order of the graph."""
    return [node.op for node in model.graph.nodes]


def make_inputs(size: tuple[int, int] = SIZE, seed: int = 0) -> Frames:
    """Frames of noise in 0..1 and a plane of timesteps."""
    rng = np.random.default_rng(seed)
    made = {
        name: rng.random((1, count, *size), dtype=np.float32) for name, count in V4_INPUTS.items()
    }
    made["in2"] = np.full_like(made["in2"], TIMESTEP)
    return made


def make_session(model: onnx.ModelProto, optimise: bool = False) -> onnxruntime.InferenceSession:
    """The function body's warp; without optimisation, so that only the pass makes a difference."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def compute(model: onnx.ModelProto, inputs: Frames, optimise: bool = False) -> np.ndarray:
    """Run a closed model and return `out0`."""
    return make_session(model, optimise).run([V4_OUTPUT], inputs)[0]


def largest_difference(
    before: onnx.ModelProto, after: onnx.ModelProto, size: tuple[int, int] = SIZE
) -> float:
    """Run both on the same frames; the output must vary, or equality would say nothing."""
    inputs = make_inputs(size)
    expected, found = compute(before, inputs), compute(after, inputs)
    assert expected.shape == found.shape == (1, 3, *size)
    assert float(expected.std()) > 0.01
    return float(np.abs(expected - found).max())


class Rewriting:
    """Applies one pass as the pipeline does, and judges what it did."""

    operators = staticmethod(operators)
    compute = staticmethod(compute)
    largest_difference = staticmethod(largest_difference)
    make_inputs = staticmethod(make_inputs)

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog
        caplog.set_level(logging.DEBUG, logger="surgery.passes")

    def apply(self, run: RunPass, model: HubModel) -> int:
        """Run a pass until it rests; a second run of all makes no edit. Returns the edits."""
        from surgery.passes.pipeline import Pass, run_passes

        edits = run_passes(model, [Pass(run)])[run.__name__]
        assert run(model) == 0
        verify_hub(model.to_onnx())
        return edits

    def difference(
        self, run: RunPass, model: HubModel, edits: int | None = None, size: tuple[int, int] = SIZE
    ) -> float:
        """How far a pass moves the output of a model that it has to edit (so often)."""
        before = model.to_onnx()
        made = self.apply(run, model)
        assert made == edits if edits is not None else made > 0
        return largest_difference(before, model.to_onnx(), size)

    def refuses(self, run: RunPass, model: HubModel, reason: str) -> None:
        """Assert that a pass leaves a model as it is and says why in the debug log."""
        before = model.to_onnx().SerializeToString(deterministic=True)
        nodes = [id(node) for node in model.graph.nodes]
        self.caplog.clear()
        assert run(model) == 0
        assert [id(node) for node in model.graph.nodes] == nodes
        assert model.to_onnx().SerializeToString(deterministic=True) == before
        assert reason in self.caplog.text

    def leaves(self, run: RunPass, model: HubModel) -> None:
        """Assert that a pass finds nothing to do, which needs no reason."""
        self.refuses(run, model, "")


@pytest.fixture
def build() -> Builder:
    return Builder()


@pytest.fixture
def rewriting(caplog: pytest.LogCaptureFixture) -> Rewriting:
    return Rewriting(caplog)
