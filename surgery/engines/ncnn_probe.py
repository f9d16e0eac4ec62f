"""Plain ncnn on parts of a network: any blobs, computed from any others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from surgery.engines.child import Task, run_worker
from surgery.engines.ncnn import find_files

if TYPE_CHECKING:
    import numpy as np

WORKER = "surgery.engines.ncnn_probe_worker"


@dataclasses.dataclass(frozen=True)
class Probe:
    """Some blobs, and what they are computed from.

    Attributes:
        feed: the blobs that are given, each with the name of its array.
        blobs: what to compute; no blob is computed twice by the probes of one run.
    """

    feed: Mapping[str, str]
    blobs: Sequence[str]


def run_probes(
    folder: Path,
    probes: Sequence[Probe],
    arrays: Mapping[str, np.ndarray],
    *,
    threads: int = 2,
    time_limit: float = 600.0,
) -> dict[str, np.ndarray]:
    """Compute the blobs of all probes, fp32 [1,C,H,W] each, in a process of its own.

    ncnn computes what a blob needs and nobody gave; so a probe that gives a layer's inputs runs
    that layer alone.

    Units: time_limit in seconds.

    Raises:
        EngineError: a file is missing, ncnn is not installed, refuses the model or died of it.
    """
    param, weights = find_files(folder)
    facts = {
        "param": str(param),
        "bin": str(weights),
        "threads": threads,
        "probes": [{"feed": dict(one.feed), "blobs": list(one.blobs)} for one in probes],
    }
    outcome = run_worker(WORKER, Task(facts, arrays), engine="ncnn", time_limit=time_limit)
    return dict(outcome.arrays)
