"""The .bin codec: round trips, goldens, broken files, and ncnn's own reading of the arrays."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgery.errors import FormatError, SurgeryError
from surgery.formats.ncnn_bin import TAG_FLOAT16, read_weights, write_weights
from surgery.formats.ncnn_layers import ParamValue
from surgery.formats.ncnn_param import Layer, NcnnGraph, render

REPEATABLE = settings(derandomize=True, deadline=None, max_examples=60)


def _graph(*layers: Layer) -> NcnnGraph:
    return NcnnGraph([Layer("Input", "in0", [], ["in0"]), *layers])


def _convolution(outputs: int = 2, inputs: int = 3, kernel: int = 1, bias: int = 1) -> Layer:
    count = outputs * inputs * kernel * kernel
    params: dict[int, ParamValue] = {0: outputs, 1: kernel, 5: bias, 6: count}
    return Layer("Convolution", "conv", ["in0"], ["out0"], params)


def _fill(graph: NcnnGraph, **weights: np.ndarray) -> NcnnGraph:
    graph.layers[-1].weights = dict(weights)
    return graph


def _empty(graph: NcnnGraph) -> NcnnGraph:
    return NcnnGraph(
        [
            Layer(layer.type, layer.name, layer.inputs, layer.outputs, layer.params)
            for layer in graph.layers
        ]
    )


# ---- goldens -----------------------------------------------------------------------------------


def test_float16_bytes_are_tagged_padded_and_followed_by_a_bare_bias() -> None:
    graph = _fill(
        _graph(_convolution(outputs=1, inputs=3)),
        weight=np.array([1, -2, 0.5], np.float32).reshape(1, 3, 1, 1),
        bias=np.array([0.1], np.float32),
    )
    assert write_weights(graph).hex(" ", 4) == "476b3001 003c00c0 00380000 cdcccc3d"


def test_float32_bytes_are_tagged_with_zero() -> None:
    graph = _fill(
        _graph(_convolution(outputs=1, inputs=1, bias=0)),
        weight=np.full((1, 1, 1, 1), 0.1, np.float32),
    )
    assert write_weights(graph, fp16=False).hex(" ", 4) == "00000000 cdcccc3d"


def test_arrays_without_a_tag_are_never_rounded() -> None:
    layer = Layer("PReLU", "slopes", ["in0"], ["out0"], {0: 3})
    slopes = np.array([0.1, 0.2, 1e-9], np.float32)
    graph = _fill(_graph(layer), slope=slopes)
    assert write_weights(graph) == slopes.astype("<f4").tobytes() == write_weights(graph, False)


# ---- properties --------------------------------------------------------------------------------


@REPEATABLE
@given(
    outputs=st.integers(1, 5),
    inputs=st.integers(1, 5),
    kernel=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    fp16=st.booleans(),
)
def test_what_is_written_reads_back(
    outputs: int, inputs: int, kernel: int, seed: int, fp16: bool
) -> None:
    generator = np.random.default_rng(seed)
    shape = (outputs, inputs, kernel, kernel)
    weight = generator.normal(0, 10.0 ** generator.integers(-9, 4), shape).astype(np.float32)
    bias = generator.normal(0, 1, outputs).astype(np.float32)
    graph = _fill(_graph(_convolution(outputs, inputs, kernel)), weight=weight, bias=bias)

    read = _empty(graph)
    found = read_weights(read, write_weights(graph, fp16))

    assert found.trailing_bytes == 0
    assert (found.float16_arrays, found.float32_arrays) == ((1, 1) if fp16 else (0, 2))
    expected = weight.astype(np.float16).astype(np.float32) if fp16 else weight
    np.testing.assert_array_equal(read.layers[-1].weights["weight"], expected)
    np.testing.assert_array_equal(read.layers[-1].weights["bias"], bias)
    # A second trip changes nothing any more.
    assert write_weights(read, fp16) == write_weights(graph, fp16)


@REPEATABLE
@given(st.binary(max_size=64))
def test_no_bytes_raise_anything_but_format_error(data: bytes) -> None:
    graph = _graph(_convolution())
    try:
        found = read_weights(graph, data)
    except FormatError:
        return
    weights = graph.layers[-1].weights
    assert weights["weight"].shape == (2, 3, 1, 1)
    assert weights["bias"].shape == (2,)
    assert 0 <= found.trailing_bytes < len(data)


# ---- broken files ------------------------------------------------------------------------------

# fp16: tag 4, six values 12, bias 8.
COMPLETE = struct.pack("<I6e2f", TAG_FLOAT16, *range(6), 0.5, -0.5)


def test_the_complete_file_of_the_cases_below_is_read() -> None:
    graph = _graph(_convolution())
    assert read_weights(graph, COMPLETE).trailing_bytes == 0
    assert graph.layers[-1].weights["weight"].ravel().tolist() == [0, 1, 2, 3, 4, 5]
    assert graph.layers[-1].weights["bias"].tolist() == [0.5, -0.5]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "byte 0: Convolution conv, weight (2, 3, 1, 1) needs 4 bytes, and 0 are left"),
        (3, "byte 0: Convolution conv, weight (2, 3, 1, 1) needs 4 bytes, and 3 are left"),
        (15, "byte 4: Convolution conv, weight (2, 3, 1, 1) needs 12 bytes, and 11 are left"),
        (16, "byte 16: Convolution conv, bias (2,) needs 8 bytes, and 0 are left"),
        (23, "byte 16: Convolution conv, bias (2,) needs 8 bytes, and 7 are left"),
    ],
)
def test_short_files_name_layer_and_offset(size: int, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_weights(_graph(_convolution()), COMPLETE[:size], "flownet.bin")
    remedy = "the file is cut short, or was made for another .param"
    assert str(caught.value) == f"flownet.bin, {message}; {remedy}"


def test_trailing_bytes_are_counted() -> None:
    assert read_weights(_graph(_convolution()), COMPLETE + b"12345").trailing_bytes == 5


@pytest.mark.parametrize(
    ("tag", "meaning"),
    [
        (0x000D4B38, "tag 0x000d4b38 means int8 weights"),
        (0x0002C056, "tag 0x0002c056 means int8 weights"),
        (0x00000001, "tag 0x00000001 means a table of 256 values, or a .bin that does not belong"),
    ],
)
def test_quantised_weights_are_refused(tag: int, meaning: str) -> None:
    data = struct.pack("<I", tag) + COMPLETE[4:]
    with pytest.raises(FormatError, match=meaning):
        read_weights(_graph(_convolution()), data)


def test_enormous_sizes_are_refused_before_anything_is_allocated() -> None:
    axes: dict[int, ParamValue] = dict.fromkeys((0, 1, 2, 11), 2**31 - 1)
    graph = _graph(Layer("MemoryData", "much", [], ["x"], axes))
    with pytest.raises(FormatError, match=r"MemoryData much, data .* bytes, and 24 are left"):
        read_weights(graph, COMPLETE)


def test_a_layer_type_without_known_weights_is_refused() -> None:
    with pytest.raises(
        FormatError, match=r"Own\.Layer it: a layer type whose weights are not known"
    ):
        read_weights(_graph(Layer("Own.Layer", "it", ["in0"], ["out0"])), b"")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "flownet.bin"
    with pytest.raises(FormatError, match=r"flownet\.bin cannot be read: No such file"):
        read_weights(_graph(), path)
    path.write_bytes(b"123")
    assert read_weights(_graph(), path).trailing_bytes == 3


# ---- refusals of the writer --------------------------------------------------------------------


def test_values_beyond_float16_are_refused_with_their_layer() -> None:
    weight = np.zeros((2, 3, 1, 1), np.float32)
    weight[1, 2] = 65520.0  # rounds to infinity; 65519 would round to the largest finite value
    graph = _fill(_graph(_convolution()), weight=weight, bias=np.zeros(2, np.float32))
    with pytest.raises(SurgeryError) as caught:
        write_weights(graph)
    assert "Convolution conv: weight has 1 value(s) that are not finite as float16" in str(
        caught.value
    )
    assert "the first 65520.0 at (1, 2, 0, 0); write float32 weights (--fp32)" in str(caught.value)
    weight[1, 2] = 65519.0
    read_weights(graph, write_weights(graph))
    assert graph.layers[-1].weights["weight"].max() == 65504.0


def test_values_that_are_not_finite_are_refused_in_float32_as_well() -> None:
    bias = np.array([0, np.nan], np.float32)
    graph = _fill(_graph(_convolution()), weight=np.zeros((2, 3, 1, 1), np.float32), bias=bias)
    with pytest.raises(SurgeryError, match=r"bias has 1 value\(s\) .* as float32, the first nan"):
        write_weights(graph, fp16=False)


def test_every_missing_misshapen_and_unknown_array_is_listed() -> None:
    graph = _fill(
        _graph(_convolution()), weight=np.zeros((3, 2, 1, 1)), slope=np.zeros(2, np.float32)
    )
    with pytest.raises(SurgeryError) as caught:
        write_weights(graph)
    assert str(caught.value).splitlines() == [
        "3 weight array(s) cannot be written:",
        "  Convolution conv: has an array slope; the layer takes bias, weight",
        "  Convolution conv: weight is of shape (3, 2, 1, 1); its shape is (2, 3, 1, 1)",
        "  Convolution conv: bias is missing; its shape is (2,)",
    ]


# ---- what ncnn makes of the arrays -------------------------------------------------------------


def _run_in_ncnn(graph: NcnnGraph, image: np.ndarray, folder: Path, fp16: bool) -> np.ndarray:
    ncnn = pytest.importorskip("ncnn")
    (folder / "net.param").write_text(render(graph), encoding="utf-8")
    (folder / "net.bin").write_bytes(write_weights(graph, fp16))
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = 1
    assert net.load_param(str(folder / "net.param")) == 0
    assert net.load_model(str(folder / "net.bin")) == 0
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    code, out = extractor.extract("out0")
    assert code == 0
    return np.array(out).copy()


def _correlate(image: np.ndarray, weight: np.ndarray, groups: int = 1) -> np.ndarray:
    """A plain convolution without padding; weight is out, in / groups, h, w."""
    outputs, inputs, kernel_h, kernel_w = weight.shape
    height, width = image.shape[1] - kernel_h + 1, image.shape[2] - kernel_w + 1
    result = np.zeros((outputs, height, width))
    for output in range(outputs):
        first = output // (outputs // groups) * inputs
        for y in range(height):
            for x in range(width):
                window = image[first : first + inputs, y : y + kernel_h, x : x + kernel_w]
                result[output, y, x] = (window * weight[output]).sum()
    return result


def _spread(image: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """A plain transposed convolution; weight is out, in, h, w."""
    outputs, _, kernel_h, kernel_w = weight.shape
    _, height, width = image.shape
    result = np.zeros((outputs, (height - 1) * stride + kernel_h, (width - 1) * stride + kernel_w))
    for y in range(height):
        for x in range(width):
            patch = np.einsum("i,oihw->ohw", image[:, y, x], weight)
            top, left = y * stride, x * stride
            result[:, top : top + kernel_h, left : left + kernel_w] += patch
    return result


IMAGE = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
# Exactly representable in float16, so both formats must give the same result.
KERNEL = np.random.default_rng(1).normal(size=(6, 4, 2, 3)).astype(np.float16).astype(np.float32)
BIAS = np.arange(6, dtype=np.float32)
TOLERANCE = 1e-5  # sums of 24 products of numbers around 1, in float32 and in another order


@pytest.mark.parametrize("fp16", [True, False])
def test_ncnn_reads_a_convolution_as_out_in_height_width(tmp_path: Path, fp16: bool) -> None:
    params: dict[int, ParamValue] = {0: 6, 1: 3, 11: 2, 5: 1, 6: KERNEL.size}
    graph = _fill(
        _graph(Layer("Convolution", "conv", ["in0"], ["out0"], params)), weight=KERNEL, bias=BIAS
    )
    expected = _correlate(IMAGE, KERNEL) + BIAS[:, None, None]
    out = _run_in_ncnn(graph, IMAGE, tmp_path, fp16)
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE)
    # The order matters: the same numbers with two axes exchanged are another convolution.
    shuffled = KERNEL.transpose(1, 0, 2, 3).reshape(KERNEL.shape)
    assert np.abs(_correlate(IMAGE, shuffled) + BIAS[:, None, None] - out).max() > 1


def test_ncnn_reads_a_grouped_convolution_as_out_in_height_width(tmp_path: Path) -> None:
    weight = np.ascontiguousarray(KERNEL[:, :2])
    params: dict[int, ParamValue] = {0: 6, 1: 3, 11: 2, 6: weight.size, 7: 2}
    layer = Layer("ConvolutionDepthWise", "conv", ["in0"], ["out0"], params)
    graph = _fill(_graph(layer), weight=weight)
    expected = _correlate(IMAGE, weight, groups=2)
    out = _run_in_ncnn(graph, IMAGE, tmp_path, fp16=True)
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE)


def test_ncnn_reads_a_deconvolution_as_out_in_height_width(tmp_path: Path) -> None:
    params: dict[int, ParamValue] = {0: 6, 1: 3, 11: 2, 3: 2, 5: 1, 6: KERNEL.size}
    layer = Layer("Deconvolution", "deconv", ["in0"], ["out0"], params)
    graph = _fill(_graph(layer), weight=KERNEL, bias=BIAS)
    expected = _spread(IMAGE, KERNEL, stride=2) + BIAS[:, None, None]
    out = _run_in_ncnn(graph, IMAGE, tmp_path, fp16=True)
    np.testing.assert_allclose(out, expected, rtol=0, atol=TOLERANCE)


def test_ncnn_reads_an_inner_product_as_out_in(tmp_path: Path) -> None:
    weight = KERNEL.reshape(6, 24)
    params: dict[int, ParamValue] = {0: 6, 1: 1, 2: weight.size}
    layer = Layer("InnerProduct", "dense", ["in0"], ["out0"], params)
    graph = _fill(_graph(layer), weight=weight, bias=BIAS)
    vector = IMAGE.ravel()[:24].copy()
    out = _run_in_ncnn(graph, vector, tmp_path, fp16=True)
    np.testing.assert_allclose(out, weight @ vector + BIAS, rtol=0, atol=TOLERANCE)


def test_ncnn_reads_a_constant_with_channels_outermost(tmp_path: Path) -> None:
    layers = (
        Layer("MemoryData", "constant", [], ["data"], {0: 6, 1: 5, 2: 4}),
        Layer("BinaryOp", "add", ["in0", "data"], ["out0"]),
    )
    graph = _graph(*layers)
    data = np.arange(120, dtype=np.float32).reshape(4, 5, 6)
    graph.layers[1].weights["data"] = data
    out = _run_in_ncnn(graph, IMAGE, tmp_path, fp16=True)
    np.testing.assert_allclose(out, IMAGE + data, rtol=0, atol=TOLERANCE)


def test_ncnn_reads_one_slope_for_each_channel(tmp_path: Path) -> None:
    graph = _fill(
        _graph(Layer("PReLU", "act", ["in0"], ["out0"], {0: 4})),
        slope=np.array([0.1, 0.2, 0.3, 0.4], np.float32),
    )
    slopes = graph.layers[-1].weights["slope"][:, None, None]
    out = _run_in_ncnn(graph, IMAGE, tmp_path, fp16=True)
    np.testing.assert_allclose(
        out, np.where(IMAGE > 0, IMAGE, slopes * IMAGE), rtol=0, atol=TOLERANCE
    )
