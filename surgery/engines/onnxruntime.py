"""onnxruntime, with the compiled kernel of `rife::Warp` or with its function body.

A kernel that was not registered hides behind the function body: the result is the same, only
slower. So the first run is profiled, and an engine refuses to give results unless the profile shows
that what it was asked for is what ran.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs
from surgery.errors import EngineError
from surgery.hub import warp
from surgery.hub.model import V4_OUTPUT, HubMetadata

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime as ort

Kernel = Literal["native", "function"]
# The operator of the function body that samples, which is also what a lowered model holds.
BODY_OP = "GridSample"
_EVIDENCE: dict[Kernel, str] = {"native": warp.OP_TYPE, "function": BODY_OP}
_ERRORS_ONLY = 3  # onnxruntime's ORT_LOGGING_LEVEL_ERROR


class OnnxRuntimeEngine:
    """Run a hub model, or a lowered one that kept the hub's metadata, in onnxruntime on CPU.

    Attributes:
        name: what messages and reports call the engine.
        ran: how many nodes of `Warp` and `GridSample` the first run executed; empty before it.
    """

    def __init__(
        self,
        model: bytes | Path,
        kernel: Kernel = "native",
        *,
        threads: int = 2,
        optimise: bool = True,
    ) -> None:
        """Prepare; the model is loaded by the first run.

        `model` is the file, or its bytes. `kernel` "native" registers the compiled kernel,
        "function" registers nothing, so that the model-local function body runs.

        Raises:
            KernelMissing: "native" is asked for, and this installation has no kernel.
        """
        self.name = f"onnxruntime, {kernel} warp"
        self.ran: Counter[str] = Counter()
        self._model = model
        self._kernel = kernel
        self._library = _find_library(kernel)
        self._threads = threads
        self._optimise = optimise
        self._session: ort.InferenceSession | None = None
        self._metadata = HubMetadata()

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, not clamped.

        Raises:
            EngineError: onnxruntime refuses the model or the input, or ran another warp than the
                one asked for.
            HubError: the model has no metadata of a hub model.
        """
        return [self._run_one(sample) for sample in samples]

    def _run_one(self, sample: Sample) -> np.ndarray:
        if self._session is not None:
            return self._compute(self._session, sample)
        with tempfile.TemporaryDirectory(prefix="surgery-") as folder:
            session = self._make_session(Path(folder))
            frame = self._compute(session, sample)
            self.ran = _count_warps(Path(session.end_profiling()))
        self._refuse_other_warp()
        self._session = session
        return frame

    def _make_session(self, profile_folder: Path) -> ort.InferenceSession:
        import onnxruntime as ort

        options = self._make_options(profile_folder)
        model = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # onnxruntime's exceptions share no base class but Exception.
        except Exception as error:
            raise EngineError(f"{self.name} refuses the model: {first_line(error)}") from error
        properties = session.get_modelmeta().custom_metadata_map
        self._metadata = HubMetadata.from_properties(properties)
        return session

    def _make_options(self, profile_folder: Path) -> ort.SessionOptions:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = (
            level.ORT_ENABLE_ALL if self._optimise else level.ORT_DISABLE_ALL
        )
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_folder / "profile")
        if self._library is not None:
            _register(options, self._library)
        return options

    def _compute(self, session: ort.InferenceSession, sample: Sample) -> np.ndarray:
        refuse_timestep(self._metadata, sample)
        inputs = network_inputs(sample, self._metadata.padding)
        try:
            (frame,) = session.run([V4_OUTPUT], inputs)
        except Exception as error:  # as in _make_session
            raise EngineError(f"{self.name} failed: {first_line(error)}") from error
        height, width = sample.in0.shape[-2:]
        return crop_frame(frame, height, width)

    def _refuse_other_warp(self) -> None:
        wanted = _EVIDENCE[self._kernel]
        if set(self.ran) != {wanted}:
            found = ", ".join(f"{count} {op}" for op, count in self.ran.items()) or "neither"
            raise EngineError(
                f"{self.name}: its profile shows {found} of Warp and GridSample; {wanted} alone "
                "should have run (is this a model with rife::Warp and its function body?)"
            )


def refuse_timestep(metadata: HubMetadata, sample: Sample) -> None:
    """Refuse a timestep that the model would ignore.

    Raises:
        EngineError: the model knows one timestep only, and the sample asks for another.
    """
    known = metadata.timesteps
    if known and sample.timestep not in known:
        raise EngineError(
            f"timestep {sample.timestep}; the model's donor knows {', '.join(map(str, known))} "
            "alone and would give that frame whatever is asked"
        )


def _find_library(kernel: Kernel) -> Path | None:
    if kernel == "function":
        return None
    from surgery.kernel_library import ops_library

    return ops_library()


def _register(options: ort.SessionOptions, library: Path) -> None:
    try:
        options.register_custom_ops_library(str(library))
    except Exception as error:  # as in _make_session
        raise EngineError(
            f"onnxruntime cannot load {library.name}: {first_line(error)}; it was built for "
            "another platform or another onnxruntime: install the package again"
        ) from error


def _count_warps(profile: Path) -> Counter[str]:
    """How many nodes of each warping operator a profile holds."""
    ops = (event.get("args", {}).get("op_name") for event in json.loads(profile.read_bytes()))
    return Counter(op for op in ops if op in _EVIDENCE.values())


def first_line(error: Exception) -> str:
    """What onnxruntime says, without where in its source it says so."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
