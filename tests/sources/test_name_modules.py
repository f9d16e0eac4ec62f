from __future__ import annotations

import onnx
import pytest
from onnx import helper

from surgery.sources.name_modules import SCOPES_PROPERTY, name_after_modules


def _make_model(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """A chain from `x` to `y` through the given nodes."""
    blobs = ["x", *(f"blob{index}" for index in range(len(nodes) - 1)), "y"]
    for node, source, target in zip(nodes, blobs, blobs[1:], strict=False):
        node.input[:] = [source]
        node.output[:] = [target]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in ("x", "y")]
    graph = helper.make_graph(list(nodes), "chain", values[:1], values[1:])
    return helper.make_model(graph)


def _scoped(operator: str, scopes: str) -> onnx.NodeProto:
    node = helper.make_node(operator, [], [], name="node_of_fx")
    node.metadata_props.add(key=SCOPES_PROPERTY, value=scopes)
    return node


def _names(model: onnx.ModelProto) -> list[str]:
    name_after_modules(model)
    return [node.name for node in model.graph.node]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/net/block0/conv0/conv0.0/conv0.0.0/Conv", "/block0.conv0.0.0/Relu"),
        ("/net/block0/convblock/convblock.3/conv/Conv", "/block0.convblock.3.conv/Relu"),
        ("/net/encode/cnn0/Conv", "/encode.cnn0/Relu"),
        ("/net/Concat_3", "/Relu"),
        ("/Concat", "/Relu"),
        ("", "/Relu"),
    ],
)
def test_scopes_of_torchscript_become_the_module(name: str, expected: str) -> None:
    assert _names(_make_model(helper.make_node("Relu", [], [], name=name))) == [expected]


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ("['', 'net', 'net.block0', 'net.block0.conv0', 'conv2d']", "/block0.conv0/Relu"),
        ("['', 'net', 'cat_2']", "/Relu"),
        ("['', 'add']", "/Relu"),
        ("['add']", "/Relu"),
    ],
)
def test_scopes_of_dynamo_become_the_module(scopes: str, expected: str) -> None:
    assert _names(_make_model(_scoped("Relu", scopes))) == [expected]


def test_nodes_of_one_module_and_operator_are_numbered() -> None:
    nodes = [helper.make_node("Relu", [], [], name="/net/a/Relu") for _ in range(3)]
    nodes.append(helper.make_node("Sigmoid", [], [], name="/net/a/Sigmoid"))
    assert _names(_make_model(*nodes)) == ["/a/Relu", "/a/Relu_1", "/a/Relu_2", "/a/Sigmoid"]


def test_blobs_are_named_after_their_node_and_the_interface_keeps_its_names() -> None:
    model = _make_model(*(helper.make_node("Relu", [], [], name="/net/a/Relu") for _ in range(3)))
    model.graph.value_info.append(
        helper.make_tensor_value_info("blob0", onnx.TensorProto.FLOAT, [1])
    )
    name_after_modules(model)
    wires = [(node.input[0], node.output[0]) for node in model.graph.node]
    assert wires == [("x", "/a/Relu:0"), ("/a/Relu:0", "/a/Relu_1:0"), ("/a/Relu_1:0", "y")]
    assert not model.graph.value_info
    onnx.checker.check_model(model)
