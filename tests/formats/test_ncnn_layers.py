"""The table of ncnn layers: ids, weight arrays and the rules of each type."""

from __future__ import annotations

import pytest

from surgery.errors import FormatError
from surgery.formats.ncnn_layers import (
    LAYER_TYPES,
    Activation,
    BinaryOp,
    BinaryOpType,
    Clip,
    Convolution,
    ConvolutionDepthWise,
    Crop,
    Deconvolution,
    Eltwise,
    InnerProduct,
    Interp,
    InterpType,
    Kind,
    MemoryData,
    Padding,
    ParamValue,
    PReLU,
    Scale,
    Slice,
    read_float,
    read_floats,
    read_int,
    read_ints,
)
from surgery.formats.ncnn_param import Layer, NcnnGraph, check

Params = dict[int, ParamValue]

CONVOLUTION: Params = {
    Convolution.NUM_OUTPUT: 8,
    Convolution.KERNEL_W: 3,
    Convolution.WEIGHT_COUNT: 8 * 6 * 9,
}
SUM: Params = {Eltwise.OP_TYPE: 1}


@pytest.mark.parametrize("layer_type", sorted(LAYER_TYPES))
def test_ids_are_unique_and_in_range(layer_type: str) -> None:
    known = LAYER_TYPES[layer_type]
    keys = [param.spec.key for param in known.params]
    assert len(set(keys)) == len(known.params.__members__)
    assert all(0 <= key < 30 for key in keys)


@pytest.mark.parametrize("layer_type", sorted(LAYER_TYPES))
def test_defaults_have_the_kind_of_their_parameter(layer_type: str) -> None:
    types = {Kind.INT: int, Kind.FLOAT: float, Kind.INTS: tuple, Kind.FLOATS: tuple}
    for param in LAYER_TYPES[layer_type].params:
        assert isinstance(param.spec.default, types[param.spec.kind])


def test_a_param_id_is_the_key_it_names() -> None:
    assert {Convolution.KERNEL_H: 3} == {11: 3}
    assert f"{int(Convolution.KERNEL_H)}" == "11"


# ---- reading -----------------------------------------------------------------------------------


def test_values_and_defaults_are_read() -> None:
    assert read_float({Clip.MIN: 0.5}, Clip.MIN) == 0.5
    assert read_float({Clip.MIN: 0.5}, Clip.MAX) == 3.4028234663852886e38
    assert read_ints({Crop.STARTS: [1, 2]}, Crop.STARTS) == [1, 2]
    assert read_ints({Crop.STARTS: [1, 2]}, Crop.ENDS) == []
    assert read_floats({Eltwise.COEFFS: [1.5]}, Eltwise.COEFFS) == [1.5]
    assert read_int({Interp.RESIZE_TYPE: 2}, Interp.RESIZE_TYPE) == InterpType.BILINEAR
    assert read_int({Interp.RESIZE_TYPE: 2}, Interp.ALIGN_CORNER) == 0


def test_a_default_follows_the_parameter_that_ncnn_takes_it_from() -> None:
    params: Params = {Convolution.PAD_LEFT: 4, Convolution.PAD_TOP: 2, Convolution.STRIDE_W: 3}
    assert read_int(params, Convolution.PAD_RIGHT) == 4
    assert read_int(params, Convolution.PAD_BOTTOM) == 2
    assert read_int(params, Convolution.STRIDE_H) == 3
    assert read_int({}, Convolution.PAD_BOTTOM) == 0


def test_values_of_another_kind_are_refused() -> None:
    with pytest.raises(FormatError, match=r"key 2 \(B\) is a float, not 1"):
        read_float({BinaryOp.B: 1}, BinaryOp.B)
    with pytest.raises(FormatError, match=r"key 0 \(OP_TYPE\) is an integer, not 2.0"):
        read_int({BinaryOp.OP_TYPE: 2.0}, BinaryOp.OP_TYPE)
    with pytest.raises(FormatError, match=r"key 9 \(STARTS\) is an array of integers"):
        read_ints({Crop.STARTS: [1.0]}, Crop.STARTS)
    with pytest.raises(FormatError, match=r"key 1 \(COEFFS\) is an array of floats"):
        read_floats({Eltwise.COEFFS: 1.0}, Eltwise.COEFFS)


# ---- weights -----------------------------------------------------------------------------------

WEIGHTS: dict[str, tuple[str, Params, list[tuple[str, bool, tuple[int, ...]]]]] = {
    "convolution": ("Convolution", CONVOLUTION, [("weight", True, (8, 6, 3, 3))]),
    "convolution with bias, oblong": (
        "Convolution",
        {**CONVOLUTION, Convolution.KERNEL_H: 1, Convolution.BIAS_TERM: 1},
        [("weight", True, (8, 18, 1, 3)), ("bias", False, (8,))],
    ),
    "dynamic convolution": ("Convolution", {Convolution.DYNAMIC_WEIGHT: 1}, []),
    "grouped convolution": (
        "ConvolutionDepthWise",
        {**CONVOLUTION, ConvolutionDepthWise.GROUP: 2},
        [("weight", True, (8, 6, 3, 3))],
    ),
    "deconvolution": (
        "Deconvolution",
        {
            Deconvolution.NUM_OUTPUT: 5,
            Deconvolution.KERNEL_W: 4,
            Deconvolution.BIAS_TERM: 1,
            Deconvolution.WEIGHT_COUNT: 5 * 7 * 16,
        },
        [("weight", True, (5, 7, 4, 4)), ("bias", False, (5,))],
    ),
    "dynamic deconvolution": ("Deconvolution", {Deconvolution.DYNAMIC_WEIGHT: 1}, []),
    "inner product": (
        "InnerProduct",
        {InnerProduct.NUM_OUTPUT: 4, InnerProduct.WEIGHT_COUNT: 12, InnerProduct.BIAS_TERM: 1},
        [("weight", True, (4, 3)), ("bias", False, (4,))],
    ),
    "prelu": ("PReLU", {PReLU.NUM_SLOPE: 6}, [("slope", False, (6,))]),
    "constant of one axis": ("MemoryData", {MemoryData.W: 5}, [("data", False, (5,))]),
    "constant of two axes": (
        "MemoryData", {MemoryData.W: 5, MemoryData.H: 4}, [("data", False, (4, 5))],
    ),
    "constant of three axes": (
        "MemoryData",
        {MemoryData.W: 5, MemoryData.H: 4, MemoryData.C: 3},
        [("data", False, (3, 4, 5))],
    ),
    "constant of four axes": (
        "MemoryData",
        {MemoryData.W: 5, MemoryData.H: 4, MemoryData.D: 2, MemoryData.C: 3},
        [("data", False, (3, 2, 4, 5))],
    ),
    "tagged constant": (
        "MemoryData", {MemoryData.W: 5, MemoryData.LOAD_TYPE: 0}, [("data", True, (5,))],
    ),
    "padding by channel": (
        "Padding", {Padding.PER_CHANNEL_COUNT: 3}, [("per_channel", False, (3,))],
    ),
    "scale": (
        "Scale",
        {Scale.SCALE_COUNT: 3, Scale.BIAS_TERM: 1},
        [("scale", False, (3,)), ("bias", False, (3,))],
    ),
    "scale from an input": ("Scale", {Scale.SCALE_COUNT: -233}, []),
    "none": ("ReLU", {}, []),
}  # fmt: skip


@pytest.mark.parametrize(("layer_type", "params", "arrays"), WEIGHTS.values(), ids=WEIGHTS.keys())
def test_weight_arrays(
    layer_type: str, params: Params, arrays: list[tuple[str, bool, tuple[int, ...]]]
) -> None:
    listed = LAYER_TYPES[layer_type].list_weights(params)
    assert [(array.name, array.tagged, array.shape) for array in listed] == arrays


def test_every_layer_type_with_weights_is_in_the_list_above() -> None:
    listed = {layer_type for layer_type, _, arrays in WEIGHTS.values() if arrays}
    with_weights = {
        name
        for name, known in LAYER_TYPES.items()
        if known.list_weights is not LAYER_TYPES["ReLU"].list_weights
    }
    assert listed == with_weights


# ---- rules -------------------------------------------------------------------------------------

FAULTY: dict[str, tuple[str, Params, int, int, str]] = {
    "too few inputs": ("rife.Warp", {}, 1, 1, "1 inputs; rife.Warp takes 2"),
    "too many outputs": ("ReLU", {}, 1, 2, "2 outputs; ReLU takes 1"),
    "int for a float": (
        "BinaryOp", {0: 2, 1: 1, 2: 1}, 1, 1, "key 2 (b) must be a float; ncnn misreads 1",
    ),
    "float for an int": (
        "Convolution", {**CONVOLUTION, 0: 8.0}, 1, 1, "key 0 (num_output) must be an integer",
    ),
    "value for an array": ("Crop", {9: 1}, 1, 1, "key 9 (starts) must be an array of integers"),
    "ints for floats": (
        "Eltwise", {**SUM, 1: [1, 1]}, 2, 1, "key 1 (coeffs) must be an array of floats",
    ),
    "unknown operation": ("BinaryOp", {0: 99}, 2, 1, "key 0 (op_type) is 99; accepted are 0 add"),
    "interp without a type": (
        "Interp", {}, 1, 1, "key 0 (resize_type) is not given; accepted are 1 nearest",
    ),
    "stride 0": (
        "Convolution", {**CONVOLUTION, 3: 0}, 1, 1, "key 3 (stride_w) is 0; at least 1 is accepted",
    ),
    "int8": ("Convolution", {**CONVOLUTION, 8: 2}, 1, 1, "int8 quantisation (key 8 is 2)"),
    "weight count": (
        "Convolution", {**CONVOLUTION, 6: 100}, 1, 1, "100 is no positive multiple of 72",
    ),
    "no weights": ("Convolution", {0: 8, 1: 3}, 1, 1, "0 is no positive multiple of 72"),
    "no kernel": ("Deconvolution", {0: 8, 6: 72}, 1, 1, "8 outputs with a kernel of (0, 0)"),
    "groups": (
        "ConvolutionDepthWise", {**CONVOLUTION, 7: 3}, 1, 1, "8 outputs do not divide into 3",
    ),
    "activation parameters": (
        "Convolution", {**CONVOLUTION, 9: Activation.LEAKY_RELU}, 1, 1,
        "activation LEAKY_RELU with 0 parameters; it reads 1",
    ),
    "slices": ("Slice", {Slice.SLICES: [1, 2]}, 1, 3, "2 slice sizes for 3 outputs"),
    "no slices": ("Slice", {}, 1, 2, "0 slice sizes for 2 outputs"),
    "crop ends": ("Crop", {9: [0, 1], 10: [2]}, 1, 1, "2 starts, 1 ends and 0 axes"),
    "crop axes": ("Crop", {9: [0], 10: [2], 11: [0, 1]}, 1, 1, "1 starts, 1 ends and 2 axes"),
    "scalar and two inputs": (
        "BinaryOp", {0: BinaryOpType.MUL, 1: 1, 2: 2.0}, 2, 1, "2 inputs; with this with_scalar",
    ),
    "one input, no scalar": ("BinaryOp", {}, 1, 1, "1 inputs; with this with_scalar it reads 2"),
    "interp size": ("Interp", {0: 2, 5: 1}, 1, 1, "1 inputs; with this dynamic_target_size"),
    "coefficients": ("Eltwise", {**SUM, 1: [1.0]}, 2, 1, "1 coefficients for 2 inputs"),
    "no slopes": ("PReLU", {}, 1, 1, "0 slopes: at least 1 is needed"),
    "empty constant": ("MemoryData", {}, 0, 1, "a constant of shape (0,)"),
    "negative constant": ("MemoryData", {0: 4, 1: -1}, 0, 1, "a constant of shape (-1, 4)"),
    "constant without width": ("MemoryData", {2: 4}, 0, 1, "a constant of shape (4, 0, 0)"),
    "negative padding count": ("Padding", {6: -1}, 1, 1, "-1 values for the channels"),
    "no scales": ("Scale", {}, 1, 1, "0 scales: at least 1 is needed"),
}  # fmt: skip

SOUND: dict[str, tuple[str, Params, int, int]] = {
    "warp with an unread parameter": ("rife.Warp", {0: 6}, 2, 1),
    "convolution": ("Convolution", CONVOLUTION, 1, 1),
    "leaky": ("Convolution", {**CONVOLUTION, 9: 2, 10: [0.2]}, 1, 1),
    "scalar": ("BinaryOp", {0: 2, 1: 1}, 1, 1),
    "two inputs": ("BinaryOp", {0: 2}, 2, 1),
    "slices": ("Slice", {0: [4, 1, -233]}, 1, 3),
    "slice indices": ("Slice", {2: [4, 5]}, 1, 3),
    "crop": ("Crop", {9: [0], 10: [2], 11: [0]}, 1, 1),
    "interp to a blob": ("Interp", {0: 2, 5: 1}, 2, 1),
    "sum": ("Eltwise", {**SUM, 1: [1.0, 2.0]}, 2, 1),
    "unknown type": ("Own.Layer", {0: 1.5, 1: [1]}, 3, 2),
}


def _judge(layer_type: str, params: Params, inputs: int, outputs: int) -> list[str]:
    blobs = [f"in{index}" for index in range(inputs)]
    layer = Layer(layer_type, "it", blobs, [f"out{index}" for index in range(outputs)], params)
    graph = NcnnGraph([*(Layer("Input", blob, [], [blob]) for blob in blobs), layer])
    return [str(fault) for fault in check(graph)]


@pytest.mark.parametrize(
    ("layer_type", "params", "inputs", "outputs", "fault"), FAULTY.values(), ids=FAULTY.keys()
)
def test_faults_are_named(
    layer_type: str, params: Params, inputs: int, outputs: int, fault: str
) -> None:
    faults = _judge(layer_type, params, inputs, outputs)
    assert len(faults) == 1
    assert faults[0].startswith(f"{layer_type} it: ")
    assert fault in faults[0]


@pytest.mark.parametrize(
    ("layer_type", "params", "inputs", "outputs"), SOUND.values(), ids=SOUND.keys()
)
def test_sound_layers_have_no_fault(
    layer_type: str, params: Params, inputs: int, outputs: int
) -> None:
    assert _judge(layer_type, params, inputs, outputs) == []
