"""Plain ncnn, with `rife.Warp` as a layer written in numpy: fp32 throughout, on CPU.

It shows what the converted graph computes, without the 8 bits and the fp16 of rife-ncnn-vulkan, and
any blob on the way.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.engines import Sample
from surgery.engines.child import Task, run_worker
from surgery.engines.frames import network_inputs
from surgery.engines.recording import Recording, name_array, read_recording
from surgery.errors import EngineError
from surgery.formats.ncnn_folder import NETWORK
from surgery.hub.model import V4_OUTPUT

if TYPE_CHECKING:
    import numpy as np

WORKER = "surgery.engines.ncnn_worker"
# All blobs of the largest RIFE take 1.5 GB at this size.
RANGED_PIXELS = 512 * 512


class NcnnEngine:
    """Run a v4 model folder in the PyPI package `ncnn`, in a process of its own.

    Attributes:
        name: what messages and reports call the engine.
        largest: the largest magnitude in every blob, infinite where a value is not finite; of the
            last run's smallest frame, or of its middle where it has more than RANGED_PIXELS, and
            empty unless `ranges` was asked for.
        device: the name of the Vulkan device that the last run used; empty for the CPU.
    """

    def __init__(
        self,
        folder: Path,
        padding: int,
        *,
        threads: int = 2,
        blobs: Sequence[str] = (),
        ranges: bool = False,
        vulkan: int | None = None,
        half: bool = False,
        time_limit: float = 600.0,
    ) -> None:
        """Prepare; every run loads the model anew.

        `padding` is the model's, in pixels; `blobs` are extracted beside the frames, for `record`;
        `ranges` asks for `largest`. `vulkan` is the number of a Vulkan device, None for the CPU;
        the warp stays on the CPU. `half` keeps the blobs on Vulkan in fp16, as rife-ncnn-vulkan
        does.

        Units: time_limit in seconds, for all samples of a run together.

        Raises:
            EngineError: a file of the model is missing.
        """
        self.name = "ncnn" if vulkan is None else f"ncnn, Vulkan device {vulkan}"
        self.name += ", fp16 blobs" if half else ""
        self._files = find_files(folder)
        self._padding = padding
        self._threads = threads
        self._blobs = tuple(blobs)
        self._ranges = ranges
        self._vulkan = vulkan
        self._half = half
        self.device = ""
        self.largest: dict[str, float] = {}
        self._time_limit = time_limit

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, not clamped.

        Raises:
            EngineError: ncnn is not installed, or refuses the model, or died of it.
        """
        return self.record(samples).frames

    def record(self, samples: Sequence[Sample]) -> Recording:
        """As `run`, with the blobs, the times and the memory.

        Raises:
            EngineError: as `run`; also for a blob that the graph does not have.
        """
        refuse_missing_package(self.name)
        every, ranged = add_ranged(samples) if self._ranges else (samples, None)
        arrays = {
            name_array(index, blob): array
            for index, sample in enumerate(every)
            for blob, array in network_inputs(sample, self._padding).items()
        }
        facts = {
            "samples": len(every),
            "param": str(self._files[0]),
            "bin": str(self._files[1]),
            "threads": self._threads,
            "blobs": [V4_OUTPUT, *self._blobs],
            "vulkan": self._vulkan,
            "half": self._half,
            "ranged": ranged,
        }
        outcome = run_worker(
            WORKER, Task(facts, arrays), engine=self.name, time_limit=self._time_limit
        )
        self.largest = dict(outcome.facts["largest"])
        self.device = outcome.facts["device"]
        return read_recording(outcome, samples, self.name, V4_OUTPUT, self._blobs)


def add_ranged(samples: Sequence[Sample]) -> tuple[Sequence[Sample], int | None]:
    """The samples, and which one's blobs all fit into memory at once.

    That is the smallest; where even that is too large, its middle is one more sample, the last.
    """
    if not samples:
        return samples, None
    index = min(range(len(samples)), key=lambda one: samples[one].in0.size)
    height, width = samples[index].in0.shape[-2:]
    if height * width <= RANGED_PIXELS:
        return samples, index
    return [*samples, _cut_middle(samples[index])], len(samples)


def _cut_middle(sample: Sample) -> Sample:
    side = math.isqrt(RANGED_PIXELS)
    top, left = (max(size - side, 0) // 2 for size in sample.in0.shape[-2:])
    window = (..., slice(top, top + side), slice(left, left + side))
    return Sample(sample.in0[window], sample.in1[window], sample.timestep)


def refuse_missing_package(engine: str) -> None:
    """Tell what is not installed from what dies of a model.

    Raises:
        EngineError: ncnn is not installed.
    """
    if importlib.util.find_spec("ncnn") is None:
        raise EngineError(f"{engine} is not installed; install it by: pip install ncnn")


def find_files(folder: Path, network: str = NETWORK) -> tuple[Path, Path]:
    """The `.param` and the `.bin` of a network in a model folder, as absolute paths.

    Raises:
        EngineError: one of them is missing.
    """
    param, weights = (folder.resolve() / f"{network}.{end}" for end in ("param", "bin"))
    for path in (param, weights):
        if not path.is_file():
            raise EngineError(f"{folder} has no {path.name}; a model folder holds it")
    return param, weights
