"""The ncnn layers a RIFE graph may hold: parameter ids, defaults, arity and weight arrays.

Every number that ncnn puts on the wire is named here and nowhere else. A parameter id is a member
of the `ParamId` of its layer, so it can be used as the dictionary key it is:

    {Convolution.NUM_OUTPUT: 64, Convolution.KERNEL_W: 3}

Source: `src/layer/<layer>.cpp` of ncnn, `load_param` for ids and defaults and `load_model` for the
order of the weight arrays; `source` in `LAYER_TYPES` names the file. Ids and defaults are the same
in the ncnn of July 2022 (b4ba207), of May 2025 and of 2026, unless a comment says otherwise.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.errors import FormatError

if TYPE_CHECKING:
    from typing_extensions import Self

ParamValue = int | float | list[int] | list[float]
Params = Mapping[int, ParamValue]

FLOAT32_MAX = 3.4028234663852886e38

# ncnn uses -233 for several "not given" or "decide yourself" values (padding.cpp and others).
SLICE_EVENLY = -233
PAD_SAME_UPPER = -233
PAD_SAME_LOWER = -234
RESHAPE_ABSENT = -233
# crop.cpp and pooling.cpp.
ALL_OF_IT = -233
SCALE_FROM_INPUT = -233
RESHAPE_KEEP = 0
RESHAPE_INFER = -1


class Kind(enum.Enum):
    """How ncnn stores a parameter; reading one kind as the other gives a meaningless number."""

    INT = "an integer"
    FLOAT = "a float"
    INTS = "an array of integers"
    FLOATS = "an array of floats"


@dataclass(frozen=True, eq=False)
class ParamSpec:
    """One `pd.get(key, default)` of ncnn.

    `follows` is the parameter whose value is the default, `least` the smallest value with a
    meaning and `choices` the only ones.
    """

    key: int
    kind: Kind
    default: int | float | tuple[()]
    follows: ParamSpec | None = None
    least: int | None = None
    choices: type[enum.IntEnum] | None = None


def _int(
    key: int,
    default: int = 0,
    *,
    follows: ParamSpec | None = None,
    least: int | None = None,
    choices: type[enum.IntEnum] | None = None,
) -> ParamSpec:
    return ParamSpec(key, Kind.INT, default, follows, least, choices)


def _float(key: int, default: float = 0.0) -> ParamSpec:
    return ParamSpec(key, Kind.FLOAT, default)


def _ints(key: int) -> ParamSpec:
    return ParamSpec(key, Kind.INTS, ())


def _floats(key: int) -> ParamSpec:
    return ParamSpec(key, Kind.FLOATS, ())


class ParamId(enum.IntEnum):
    """The id of one parameter, with what ncnn assumes when a `.param` leaves it out."""

    spec: ParamSpec

    def __new__(cls, spec: ParamSpec) -> Self:
        """Make a member whose value is the wire number."""
        member = int.__new__(cls, spec.key)
        member._value_ = spec.key
        member.spec = spec
        return member


def read_int(params: Params, param: ParamId) -> int:
    """The value of an integer parameter, or its default.

    Raises:
        FormatError: the value there is not an integer.
    """
    value = _value_or_default(params, param.spec)
    if not isinstance(value, int):
        raise FormatError(f"key {param.spec.key} ({param.name}) is an integer, not {value!r}")
    return value


def read_float(params: Params, param: ParamId) -> float:
    """The value of a float parameter, or its default.

    Raises:
        FormatError: the value there is not a float (ncnn reads the integer 1 as the float 1e-45).
    """
    value = _value_or_default(params, param.spec)
    if not isinstance(value, float):
        raise FormatError(f"key {param.spec.key} ({param.name}) is a float, not {value!r}")
    return value


def read_ints(params: Params, param: ParamId) -> list[int]:
    """The value of an integer array, empty when absent.

    Raises:
        FormatError: the value there is not an array of integers.
    """
    value = params.get(param.spec.key, [])
    if not isinstance(value, list) or not all(isinstance(item, int) for item in value):
        raise FormatError(f"key {param.spec.key} ({param.name}) is an array of integers")
    return [int(item) for item in value]


def read_floats(params: Params, param: ParamId) -> list[float]:
    """The value of a float array, empty when absent.

    Raises:
        FormatError: the value there is not an array of floats.
    """
    value = params.get(param.spec.key, [])
    if not isinstance(value, list) or not all(isinstance(item, float) for item in value):
        raise FormatError(f"key {param.spec.key} ({param.name}) is an array of floats")
    return [float(item) for item in value]


def _value_or_default(params: Params, spec: ParamSpec) -> ParamValue | tuple[()]:
    if spec.key in params:
        return params[spec.key]
    if spec.follows is not None:
        return _value_or_default(params, spec.follows)
    return spec.default


# ---- enumerations ------------------------------------------------------------------------------


class Activation(enum.IntEnum):
    """`activation_type` of the convolutions (fused_activation.h).

    The CPU path of MISH and HARD_SWISH creates a layer of that name, which no bundled build of
    rife-ncnn-vulkan has.
    """

    NONE = 0
    RELU = 1
    LEAKY_RELU = 2
    CLIP = 3
    SIGMOID = 4
    MISH = 5
    HARD_SWISH = 6


class BinaryOpType(enum.IntEnum):
    """`op_type` of BinaryOp (binaryop.h). From RPOW on: later than July 2022."""

    ADD = 0
    SUB = 1
    MUL = 2
    DIV = 3
    MAX = 4
    MIN = 5
    POW = 6
    RSUB = 7
    RDIV = 8
    RPOW = 9
    ATAN2 = 10
    RATAN2 = 11
    FMOD = 12
    RFMOD = 13
    LOGADDEXP = 14
    FLOOR_DIVIDE = 15
    RFLOOR_DIVIDE = 16
    REMAINDER = 17
    RREMAINDER = 18


class UnaryOpType(enum.IntEnum):
    """`op_type` of UnaryOp (unaryop.h). From LOG10 on: later than July 2022."""

    ABS = 0
    NEG = 1
    FLOOR = 2
    CEIL = 3
    SQUARE = 4
    SQRT = 5
    RSQRT = 6
    EXP = 7
    LOG = 8
    SIN = 9
    COS = 10
    TAN = 11
    ASIN = 12
    ACOS = 13
    ATAN = 14
    RECIPROCAL = 15
    TANH = 16
    LOG10 = 17
    ROUND = 18
    TRUNC = 19
    SIGN = 20
    EXPM1 = 21
    SINH = 22
    ASINH = 23
    COSH = 24
    ACOSH = 25
    ATANH = 26
    LOG1P = 27


class EltwiseType(enum.IntEnum):
    """`op_type` of Eltwise (eltwise.h)."""

    PROD = 0
    SUM = 1
    MAX = 2


class InterpType(enum.IntEnum):
    """`resize_type` of Interp (interp.cpp); its default, 0, leaves the output unset."""

    NEAREST = 1
    BILINEAR = 2
    BICUBIC = 3


class PaddingType(enum.IntEnum):
    """`type` of Padding (padding.cpp)."""

    CONSTANT = 0
    REPLICATE = 1
    REFLECT = 2


class PoolingType(enum.IntEnum):
    """`pooling_type` of Pooling (pooling.h)."""

    MAX = 0
    AVERAGE = 1


class PoolingPadMode(enum.IntEnum):
    """Of a last window that is not full: fill it up, drop it, or pad as TensorFlow does."""

    FULL = 0
    VALID = 1
    SAME_UPPER = 2
    SAME_LOWER = 3


class PixelShuffleMode(enum.IntEnum):
    """`mode` of PixelShuffle (pixelshuffle.cpp): which of the two axes of a channel is outer."""

    TORCH = 0
    OPENCV = 1


class GridSampleType(enum.IntEnum):
    """`sample_type` of GridSample (gridsample.h)."""

    BILINEAR = 1
    NEAREST = 2
    BICUBIC = 3


class GridSamplePadding(enum.IntEnum):
    """`padding_mode` of GridSample (gridsample.h)."""

    ZEROS = 1
    BORDER = 2
    REFLECTION = 3


class CastType(enum.IntEnum):
    """Element types of Cast and Packing (cast.h)."""

    AUTO = 0
    FLOAT32 = 1
    FLOAT16 = 2
    INT8 = 3
    BFLOAT16 = 4


# ---- parameter ids -----------------------------------------------------------------------------


class Input(ParamId):
    """Size hints; 0 leaves the size open."""

    W = _int(0)
    H = _int(1)
    D = _int(11)
    C = _int(2)


class MemoryData(ParamId):
    """Axes that are 0 do not exist. LOAD_TYPE: later than July 2022."""

    W = _int(0)
    H = _int(1)
    D = _int(11)
    C = _int(2)
    LOAD_TYPE = _int(21, 1)


class Concat(ParamId):
    """Axis 0 is the channel."""

    AXIS = _int(0)


class Slice(ParamId):
    """INDICES: later than July 2022."""

    SLICES = _ints(0)
    AXIS = _int(1)
    INDICES = _ints(2)


class Crop(ParamId):
    """Either offsets and sizes, or STARTS, ENDS and AXES (axis 0 is the channel)."""

    W_OFFSET = _int(0)
    H_OFFSET = _int(1)
    D_OFFSET = _int(13)
    C_OFFSET = _int(2)
    OUT_W = _int(3)
    OUT_H = _int(4)
    OUT_D = _int(14)
    OUT_C = _int(5)
    W_OFFSET2 = _int(6)
    H_OFFSET2 = _int(7)
    D_OFFSET2 = _int(15)
    C_OFFSET2 = _int(8)
    STARTS = _ints(9)
    ENDS = _ints(10)
    AXES = _ints(11)


class Convolution(ParamId):
    """WEIGHT_COUNT, not a channel count, tells ncnn how many input channels there are."""

    NUM_OUTPUT = _int(0)
    KERNEL_W = _int(1)
    KERNEL_H = _int(11, follows=KERNEL_W)
    DILATION_W = _int(2, 1, least=1)
    DILATION_H = _int(12, follows=DILATION_W, least=1)
    STRIDE_W = _int(3, 1, least=1)
    STRIDE_H = _int(13, follows=STRIDE_W, least=1)
    PAD_LEFT = _int(4)
    PAD_RIGHT = _int(15, follows=PAD_LEFT)
    PAD_TOP = _int(14, follows=PAD_LEFT)
    PAD_BOTTOM = _int(16, follows=PAD_TOP)
    PAD_VALUE = _float(18)
    BIAS_TERM = _int(5)
    WEIGHT_COUNT = _int(6)
    INT8_SCALE_TERM = _int(8)
    ACTIVATION_TYPE = _int(9, choices=Activation)
    ACTIVATION_PARAMS = _floats(10)
    DYNAMIC_WEIGHT = _int(19)


class ConvolutionDepthWise(ParamId):
    """A grouped convolution, whatever the number of groups."""

    NUM_OUTPUT = _int(0)
    KERNEL_W = _int(1)
    KERNEL_H = _int(11, follows=KERNEL_W)
    DILATION_W = _int(2, 1, least=1)
    DILATION_H = _int(12, follows=DILATION_W, least=1)
    STRIDE_W = _int(3, 1, least=1)
    STRIDE_H = _int(13, follows=STRIDE_W, least=1)
    PAD_LEFT = _int(4)
    PAD_RIGHT = _int(15, follows=PAD_LEFT)
    PAD_TOP = _int(14, follows=PAD_LEFT)
    PAD_BOTTOM = _int(16, follows=PAD_TOP)
    PAD_VALUE = _float(18)
    BIAS_TERM = _int(5)
    WEIGHT_COUNT = _int(6)
    GROUP = _int(7, 1)
    INT8_SCALE_TERM = _int(8)
    ACTIVATION_TYPE = _int(9, choices=Activation)
    ACTIVATION_PARAMS = _floats(10)
    DYNAMIC_WEIGHT = _int(19)


class Deconvolution(ParamId):
    """Keys 18 and on differ from those of Convolution."""

    NUM_OUTPUT = _int(0)
    KERNEL_W = _int(1)
    KERNEL_H = _int(11, follows=KERNEL_W)
    DILATION_W = _int(2, 1, least=1)
    DILATION_H = _int(12, follows=DILATION_W, least=1)
    STRIDE_W = _int(3, 1, least=1)
    STRIDE_H = _int(13, follows=STRIDE_W, least=1)
    PAD_LEFT = _int(4)
    PAD_RIGHT = _int(15, follows=PAD_LEFT)
    PAD_TOP = _int(14, follows=PAD_LEFT)
    PAD_BOTTOM = _int(16, follows=PAD_TOP)
    OUTPUT_PAD_RIGHT = _int(18)
    OUTPUT_PAD_BOTTOM = _int(19, follows=OUTPUT_PAD_RIGHT)
    OUTPUT_W = _int(20)
    OUTPUT_H = _int(21, follows=OUTPUT_W)
    BIAS_TERM = _int(5)
    WEIGHT_COUNT = _int(6)
    ACTIVATION_TYPE = _int(9, choices=Activation)
    ACTIVATION_PARAMS = _floats(10)
    DYNAMIC_WEIGHT = _int(28)


class InnerProduct(ParamId):
    """Flattens its input; the output is one-dimensional."""

    NUM_OUTPUT = _int(0)
    BIAS_TERM = _int(1)
    WEIGHT_COUNT = _int(2)
    INT8_SCALE_TERM = _int(8)
    ACTIVATION_TYPE = _int(9, choices=Activation)
    ACTIVATION_PARAMS = _floats(10)


class Pooling(ParamId):
    """Global pooling gives one value for each channel, one-dimensional."""

    POOLING_TYPE = _int(0, choices=PoolingType)
    KERNEL_W = _int(1)
    KERNEL_H = _int(11, follows=KERNEL_W)
    STRIDE_W = _int(2, 1, least=1)
    STRIDE_H = _int(12, follows=STRIDE_W, least=1)
    PAD_LEFT = _int(3)
    PAD_RIGHT = _int(14, follows=PAD_LEFT)
    PAD_TOP = _int(13, follows=PAD_LEFT)
    PAD_BOTTOM = _int(15, follows=PAD_TOP)
    GLOBAL_POOLING = _int(4)
    PAD_MODE = _int(5)
    COUNT_INCLUDE_PAD = _int(6)
    ADAPTIVE_POOLING = _int(7)
    OUT_W = _int(8)
    OUT_H = _int(18, follows=OUT_W)


class Padding(ParamId):
    """FRONT and BEHIND pad the channels."""

    TOP = _int(0)
    BOTTOM = _int(1)
    LEFT = _int(2)
    RIGHT = _int(3)
    TYPE = _int(4, choices=PaddingType)
    VALUE = _float(5)
    PER_CHANNEL_COUNT = _int(6)
    FRONT = _int(7)
    BEHIND = _int(8)


class Interp(ParamId):
    """Height comes before width. With DYNAMIC_TARGET_SIZE the size is that of a second input."""

    RESIZE_TYPE = _int(0, choices=InterpType)
    HEIGHT_SCALE = _float(1, 1.0)
    WIDTH_SCALE = _float(2, 1.0)
    OUTPUT_HEIGHT = _int(3)
    OUTPUT_WIDTH = _int(4)
    DYNAMIC_TARGET_SIZE = _int(5)
    ALIGN_CORNER = _int(6)


class PixelShuffle(ParamId):
    """`PixelShuffleMode` lists the modes."""

    UPSCALE_FACTOR = _int(0, 1, least=1)
    MODE = _int(1, choices=PixelShuffleMode)


class BinaryOp(ParamId):
    """Two inputs, or one and the scalar B."""

    OP_TYPE = _int(0, choices=BinaryOpType)
    WITH_SCALAR = _int(1)
    B = _float(2)


class UnaryOp(ParamId):
    """`UnaryOpType` lists the operations."""

    OP_TYPE = _int(0, choices=UnaryOpType)


class Eltwise(ParamId):
    """COEFFS weigh the inputs of a sum; empty means all 1."""

    OP_TYPE = _int(0, choices=EltwiseType)
    COEFFS = _floats(1)


class ReLU(ParamId):
    """A SLOPE other than 0 makes it leaky."""

    SLOPE = _float(0)


class PReLU(ParamId):
    """NUM_SLOPE is 1 or the channel count."""

    NUM_SLOPE = _int(0)


class Clip(ParamId):
    """Both ends open by default."""

    MIN = _float(0, -FLOAT32_MAX)
    MAX = _float(1, FLOAT32_MAX)


class Packing(ParamId):
    """`CastType` lists the element types."""

    OUT_ELEMPACK = _int(0, 1)
    USE_PADDING = _int(1)
    CAST_FROM = _int(2, choices=CastType)
    CAST_TO = _int(3, choices=CastType)


class Cast(ParamId):
    """`CastType` lists the element types."""

    TYPE_FROM = _int(0, choices=CastType)
    TYPE_TO = _int(1, choices=CastType)


class Tile(ParamId):
    """Either one AXIS, or REPEATS for all."""

    AXIS = _int(0)
    TILES = _int(1, 1)
    REPEATS = _ints(2)


class ExpandDims(ParamId):
    """AXES are those of the output. The ncnn of July 2022 also has a flag for each axis."""

    W = _int(0)
    H = _int(1)
    C = _int(2)
    AXES = _ints(3)


class Squeeze(ParamId):
    """Either one flag for each axis, or AXES."""

    W = _int(0)
    H = _int(1)
    D = _int(11)
    C = _int(2)
    AXES = _ints(3)


class Reshape(ParamId):
    """An axis of `RESHAPE_ABSENT` does not exist in the output."""

    W = _int(0, RESHAPE_ABSENT)
    H = _int(1, RESHAPE_ABSENT)
    D = _int(11, RESHAPE_ABSENT)
    C = _int(2, RESHAPE_ABSENT)


class Permute(ParamId):
    """ORDER_TYPE numbers the permutations (permute.cpp)."""

    ORDER_TYPE = _int(0)


class Reduction(ParamId):
    """FIXED_AXES is 1 in every file whose AXES count the batch out."""

    OPERATION = _int(0)
    REDUCE_ALL = _int(1, 1)
    COEFF = _float(2, 1.0)
    AXES = _ints(3)
    KEEP_DIMS = _int(4)
    FIXED_AXES = _int(5)


class Scale(ParamId):
    """SCALE_COUNT may be `SCALE_FROM_INPUT`: the scale is then a second input."""

    SCALE_COUNT = _int(0)
    BIAS_TERM = _int(1)


class GridSample(ParamId):
    """Inputs: image, then a grid in -1..1. Not in the ncnn of July 2022."""

    SAMPLE_TYPE = _int(0, GridSampleType.BILINEAR, choices=GridSampleType)
    PADDING_MODE = _int(1, GridSamplePadding.ZEROS, choices=GridSamplePadding)
    ALIGN_CORNER = _int(2)
    PERMUTE_FUSION = _int(3)


class NoParams(ParamId):
    """The layers that read no parameter of their own."""


# ---- weight arrays -----------------------------------------------------------------------------


@dataclass(frozen=True)
class WeightArray:
    """One array of a layer in a `.bin`.

    `tagged` arrays start with a 32-bit tag that tells their element type; the others are bare
    float32. `shape` is in C order, the last axis innermost.
    """

    name: str
    tagged: bool
    shape: tuple[int, ...]


def _no_weights(params: Params) -> tuple[WeightArray, ...]:
    return ()


def _kernel_and_bias(
    count: int, output: int, window: tuple[int, ...], has_bias: bool
) -> tuple[WeightArray, ...]:
    if output <= 0 or min(window, default=1) <= 0:
        raise FormatError(f"{output} outputs with a kernel of {window}: each must be at least 1")
    per_input = output
    for size in window:
        per_input *= size
    if count <= 0 or count % per_input:
        raise FormatError(
            f"a weight count of {count} is no positive multiple of {per_input}, "
            f"which is outputs {output} x kernel {window}"
        )
    weight = WeightArray("weight", True, (output, count // per_input, *window))
    return (weight, WeightArray("bias", False, (output,))) if has_bias else (weight,)


def _refuse_int8(scale_term: int) -> None:
    if scale_term:
        raise FormatError(
            f"int8 quantisation (key 8 is {scale_term}): only float32 and float16 weights are read"
        )


def _convolution_weights(params: Params) -> tuple[WeightArray, ...]:
    _refuse_int8(read_int(params, Convolution.INT8_SCALE_TERM))
    if read_int(params, Convolution.DYNAMIC_WEIGHT):
        return ()
    return _kernel_and_bias(
        read_int(params, Convolution.WEIGHT_COUNT),
        read_int(params, Convolution.NUM_OUTPUT),
        (read_int(params, Convolution.KERNEL_H), read_int(params, Convolution.KERNEL_W)),
        read_int(params, Convolution.BIAS_TERM) != 0,
    )


def _grouped_convolution_weights(params: Params) -> tuple[WeightArray, ...]:
    group = read_int(params, ConvolutionDepthWise.GROUP)
    output = read_int(params, ConvolutionDepthWise.NUM_OUTPUT)
    if group <= 0 or output % group:
        raise FormatError(f"{output} outputs do not divide into {group} groups")
    # The keys up to 19 are those of Convolution, and so is the order: out, in / group, h, w.
    return _convolution_weights(params)


def _deconvolution_weights(params: Params) -> tuple[WeightArray, ...]:
    if read_int(params, Deconvolution.DYNAMIC_WEIGHT):
        return ()
    return _kernel_and_bias(
        read_int(params, Deconvolution.WEIGHT_COUNT),
        read_int(params, Deconvolution.NUM_OUTPUT),
        (read_int(params, Deconvolution.KERNEL_H), read_int(params, Deconvolution.KERNEL_W)),
        read_int(params, Deconvolution.BIAS_TERM) != 0,
    )


def _inner_product_weights(params: Params) -> tuple[WeightArray, ...]:
    _refuse_int8(read_int(params, InnerProduct.INT8_SCALE_TERM))
    return _kernel_and_bias(
        read_int(params, InnerProduct.WEIGHT_COUNT),
        read_int(params, InnerProduct.NUM_OUTPUT),
        (),
        read_int(params, InnerProduct.BIAS_TERM) != 0,
    )


def _prelu_weights(params: Params) -> tuple[WeightArray, ...]:
    count = read_int(params, PReLU.NUM_SLOPE)
    if count <= 0:
        raise FormatError(f"{count} slopes: at least 1 is needed")
    return (WeightArray("slope", False, (count,)),)


def _memory_data_weights(params: Params) -> tuple[WeightArray, ...]:
    c, d, h, w = (
        read_int(params, axis) for axis in (MemoryData.C, MemoryData.D, MemoryData.H, MemoryData.W)
    )
    # memorydata.cpp looks at d, c, h, w in this order, and the first that is not 0 decides.
    shapes = (((c, d, h, w), d), ((c, h, w), c), ((h, w), h), ((w,), w))
    shape = next((shape for shape, decides in shapes if decides), (0,))
    if min(shape) <= 0:
        raise FormatError(f"a constant of shape {shape}: every axis must be at least 1")
    return (WeightArray("data", read_int(params, MemoryData.LOAD_TYPE) == 0, shape),)


def _padding_weights(params: Params) -> tuple[WeightArray, ...]:
    count = read_int(params, Padding.PER_CHANNEL_COUNT)
    if count < 0:
        raise FormatError(f"{count} values for the channels: 0 or more are accepted")
    return (WeightArray("per_channel", False, (count,)),) if count else ()


def _scale_weights(params: Params) -> tuple[WeightArray, ...]:
    count = read_int(params, Scale.SCALE_COUNT)
    if count == SCALE_FROM_INPUT:
        return ()
    if count <= 0:
        raise FormatError(f"{count} scales: at least 1 is needed")
    scale = WeightArray("scale", False, (count,))
    has_bias = read_int(params, Scale.BIAS_TERM) != 0
    return (scale, WeightArray("bias", False, (count,))) if has_bias else (scale,)


# ---- rules that no single parameter tells --------------------------------------------------------


def _no_rules(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    return iter(())


def _find_slice_faults(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    sizes = len(read_ints(params, Slice.SLICES))
    indices = len(read_ints(params, Slice.INDICES))
    if sizes != outputs and (sizes or indices != outputs - 1):
        yield f"{sizes} slice sizes for {outputs} outputs; ncnn reads one for each"


def _find_crop_faults(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    starts, ends, axes = (
        len(read_ints(params, param)) for param in (Crop.STARTS, Crop.ENDS, Crop.AXES)
    )
    if starts != ends or axes not in (0, starts):
        yield f"{starts} starts, {ends} ends and {axes} axes; their numbers must agree"


def _find_activation_faults(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    # All four layers that fuse an activation keep it under the same two keys.
    activation = Activation(read_int(params, Convolution.ACTIVATION_TYPE))
    found = len(read_floats(params, Convolution.ACTIVATION_PARAMS))
    needed = {Activation.LEAKY_RELU: 1, Activation.CLIP: 2, Activation.HARD_SWISH: 2}
    if found < needed.get(activation, 0):
        yield (
            f"activation {activation.name} with {found} parameters; it reads {needed[activation]}"
        )


def _find_interp_faults(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    expected = 2 if read_int(params, Interp.DYNAMIC_TARGET_SIZE) else 1
    if inputs != expected:
        yield f"{inputs} inputs; with this dynamic_target_size it reads {expected}"


def _find_binary_op_faults(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    expected = 1 if read_int(params, BinaryOp.WITH_SCALAR) else 2
    if inputs != expected:
        yield f"{inputs} inputs; with this with_scalar it reads {expected}"


def _find_eltwise_faults(params: Params, inputs: int, outputs: int) -> Iterator[str]:
    coefficients = len(read_floats(params, Eltwise.COEFFS))
    if coefficients not in (0, inputs):
        yield f"{coefficients} coefficients for {inputs} inputs"


# ---- the table ---------------------------------------------------------------------------------

MANY = 1024  # more inputs or outputs than any graph has


@dataclass(frozen=True)
class LayerType:
    """What ncnn's layer of this name reads; `inputs` and `outputs` are (least, most).

    `list_weights` raises FormatError when the sizes do not fit each other. `find_rule_faults` gets
    parameters of the right kind, and the numbers of inputs and of outputs.
    """

    source: str
    params: type[ParamId]
    inputs: tuple[int, int] = (1, 1)
    outputs: tuple[int, int] = (1, 1)
    list_weights: Callable[[Params], tuple[WeightArray, ...]] = _no_weights
    find_rule_faults: Callable[[Params, int, int], Iterator[str]] = _no_rules


LAYER_TYPES: Mapping[str, LayerType] = {
    "Input": LayerType("input.cpp", Input, inputs=(0, 0)),
    "MemoryData": LayerType(
        "memorydata.cpp", MemoryData, inputs=(0, 0), list_weights=_memory_data_weights
    ),
    "Split": LayerType("split.cpp", NoParams, outputs=(1, MANY)),
    "Concat": LayerType("concat.cpp", Concat, inputs=(1, MANY)),
    "Slice": LayerType("slice.cpp", Slice, outputs=(1, MANY), find_rule_faults=_find_slice_faults),
    "Crop": LayerType("crop.cpp", Crop, inputs=(1, 2), find_rule_faults=_find_crop_faults),
    "Convolution": LayerType(
        "convolution.cpp",
        Convolution,
        inputs=(1, 3),
        list_weights=_convolution_weights,
        find_rule_faults=_find_activation_faults,
    ),
    "ConvolutionDepthWise": LayerType(
        "convolutiondepthwise.cpp",
        ConvolutionDepthWise,
        inputs=(1, 3),
        list_weights=_grouped_convolution_weights,
        find_rule_faults=_find_activation_faults,
    ),
    "Deconvolution": LayerType(
        "deconvolution.cpp",
        Deconvolution,
        inputs=(1, 3),
        list_weights=_deconvolution_weights,
        find_rule_faults=_find_activation_faults,
    ),
    "InnerProduct": LayerType(
        "innerproduct.cpp",
        InnerProduct,
        list_weights=_inner_product_weights,
        find_rule_faults=_find_activation_faults,
    ),
    "Pooling": LayerType("pooling.cpp", Pooling),
    "Padding": LayerType("padding.cpp", Padding, inputs=(1, 2), list_weights=_padding_weights),
    "Interp": LayerType("interp.cpp", Interp, inputs=(1, 2), find_rule_faults=_find_interp_faults),
    "PixelShuffle": LayerType("pixelshuffle.cpp", PixelShuffle),
    "BinaryOp": LayerType(
        "binaryop.cpp", BinaryOp, inputs=(1, 2), find_rule_faults=_find_binary_op_faults
    ),
    "UnaryOp": LayerType("unaryop.cpp", UnaryOp),
    "Eltwise": LayerType(
        "eltwise.cpp", Eltwise, inputs=(2, MANY), find_rule_faults=_find_eltwise_faults
    ),
    "ReLU": LayerType("relu.cpp", ReLU),
    "PReLU": LayerType("prelu.cpp", PReLU, list_weights=_prelu_weights),
    "Sigmoid": LayerType("sigmoid.cpp", NoParams),
    "TanH": LayerType("tanh.cpp", NoParams),
    "Clip": LayerType("clip.cpp", Clip),
    "Flatten": LayerType("flatten.cpp", NoParams),
    "Packing": LayerType("packing.cpp", Packing),
    "Cast": LayerType("cast.cpp", Cast),
    "Tile": LayerType("tile.cpp", Tile),
    "ExpandDims": LayerType("expanddims.cpp", ExpandDims),
    "Squeeze": LayerType("squeeze.cpp", Squeeze),
    "Reshape": LayerType("reshape.cpp", Reshape, inputs=(1, 2)),
    "Permute": LayerType("permute.cpp", Permute),
    "Reduction": LayerType("reduction.cpp", Reduction),
    "Scale": LayerType("scale.cpp", Scale, inputs=(1, 2), list_weights=_scale_weights),
    "GridSample": LayerType("gridsample.cpp", GridSample, inputs=(2, 2)),
    # rife-ncnn-vulkan's own: image, then a flow in pixels of exactly two channels.
    "rife.Warp": LayerType("rife-ncnn-vulkan src/warp.cpp", NoParams, inputs=(2, 2)),
}
