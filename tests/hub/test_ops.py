"""Nodes are read with ONNX's defaults, and what is no part of the dialect is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from surgery.hub import ops
from surgery.hub.ops import ConvSpec


def _constant(values: Any, dtype: Any = np.float32) -> gs.Constant:
    return gs.Constant("constant", np.asarray(values, dtype))


def _node(operator: str, *inputs: Any, **attributes: Any) -> gs.Node:
    read = [gs.Variable.empty() if tensor is None else tensor for tensor in inputs]
    return gs.Node(operator, "/node", attributes, [gs.Variable("x"), *read], [gs.Variable("y")])


def _conv(*shape: int, **attributes: Any) -> gs.Node:
    return _node("Conv", _constant(np.ones(shape)), **attributes)


class TestConstants:
    def test_a_constant_is_an_array_and_a_variable_is_none(self) -> None:
        assert np.array_equal(ops.constant(_constant([1, 2])), [1, 2])  # type: ignore[arg-type]
        assert ops.constant(gs.Variable("x")) is None
        assert ops.constant(None) is None

    @pytest.mark.parametrize("values", [3.0, [3.0], [[[[3.0]]]]])
    def test_one_element_is_a_scalar_whatever_its_rank(self, values: Any) -> None:
        assert ops.scalar(_constant(values)) == 3.0

    @pytest.mark.parametrize("values", [[], [1.0, 2.0]])
    def test_any_other_count_is_none(self, values: Any) -> None:
        assert ops.scalar(_constant(values)) is None

    def test_an_input_is_left_out_by_absence_or_by_an_empty_name(self) -> None:
        node = _node("Clip", None, _constant(1))
        assert ops.optional_input(node, 1) is None
        assert ops.optional_input(node, 2) is node.inputs[2]
        assert ops.optional_input(node, 3) is None

    def test_computed_inputs_are_those_that_are_neither_constant_nor_left_out(self) -> None:
        node = _node("Resize", None, _constant([1, 1, 2, 2]))
        assert [tensor.name for tensor in ops.data_inputs(node)] == ["x"]

    @pytest.mark.parametrize("value", [1.0, 2.0, 0.25, -8.0, 2.0**-140])
    def test_powers_of_two(self, value: float) -> None:
        assert ops.is_power_of_two(value)

    @pytest.mark.parametrize("value", [0.0, 3.0, 0.1, -6.0, math.inf, math.nan])
    def test_other_numbers(self, value: float) -> None:
        assert not ops.is_power_of_two(value)

    def test_the_scaled_operand_of_a_product(self) -> None:
        assert ops.scaled_operand(_node("Mul", _constant(2))) == 0
        turned = gs.Node("Mul", inputs=[_constant(2), gs.Variable("x")])
        assert ops.scaled_operand(turned) == 1
        assert ops.scaled_operand(_node("Mul", gs.Variable("z"))) is None
        assert ops.scaled_operand(_node("Mul", _constant([1, 2]))) is None
        assert ops.scaled_operand(_node("Add", _constant(2))) is None
        elsewhere = _node("Mul", _constant(2))
        elsewhere.domain = "elsewhere"
        assert ops.scaled_operand(elsewhere) is None


class TestConv:
    def test_defaults_are_onnx_defaults(self) -> None:
        expected = ConvSpec((3, 5), (1, 1), (0, 0, 0, 0), (1, 1), 1, (0, 0))
        assert ops.read_conv(_conv(8, 4, 3, 5)) == expected

    def test_attributes_are_read(self) -> None:
        node = _conv(
            8, 2, 3, 3, strides=[2, 1], pads=[1, 2, 3, 4], dilations=[1, 2], group=2,
            output_padding=[1, 0],
        )  # fmt: skip
        assert ops.read_conv(node) == ConvSpec((3, 3), (2, 1), (1, 2, 3, 4), (1, 2), 2, (1, 0))

    @pytest.mark.parametrize(
        ("node", "reason"),
        [
            (_node("Conv", gs.Variable("w")), "weight is not a constant of rank 4"),
            (_conv(8, 4, 3), "weight is not a constant of rank 4"),
            (_conv(8, 4, 3, 3, auto_pad="SAME_UPPER"), "auto_pad=SAME_UPPER"),
            (_conv(8, 4, 3, 3, output_shape=[4, 4]), "output_shape is set"),
            (_conv(8, 4, 3, 3, pads=[1, 1]), "4 numbers are accepted"),
            (_conv(8, 4, 3, 3, strides=[1, 1, 1]), "2 numbers are accepted"),
            (
                _node("Conv", _constant(np.ones((8, 4, 3, 3))), gs.Variable("b")),
                "bias is computed",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_anything_else_is_refused(self, node: gs.Node, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            ops.read_conv(node)


class TestResize:
    def test_defaults_are_onnx_defaults(self) -> None:
        spec = ops.read_resize(_node("Resize", None, _constant([1, 1, 2, 0.5])))
        assert (spec.scale_h, spec.scale_w) == (2.0, 0.5)
        assert (spec.mode, spec.coordinates, spec.antialias) == ("nearest", "half_pixel", False)
        assert not spec.is_plain_bilinear

    @pytest.mark.parametrize("coordinates", ["half_pixel", "pytorch_half_pixel"])
    def test_plain_bilinear_has_two_names(self, coordinates: str) -> None:
        node = _node(
            "Resize",
            None,
            _constant([1, 1, 2, 2]),
            mode="linear",
            coordinate_transformation_mode=coordinates,
            axes=[0, 1, 2, 3],
        )
        assert ops.read_resize(node).is_plain_bilinear

    @pytest.mark.parametrize(
        "attributes",
        [
            {"mode": "cubic"},
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
            {"mode": "linear", "antialias": 1},
        ],
        ids=str,
    )
    def test_anything_else_is_not_plain(self, attributes: dict[str, Any]) -> None:
        node = _node("Resize", None, _constant([1, 1, 2, 2]), **attributes)
        assert not ops.read_resize(node).is_plain_bilinear

    @pytest.mark.parametrize(
        ("node", "reason"),
        [
            (_node("Resize", None, None, _constant([1, 3, 8, 8], np.int64)), "not a constant of"),
            (_node("Resize", None, gs.Variable("scales")), "not a constant of four"),
            (_node("Resize", None, _constant([2, 2])), "not a constant of four"),
            (_node("Resize", None, _constant([1, 2, 2, 2])), "batch and channels must keep"),
            (_node("Resize", None, _constant([1, 1, 0, 2])), "factors above 0"),
            (_node("Resize", None, _constant([1, 1, 2, -1])), "factors above 0"),
            (_node("Resize", None, _constant([1, 1, 2, math.nan])), "factors above 0"),
            (_node("Resize", None, _constant([1, 1, 2, 2]), axes=[0, 1, 3, 2]), "all four in"),
            (
                _node(
                    "Resize",
                    None,
                    _constant([1, 1, 2, 2]),
                    coordinate_transformation_mode="tf_crop_and_resize",
                ),
                "whole picture",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_has_no_fixed_factors_is_refused(self, node: gs.Node, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            ops.read_resize(node)


def _slice(*bounds: Any) -> gs.Node:
    return _node(
        "Slice", *(None if bound is None else _constant(bound, np.int64) for bound in bounds)
    )


class TestSlice:
    @pytest.mark.parametrize(
        ("bounds", "expected"),
        [
            (([0], [2], [1]), (0, 2)),
            (([2], [2**63 - 1], [1]), (2, 6)),
            (([-2], [2**31 - 1], [1], [1]), (4, 6)),
            (([-99], [-1], [-3]), (0, 5)),
        ],
    )
    def test_a_range_of_channels_counts_from_the_front(
        self, bounds: tuple[Any, ...], expected: tuple[int, int]
    ) -> None:
        assert ops.channel_range(_slice(*bounds), 6) == expected

    def test_an_open_end_is_one_number(self) -> None:
        assert ops.read_slice(_slice([2], [2**63 - 1], [1])).end == ops.TO_THE_END

    @pytest.mark.parametrize(
        ("bounds", "reason"),
        [
            (([0, 0], [2, 2], [1, 2]), "one number each"),
            (([0], [2]), "axes is not"),
            (([0], [2], None), "axes is not"),
            (([0], [2], [1], [2]), "steps"),
            (([0], [2], [1], [-1]), "steps"),
        ],
    )
    def test_anything_else_is_refused(self, bounds: tuple[Any, ...], reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            ops.read_slice(_slice(*bounds))

    def test_computed_bounds_are_refused(self) -> None:
        node = _node("Slice", gs.Variable("start"), _constant([2]), _constant([1]))
        with pytest.raises(ValueError, match="one number each"):
            ops.read_slice(node)

    def test_another_axis_holds_no_channels(self) -> None:
        with pytest.raises(ValueError, match="axis=2"):
            ops.channel_range(_slice([0], [2], [2]), 6)


class TestOthers:
    def test_bounds_of_a_clip(self) -> None:
        assert ops.clip_bounds(_node("Clip", _constant(0), _constant(1))) == (0, 1)
        assert ops.clip_bounds(_node("Clip", None, _constant(1))) == (-math.inf, 1)
        assert ops.clip_bounds(_node("Clip")) == (-math.inf, math.inf)

    def test_a_computed_bound_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a bound is computed"):
            ops.clip_bounds(_node("Clip", _constant(0), gs.Variable("most")))

    def test_the_slope_of_a_leaky_relu(self) -> None:
        assert ops.leaky_slope(_node("LeakyRelu")) == 0.01
        assert ops.leaky_slope(_node("LeakyRelu", alpha=0.2)) == 0.2

    @pytest.mark.parametrize(("axis", "expected"), [(1, 1), (-3, 1), (-1, 3)])
    def test_the_axis_of_a_concat_counts_from_the_front(self, axis: int, expected: int) -> None:
        assert ops.concat_axis(_node("Concat", axis=axis)) == expected

    def test_the_order_of_a_pixel_shuffle(self) -> None:
        assert ops.pixel_shuffle_factor(_node("DepthToSpace", blocksize=2, mode="CRD")) == 2
        with pytest.raises(ValueError, match="mode=DCR"):
            ops.pixel_shuffle_factor(_node("DepthToSpace", blocksize=2))

    @pytest.mark.parametrize(
        ("name", "module"),
        [("/block0/conv0/Conv", "block0/conv0"), ("/Add", ""), ("block1/Mul_1", "block1")],
    )
    def test_a_node_tells_its_torch_module(self, name: str, module: str) -> None:
        assert ops.torch_module(name) == module
