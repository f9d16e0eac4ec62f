"""RIFE 1.x to 3.1: three networks, and a `Model` that makes a frame with them.

IFNet finds the flow at half size, ContextNet warps features of each frame along it, and FusionNet
paints the frame. How they play together stands in `Model.inference`, so that runs here as it is, on
a `Model` that was never initialised: its constructor wants optimisers, losses and a GPU.

Source: RIFE_HD.py and RIFE_HDv2.py of ECCV2022-RIFE (model/oldmodel) and of vs-rife in 2021, its
model31/RIFE_HDv3.py.
"""

from __future__ import annotations

import ast
import dataclasses
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from surgery.errors import DonorError
from surgery.hub import networks
from surgery.sources.call_forward import construct_network

MODEL = "Model"
# The networks and their classes; `Model` holds each under the name of the file it ends up in.
CLASSES = {
    networks.FLOWNET: "IFNet",
    networks.CONTEXTNET: "ContextNet",
    networks.FUSIONNET: "FusionNet",
}
# The file that holds `Model` is called after the one that holds IFNet: RIFE_HD.py, IFNet_HD.py.
NETWORK_FILE, MODEL_FILE = "IFNet", "RIFE"
# ContextNet halves five times, and every runtime pads to it.
PADDING = 32


@dataclasses.dataclass
class Handed:
    """What the networks handed on to each other in one inference.

    Attributes:
        flow: flownet's, [1,2,H/2,W/2] or [1,4,H/2,W/2].
        asked: frame and flow that contextnet was called with, call by call.
        features: what it returned, call by call.
    """

    flow: torch.Tensor | None = None
    asked: list[tuple[torch.Tensor, ...]] = dataclasses.field(default_factory=list)
    features: list[tuple[torch.Tensor, ...]] = dataclasses.field(default_factory=list)


class ThreeNetworks(torch.nn.Module):
    """The three networks behind one forward(img0, img1) -> frame.

    Shapes: img0 and img1 [1,3,H,W] in 0..1, H and W multiples of PADDING; the frame like them.

    Attributes:
        flownet: the IFNet.
        contextnet: the ContextNet.
        fusionnet: the FusionNet.
        scale_list: the divisors that the blocks of the IFNet hold; empty where they are told.
    """

    flownet: torch.nn.Module
    contextnet: torch.nn.Module
    fusionnet: torch.nn.Module

    def __init__(self, model: Any, made: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        self._model = model
        for name, network in made.items():
            setattr(self, name, network)
            setattr(model, name, network)
        held = [getattr(block, "scale", None) for block in self.flownet.children()]
        divisors = [float(divisor) for divisor in held if divisor is not None]
        self.scale_list = tuple(divisors) if len(divisors) == len(held) else ()

    def forward(self, img0: torch.Tensor, img1: torch.Tensor) -> torch.Tensor:
        """Interpolate as the authors' inference does."""
        frame: torch.Tensor = self._model.inference(img0, img1)
        return frame

    @contextmanager
    def observe(self) -> Iterator[Handed]:
        """Note what the networks hand on to each other."""
        handed = Handed()

        def note_flow(_net: torch.nn.Module, _inputs: object, result: Any) -> None:
            handed.flow = result[0] if isinstance(result, tuple) else result

        def note_features(
            _net: torch.nn.Module, inputs: tuple[torch.Tensor, ...], result: Any
        ) -> None:
            handed.asked.append(inputs)
            handed.features.append(tuple(result))

        with ExitStack() as hooks:
            hooks.callback(self.flownet.register_forward_hook(note_flow).remove)
            hooks.callback(self.contextnet.register_forward_hook(note_features).remove)
            yield handed


class HandingOn(torch.nn.Module):
    """A forward that also returns what the networks hand on: the form that is exported.

    Contextnet is given the frame and its flow as the runtime gives them. `check_handing_on` has
    seen that this is what the source gives it.
    """

    net: ThreeNetworks

    def __init__(self, three: ThreeNetworks, kind: str) -> None:
        super().__init__()
        self.net = three
        self._kind = kind

    def forward(
        self, in0: torch.Tensor, in1: torch.Tensor, in2: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Returns the frame, then the tensors of `networks.list_boundary`."""
        frames = iter((in0, in1))
        flows: list[torch.Tensor] = []
        with self.net.observe() as handed:

            def hand_on(_net: torch.nn.Module, _inputs: object) -> tuple[torch.Tensor, ...]:
                if not flows:
                    assert handed.flow is not None  # flownet comes first
                    flows.extend(split_flow(handed.flow, self._kind))
                return next(frames), flows[len(handed.features)]

            hook = self.net.contextnet.register_forward_pre_hook(hand_on)
            try:
                frame = self.net(in0, in1)
            finally:
                hook.remove()
        assert handed.flow is not None  # as above
        named = dict(zip(networks.FLOWS, flows, strict=True))
        given = [named[name] for name in networks.list_boundary(self._kind) if name in named]
        first, second = handed.features
        return frame, handed.flow, *first, *second, *given


def find_kind(flow: torch.Tensor, label: str) -> str:
    """Which kind of hub model three networks make, by the channels of their flow.

    Raises:
        DonorError: the runtime knows no such flow.
    """
    for kind, channels in networks.KINDS.items():
        if channels == flow.shape[1]:
            return kind
    raise DonorError(
        f"{label}: its IFNet returns a flow of {flow.shape[1]} channels; accepted are 2, of which "
        "the second frame's is the negation, and 4"
    )


def split_flow(flow: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The flows of the two frames, as the runtime makes them; see `surgery.hub.networks`."""
    if kind == "v1":
        return flow, -flow
    return flow[:, : networks.FLOW_CHANNELS], flow[:, networks.FLOW_CHANNELS :]


def find_model_file(source: Path) -> Path | None:
    """The file with the `Model` that a network's source belongs to, if that is one of three."""
    beside = source.with_name(source.name.replace(NETWORK_FILE, MODEL_FILE, 1))
    return beside if beside.is_file() and _defines_networks(beside) else None


def _defines_networks(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    except SyntaxError:
        return False
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    return {MODEL, CLASSES[networks.CONTEXTNET], CLASSES[networks.FUSIONNET]} <= defined


def construct_networks(module: types.ModuleType, label: str) -> ThreeNetworks:
    """Construct the three networks of an imported `Model` file, with untrained weights.

    Raises:
        DonorError: a class is missing, or wants what nobody here knows.
    """
    lacking = [name for name in (MODEL, *CLASSES.values()) if not hasattr(module, name)]
    if lacking:
        raise DonorError(f"{label} has no {', '.join(lacking)}; RIFE 1.x to 3.1 have them all")
    made = {
        name: construct_network(getattr(module, class_name), f"{class_name} of {label}", {})[0]
        for name, class_name in CLASSES.items()
    }
    model = getattr(module, MODEL)
    return ThreeNetworks(model.__new__(model), made)


@torch.no_grad()
def check_handing_on(three: ThreeNetworks, label: str) -> str:
    """Compare how the networks play together with how the runtime has them play.

    Returns:
        The kind of hub model that they make.

    Raises:
        DonorError: contextnet is called by something else than each frame and its flow at half
            size, or does not make four tensors of features.
    """
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(2, 1, 3, PADDING, PADDING, generator=generator).unbind()
    with three.observe() as handed:
        three(*frames)
    assert handed.flow is not None  # a frame came out
    kind = find_kind(handed.flow, label)
    expected = list(zip(frames, split_flow(handed.flow, kind), strict=True))
    if [len(one) for one in handed.features] != [len(names) for names in networks.FEATURES]:
        counts = [len(one) for one in handed.features]
        raise DonorError(
            f"{label}: its ContextNet makes {counts} tensors; the runtime calls it twice, for "
            f"{len(networks.FEATURES[0])} of them each time"
        )
    for number, (asked, wanted) in enumerate(zip(handed.asked, expected, strict=True)):
        if len(asked) != len(wanted) or not all(map(torch.equal, asked, wanted)):
            raise DonorError(
                f"{label}: its ContextNet is not called by frame {number} and the flow of that "
                "frame; the runtime calls it so, and would make another frame"
            )
    return kind
