"""Export an unmodified torch network to the hub, through either of torch's exporters.

The network comes from `surgery.sources.stock`, which has put `torch_warp.call_warp` in the place
of its `warp`. Nothing else about it is changed: what the exporter sees is the stock forward.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, Literal, get_args

import onnx
import torch

from surgery.errors import DonorError
from surgery.hub import model as hub_model
from surgery.hub import networks
from surgery.hub import warp as hub_warp
from surgery.hub.model import HubMetadata, HubModel, from_onnx
from surgery.hub.verify import verify_hub
from surgery.sources import checkpoint, stock, torch_warp
from surgery.sources.branches import ChosenBranches, summarise_decisions
from surgery.sources.find_donor import Donor
from surgery.sources.fold_sizes import fold_sizes
from surgery.sources.name_modules import name_after_modules
from surgery.sources.three_networks import (
    HandingOn,
    ThreeNetworks,
)
from surgery.sources.tidy_export import tidy_export

Exporter = Literal["torchscript", "dynamo"]
INPUT_NAMES = list(hub_model.V4_INPUTS)
# Exporters specialise on sizes 0 and 1 and on equal ones; 2 and 3 paddings are neither.
TRACE_PADDINGS = (2, 3)


def export_network(
    network: torch.nn.Module,
    padding: int,
    exporter: str = "torchscript",
    *,
    inner: Sequence[str] = (),
) -> onnx.ModelProto:
    """Trace `forward(in0, in1, in2) -> out0` with dynamic height and width.

    A forward that returns more than the frame has names for it in `inner`: these tensors are no
    outputs of the graph, but keep their names in it.

    The result is tidy: constants are initializers, every node is named after the torch module it
    came from, and nothing names a path of this machine.

    Raises:
        DonorError: the exporter is unknown or cannot export this network; the message says why.
    """
    if exporter not in get_args(Exporter):
        raise DonorError(f"exporter {exporter!r}; accepted: {', '.join(get_args(Exporter))}")
    height, width = (padding * count for count in TRACE_PADDINGS)
    example = tuple(
        torch.full((1, channels, height, width), 0.5) for channels in hub_model.V4_INPUTS.values()
    )
    export = _export_torchscript if exporter == "torchscript" else _export_dynamo
    with torch.no_grad(), _without_noise(), _explain_failure(exporter):
        model = export(network.eval(), example, padding, [hub_model.V4_OUTPUT, *inner])
    fold_sizes(model)
    _restore_inputs(model)
    name_after_modules(model)
    del model.graph.output[1:]
    tidy_export(model)
    return model


def _restore_inputs(model: onnx.ModelProto) -> None:
    """Put back an input that the exporter dropped: a network of a fixed timestep reads no `in2`."""
    found = {value.name: value for value in model.graph.input}
    sizes = [dim.dim_param for dim in found[INPUT_NAMES[0]].type.tensor_type.shape.dim[2:]]
    for name, channels in hub_model.V4_INPUTS.items():
        found.setdefault(
            name,
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, channels, *sizes]),
        )
    ordered = [found[name] for name in INPUT_NAMES]
    del model.graph.input[:]
    model.graph.input.extend(ordered)


def _export_torchscript(
    network: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    padding: int,
    outputs: Sequence[str],
) -> onnx.ModelProto:
    torch_warp.register_symbolic(hub_model.OPSET)
    file: Any = io.BytesIO()  # taken, though torch's annotation knows paths alone
    axes = {2: "H", 3: "W"}
    torch.onnx.export(
        network,
        example,
        file,
        dynamo=False,
        opset_version=hub_model.OPSET,
        custom_opsets={hub_warp.DOMAIN: hub_warp.VERSION},
        input_names=INPUT_NAMES,
        output_names=list(outputs),
        dynamic_axes=dict.fromkeys((*INPUT_NAMES, *outputs), axes),
    )
    return onnx.load_from_string(file.getvalue())


def _export_dynamo(
    network: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    padding: int,
    outputs: Sequence[str],
) -> onnx.ModelProto:
    # Stated as multiples of the padding, the sizes satisfy every resize without a guard.
    axes = {2: padding * torch.export.Dim("h"), 3: padding * torch.export.Dim("w")}
    program = torch.onnx.export(
        network,
        example,
        dynamo=True,
        opset_version=hub_model.OPSET,
        input_names=INPUT_NAMES,
        output_names=list(outputs),
        dynamic_shapes=tuple(axes for _ in example),
        custom_translation_table=torch_warp.translation_table(),
        verbose=False,
    )
    assert program is not None  # only dynamo=False returns None
    return program.model_proto


@contextmanager
def _explain_failure(exporter: str) -> Iterator[None]:
    """Turn whatever an exporter raises into one sentence that begins with its first cause."""
    try:
        yield
    # torchscript raises a SystemError for a warning made an error; dynamo wraps every exception.
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, DonorError):
            raise cause from error
        others = [name for name in get_args(Exporter) if name != exporter]
        raise DonorError(
            f"the {exporter} exporter cannot express this network: "
            f"{_first_line(cause)}; a network that computes with tensors alone is accepted: "
            f"change the source, or try --exporter {' or '.join(others)}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


@contextmanager
def _without_noise() -> Iterator[None]:
    """Keep the exporters' deprecation notices and progress prints from the user.

    A TracerWarning means that something was baked into the graph: it stays an error.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=UserWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("error", category=torch.jit.TracerWarning)
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _refuse_branches(network: stock.StockNetwork, label: str) -> None:
    """Refuse what dynamo cannot express, before it takes its time to find out."""
    size = network.padding
    frames = [torch.full((1, n, size, size), 0.5) for n in hub_model.V4_INPUTS.values()]
    with torch.no_grad(), ChosenBranches() as branches:
        network(*frames)
    if branches.decisions:
        raise DonorError(
            f"{label} branches on its data ({summarise_decisions(branches.decisions)[0]}), which "
            "the dynamo exporter cannot express; use --exporter torchscript, which bakes one "
            "branch in on purpose"
        )


def export_hub(
    donor: Donor,
    state: Mapping[str, torch.Tensor],
    *,
    scale: float = 1.0,
    ensemble: bool = False,
    exporter: str = "torchscript",
    weights_label: str = "",
) -> HubModel:
    """Export stock source with a state dict to a verified hub model.

    Data-dependent branches are not taken, and the metadata says which.

    Raises:
        DonorError: the donor does not build, the exporter is unknown or refuses it (dynamo refuses
            data-dependent branches), or a branch was met that no version is known to have.
        CheckpointError: the state dict does not fit.
        HubError: what came out is not a legal hub model.
    """
    network = stock.build_network(donor, scale=scale, ensemble=ensemble, warp=torch_warp.call_warp)
    checkpoint.load_into(network, state)
    if exporter == "dynamo":
        _refuse_branches(network, donor.label)
    with stock.forbid_grid_sample(), ChosenBranches() as branches:
        graph, kind = _export_stock(network, exporter)
    baked = summarise_decisions(branches.decisions)
    architecture = network.architecture
    metadata = HubMetadata(
        kind=kind,
        timestep=network.timestep,
        padding=network.padding,
        scale_list=network.scale_list,
        warps=network.warp_count,
        version=donor.version,
        architecture=architecture.name if architecture else "",
        donor=donor.label,
        exporter=exporter,
        ensemble=ensemble,
        source_sha256=donor.sha256,
        weights_sha256=checkpoint.fingerprint(network.read_state()),
        weights=weights_label,
        baked=baked,
        tools=(f"torch {torch.__version__}", f"onnx {onnx.__version__}"),
    )
    onnx.helper.set_model_props(graph, metadata.to_properties())
    model = from_onnx(graph)
    if kind in networks.KINDS:
        # Joined again, the two calls of contextnet share their weights.
        model = networks.join_networks(networks.cut_networks(model), metadata)
    verify_hub(model.to_onnx())
    return model


def _export_stock(network: stock.StockNetwork, exporter: str) -> tuple[onnx.ModelProto, str]:
    """Export a stock network, and say which kind of hub model it makes."""
    if not isinstance(network.net, ThreeNetworks):
        return export_network(network, network.padding, exporter), network.kind
    kind = network.kind
    handing_on = HandingOn(network.net, kind)
    inner = networks.list_boundary(kind)
    return export_network(handing_on, network.padding, exporter, inner=inner), kind
