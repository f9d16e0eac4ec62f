"""`rife::Warp`: the one operator that the hub has beyond ONNX's own.

    out[n, c, y, x] = bilinear sample of image[n, c] at (x + flow[n, 0, y, x], y + flow[n, 1, y, x])

A position outside the image is moved to the nearest border, an infinite flow too. Where either
component of the flow is NaN, the output is 0. `warp_reference` is the definition: the compiled
kernel, the function body, torch and ncnn are all compared with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.errors import HubError

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    from onnx.reference.op_run import OpRun

    Float32Array = npt.NDArray[np.float32]

DOMAIN = "rife"
VERSION = 1
OP_TYPE = "Warp"
FLOW_CHANNELS = 2

_DOC = (
    "Bilinear sample of `image` at (x + flow[:, 0], y + flow[:, 1]), in pixels. Positions outside "
    "are clamped to the border, infinite flows too; a NaN in the flow gives 0."
)
# The operators of the function body are those of the hub's own opset.
_BODY_OPSET = 18
_BODY = """
<opset_import: ["" : {opset}], domain: "{domain}">
{op_type} (image, flow) => (warped)
{{
    [zero_index] zero = Constant <value = int64[1] {{0}}> ()
    [channel_axis] channels = Constant <value = int64[1] {{1}}> ()
    [first_index] first = Constant <value_int = 0> ()
    [second_index] second = Constant <value_int = 1> ()
    [one_value] one = Constant <value_float = 1.0> ()
    [two_value] two = Constant <value_float = 2.0> ()
    [zero_value] black = Constant <value_float = 0.0> ()
    [lowest_value] lowest = Constant <value_float = -1.0> ()
    [column_shape] column = Constant <value = int64[2] {{-1, 1}}> ()

    [height_dimension] height_list = Shape <start = 2, end = 3> (image)
    [height_scalar] height = Squeeze (height_list)
    [height_float] height_f = Cast <to = 1> (height)
    [last_row] last_y = Sub (height_f, one)
    [last_row_or_one] span_y = Max (last_y, one)
    [step_y] step_y = Div (two, span_y)
    [row_numbers] rows = Range (black, height_f, one)
    [row_column] rows_2d = Reshape (rows, column)
    [row_doubles] rows_doubled = Mul (rows_2d, two)
    [row_from_middle] rows_centred = Sub (rows_doubled, last_y)
    [row_grid] rows_grid = Div (rows_centred, span_y)

    [width_dimension] width_list = Shape <start = 3, end = 4> (image)
    [width_scalar] width = Squeeze (width_list)
    [width_float] width_f = Cast <to = 1> (width)
    [last_column] last_x = Sub (width_f, one)
    [last_column_or_one] span_x = Max (last_x, one)
    [step_x] step_x = Div (two, span_x)
    [column_numbers] columns = Range (black, width_f, one)
    [column_doubles] columns_doubled = Mul (columns, two)
    [column_from_middle] columns_centred = Sub (columns_doubled, last_x)
    [column_grid] columns_grid = Div (columns_centred, span_x)

    [split_flow] flow_x, flow_y = Split <axis = 1, num_outputs = 2> (flow)
    [scale_x] shift_x = Mul (flow_x, step_x)
    [scale_y] shift_y = Mul (flow_y, step_y)
    [shift_x] grid_x = Add (shift_x, columns_grid)
    [shift_y] grid_y = Add (shift_y, rows_grid)

    [image_extent] nothing = Slice (image, zero, zero, channels)
    [join_grid] grid = Concat <axis = 1> (nothing, grid_x, grid_y)
    [find_nan] is_nan = IsNaN (grid)
    [nan_x] is_nan_x = Gather <axis = 1> (is_nan, first)
    [nan_y] is_nan_y = Gather <axis = 1> (is_nan, second)
    [any_nan] is_lost_nhw = Or (is_nan_x, is_nan_y)
    [any_nan_nchw] is_lost = Unsqueeze (is_lost_nhw, channels)
    [drop_nan] grid_numbers = Where (is_nan, black, grid)
    [clamp_to_border] grid_inside = Clip (grid_numbers, lowest, one)
    [grid_last] grid_nhwc = Transpose <perm = [0, 2, 3, 1]> (grid_inside)
    [sample] sampled = GridSample <mode = "bilinear", padding_mode = "border", align_corners = 1>
        (image, grid_nhwc)
    [black_where_nan] warped = Where (is_lost, black, sampled)
}}
"""


def warp_reference(image: Float32Array, flow: Float32Array) -> Float32Array:
    """Warp `image` by `flow`, in float32 throughout.

    Shapes: image [N,C,H,W], flow [N,2,H,W] with x first; the result is shaped like the image.
    Units: flow in pixels of the image.

    Raises:
        HubError: the arrays are not float32, or their shapes do not fit together.
    """
    _check_operands(image, flow)
    batch, channels, height, width = image.shape
    if image.size == 0:
        return np.zeros_like(image)
    is_lost = np.isnan(flow[:, 0]) | np.isnan(flow[:, 1])
    x = _clamp_position(np.arange(width, dtype=np.float32), flow[:, 0], is_lost, width)
    y = _clamp_position(
        np.arange(height, dtype=np.float32)[:, np.newaxis], flow[:, 1], is_lost, height
    )
    left, right, weight_x = _split_position(x, width)
    top, bottom, weight_y = _split_position(y, height)

    planes = image.reshape(batch, channels, height * width)

    def gather(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Float32Array:
        index = (rows * width + columns).reshape(batch, 1, height * width)
        return np.take_along_axis(planes, index, axis=2).reshape(image.shape)

    upper = _blend(gather(top, left), gather(top, right), weight_x)
    lower = _blend(gather(bottom, left), gather(bottom, right), weight_x)
    blended = _blend(upper, lower, weight_y)
    blended[np.broadcast_to(is_lost[:, np.newaxis], image.shape)] = 0
    return blended


def _check_operands(image: Float32Array, flow: Float32Array) -> None:
    found = f"image {image.dtype} {image.shape}, flow {flow.dtype} {flow.shape}"
    accepted = "float32 [N,C,H,W] with a flow of float32 [N,2,H,W]"
    is_legal = (
        image.dtype == flow.dtype == np.float32
        and image.ndim == 4
        and flow.shape == (image.shape[0], FLOW_CHANNELS, *image.shape[2:])
    )
    if not is_legal:
        raise HubError(f"{DOMAIN}::{OP_TYPE}: {found}; accepted is {accepted}")


def _clamp_position(
    pixels: Float32Array, shift: Float32Array, is_lost: npt.NDArray[np.bool_], size: int
) -> Float32Array:
    position = np.where(is_lost, np.float32(0), pixels + shift)
    return np.clip(position, np.float32(0), np.float32(size - 1))


def _split_position(
    position: Float32Array, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]:
    """The neighbours of a position and the second one's weight, with an axis for channels."""
    floor = np.floor(position)
    first = floor.astype(np.int64)
    return first, np.minimum(first + 1, size - 1), (position - floor)[:, np.newaxis]


def _blend(first: Float32Array, second: Float32Array, weight: Float32Array) -> Float32Array:
    blended: Float32Array = first * (np.float32(1) - weight) + second * weight
    return blended


def warp_schema() -> onnx.defs.OpSchema:
    """Build the operator's schema, shape rule included; nothing is registered.

    The dynamo exporter needs it to emit a node; `onnx.defs.register_schema` takes it.
    """
    import onnx

    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        OP_TYPE,
        DOMAIN,
        VERSION,
        doc=_DOC,
        inputs=[
            parameter("image", "T", description="[N,C,H,W]"),
            parameter("flow", "T", description="[N,2,H,W] in pixels, x first"),
        ],
        outputs=[parameter("warped", "T", description="shaped like the image")],
        type_constraints=[("T", ["tensor(float)"], "float32 only")],
    )
    schema.set_type_and_shape_inference_function(_infer_shape)
    return schema


def _infer_shape(context: onnx.shape_inference.InferenceContext) -> None:
    from onnx.shape_inference import InferenceError

    image, flow = context.get_input_type(0), context.get_input_type(1)
    for name, operand in (("image", image), ("flow", flow)):
        if operand.tensor_type.HasField("shape") and len(operand.tensor_type.shape.dim) != 4:
            rank = len(operand.tensor_type.shape.dim)
            raise InferenceError(f"{DOMAIN}::{OP_TYPE}: {name} has rank {rank}; 4 is accepted")
    if flow.tensor_type.HasField("shape"):
        channels = flow.tensor_type.shape.dim[1]
        if channels.HasField("dim_value") and channels.dim_value != FLOW_CHANNELS:
            raise InferenceError(
                f"{DOMAIN}::{OP_TYPE}: the flow has {channels.dim_value} channels; exactly "
                f"{FLOW_CHANNELS} are accepted"
            )
    context.set_output_type(0, image)


def warp_function() -> onnx.FunctionProto:
    """Build the model-local function body, which any onnxruntime can run.

    The slice of no channels costs nothing and carries the image's height and width into the
    grid, so that shape inference gives the output the image's shape whatever it knows of the flow.
    The grid is computed from normalised steps: clamping it to -1..1 is clamping the position.

    Source: GridSample of ONNX operator set 16, with align_corners=1 and border padding.
    """
    import onnx

    function = onnx.parser.parse_function(
        _BODY.format(opset=_BODY_OPSET, domain=DOMAIN, op_type=OP_TYPE)
    )
    function.doc_string = _DOC
    return function


def reference_op() -> type[OpRun]:
    """Build the class that `onnx.reference.ReferenceEvaluator(..., new_ops=[...])` takes."""
    from onnx.reference.op_run import OpRun

    class Warp(OpRun):
        op_domain = DOMAIN

        def _run(
            self, image: Float32Array, flow: Float32Array, **_: Any
        ) -> tuple[Float32Array, ...]:
            return (warp_reference(image, flow),)

    return Warp
