"""The forms a model comes in, opened for comparison: a donor, a hub model, a model folder.

Each gives the engines that can run it, and a twin whose weights are rounded as fp16 conversions
round them, so that a fault of the translation is told apart from rounding.
"""

from __future__ import annotations

import abc
import enum
import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from surgery.engines import Engine
from surgery.errors import EngineError, FormatError, SurgeryError
from surgery.formats import ncnn_layers
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_folder import (
    NETWORK,
    holds_three_networks,
    read_model,
    require_files,
    write_network,
)
from surgery.formats.ncnn_param import NcnnGraph, render
from surgery.hub import networks
from surgery.hub.model import (
    MAX_PADDING,
    SCALES,
    TIMESTEPS,
    HubModel,
    from_onnx,
    is_scale,
    read_onnx,
)
from surgery.hub.verify import is_hub, require_hub
from surgery.kernel_library import has_kernel
from surgery.output import FACTS_FILE
from surgery.passes import pipeline
from surgery.proof import tolerances
from surgery.proof.structure import (
    Finding,
    check_hub_structure,
    check_ncnn_structure,
    check_networks_structure,
    count_network_warps,
)
from surgery.proof.tolerances import Tolerance

if TYPE_CHECKING:
    import onnx

    from surgery.sources.open_donor import OpenDonor

# A block halves its input twice below its resize.
BLOCK_STRIDE = 4
# What the engines that are the real runtime are called, before their device.
RUNTIME = "rife-ncnn-vulkan"
ON_CPU, ON_VULKAN = f"{RUNTIME}-cpu", f"{RUNTIME}-gpu"


class Form(abc.ABC):
    """One model, in one form.

    Attributes:
        label: what to call it.
        padding: what its frames are padded to.
        engines: names of the engines that run it by default, the most trusted first.
        more_engines: names of the engines that run it when asked for.
    """

    label: str
    padding: int
    engines: tuple[str, ...]
    more_engines: tuple[str, ...] = ()

    @abc.abstractmethod
    def make_engine(self, name: str) -> Engine:
        """Make one of the engines."""

    @abc.abstractmethod
    def tolerance(self, name: str) -> Tolerance:
        """How far the engine may be from a reference whose weights are the same."""

    @abc.abstractmethod
    def check_structure(self, expected_warps: int | None) -> list[Finding]:
        """Find what is wrong without running it."""

    def can_round(self, fast: bool, keep_betas: bool) -> bool:
        """Whether `round_weights` can give what these options give."""
        return False

    def round_weights(self, fast: bool, keep_betas: bool = False) -> Form:
        """The same model with the weights of an fp16 conversion, made with these options.

        Raises:
            SurgeryError: the form cannot be rounded.
        """
        raise SurgeryError(
            f"{self.label} cannot be rounded to fp16 as these options do; a donor, a hub model or "
            "a folder with fp32 weights that was made with the same options can"
        )

    @property
    def is_fp16(self) -> bool:
        """Whether weights are stored in fp16."""
        return False

    @property
    def is_halved(self) -> bool:
        """Whether it computes in fp16 throughout."""
        return False

    @property
    def is_fast(self) -> bool:
        """Whether passes that change rounding were run."""
        return False

    @property
    def keeps_betas(self) -> bool:
        """Whether betas were left beside the convolutions instead of being folded into them."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever reads a proof of the form has to know."""
        return ()

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The only ones that the model knows; empty where it knows all, or does not say."""
        return ()

    @property
    def warps(self) -> int | None:
        """How many warps the model should have, None when it does not say."""
        return None

    def require_engine(self, name: str) -> None:
        """Refuse an engine that this form does not have.

        Raises:
            EngineError: with the ones there are.
        """
        if name not in (*self.engines, *self.more_engines):
            raise EngineError(
                f"{self.label} does not run in {name!r}; "
                f"accepted: {', '.join((*self.engines, *self.more_engines))}"
            )


class DonorForm(Form):
    """A stock network with weights, run by torch."""

    engines = ("torch",)

    def __init__(self, opened: OpenDonor) -> None:
        """Hold an open donor."""
        self.opened = opened
        self.label = opened.donor.label
        self.padding = opened.network.padding

    def make_engine(self, name: str) -> Engine:
        """Make the torch engine."""
        from surgery.engines.torch import TorchEngine

        self.require_engine(name)
        return TorchEngine(self.opened.network)

    def tolerance(self, name: str) -> Tolerance:
        """Torch against another form is judged as that form is."""
        return tolerances.ONNXRUNTIME_FP32

    def check_structure(self, expected_warps: int | None) -> list[Finding]:
        """Counted and checked when the network was built."""
        return []

    def can_round(self, fast: bool, keep_betas: bool) -> bool:
        """With any options."""
        return True

    def round_weights(self, fast: bool, keep_betas: bool = False) -> Form:
        """The donor with the weights of an fp16 conversion."""
        import dataclasses

        from surgery.sources import checkpoint, stock
        from surgery.sources.round_weights import round_weights

        state = round_weights(self.opened.state, fast=fast, keep_betas=keep_betas)
        network = stock.build_network(
            self.opened.donor, scale=self.opened.scale, ensemble=self.opened.network.ensemble
        )
        checkpoint.load_into(network, state)
        return DonorForm(dataclasses.replace(self.opened, state=state, network=network))

    @property
    def notes(self) -> tuple[str, ...]:
        """As found when the donor was opened."""
        return self.opened.notes

    @property
    def timesteps(self) -> tuple[float, ...]:
        """The only ones that the donor knows; empty where it knows all."""
        return TIMESTEPS[self.opened.network.timestep]

    @property
    def warps(self) -> int | None:
        """As counted in the donor's forward."""
        return self.opened.network.warp_count


class HubForm(Form):
    """A hub model, run by onnxruntime with the kernel or with the function body."""

    engines: tuple[str, ...] = ("onnxruntime-kernel", "onnxruntime-function")
    more_engines: tuple[str, ...] = ("onnx-reference",)

    def __init__(self, model: onnx.ModelProto, label: str) -> None:
        """Hold a closed hub model."""
        self.model = model
        self.label = label
        self.opened: HubModel = from_onnx(model)
        self.padding = self.opened.metadata.padding
        if not has_kernel():
            # What an installation without a compiler has computes the same.
            kernel, *others = HubForm.engines
            self.engines = tuple(others)
            self.more_engines = (kernel, *HubForm.more_engines)

    def make_engine(self, name: str) -> Engine:
        """Make an engine; the reference is slow and for small frames."""
        self.require_engine(name)
        if name == "onnx-reference":
            from surgery.engines.onnx_reference import ReferenceEngine

            return ReferenceEngine(self.model)
        from surgery.engines.onnxruntime import OnnxRuntimeEngine

        kernel: Any = "native" if name == "onnxruntime-kernel" else "function"
        return OnnxRuntimeEngine(self.model.SerializeToString(), kernel=kernel)

    def tolerance(self, name: str) -> Tolerance:
        """The same for each of the three."""
        return tolerances.ONNXRUNTIME_FP32

    def check_structure(self, expected_warps: int | None) -> list[Finding]:
        """Find flows that are not two channels, missing warps and the like."""
        warps = self.warps if expected_warps is None else expected_warps
        return check_hub_structure(self.model, warps or 0)

    def can_round(self, fast: bool, keep_betas: bool) -> bool:
        """With any options."""
        return True

    def round_weights(self, fast: bool, keep_betas: bool = False) -> Form:
        """The hub with the weights of an fp16 conversion, its betas folded unless they are kept."""
        model = from_onnx(self.model)
        folds = {"drop_identities"} if keep_betas else {"drop_identities", "fold_betas"}
        passes = [one for one in pipeline.PORTABLE if one.name in folds]
        pipeline.run_passes(model, [*passes, *(pipeline.FAST if fast else ())])
        for node in model.graph.nodes:
            if node.op in ("Conv", "ConvTranspose"):
                weight = node.inputs[1]
                weight.values = weight.values.astype(np.float16).astype(np.float32)
        return HubForm(model.to_onnx(), self.label)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """As the metadata says."""
        return self.opened.metadata.timesteps

    @property
    def warps(self) -> int | None:
        """As the metadata says."""
        return self.opened.metadata.warps


class FolderForm(Form):
    """A model folder, run by plain ncnn, and by rife-ncnn-vulkan itself.

    Attributes:
        folder: where it lies.
        graph: the layers of its network, of three networks those of the first.
        graphs: all of its networks, by the names of their files.
        facts: what the conversion wrote beside the model.
        kind: `v4`, or `v1` or `v2` for three networks, see `surgery.hub.networks`.
    """

    kind = "v4"
    engines = ("ncnn",)
    more_engines = (ON_CPU, ON_VULKAN)
    network_names: tuple[str, ...] = (NETWORK,)

    def __init__(self, folder: Path) -> None:
        """Read a model folder.

        Raises:
            FormatError: there is none, or a file of it breaks its format.
        """
        require_files(folder, self.network_names)
        self.folder = folder
        self.label = folder.resolve().name
        read = {name: read_model(folder, name) for name in self.network_names}
        self.graphs = {name: graph for name, (graph, _) in read.items()}
        self.graph = self.graphs[NETWORK]
        self._float16_arrays = sum(weights.float16_arrays for _, weights in read.values())
        self.facts = read_facts(folder)
        model_facts: Mapping[str, Any] = self.facts.get("model", {})
        self.padding = int(model_facts.get("padding") or self._guess_padding())
        self._warps = model_facts.get("warps")

    def _guess_padding(self) -> int:
        return guess_padding(self.graph)

    def make_engine(self, name: str) -> Engine:
        """Make an engine; each runs in a process of its own."""
        self.require_engine(name)
        if name == "ncnn":
            from surgery.engines.ncnn import NcnnEngine

            return NcnnEngine(self.folder, self.padding, ranges=True)
        from surgery.engines.rife_ncnn_vulkan import CPU, RifeNcnnVulkanEngine

        gpu = CPU if name == ON_CPU else 0
        return RifeNcnnVulkanEngine(self.folder, self.padding, gpu=gpu)

    def tolerance(self, name: str) -> Tolerance:
        """Of the runtime, and of its 8 bits."""
        if name == "ncnn":
            return tolerances.NCNN_FP32
        if name == ON_VULKAN:
            return tolerances.RUNTIME_VULKAN
        if self.is_fp16:
            return tolerances.RUNTIME_CPU_FP16_WEIGHTS
        return tolerances.RUNTIME_CPU_FP32

    def check_structure(self, expected_warps: int | None) -> list[Finding]:
        """Find flows that are not two channels, missing warps and the like."""
        found = sum(layer.type == "rife.Warp" for layer in self.graph.layers)
        warps = next((n for n in (expected_warps, self._warps) if n is not None), found)
        return check_ncnn_structure(self.graph, warps, has_timestep=not self.timesteps)

    def can_round(self, fast: bool, keep_betas: bool) -> bool:
        """With the options that the folder was made with, unless its weights are fp16 already."""
        return not self.is_fp16 and (self.is_fast, self.keeps_betas) == (fast, keep_betas)

    def round_weights(self, fast: bool, keep_betas: bool = False) -> Form:
        """The folder written with fp16 weights, in a place that goes with the form."""
        if not self.can_round(fast, keep_betas):
            return super().round_weights(fast, keep_betas)
        scratch = Path(tempfile.mkdtemp(prefix="surgery-"))
        for name, graph in self.graphs.items():
            write_network(scratch, render(graph), write_weights(graph, fp16=True), name)
        if self.facts:
            shutil.copyfile(self.folder / FACTS_FILE, scratch / FACTS_FILE)
        twin = type(self)(scratch)
        twin.label = self.label
        weakref.finalize(twin, shutil.rmtree, scratch, ignore_errors=True)
        return twin

    @property
    def timesteps(self) -> tuple[float, ...]:
        """As the facts beside the model say."""
        return TIMESTEPS[self.facts.get("model", {}).get("timestep", "plane")]

    @property
    def is_fp16(self) -> bool:
        """As the `.bin` is stored."""
        return self._float16_arrays > 0

    @property
    def is_fast(self) -> bool:
        """As the facts beside the model say."""
        return bool(self.facts.get("options", {}).get("fast", False))

    @property
    def keeps_betas(self) -> bool:
        """As the facts beside the model say, or the constants in a folder of someone else's."""
        options = self.facts.get("options")
        if options is not None:
            return bool(options.get("keep_betas", False))
        layers = (layer for graph in self.graphs.values() for layer in graph.layers)
        return any(layer.type == "MemoryData" for layer in layers)

    @property
    def warps(self) -> int | None:
        """As the facts beside the model say."""
        return self._warps


class NetworksFolderForm(FolderForm):
    """A model folder of three networks, RIFE 1 to 3."""

    network_names = networks.NETWORKS
    timesteps = (0.5,)

    def __init__(self, folder: Path) -> None:
        """Read a model folder; see `FolderForm`."""
        super().__init__(folder)
        self.kind = find_kind(self.graphs[networks.CONTEXTNET])

    def _guess_padding(self) -> int:
        return networks.PADDING

    def make_engine(self, name: str) -> Engine:
        """Make an engine; each runs in a process of its own."""
        self.require_engine(name)
        if name == "ncnn":
            from surgery.engines.ncnn_networks import NcnnNetworksEngine

            return NcnnNetworksEngine(self.folder, self.kind, self.padding)
        from surgery.engines.rife_ncnn_vulkan import CPU, RifeNcnnVulkanEngine

        gpu = CPU if name == ON_CPU else 0
        return RifeNcnnVulkanEngine(self.folder, self.padding, kind=self.kind, gpu=gpu)

    def check_structure(self, expected_warps: int | None) -> list[Finding]:
        """Find flows that are not two channels, missing warps and the like."""
        found = count_network_warps(self.graphs)
        warps = next((n for n in (expected_warps, self._warps) if n is not None), found)
        return check_networks_structure(self.graphs, self.kind, warps)


class Rounding(enum.Enum):
    """Whose weights are rounded to fp16, so that two forms can be compared strictly."""

    NEITHER = "neither"
    REFERENCE = "the reference"
    CANDIDATE = "the candidate"
    IMPOSSIBLE = "nobody, since neither can be rounded as the other was"


def choose_rounding(reference: Form, candidate: Form, engine: str) -> Rounding:
    """Whose weights to round before a candidate in an engine is compared with a reference.

    The real runtime's frames have 8 bits, and its tolerance for fp16 weights covers them as well.
    """
    if candidate.is_fp16 and (engine.startswith(RUNTIME) or reference.is_fp16):
        is_alike = not reference.is_fp16 or _rounded_as(candidate) == _rounded_as(reference)
        return Rounding.NEITHER if is_alike else Rounding.IMPOSSIBLE
    for rounded, other, whose in (
        (reference, candidate, Rounding.REFERENCE),
        (candidate, reference, Rounding.CANDIDATE),
    ):
        if other.is_fp16:
            return whose if rounded.can_round(*_rounded_as(other)) else Rounding.IMPOSSIBLE
    return Rounding.NEITHER


def _rounded_as(form: Form) -> tuple[bool, bool]:
    return form.is_fast, form.keeps_betas


def find_kind(contextnet: NcnnGraph) -> str:
    """The kind of three networks, by what their contextnet is fed: `v1` negates the flow."""
    inputs = [
        blob for layer in contextnet.layers if layer.type == "Input" for blob in layer.outputs
    ]
    return "v1" if networks.FLOWS[1] in inputs else "v2"


def is_folder_of_three(form: Form) -> bool:
    """Whether a form is a model folder of three networks."""
    return isinstance(form, FolderForm) and form.kind in networks.KINDS


def open_folder(folder: Path) -> FolderForm:
    """Open a model folder of one network or of three.

    Raises:
        FormatError: there is none, or a file of it breaks its format.
    """
    form = NetworksFolderForm if holds_three_networks(folder) else FolderForm
    return form(folder)


def read_facts(folder: Path) -> dict[str, Any]:
    """What the conversion wrote beside the model; empty for a folder of someone else's.

    Raises:
        FormatError: the file is there and is not JSON, or holds something else than it should.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    # Of numbers with thousands of digits, and of lists in lists without end.
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON ({error}); delete it, or convert again") from error
    if not isinstance(facts, dict):
        raise FormatError(f"{path}: a JSON object is expected; delete it, or convert again")
    _check_facts(path, facts)
    return facts


def _check_facts(path: Path, facts: dict[str, Any]) -> None:
    """Anybody may have edited the file: what is read from it has to be of its kind."""
    for part in ("model", "options"):
        if not isinstance(facts.get(part, {}), dict):
            raise FormatError(
                f"{path}: {part!r} is {facts[part]!r}; an object is expected; delete the file, "
                "or convert again"
            )
    for name in ("padding", "warps"):
        value = facts.get("model", {}).get(name, 1)
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not 1 <= value <= MAX_PADDING:
            raise FormatError(
                f"{path}: {name} is {repr(value)[:40]}; a whole number from 1 to {MAX_PADDING} is "
                "expected; delete the file, or convert again"
            )
    scales = facts.get("model", {}).get("scale_list", [])
    if not isinstance(scales, list) or not all(map(is_scale, scales)):
        raise FormatError(
            f"{path}: scale_list is {repr(scales)[:40]}; a list of {SCALES} is expected; delete "
            "the file, or convert again"
        )
    timestep = facts.get("model", {}).get("timestep", "plane")
    if timestep not in tuple(TIMESTEPS):  # it may be a list
        raise FormatError(
            f"{path}: timestep is {repr(timestep)[:40]}; {' or '.join(TIMESTEPS)} is expected; "
            "delete the file, or convert again"
        )


def guess_padding(graph: NcnnGraph) -> int:
    """What a model of unknown origin needs: 4 x its strongest reduction, at least 32.

    Raises:
        FormatError: more than any RIFE needs.
    """
    scales = [
        ncnn_layers.read_float(layer.params, ncnn_layers.Interp.HEIGHT_SCALE)
        for layer in graph.layers
        if layer.type == "Interp"
    ]
    smallest = min([scale for scale in scales if scale > 0], default=1.0)
    if smallest * MAX_PADDING < BLOCK_STRIDE:
        raise FormatError(
            f"an Interp reduces by {smallest:g}; {BLOCK_STRIDE / MAX_PADDING:g} or more is "
            f"accepted, which takes frames padded to {MAX_PADDING}"
        )
    return max(32, round(BLOCK_STRIDE / smallest))


def open_file_form(path: Path) -> Form | None:
    """Open a hub model, a lowered one or a model folder; None for a path that is none of them.

    An ONNX without `rife::Warp` that was not lowered here is none of them.

    Raises:
        SurgeryError: it is one of them and broken.
    """
    if path.is_dir() and (path / f"{NETWORK}.param").is_file():
        return open_folder(path)
    if path.suffix == ".onnx":
        from surgery.proof.lowered import LoweredForm, is_lowered

        model = read_onnx(path)
        if is_lowered(model):
            return LoweredForm(model, path.name)
        if not is_hub(model):
            return None
        require_hub(model, path)
        return HubForm(model, path.name)
    return None
