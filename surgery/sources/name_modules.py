"""Name every node of a fresh export after the torch module that it came from.

`/block0.convblock.3.conv/Conv` is the Conv of the module `block0.convblock.3.conv`; nodes of the
network's own forward are `/Concat`. onnx-graphsurgeon drops node metadata, so the name is where
the module lives from here on, down to the layer names of a converted model.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx

# What the dynamo exporter writes; the TorchScript exporter has scopes in the node name instead.
SCOPES_PROPERTY = "pkg.torch.onnx.name_scopes"
# The adapter that calls the stock network holds it under this name.
ADAPTER_PREFIX = "net"


def name_after_modules(model: onnx.ModelProto) -> None:
    """Rename nodes, then their outputs, in place; graph inputs and outputs keep their names."""
    taken: Counter[str] = Counter()
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    fixed |= {tensor.name for tensor in model.graph.initializer}
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        module = _module_from_properties(node) or _module_from_name(node.name)
        stem = f"/{module}/{node.op_type}" if module else f"/{node.op_type}"
        node.name = f"{stem}_{taken[stem]}" if taken[stem] else stem
        taken[stem] += 1
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                renamed[output] = f"{node.name}:{index}"
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    # Types inferred under the old names describe nothing any more.
    del model.graph.value_info[:]


def _module_from_properties(node: onnx.NodeProto) -> str:
    for prop in node.metadata_props:
        if prop.key == SCOPES_PROPERTY:
            # ['', 'net', 'net.block0', ..., name of the torch.fx node]
            scopes = ast.literal_eval(prop.value)
            return _without_adapter(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _module_from_name(name: str) -> str:
    """Read `/net/block0/conv0/conv0.0/conv0.0.0/Conv`: a child of a Sequential repeats it."""
    path: list[str] = []
    for scope in name.split("/")[1:-1]:
        if path and scope.startswith(path[-1] + "."):
            path[-1] = scope
        else:
            path.append(scope)
    return _without_adapter(".".join(path))


def _without_adapter(module: str) -> str:
    if module == ADAPTER_PREFIX:
        return ""
    return module.removeprefix(ADAPTER_PREFIX + ".")
