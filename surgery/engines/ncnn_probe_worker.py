"""The process in which `surgery.engines.ncnn_probe` runs parts of a network."""

from __future__ import annotations

import numpy as np

from surgery.engines.child import Outcome, Task, serve
from surgery.engines.ncnn_worker import extract_blob, make_extractor, open_network


def run_probes(task: Task) -> Outcome:
    """Compute the blobs of every probe from what it feeds.

    Raises:
        EngineError: ncnn refuses the files, or does not compute a blob.
    """
    network, _factory = open_network(task.facts)
    arrays: dict[str, np.ndarray] = {}
    for probe in task.facts["probes"]:
        feed = {
            blob: np.ascontiguousarray(task.arrays[name][0]) for blob, name in probe["feed"].items()
        }
        extractor = make_extractor(network, feed)
        arrays |= {blob: extract_blob(extractor, blob) for blob in probe["blobs"]}
    return Outcome({}, arrays)


if __name__ == "__main__":
    serve(run_probes)
