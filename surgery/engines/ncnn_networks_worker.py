"""The process in which `surgery.engines.ncnn_networks` runs ncnn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from surgery.engines.child import Outcome, Task, measure_peak_bytes, serve
from surgery.engines.ncnn_networks import Blobs, chain_networks
from surgery.engines.ncnn_worker import measure_ranges, open_network, run_once
from surgery.engines.recording import name_array
from surgery.hub.model import V4_OUTPUT
from surgery.hub.networks import FRAMES

# One run of a network: its name, and what it was fed.
Call = tuple[str, Mapping[str, np.ndarray]]


def run_networks(task: Task) -> Outcome:
    """Load the three networks and run every sample.

    Raises:
        EngineError: ncnn refuses the files, or a graph lacks a blob.
    """
    load_start = time.perf_counter()
    opened = {
        name: open_network({**task.facts, "param": files[0], "bin": files[1]})
        for name, files in task.facts["files"].items()
    }
    load_seconds = time.perf_counter() - load_start
    arrays: dict[str, np.ndarray] = {}
    seconds = []
    largest: dict[str, float] = {}
    for index in range(task.facts["samples"]):
        fed: list[Call] = []

        def run(
            network: str,
            feed: Mapping[str, np.ndarray],
            blobs: Sequence[str],
            fed: list[Call] = fed,
        ) -> Blobs:
            fed.append((network, feed))
            return run_once(opened[network][0], feed, blobs)

        in0, in1 = (task.arrays[name_array(index, name)] for name in FRAMES)
        start = time.perf_counter()
        frame = chain_networks(run, task.facts["kind"], in0, in1)
        seconds.append(time.perf_counter() - start)
        arrays[name_array(index, V4_OUTPUT)] = frame
        if index == task.facts["ranged"]:
            largest = _measure_all(opened, fed)
    facts = {
        "seconds": seconds,
        "load_seconds": load_seconds,
        "peak_bytes": measure_peak_bytes(),
        "largest": largest,
    }
    for network, _ in opened.values():
        network.clear()
    return Outcome(facts, arrays)


def _measure_all(opened: Mapping[str, Any], fed: Sequence[Call]) -> dict[str, float]:
    """The largest magnitude in every blob of every network, over all calls of it."""
    largest: dict[str, float] = {}
    for network, feed in fed:
        for blob, value in measure_ranges(opened[network][0], feed).items():
            name = f"{network}/{blob}"
            largest[name] = max(value, largest.get(name, 0.0))
    return largest


if __name__ == "__main__":
    serve(run_networks)
