"""The compiled kernel of `rife::Warp`, as onnxruntime runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from surgery.errors import KernelMissing
from surgery.hub import warp
from surgery.kernel_library import ops_library

ort = pytest.importorskip("onnxruntime")

SPECIAL_VALUES = (np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9)
SHAPES = [
    (1, 1, 1, 1),
    (1, 3, 1, 9),
    (1, 3, 9, 1),
    (1, 1, 37, 53),
    (1, 3, 64, 96),
    (1, 4, 33, 8),
    (1, 16, 31, 47),
    (1, 32, 12, 17),
    (2, 3, 45, 80),
    (2, 5, 7, 513),
]
EMPTY_SHAPES = [(0, 3, 4, 5), (1, 0, 4, 5), (1, 3, 0, 5), (1, 3, 4, 0)]
FREE_RANK = None


def make_operands(
    shape: tuple[int, ...], special: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """An image in 0..1 and a flow of several pixels, a share `special` of it no plain number."""
    rng = np.random.default_rng(seed)
    batch, _, height, width = shape
    image = rng.random(shape, dtype=np.float32)
    flow = (rng.standard_normal((batch, 2, height, width)) * 4 + 2).astype(np.float32)
    values = rng.choice(np.array(SPECIAL_VALUES, dtype=np.float32), flow.shape)
    return image, np.where(rng.random(flow.shape) < special, values, flow)


def make_model(
    image_dims: list[Any] | None,
    flow_dims: list[Any] | None,
    *,
    with_body: bool = False,
    inputs: tuple[str, ...] = ("image", "flow"),
    flow_type: int = onnx.TensorProto.FLOAT,
) -> bytes:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Warp", list(inputs), ["out"], "/warp", domain=warp.DOMAIN)],
        "one_warp",
        [info("image", onnx.TensorProto.FLOAT, image_dims), info("flow", flow_type, flow_dims)],
        [info("out", onnx.TensorProto.FLOAT, None)],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(warp.DOMAIN, warp.VERSION)]
    functions = [warp.warp_function()] if with_body else []
    model = onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    serialised: bytes = model.SerializeToString()
    return serialised


def make_options(threads: int = 2, with_kernel: bool = True) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors arrive as exceptions; the log would repeat them
    if with_kernel:
        options.register_custom_ops_library(str(ops_library()))
    return options


def open_session(model: bytes, options: Any = None) -> Any:
    return ort.InferenceSession(
        model, options or make_options(), providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def session() -> Any:
    return open_session(make_model(["n", "c", "h", "w"], ["n", 2, "h", "w"]))


@pytest.fixture(scope="module")
def unchecked_session() -> Any:
    """A session that knows nothing of shapes, so that the kernel itself has to check them."""
    return open_session(make_model(FREE_RANK, FREE_RANK))


def run(session: Any, image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    out: np.ndarray = session.run(None, {"image": image, "flow": flow})[0]
    return out


@pytest.mark.parametrize("special", [0.0, 0.15], ids=["plain", "special"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gives_the_bits_of_the_reference(
    session: Any, shape: tuple[int, ...], special: float
) -> None:
    image, flow = make_operands(shape, special)
    assert np.array_equal(run(session, image, flow), warp.warp_reference(image, flow))


def test_whole_rows_of_special_values(session: Any) -> None:
    image, flow = make_operands((1, 3, 12, 64))
    for row, value in enumerate(SPECIAL_VALUES):
        flow[0, row % 2, row] = value
    found = run(session, image, flow)
    assert np.array_equal(found, warp.warp_reference(image, flow))
    assert not found[0, :, 0].any()
    assert found[0, :, 1:].any()


def test_swapped_flow_differs(session: Any) -> None:
    image, flow = make_operands((1, 3, 24, 40))
    swapped = run(session, image, np.ascontiguousarray(flow[:, ::-1]))
    assert np.abs(swapped - warp.warp_reference(image, flow)).max() > 0.1


def test_smooth_flow_takes_the_same_values(session: Any) -> None:
    """Neighbours that read neighbours: the branch of the kernel that noise never reaches."""
    image, flow = make_operands((1, 4, 40, 300))
    flow[:, 0] = 3.25 + 0.002 * np.arange(300, dtype=np.float32)
    flow[:, 1] = -1.75
    assert np.array_equal(run(session, image, flow), warp.warp_reference(image, flow))


@pytest.mark.parametrize("shape", EMPTY_SHAPES, ids=str)
def test_empty_image_stays_empty(session: Any, shape: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.float32)
    flow = np.zeros((shape[0], 2, *shape[2:]), np.float32)
    assert run(session, image, flow).shape == shape


def test_one_and_two_threads_give_the_same_bits() -> None:
    image, flow = make_operands((1, 3, 200, 301), special=0.02)
    model = make_model(["n", "c", "h", "w"], ["n", 2, "h", "w"])
    one, two = (run(open_session(model, make_options(n)), image, flow) for n in (1, 2))
    assert np.array_equal(one.view(np.uint32), two.view(np.uint32))


@pytest.mark.parametrize(
    ("image_shape", "flow_shape"),
    [
        ((1, 3, 4, 5), (1, 3, 4, 5)),
        ((1, 3, 4, 5), (1, 4, 4, 5)),
        ((1, 3, 4, 5), (1, 1, 4, 5)),
        ((1, 3, 4, 5), (1, 2, 5, 5)),
        ((1, 3, 4, 5), (1, 2, 4, 6)),
        ((2, 3, 4, 5), (1, 2, 4, 5)),
        ((3, 4, 5), (2, 4, 5)),
        ((1, 3, 4, 5), (2, 4, 5)),
        ((1, 3, 4, 5, 6), (1, 2, 4, 5)),
        ((), ()),
    ],
    ids=str,
)
def test_wrong_shapes_are_errors(
    unchecked_session: Any, image_shape: tuple[int, ...], flow_shape: tuple[int, ...]
) -> None:
    image, flow = np.zeros(image_shape, np.float32), np.zeros(flow_shape, np.float32)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match="rife::Warp"):
        run(unchecked_session, image, flow)


def test_session_survives_an_error(unchecked_session: Any) -> None:
    image, flow = make_operands((1, 3, 6, 7))
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(unchecked_session, image, image)
    assert np.array_equal(run(unchecked_session, image, flow), warp.warp_reference(image, flow))


def test_side_beyond_float32_is_an_error(unchecked_session: Any) -> None:
    image = np.zeros((1, 1, 1, 2**24 + 1), np.float32)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidArgument, match=r"up to 2\^24"):
        run(unchecked_session, image, np.zeros((1, 2, 1, 2**24 + 1), np.float32))


@pytest.mark.parametrize(
    ("image_dims", "flow_dims"),
    [
        (["n", "c", "h", "w"], ["n", 4, "h", "w"]),
        ([1, 3, 4, 5], [1, 2, 4, 6]),
        (["c", "h", "w"], [2, "h", "w"]),
    ],
    ids=str,
)
def test_model_with_wrong_shapes_never_runs(image_dims: list[Any], flow_dims: list[Any]) -> None:
    """Refused while loading or by the kernel: onnxruntime up to 1.32 ignores a shape function."""
    sizes = {"n": 1, "c": 3, "h": 4, "w": 5}
    image, flow = (
        np.zeros([sizes.get(dim, dim) for dim in dims], np.float32)
        for dims in (image_dims, flow_dims)
    )
    with pytest.raises(Exception, match="rife::Warp"):
        run(open_session(make_model(image_dims, flow_dims)), image, flow)


@pytest.mark.parametrize("inputs", [("image",), ("image", ""), ("image", "flow", "flow")], ids=str)
def test_wrong_number_of_inputs_does_not_load(inputs: tuple[str, ...]) -> None:
    model = make_model([1, 3, 4, 5], [1, 2, 4, 5], inputs=inputs)
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.InvalidGraph, match="/warp"):
        open_session(model)


def test_other_types_do_not_load() -> None:
    model = make_model([1, 3, 4, 5], [1, 2, 4, 5], flow_type=onnx.TensorProto.DOUBLE)
    with pytest.raises(Exception, match="tensor\\(double\\)"):
        open_session(model)


@pytest.mark.parametrize(
    ("image_dims", "expected"),
    [
        (["n", "c", "h", "w"], ["n", "c", "h", "w"]),
        ([1, 3, "h", 64], [1, 3, "h", 64]),
        ([1, None, "h", "w"], FREE_RANK),
        (FREE_RANK, FREE_RANK),
    ],
    ids=str,
)
def test_shape_inference(image_dims: list[Any] | None, expected: list[Any] | None) -> None:
    """The image's shape, where it is known; a dimension without a name is nothing to hand on."""
    found = open_session(make_model(image_dims, FREE_RANK)).get_outputs()[0].shape
    assert found == (expected or [])


def profile_nodes(model: bytes, options: Any, tmp_path: Path) -> tuple[set[str], np.ndarray]:
    """The operators that ran, as onnxruntime's profile names them, and the result."""
    image, flow = make_operands((1, 3, 32, 48), seed=4)
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = open_session(model, options)
    out = run(session, image, flow)
    events = json.loads(Path(session.end_profiling()).read_text())
    return {e["args"]["op_name"] for e in events if e.get("cat") == "Node"}, out


def test_kernel_takes_precedence_over_the_body(tmp_path: Path) -> None:
    model = make_model(["n", "c", "h", "w"], ["n", 2, "h", "w"], with_body=True)
    nodes, out = profile_nodes(model, make_options(), tmp_path)
    assert nodes == {"Warp"}
    image, flow = make_operands((1, 3, 32, 48), seed=4)
    assert np.array_equal(out, warp.warp_reference(image, flow))


def test_body_runs_without_the_kernel(tmp_path: Path) -> None:
    model = make_model(["n", "c", "h", "w"], ["n", 2, "h", "w"], with_body=True)
    nodes, _ = profile_nodes(model, make_options(with_kernel=False), tmp_path)
    assert "GridSample" in nodes
    assert "Warp" not in nodes


def test_without_kernel_and_body_it_does_not_load() -> None:
    with pytest.raises(ort.capi.onnxruntime_pybind11_state.Fail, match="Warp"):
        open_session(
            make_model(["n", "c", "h", "w"], ["n", 2, "h", "w"]), make_options(with_kernel=False)
        )


def test_registers_in_many_sessions_and_leaves_quietly() -> None:
    """In a process of its own: what goes wrong here goes wrong at its end."""
    script = (
        "import onnxruntime as ort, sys\n"
        "model = open(0, 'rb').read()\n"
        "def make():\n"
        "    options = ort.SessionOptions()\n"
        "    options.register_custom_ops_library(sys.argv[1])\n"
        "    return ort.InferenceSession(model, options, providers=['CPUExecutionProvider'])\n"
        "sessions = [make() for _ in range(20)]\n"
        "del sessions[::2]\n"
    )
    model = make_model(["n", "c", "h", "w"], ["n", 2, "h", "w"])
    result = subprocess.run(
        [sys.executable, "-c", script, str(ops_library())],
        input=model,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")


def test_missing_kernel_says_how_to_build_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("surgery.kernel_library.resources.files", lambda _: tmp_path)
    with pytest.raises(KernelMissing, match="pip install"):
        ops_library.__wrapped__()
