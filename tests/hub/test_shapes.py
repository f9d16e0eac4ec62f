"""Channels and relative sizes of every tensor, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from surgery.errors import HubError
from surgery.hub.model import from_onnx
from surgery.hub.shapes import ONE_PIXEL, Extent, exact_fraction, infer_extents, name_sizes

FULL, HALF = Fraction(1), Fraction(1, 2)


def _infer(operator: str, *inputs: Any, domain: str | None = None, **attributes: Any) -> Extent:
    """The extent that one node gives for `x` of 8 channels; numbers are inputs of so many."""
    variables: dict[str, gs.Variable] = {}
    read = []
    for index, value in enumerate(inputs):
        if isinstance(value, np.ndarray):
            read.append(gs.Constant(f"constant{index}", value))
        elif value is None:
            read.append(gs.Variable.empty())
        else:
            name = f"x{index}"
            variables[name] = gs.Variable(name, np.float32, [1, value, "H", "W"])
            read.append(variables[name])
    node = gs.Node(operator, "/node", attributes, read, [gs.Variable("y")], domain=domain)
    return infer_extents(gs.Graph([node], list(variables.values())))["y"]


def _array(*values: Any, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(values, dtype)


def _weights(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def _bounds(start: int, end: int, axis: int = 1) -> list[np.ndarray]:
    return [_array(value, dtype=np.int64) for value in (start, end, axis)]


def test_a_whole_network_is_inferred(closed: onnx.ModelProto) -> None:
    extents = infer_extents(from_onnx(closed).graph)
    assert extents["frames"] == Extent(7, FULL, FULL)
    assert extents["raw"] == Extent(5, HALF, HALF)
    assert extents["flows"] == Extent(5, FULL, FULL)
    assert extents["flow0"] == Extent(2, FULL, FULL)
    assert extents["out0"] == Extent(3, FULL, FULL)


@pytest.mark.parametrize(
    ("stride", "kernel", "pads", "size"),
    [(1, 3, 1, FULL), (2, 3, 1, HALF), (2, 4, 1, HALF), (1, 1, 0, FULL), (4, 4, 0, Fraction(1, 4))],
)
def test_a_convolution_divides_the_size(stride: int, kernel: int, pads: int, size: Any) -> None:
    found = _infer("Conv", 8, _weights(5, 8, kernel, kernel), strides=[stride] * 2, pads=[pads] * 4)
    assert found == Extent(5, size, size)


def test_a_deconvolution_multiplies_the_size() -> None:
    found = _infer("ConvTranspose", 8, _weights(8, 5, 4, 4), strides=[2, 2], pads=[1] * 4)
    assert found == Extent(5, Fraction(2), Fraction(2))


def test_groups_share_out_the_channels() -> None:
    assert _infer("Conv", 8, _weights(6, 4, 1, 1), group=2).channels == 6
    grouped = _infer(
        "ConvTranspose", 8, _weights(8, 3, 4, 4), strides=[2, 2], pads=[1] * 4, group=2
    )
    assert grouped.channels == 6


def test_sides_are_resized_apart() -> None:
    assert _infer("Resize", 8, None, _array(1, 1, 2, 0.25)) == Extent(8, Fraction(2), HALF / 2)


@pytest.mark.parametrize(("first", "second"), [(8, 8), (8, 1), (1, 8)])
def test_channels_broadcast(first: int, second: int) -> None:
    assert _infer("Add", first, second).channels == 8


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_a_number_keeps_the_channels(shape: tuple[int, ...]) -> None:
    assert _infer("Mul", 8, _weights(*shape)).channels == 8


@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1)])
def test_a_number_for_each_channel_widens_a_single_one(shape: tuple[int, ...]) -> None:
    assert _infer("Mul", 1, _weights(*shape)).channels == 6


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("Softmax", [8], {}, "Softmax; a hub model is made of Add, Clip"),
        ("Add", [_array(1), _array(2)], {}, "Add of constants alone"),
        ("Add", [8, 3], {}, r"channels \[8, 3\] do not broadcast"),
        ("Mul", [8, _weights(8)], {}, r"a constant of shape \[8\]"),
        ("Mul", [8, _weights(8, 1, 1, 1)], {}, r"a constant of shape \[8, 1, 1, 1\]"),
        ("Mul", [8, _weights(1, 1, 4, 4)], {}, r"a constant of shape \[1, 1, 4, 4\]"),
        ("Mul", [8, _weights(1, 1, 8, 1, 1)], {}, "one number, or"),
        ("Conv", [8, _weights(5, 4, 3, 3)], {"pads": [1] * 4}, "8 channels go into weights for 4"),
        ("Conv", [8, _weights(5, 8, 3, 3)], {}, "which gives size / stride"),
        ("Conv", [8, _weights(5, 8, 1, 1)], {"pads": [1] * 4}, "which gives size / stride"),
        ("Conv", [8, 3], {}, "weight is not a constant"),
        ("ConvTranspose", [8, _weights(5, 8, 4, 4)], {}, "8 channels go into weights for 5"),
        ("ConvTranspose", [8, _weights(8, 5, 4, 4)], {"strides": [2, 2]}, "another size"),
        ("Clip", [8, _array(0), 3], {}, "a bound is computed"),
        ("Resize", [8, None, _array(1, 1, 1e-5, 1)], {}, "leave nothing"),
        ("Resize", [8, None, _array(2, 1, 1, 1)], {}, "batch and channels"),
        ("Slice", [8, *_bounds(3, 3)], {}, r"\[3:3\] of 8 channels is empty"),
        ("Slice", [8, *_bounds(-1, -3)], {}, "is empty"),
        ("Slice", [8, *_bounds(0, 2, axis=3)], {}, "axis=3"),
        ("Concat", [8, 3], {"axis": 2}, "axis=2"),
        ("Concat", [8, _weights(1, 2, 4, 4)], {"axis": 1}, "whose size is fixed"),
        ("DepthToSpace", [8], {"blocksize": 2}, "mode=DCR"),
        ("DepthToSpace", [6], {"blocksize": 2, "mode": "CRD"}, "6 channels are no multiple of 4"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    operator: str, inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(HubError, match=reason) as caught:
        _infer(operator, *inputs, **attributes)
    assert str(caught.value).startswith("/node: ")


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_flow_has_exactly_two_channels(channels: int) -> None:
    assert _infer("Warp", 8, 2, domain="rife").channels == 8
    with pytest.raises(HubError, match=f"the flow has {channels} channels; exactly 2"):
        _infer("Warp", 8, channels, domain="rife")


def test_an_operator_of_another_domain_is_unknown() -> None:
    with pytest.raises(HubError, match="elsewhere::Add"):
        _infer("Add", 8, 8, domain="elsewhere")


@pytest.mark.parametrize("operator", ["Add", "Concat", "Warp"])
def test_operands_of_different_sizes_are_refused(operator: str) -> None:
    x = gs.Variable("x", np.float32, [1, 2, "H", "W"])
    small, result = gs.Variable("small"), gs.Variable("y")
    resize = [x, gs.Variable.empty(), gs.Constant("scales", _array(1, 1, 0.5, 0.5))]
    domain = "rife" if operator == "Warp" else None
    nodes = [
        gs.Node("Resize", "/small", inputs=resize, outputs=[small]),
        gs.Node(operator, "/node", {"axis": 1}, [x, small], [result], domain=domain),
    ]
    with pytest.raises(HubError, match="size"):
        infer_extents(gs.Graph(nodes, [x]))


@pytest.mark.parametrize("factor", [Fraction(1, 3), Fraction(5, 6), Fraction(7), Fraction(1, 64)])
def test_a_float32_factor_is_the_fraction_it_stands_for(factor: Fraction) -> None:
    assert exact_fraction(float(np.float32(float(factor)))) == factor


def test_a_global_average_is_one_pixel_that_broadcasts() -> None:
    x, pooled, y = (
        gs.Variable("x", np.float32, [1, 8, "H", "W"]),
        gs.Variable("p"),
        gs.Variable("y"),
    )
    nodes = [
        gs.Node("GlobalAveragePool", "/pool", inputs=[x], outputs=[pooled]),
        gs.Node("Mul", "/mul", inputs=[pooled, x], outputs=[y]),
    ]
    extents = infer_extents(gs.Graph(nodes, [x]))
    assert extents["p"] == Extent(8, ONE_PIXEL, ONE_PIXEL)
    assert extents["y"] == Extent(8, FULL, FULL)


@pytest.mark.parametrize(("size", "part"), [("H", FULL), ("H/2", HALF), ("height", FULL)])
def test_the_size_of_an_input_says_which_part_of_the_frame_it_is(size: str, part: Any) -> None:
    x = gs.Variable("x", np.float32, [1, 8, size, size])
    node = gs.Node("Sigmoid", "/node", inputs=[x], outputs=[gs.Variable("y")])
    assert infer_extents(gs.Graph([node], [x]))["y"] == Extent(8, part, part)


@pytest.mark.parametrize("part", [FULL, HALF, Fraction(1, 32)])
def test_a_size_is_read_as_it_is_named(part: Fraction) -> None:
    x = gs.Variable("x", np.float32, [1, 8, *name_sizes(Extent(8, FULL, part))])
    node = gs.Node("Sigmoid", "/node", inputs=[x], outputs=[gs.Variable("y")])
    assert infer_extents(gs.Graph([node], [x]))["y"] == Extent(8, FULL, part)


@pytest.mark.parametrize(
    ("part", "found"), [(Fraction(3, 8), "3/8 of"), (Fraction(2), "2 of"), (ONE_PIXEL, "one pixel")]
)
def test_a_size_that_is_no_whole_part_is_refused(part: Fraction, found: str) -> None:
    with pytest.raises(HubError, match=f"{found}.*the whole size, or 1/n of it, is accepted"):
        name_sizes(Extent(8, FULL, part))


@pytest.mark.parametrize(
    ("operator", "others", "attributes"),
    [
        ("Conv", [_weights(8, 8, 3, 3)], {"strides": [2, 2], "pads": [1] * 4}),
        ("ConvTranspose", [_weights(8, 8, 4, 4)], {"strides": [2, 2], "pads": [1] * 4}),
        ("Resize", [None, _array(1, 1, 2, 2)], {"mode": "linear"}),
        ("DepthToSpace", [], {"blocksize": 2, "mode": "CRD"}),
    ],
)
def test_the_size_of_one_pixel_does_not_change(
    operator: str, others: list[Any], attributes: dict[str, Any]
) -> None:
    assert _infer(operator, 8, *others, **attributes).height != ONE_PIXEL
    x, pooled = gs.Variable("x", np.float32, [1, 8, "H", "W"]), gs.Variable("p")
    inputs = [
        gs.Variable.empty() if one is None else gs.Constant(f"c{index}", one)
        for index, one in enumerate(others)
    ]
    nodes = [
        gs.Node("GlobalAveragePool", "/pool", inputs=[x], outputs=[pooled]),
        gs.Node(operator, "/node", attributes, [pooled, *inputs], [gs.Variable("y")]),
    ]
    with pytest.raises(HubError, match="/node: changes the size of one pixel"):
        infer_extents(gs.Graph(nodes, [x]))
