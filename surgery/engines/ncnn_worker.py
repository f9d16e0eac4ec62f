"""The process in which `surgery.engines.ncnn` runs ncnn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surgery.engines.banded_warp import warp_in_bands
from surgery.engines.child import Outcome, Task, measure_peak_bytes, serve
from surgery.engines.recording import name_array
from surgery.errors import EngineError
from surgery.hub.model import V4_INPUTS

try:
    import ncnn
except ImportError as missing:
    raise SystemExit(f"{missing}; the package is installed by: pip install ncnn") from missing

WARP_LAYER = "rife.Warp"
# Everything that would round to 16 bits. The packing layout stays on: without it ncnn computed
# wrong output (release 20261020).
_ROUNDING_OPTIONS = (
    "use_fp16_packed",
    "use_fp16_storage",
    "use_fp16_arithmetic",
    "use_bf16_storage",
)
# How rife-ncnn-vulkan runs on Vulkan: blobs in fp16, arithmetic in fp32 (rife.cpp, `RIFE::load`).
_HALF_OPTIONS = ("use_fp16_packed", "use_fp16_storage")


class WarpLayer(ncnn.Layer):  # type: ignore[misc]
    """`rife.Warp` by its definition; ncnn unpacks what it gets, for it claims no packing."""

    def __init__(self) -> None:
        """Take two blobs."""
        ncnn.Layer.__init__(self)
        self.one_blob_only = False

    def forward(self, bottoms: Sequence[Any], tops: Sequence[Any], option: Any) -> int:
        """Warp the first blob by the second."""
        image, flow = (np.array(blob) for blob in bottoms)
        warped = warp_in_bands(image, flow)
        tops[0].clone_from(ncnn.Mat(warped), option.blob_allocator)
        return 0


class WarpFactory:
    """Makes layers and keeps them: ncnn holds no reference that Python counts."""

    def __init__(self) -> None:
        """Start with none."""
        self._layers: list[WarpLayer] = []

    def create(self) -> WarpLayer:
        """Make a layer."""
        self._layers.append(WarpLayer())
        return self._layers[-1]

    def destroy(self, layer: WarpLayer) -> None:
        """Let go of a layer."""
        self._layers = [kept for kept in self._layers if kept is not layer]


def run_network(task: Task) -> Outcome:
    """Load the network and run every sample.

    Raises:
        EngineError: ncnn refuses the files, or the graph lacks a blob; no such Vulkan device.
    """
    load_start = time.perf_counter()
    network, _factory = open_network(task.facts)
    load_seconds = time.perf_counter() - load_start
    inputs = _find_inputs(network)
    arrays: dict[str, np.ndarray] = {}
    seconds = []
    largest: dict[str, float] = {}
    for index in range(task.facts["samples"]):
        feed = {name: task.arrays[name_array(index, name)] for name in inputs}
        start = time.perf_counter()
        blobs = run_once(network, feed, task.facts["blobs"])
        seconds.append(time.perf_counter() - start)
        arrays |= {name_array(index, name): blob for name, blob in blobs.items()}
        if index == task.facts.get("ranged"):
            largest = measure_ranges(network, feed)
    facts = {
        "seconds": seconds,
        "load_seconds": load_seconds,
        "peak_bytes": measure_peak_bytes(),
        "largest": largest,
        "device": _name_device(task.facts.get("vulkan")),
    }
    network.clear()
    if task.facts.get("vulkan") is not None:
        # Drivers crash when the process ends before the instance.
        ncnn.destroy_gpu_instance()
    return Outcome(facts, arrays)


def _name_device(number: int | None) -> str:
    return "" if number is None else str(ncnn.get_gpu_info(number).device_name())


def open_network(facts: Mapping[str, Any]) -> tuple[Any, WarpFactory]:
    """Load the files that the facts name; the factory has to live as long as the network.

    Raises:
        EngineError: ncnn refuses the files, or there is no such Vulkan device.
    """
    factory = WarpFactory()
    network = ncnn.Net()
    network.register_custom_layer(WARP_LAYER, factory.create, factory.destroy)
    _set_options(network.opt, facts)
    _choose_device(network, facts.get("vulkan"))
    _load(network, facts)
    return network, factory


def measure_ranges(network: Any, feed: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest magnitude in every blob; infinite where a value is not finite.

    An input that is not fed, because what is made of it is, has none.
    """
    unfed = set(network.input_names()) - set(feed)
    planes = {name: np.ascontiguousarray(array[0]) for name, array in feed.items()}
    extractor = make_extractor(network, planes)
    largest = {}
    # A .param may announce more blobs than it names.
    for name in filter(None, (blob.name for blob in network.blobs())):
        if name in unfed:
            continue
        reached = float(np.abs(extract_blob(extractor, name)).max())
        largest[name] = reached if np.isfinite(reached) else float("inf")
    return largest


def _set_options(option: Any, facts: Mapping[str, Any]) -> None:
    for name in _ROUNDING_OPTIONS:
        setattr(option, name, name in _HALF_OPTIONS and bool(facts.get("half")))
    option.use_vulkan_compute = facts.get("vulkan") is not None
    option.num_threads = facts["threads"]


def _choose_device(network: Any, number: int | None) -> None:
    if number is None:
        return
    count = ncnn.get_gpu_count()
    if number >= count:
        raise EngineError(f"there is no Vulkan device {number}; this machine has {count}")
    network.set_vulkan_device(number)


def _load(network: Any, facts: Mapping[str, Any]) -> None:
    for load, path in ((network.load_param, facts["param"]), (network.load_model, facts["bin"])):
        if load(path) != 0:
            raise EngineError(f"it refuses {path}")


def _find_inputs(network: Any) -> list[str]:
    """The inputs that the graph has. One that nobody feeds would be read as a null pointer."""
    names = list(network.input_names())
    unknown = sorted(set(names) - set(V4_INPUTS))
    if unknown:
        raise EngineError(
            f"the graph has the input(s) {', '.join(unknown)}; a v4 model has "
            f"{', '.join(V4_INPUTS)}"
        )
    return names


def run_once(
    network: Any, feed: Mapping[str, np.ndarray], blobs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Compute blobs from others, all [1,C,H,W].

    Raises:
        EngineError: ncnn does not compute one of them.
    """
    planes = {name: np.ascontiguousarray(array[0]) for name, array in feed.items()}
    extractor = make_extractor(network, planes, light=len(blobs) == 1)
    return {name: extract_blob(extractor, name) for name in blobs}


def make_extractor(network: Any, planes: Mapping[str, np.ndarray], *, light: bool = False) -> Any:
    """Start a run from any blobs; `planes` are [C,H,W] and contiguous.

    The light mode frees a blob after its last reader, and asking for it then is fatal.
    """
    extractor = network.create_extractor()
    extractor.set_light_mode(light)
    for name, array in planes.items():
        # A Mat made from an array counts no references, and a layer that works in place then
        # crashes in the light mode (release 20261020); a clone counts them.
        extractor.input(name, ncnn.Mat(array).clone())
    return extractor


def extract_blob(extractor: Any, name: str) -> np.ndarray:
    """Compute a blob, as float32 with a batch axis.

    Raises:
        EngineError: ncnn does not compute it.
    """
    code, blob = extractor.extract(name)
    if code != 0 or blob.empty():
        raise EngineError(f"it does not compute blob {name} (code {code})")
    # An array made from a Mat points into it and dies with the network: copied.
    return np.array(np.array(blob)[np.newaxis], np.float32, copy=True)


if __name__ == "__main__":
    serve(run_network)
