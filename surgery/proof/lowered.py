"""A lowered model, opened for comparison: plain ONNX in one of the layouts that hosts feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgery.engines import Engine
from surgery.engines.lowered import LoweredEngine
from surgery.engines.onnxruntime import BODY_OP
from surgery.hub.model import HubMetadata
from surgery.proof import tolerances
from surgery.proof.forms import Form
from surgery.proof.structure import Finding
from surgery.proof.tolerances import Tolerance
from surgery.targets.to_onnx import LAYOUT_KEY

if TYPE_CHECKING:
    import onnx


class LoweredForm(Form):
    """Plain ONNX that kept the hub's metadata, run by a bare onnxruntime.

    Attributes:
        model: the model.
        layout: what its inputs are, see `surgery.targets.to_onnx`.
        metadata: of the hub model that it was made of.
    """

    engines = ("onnxruntime",)

    def __init__(self, model: onnx.ModelProto, label: str) -> None:
        """Hold a lowered model.

        Raises:
            HubError: it did not keep the hub's metadata.
        """
        properties = read_properties(model)
        self.model = model
        self.label = label
        self.layout = properties[LAYOUT_KEY]
        self.metadata = HubMetadata.from_properties(properties)
        self.padding = self.metadata.padding

    def make_engine(self, name: str) -> Engine:
        """Make the engine."""
        self.require_engine(name)
        return LoweredEngine(self.model.SerializeToString(), self.layout)

    def tolerance(self, name: str) -> Tolerance:
        """By what it computes in."""
        return tolerances.LOWERED_FP16 if self.is_halved else tolerances.ONNXRUNTIME_FP32

    def check_structure(self, expected_warps: int | None) -> list[Finding]:
        """Find missing warps."""
        expected = self.warps if expected_warps is None else expected_warps
        found = sum(node.op_type == BODY_OP for node in self.model.graph.node)
        if found == expected:
            return []
        return [Finding("graph", f"{found} {BODY_OP}; the donor calls {expected} warps")]

    @property
    def is_halved(self) -> bool:
        """Whether any weight is fp16: then all but positions is computed in fp16."""
        import onnx

        half = onnx.TensorProto.FLOAT16
        return any(tensor.data_type == half for tensor in self.model.graph.initializer)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """As the metadata says."""
        return self.metadata.timesteps

    @property
    def warps(self) -> int | None:
        """As the metadata says."""
        return self.metadata.warps


def is_lowered(model: onnx.ModelProto) -> bool:
    """Whether an ONNX file says of itself that it was lowered."""
    return LAYOUT_KEY in read_properties(model)


def read_properties(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of an ONNX file."""
    return {entry.key: entry.value for entry in model.metadata_props}
