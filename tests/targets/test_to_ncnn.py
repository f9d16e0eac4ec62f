"""Every operator of the table, in real ncnn against onnxruntime."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from surgery.engines.frames import network_inputs
from surgery.engines.ncnn import NcnnEngine
from surgery.errors import UnsupportedOp
from surgery.formats import ncnn_layers as ncnn
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import NcnnGraph
from surgery.formats.ncnn_splits import insert_splits
from surgery.hub.model import V4_INPUTS, V4_OUTPUT, HubMetadata, from_onnx
from surgery.hub.warp import warp_function
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import NCNN_FP32
from surgery.targets.to_ncnn import TRANSLATORS, layer_name, translate_graph

Step = tuple[str, list[str], Mapping[str, object]]
RNG = np.random.default_rng(11)
PADDING = 32
CHANNEL_CONSTANT = np.array([0.5, -1.5, 2.0], np.float32).reshape(1, 3, 1, 1)


def _weight(*shape: int) -> np.ndarray:
    return RNG.uniform(-0.5, 0.5, shape).astype(np.float32)


CONSTANTS = {
    "two": np.float32(2.0).reshape(()),
    "per_channel": CHANNEL_CONSTANT,
    "slopes": np.array([0.1, 0.2, 0.3], np.float32).reshape(3, 1, 1),
    "zero": np.float32(0.0),
    "half": np.float32(0.5),
    "weight": _weight(3, 3, 3, 3),
    "bias": _weight(3),
    "wide": _weight(12, 3, 3, 3),
    "grouped": _weight(6, 3, 3, 3),
    "down": _weight(4, 3, 3, 3),
    "up": _weight(4, 3, 4, 4),
    "flow_weight": _weight(2, 3, 3, 3) * 8,
    "gate": _weight(3, 3, 1, 1) * 8,
    "slope": np.array([0.3], np.float32),
    "first": np.array([0], np.int64),
    "second": np.array([1], np.int64),
    "third": np.array([2], np.int64),
    "fourth": np.array([3], np.int64),
    "sixth": np.array([5], np.int64),
    "last_two": np.array([-2], np.int64),
    "open_end": np.array([2**31 - 1], np.int64),
    "channels": np.array([1], np.int64),
    "enlarge": np.array([1, 1, 2, 2], np.float32),
    "shrink": np.array([1, 1, 0.5, 0.5], np.float32),
    "slanted": np.array([1, 1, 2, 4], np.float32),
    "slanted_back": np.array([1, 1, 0.5, 0.25], np.float32),
}
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
HALVE: Step = (
    "Conv",
    ["in0", "down"],
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4},
)
DOUBLE = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}

# Each is a chain: `@` is the output of the step before, `@1` that of the first one.
CASES: dict[str, list[Step]] = {
    "Add": [("Add", ["in0", "in1"], {})],
    "Add a number": [("Add", ["two", "in0"], {})],
    "Add a number for each channel": [("Add", ["in0", "per_channel"], {})],
    "Sub": [("Sub", ["in0", "in1"], {})],
    "Sub a number": [("Sub", ["in0", "half"], {})],
    "Sub from a number": [("Sub", ["two", "in0"], {})],
    "Sub from a number for each channel": [("Sub", ["per_channel", "in0"], {})],
    "Mul": [("Mul", ["in0", "in1"], {})],
    "Mul by a plane": [("Mul", ["in0", "in2"], {})],
    "Mul by a number for each channel": [("Mul", ["per_channel", "in0"], {})],
    "Div by a number": [("Div", ["in0", "two"], {})],
    "Div of a number": [("Add", ["in0", "half"], {}), ("Div", ["two", "@"], {})],
    "Div": [("Add", ["in0", "half"], {}), ("Div", ["in1", "@"], {})],
    "Neg": [("Neg", ["in0"], {})],
    "Relu": [("Sub", ["in0", "half"], {}), ("Relu", ["@"], {})],
    "LeakyRelu": [("Sub", ["in0", "half"], {}), ("LeakyRelu", ["@"], {"alpha": 0.2})],
    "PRelu": [("Sub", ["in0", "half"], {}), ("PRelu", ["@", "slopes"], {})],
    "Sigmoid": [("Sigmoid", ["in0"], {})],
    "Clip": [("Mul", ["in0", "per_channel"], {}), ("Clip", ["@", "zero", "half"], {})],
    "Clip without a bound": [("Mul", ["in0", "per_channel"], {}), ("Clip", ["@", "", "half"], {})],
    "Concat and Slice": [
        ("Concat", ["in1", "in2", "in0"], {"axis": 1}),
        ("Slice", ["@", "second", "fourth", "channels"], {}),
        ("Slice", ["@1", "last_two", "open_end", "channels"], {}),
        ("Slice", ["@", "first", "second", "channels"], {}),
        ("Concat", ["@", "@2"], {"axis": 1}),
    ],
    "Conv": [("Conv", ["in0", "weight", "bias"], SAME)],
    "Conv without bias, padded unevenly": [
        ("Conv", ["in0", "weight"], {"kernel_shape": [3, 3], "pads": [2, 1, 0, 1]})
    ],
    "Conv with dilation": [
        ("Conv", ["in0", "weight", "bias"], {**SAME, "dilations": [2, 2], "pads": [2] * 4})
    ],
    "Conv in groups": [
        ("Concat", ["in0", "in1"], {"axis": 1}),
        ("Conv", ["@", "grouped"], {**SAME, "group": 2}),
        ("Slice", ["@", "third", "sixth", "channels"], {}),
    ],
    "ConvTranspose": [HALVE, ("ConvTranspose", ["@", "up", "bias"], DOUBLE)],
    "DepthToSpace": [
        ("Conv", ["in0", "wide"], SAME),
        ("DepthToSpace", ["@"], {"blocksize": 2, "mode": "CRD"}),
        ("Resize", ["@", "", "shrink"], LINEAR),
    ],
    "Resize": [("Resize", ["in0", "", "shrink"], LINEAR), ("Resize", ["@", "", "enlarge"], LINEAR)],
    "Resize by two factors": [
        ("Resize", ["in0", "", "slanted"], LINEAR),
        ("Resize", ["@", "", "slanted_back"], LINEAR),
    ],
    "GlobalAveragePool": [
        ("GlobalAveragePool", ["in0"], {}),
        ("Conv", ["@", "gate"], {}),
        ("PRelu", ["@", "slope"], {}),
        ("Conv", ["@", "gate", "bias"], {}),
        ("Sigmoid", ["@"], {}),
        ("Mul", ["in1", "@"], {}),
    ],
    "rife::Warp": [("Conv", ["in0", "flow_weight"], SAME), ("rife::Warp", ["in1", "@"], {})],
}


def _make_model(steps: list[Step]) -> onnx.ModelProto:
    """A hub model, legal or not, of a chain of nodes."""
    nodes = []
    for index, (operator, inputs, attributes) in enumerate(steps, start=1):
        domain, _, op_type = operator.rpartition("::")
        names = {"@": f"blob{index - 1}", **{f"@{n}": f"blob{n}" for n in range(1, index)}}
        output = V4_OUTPUT if index == len(steps) else f"blob{index}"
        nodes.append(
            helper.make_node(
                op_type,
                [names.get(name, name) for name in inputs],
                [output],
                name=f"/block0.part/{op_type}_{index}",
                domain=domain,
                **attributes,  # type: ignore[arg-type]
            )
        )
    read = {name for node in nodes for name in node.input}
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, "H", "W"])
        for name, channels in (*V4_INPUTS.items(), (V4_OUTPUT, 3))
    ]
    weights = [numpy_helper.from_array(v, n) for n, v in CONSTANTS.items() if n in read]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", values[:3], values[3:], weights),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("rife", 1)],
        ir_version=10,
        functions=[warp_function()],
    )
    warps = sum(node.op_type == "Warp" for node in nodes)
    metadata = HubMetadata(padding=PADDING, warps=warps)
    helper.set_model_props(model, metadata.to_properties())
    return model


def _translate(*steps: Step, **names: str) -> NcnnGraph:
    return translate_graph(from_onnx(_make_model(list(steps))), names)


def test_every_operator_of_the_table_is_tested() -> None:
    assert {name.split()[0] for name in CASES} >= set(TRANSLATORS) - {"Slice"}


@pytest.mark.parametrize("name", CASES)
def test_an_operator_computes_in_ncnn_what_onnx_says(name: str, tmp_path: Path) -> None:
    model = _make_model(CASES[name])
    (sample,) = make_samples([(64, 32)], [0.25], seed=3)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, network_inputs(sample, PADDING))
    graph = translate_graph(from_onnx(model))
    insert_splits(graph)
    write_model(tmp_path / "model", graph, fp16=False)
    (frame,) = NcnnEngine(tmp_path / "model", PADDING).run([sample])
    assert NCNN_FP32.accepts(float(np.abs(frame - expected).max()))
    # Another input gives another frame, so that what was equal was computed.
    other = dataclasses.replace(sample, in0=sample.in1)
    (moved,) = NcnnEngine(tmp_path / "model", PADDING).run([other])
    assert not NCNN_FP32.accepts(float(np.abs(moved - expected).max()))


def test_parameters_that_ncnn_implies_are_left_out() -> None:
    layer = _translate(("Conv", ["in0", "weight", "bias"], SAME)).layers[-1]
    keys = ncnn.Convolution
    assert layer.params == {
        keys.NUM_OUTPUT: 3,
        keys.KERNEL_W: 3,
        keys.PAD_LEFT: 1,
        keys.BIAS_TERM: 1,
        keys.WEIGHT_COUNT: 81,
    }


def test_layers_and_blobs_are_named_after_the_torch_module() -> None:
    graph = _translate(
        ("Relu", ["in0"], {}), ("Sigmoid", ["@"], {}), ("Neg", ["@"], {}), blob1="flow0"
    )
    assert [layer.name for layer in graph.layers[3:]] == [
        "block0.part/Relu_1",
        "block0.part/Sigmoid_2",
        "block0.part/Neg_3",
    ]
    assert [layer.outputs[0] for layer in graph.layers] == [
        *V4_INPUTS,
        "flow0",
        "block0.part/Sigmoid_2",
        V4_OUTPUT,
    ]
    assert layer_name("/a b/Conv") == "a_b/Conv"


CUBIC: Step = ("Resize", ["in0", "", "enlarge"], {**LINEAR, "mode": "cubic"})
REFUSED: dict[str, tuple[Step, str]] = {
    "cubic": (CUBIC, "mode=cubic.*to_ncnn accepts linear"),
    "antialias": (("Resize", ["in0", "", "shrink"], {**LINEAR, "antialias": 1}), "antialias=True"),
    "corners": (
        (
            "Resize",
            ["in0", "", "enlarge"],
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        ),
        "align_corners.*half_pixel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_ncnn_cannot_express_is_refused(name: str) -> None:
    step, words = REFUSED[name]
    with pytest.raises(UnsupportedOp, match=words) as caught:
        _translate(step)
    assert "(torch module: block0.part)" in str(caught.value)


def test_all_refusals_are_listed_at_once() -> None:
    with pytest.raises(UnsupportedOp) as caught:
        _translate(CUBIC, CUBIC, ("Add", ["@", "@1"], {}))
    assert len(caught.value.refusals) == 2


def test_what_is_pooled_to_one_pixel_goes_through_inner_products() -> None:
    graph = _translate(*CASES["GlobalAveragePool"])
    assert [layer.type for layer in graph.layers if layer.type != "Input"] == [
        "Pooling",
        "InnerProduct",
        "ReLU",
        "InnerProduct",
        "Sigmoid",
        "BinaryOp",
    ]


def test_a_window_on_one_pixel_is_no_inner_product() -> None:
    pool: Step = ("GlobalAveragePool", ["in0"], {})
    with pytest.raises(UnsupportedOp, match="a kernel of 3x3 on one pixel; to_ncnn accepts 1x1"):
        _translate(pool, ("Conv", ["@", "weight"], SAME))
