"""Plain ncnn on a folder of three networks, which hand on to each other as in rife-ncnn-vulkan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from surgery.engines import Sample
from surgery.engines.child import Task, run_worker
from surgery.engines.frames import check_sample, pad_frame
from surgery.engines.ncnn import add_ranged, find_files, refuse_missing_package
from surgery.engines.recording import name_array, read_recording
from surgery.hub.model import V4_OUTPUT
from surgery.hub.networks import (
    CONTEXT,
    CONTEXTNET,
    FEATURE_INPUTS,
    FLOW,
    FLOW_CHANNELS,
    FLOWNET,
    FLOWS,
    FRAMES,
    FUSIONNET,
    INTERFACES,
    NETWORKS,
)

WORKER = "surgery.engines.ncnn_networks_worker"

Blobs = dict[str, np.ndarray]
# Computes blobs of one network from others, all [1,C,H,W].
RunNetwork = Callable[[str, Mapping[str, np.ndarray], Sequence[str]], Blobs]


class NcnnNetworksEngine:
    """Run a folder of three networks in the PyPI package `ncnn`, in a process of its own.

    Attributes:
        name: what messages and reports call the engine.
        largest: as of `surgery.engines.ncnn.NcnnEngine`, by network and blob.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        padding: int,
        *,
        threads: int = 2,
        time_limit: float = 600.0,
    ) -> None:
        """Prepare; every run loads the model anew.

        `kind` is `v1` or `v2`, see `surgery.hub.networks`; `padding` is the model's, in pixels.

        Units: time_limit in seconds, for all samples of a run together.

        Raises:
            EngineError: a file of the model is missing.
        """
        self.name = "ncnn"
        self._files = {name: find_files(folder, name) for name in NETWORKS}
        self._kind = kind
        self._padding = padding
        self._threads = threads
        self.largest: dict[str, float] = {}
        self._time_limit = time_limit

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, not clamped.

        The frame is the one in the middle, whatever a sample's timestep is.

        Raises:
            EngineError: ncnn is not installed, or refuses the model, or died of it.
        """
        refuse_missing_package(self.name)
        for sample in samples:
            check_sample(sample)
        every, ranged = add_ranged(samples)
        arrays = {
            name_array(index, blob): pad_frame(frame, self._padding)
            for index, sample in enumerate(every)
            for blob, frame in zip(FRAMES, (sample.in0, sample.in1), strict=True)
        }
        facts = {
            "samples": len(every),
            "files": {name: [str(one) for one in files] for name, files in self._files.items()},
            "kind": self._kind,
            "threads": self._threads,
            "ranged": ranged,
        }
        outcome = run_worker(
            WORKER, Task(facts, arrays), engine=self.name, time_limit=self._time_limit
        )
        self.largest = dict(outcome.facts["largest"])
        return read_recording(outcome, samples, self.name, V4_OUTPUT).frames


def chain_networks(run: RunNetwork, kind: str, in0: np.ndarray, in1: np.ndarray) -> np.ndarray:
    """Interpolate as rife-ncnn-vulkan has three networks play together.

    Shapes: in0 and in1 [1,3,H,W], and so is the frame.

    Source: rife-ncnn-vulkan rife.cpp, `RIFE::process_cpu`.
    """
    flow = run(FLOWNET, {"input0": in0, "input1": in1}, [FLOW])[FLOW]
    if kind == "v1":
        fed = dict.fromkeys(FLOWS, flow)
    else:
        # The runtime slices, and feeds both under one name.
        fed = {FLOWS[0]: flow[:, :FLOW_CHANNELS], FLOWS[1]: flow[:, FLOW_CHANNELS:]}
    features: list[np.ndarray] = []
    for frame, name in zip((in0, in1), FLOWS, strict=True):
        blob = name if kind == "v1" else FLOWS[0]
        found = run(CONTEXTNET, {"input.1": frame, blob: fed[name]}, CONTEXT)
        features += [found[level] for level in CONTEXT]
    feed = {
        "img0": in0,
        "img1": in1,
        FLOW: flow,
        **dict(zip(FEATURE_INPUTS, features, strict=True)),
    }
    (output,) = INTERFACES[FUSIONNET].outputs
    return run(FUSIONNET, feed, [output])[output]
