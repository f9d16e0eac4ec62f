"""The donor itself, run eagerly by torch: what every conversion is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs
from surgery.sources.branches import ChosenBranches, Decision
from surgery.sources.stock import StockNetwork


class TorchEngine:
    """Run a stock network, with the warp that its source came with.

    Attributes:
        name: what messages and reports call the engine.
        network: the stock network.
        overruled: where, in the last run, the source alone would have taken another branch than
            exports bake in.
        flows: for each sample of the last run the flows [1,2,H,W], in the order of the warps.
    """

    def __init__(self, network: StockNetwork, name: str = "torch") -> None:
        self.name = name
        self.network = network.eval()
        self.overruled: list[Decision] = []
        self.flows: list[list[np.ndarray]] = []

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, not clamped."""
        self.overruled, self.flows = [], []
        return [self._run_one(sample) for sample in samples]

    def _run_one(self, sample: Sample) -> np.ndarray:
        arrays = network_inputs(sample, self.network.padding)
        inputs = [torch.from_numpy(np.array(arrays[name])) for name in ("in0", "in1", "in2")]
        flows: list[np.ndarray] = []
        with (
            torch.no_grad(),
            ChosenBranches() as branches,
            self.network.observe_warps(lambda _image, flow: flows.append(flow.numpy().copy())),
        ):
            output = self.network(*inputs).numpy()
        self.overruled += branches.overruled
        self.flows.append(flows)
        return crop_frame(output, *sample.in0.shape[-2:])
