"""`rife::Warp`: the numpy reference, the schema, the function body and the reference operator."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from surgery.errors import HubError
from surgery.hub import warp
from surgery.proof.tolerances import KERNEL_FP32

onnxruntime = pytest.importorskip("onnxruntime")

SPECIAL_VALUES = (math.nan, math.inf, -math.inf, 1e30, -1e30, 3e9)
SHAPES = [(1, 3, 17, 23), (2, 4, 8, 64), (1, 16, 33, 5), (1, 2, 1, 9), (3, 1, 9, 1), (1, 5, 1, 1)]


def make_operands(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image in 0..1 and a flow of several pixels, a tenth of it special values."""
    rng = np.random.default_rng(seed)
    batch, _, height, width = shape
    image = rng.random(shape, dtype=np.float32)
    flow = (rng.standard_normal((batch, 2, height, width)) * 6).astype(np.float32)
    special = rng.choice(np.array(SPECIAL_VALUES, dtype=np.float32), flow.shape)
    return image, np.where(rng.random(flow.shape) < 0.1, special, flow)


def warp_pixel(plane: np.ndarray, x: float, y: float) -> float:
    """One bilinear sample in Python floats, written from the definition and nothing else."""
    if math.isnan(x) or math.isnan(y):
        return 0.0
    height, width = plane.shape
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    total = 0.0
    for row in range(height):
        for column in range(width):
            weight = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
            total += weight * float(plane[row, column])
    return total


def warp_by_loop(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    out = np.empty_like(image)
    for n, c, y, x in np.ndindex(image.shape):
        shift_x, shift_y = (float(v) for v in flow[n, :, y, x])
        out[n, c, y, x] = warp_pixel(image[n, c], x + shift_x, y + shift_y)
    return out


def make_model(
    flow_dims: tuple[Any, ...] = ("n", 2, "h", "w"), with_body: bool = True
) -> onnx.ModelProto:
    float_type = onnx.TensorProto.FLOAT
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Warp", ["image", "flow"], ["out"], "/warp", domain=warp.DOMAIN)],
        "one_warp",
        [
            info("image", float_type, ["n", "c", "h", "w"]),
            info("flow", float_type, list(flow_dims)),
        ],
        [info("out", float_type, [None] * 4)],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(warp.DOMAIN, warp.VERSION)]
    functions = [warp.warp_function()] if with_body else []
    return onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


@pytest.fixture(scope="module")
def body_session() -> Any:
    return onnxruntime.InferenceSession(
        make_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )


def run_body(session: Any, image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    out: np.ndarray = session.run(None, {"image": image, "flow": flow})[0]
    return out


def output_dims(model: onnx.ModelProto) -> list[str | int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    return [dim.dim_param or dim.dim_value for dim in dims]


class TestReference:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_equals_scalar_loop(self, shape: tuple[int, ...]) -> None:
        image, flow = make_operands(shape)
        expected = warp_by_loop(image, flow)
        np.testing.assert_allclose(
            warp.warp_reference(image, flow), expected, rtol=0, atol=KERNEL_FP32.bound
        )

    def test_equals_torch_grid_sample(self) -> None:
        torch = pytest.importorskip("torch")
        image, flow = make_operands((2, 3, 24, 31), seed=1)
        flow = np.nan_to_num(flow, nan=0.25, posinf=1e4, neginf=-1e4)
        rows, columns = np.mgrid[0:24, 0:31]
        grid = np.stack(
            [(columns + flow[:, 0]) * 2 / 30 - 1, (rows + flow[:, 1]) * 2 / 23 - 1], axis=-1
        )
        expected = torch.nn.functional.grid_sample(
            torch.from_numpy(image).double(),
            torch.from_numpy(grid.astype(np.float64)),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        ).numpy()
        found = warp.warp_reference(image, flow)
        np.testing.assert_allclose(found, expected, rtol=0, atol=KERNEL_FP32.bound)

    def test_no_flow_gives_the_image(self) -> None:
        image, flow = make_operands((1, 3, 12, 13))
        assert np.array_equal(warp.warp_reference(image, np.zeros_like(flow)), image)

    def test_whole_pixels_move_the_image(self) -> None:
        image, flow = make_operands((1, 3, 12, 13))
        flow[:, 0], flow[:, 1] = 2, -1
        moved = warp.warp_reference(image, flow)
        assert np.array_equal(moved[..., 1:, :-2], image[..., :-1, 2:])

    def test_x_comes_first(self) -> None:
        image, flow = make_operands((1, 3, 16, 16))
        swapped = warp.warp_reference(image, np.ascontiguousarray(flow[:, ::-1]))
        assert np.abs(swapped - warp.warp_reference(image, flow)).max() > 0.1

    @pytest.mark.parametrize("axis", [0, 1])
    def test_nan_gives_zero_and_nothing_else_does(self, axis: int) -> None:
        image = np.ones((1, 2, 4, 5), dtype=np.float32)
        flow = np.zeros((1, 2, 4, 5), dtype=np.float32)
        flow[0, axis, 1, 2] = np.nan
        out = warp.warp_reference(image, flow)
        assert np.array_equal(np.argwhere(out == 0), [[0, 0, 1, 2], [0, 1, 1, 2]])

    @pytest.mark.parametrize(
        ("value", "column"), [(math.inf, -1), (-math.inf, 0), (1e30, -1), (-1e30, 0)]
    )
    def test_far_flow_gives_the_border(self, value: float, column: int) -> None:
        image, flow = make_operands((1, 3, 6, 7))
        flow[:, 0], flow[:, 1] = value, 0
        expected = np.broadcast_to(image[..., column, np.newaxis], image.shape)
        assert np.array_equal(warp.warp_reference(image, flow), expected)

    @pytest.mark.parametrize("shape", [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)])
    def test_empty_image_stays_empty(self, shape: tuple[int, ...]) -> None:
        image = np.zeros(shape, dtype=np.float32)
        flow = np.zeros((shape[0], 2, *shape[2:]), dtype=np.float32)
        assert warp.warp_reference(image, flow).shape == shape

    @pytest.mark.parametrize(
        ("image_shape", "flow_shape"),
        [
            ((1, 3, 4, 5), (1, 4, 4, 5)),
            ((1, 3, 4, 5), (1, 2, 5, 4)),
            ((2, 3, 4, 5), (1, 2, 4, 5)),
            ((3, 4, 5), (2, 4, 5)),
        ],
    )
    def test_refuses_shapes_that_do_not_fit(
        self, image_shape: tuple[int, ...], flow_shape: tuple[int, ...]
    ) -> None:
        image, flow = np.zeros(image_shape, np.float32), np.zeros(flow_shape, np.float32)
        with pytest.raises(HubError, match=r"accepted is float32 \[N,C,H,W\]"):
            warp.warp_reference(image, flow)

    def test_refuses_float64(self) -> None:
        image, flow = make_operands((1, 3, 4, 5))
        with pytest.raises(HubError, match="float64"):
            warp.warp_reference(image.astype(np.float64), flow)


class TestFunctionBody:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_equals_reference(self, body_session: Any, shape: tuple[int, ...]) -> None:
        image, flow = make_operands(shape, seed=2)
        found = run_body(body_session, image, flow)
        expected = warp.warp_reference(image, flow)
        np.testing.assert_allclose(found, expected, rtol=0, atol=KERNEL_FP32.bound)

    def test_x_comes_first(self, body_session: Any) -> None:
        image, flow = make_operands((1, 3, 16, 16), seed=2)
        found = run_body(body_session, image, np.ascontiguousarray(flow[:, ::-1]))
        assert np.abs(found - warp.warp_reference(image, flow)).max() > 0.1

    def test_every_node_has_a_name_of_its_own(self) -> None:
        names = [node.name for node in warp.warp_function().node]
        assert all(names)
        assert len(set(names)) == len(names)

    def test_passes_the_checker(self) -> None:
        onnx.checker.check_model(make_model(), full_check=True)

    @pytest.mark.parametrize(
        "flow_dims", [("n", 2, "h", "w"), ("n", 2, "p", "q"), (None, 2, None, None)]
    )
    def test_shape_inference_gives_the_images_shape(self, flow_dims: tuple[Any, ...]) -> None:
        assert output_dims(make_model(flow_dims)) == ["n", "c", "h", "w"]

    def test_refuses_four_flow_channels(self) -> None:
        session = onnxruntime.InferenceSession(
            make_model(("n", "flows", "h", "w")).SerializeToString(),
            providers=["CPUExecutionProvider"],
        )
        image = np.zeros((1, 3, 4, 4), np.float32)
        with pytest.raises(Exception, match="grid"):
            run_body(session, image, np.zeros((1, 4, 4, 4), np.float32))


class TestSchema:
    @pytest.fixture(autouse=True)
    def registered(self) -> Any:
        onnx.defs.register_schema(warp.warp_schema())
        yield
        onnx.defs.deregister_schema(warp.OP_TYPE, warp.VERSION, warp.DOMAIN)

    def test_output_has_the_images_shape(self) -> None:
        model = make_model(("n", 2, "p", "q"), with_body=False)
        onnx.checker.check_model(model, full_check=True)
        assert output_dims(model) == ["n", "c", "h", "w"]

    @pytest.mark.parametrize(
        ("flow_dims", "reason"),
        [(("n", 4, "h", "w"), "the flow has 4 channels"), (("n", 2, "h"), "flow has rank 3")],
    )
    def test_refuses_what_is_no_flow(self, flow_dims: tuple[Any, ...], reason: str) -> None:
        with pytest.raises(onnx.shape_inference.InferenceError, match=reason):
            output_dims(make_model(flow_dims, with_body=False))


def test_reference_op_runs_the_reference() -> None:
    image, flow = make_operands((1, 3, 9, 11), seed=3)
    evaluator = ReferenceEvaluator(make_model(), new_ops=[warp.reference_op()])
    (found,) = evaluator.run(None, {"image": image, "flow": flow})
    assert np.array_equal(found, warp.warp_reference(image, flow))
