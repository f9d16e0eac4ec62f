"""Fixtures of every test, and the rule on skips.

With SURGERY_FORBID_SKIPS=1 in the environment a skipped test fails, unless its reason is listed
here: a runtime that is missing where nothing should be is a fault, not a pass.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from surgery.hub.model import HubModel
    from surgery.proof.validate import Validation
    from surgery.sources.open_donor import OpenDonor

NO_PUBLISHED = "SURGERY_PUBLISHED names no folder of published .param files"

# Reasons that say what the machine is, not that something was not installed.
ALLOWED_SKIPS = {
    NO_PUBLISHED: "graphs of other people, which this project does not hold",
    "chromium is not installed: apt-get install chromium": "no part of the product runs a browser",
    "root may write anywhere": "a folder without write permission stops no root",
    "leftovers are told by flock": "Windows has no flock",
    "forks and limits are Linux's": "the fuzzer is a tool of those who work on the project",
    "this platform cannot exchange two folders": "two renames take its place",
}

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.fixture(scope="session")
def published_folder() -> Path:
    """The folder of .param files that others published, named by SURGERY_PUBLISHED."""
    folder = os.environ.get("SURGERY_PUBLISHED")
    if not folder:
        pytest.skip(NO_PUBLISHED)
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _fail_forbidden_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_forbidden_skip((yield))


def _fail_forbidden_skip(report: Report) -> Report:
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if not is_skip or os.environ.get("SURGERY_FORBID_SKIPS") != "1":
        return report
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"skipped, and SURGERY_FORBID_SKIPS=1 forbids it: {reason}"
    return report


# A stand-in of our own for RIFE 1.x to 3.1: three networks, and a `Model` that nobody can construct
# without a GPU, optimisers and losses. `v1` has one flow for both frames, batch normalisations and
# gates of one pixel; `v2` has a flow for each.
MakeNetworks = Callable[..., Path]
_HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from model.warplayer import warp

def act(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.PReLU(outputs))

def resize(x, factor):
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
"""
_FLOW_NETWORKS = {
    "v1": """
class Block(nn.Module):
    def __init__(self, inputs, scale):
        super().__init__()
        self.scale = scale
        first = nn.Conv2d(inputs, 6, 3, 2, 1, bias=False)
        self.conv0 = nn.Sequential(first, nn.BatchNorm2d(6), nn.PReLU(6))
        self.relu1 = nn.PReLU(1)
        self.fc1 = nn.Conv2d(6, 4, 1, bias=False)
        self.fc2 = nn.Conv2d(4, 6, 1, bias=False)
        self.conv1 = nn.Conv2d(6, 8, 3, 1, 1)
        self.up = nn.PixelShuffle(2)

    def forward(self, x):
        x = self.conv0(resize(x, 1 / self.scale))
        gate = torch.sigmoid(self.fc2(self.relu1(self.fc1(x.mean(3, True).mean(2, True)))))
        return resize(self.up(self.conv1(x * gate + x)), self.scale)

class IFNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.block0, self.block1 = Block(6, 2), Block(8, 1)

    def forward(self, x, scale=1.0):
        x = resize(x, 0.5 * scale)
        first = self.block0(x)
        moved = warp(x[:, :3], first), warp(x[:, 3:], -first)
        second = first + self.block1(torch.cat((*moved, first), 1))
        return resize(second, 1 / scale) / scale, [first, second]
""",
    "v2": """
class Block(nn.Module):
    def __init__(self, inputs, scale):
        super().__init__()
        self.scale = scale
        self.conv0 = nn.Sequential(act(inputs, 6), act(6, 8))
        self.conv1 = nn.ConvTranspose2d(8, 4, 4, 2, 1)

    def forward(self, x):
        flow = self.conv1(self.conv0(resize(x, 1 / self.scale)))
        return resize(flow, self.scale)

class IFNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.block0, self.block1 = Block(6, 2), Block(10, 1)

    def forward(self, x, scale=1.0):
        first = self.block0(x)
        large = resize(first, 2.0) * 2.0
        moved = warp(x[:, :3], large[:, :2]), warp(x[:, 3:], large[:, 2:4])
        second = first + self.block1(torch.cat((*moved, large), 1))
        return second, [first, second]
""",
}
_MODEL = """
from model.loss import *

class ContextNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0, self.conv1, self.conv2 = act(3, 4), act(4, 5), act(5, 6)
        self.conv3, self.conv4 = act(6, 7), act(7, 8)

    def forward(self, x, flow):
        x, features = self.conv0(x), []
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x, flow = conv(x), resize(flow, 0.5) * 0.5
            features.append(warp(x, flow))
        return features

class FusionNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv0, self.down0, self.down1 = act(6 + {channels}, 6), act(6, 6), act(6 + 10, 6)
        self.down2, self.down3 = act(6 + 12, 6), act(6 + 14, 6)
        self.up0 = nn.ConvTranspose2d(6 + 16, 4, 4, 2, 1)
        self.up = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.conv = {last}

    def forward(self, img0, img1, flow, c0, c1, flow_gt):
        warped0, warped1 = warp(img0, flow[:, :2]), warp(img1, {second_large})
        x = self.down0(self.conv0(torch.cat((warped0, warped1, flow), 1)))
        x = self.down1(torch.cat((x, c0[0], c1[0]), 1))
        x = self.down2(torch.cat((x, c0[1], c1[1]), 1))
        x = self.down3(torch.cat((x, c0[2], c1[2]), 1))
        x = self.up0(torch.cat((x, c0[3], c1[3]), 1))
        return self.conv(self.up(self.up(self.up(x)))), warped0, warped1, None, None

class Model:
    def __init__(self, local_rank=-1):
        self.optimG, self.epe = torch.optim.AdamW([]), EPE()

    def predict(self, imgs, flow, training=True, flow_gt=None):
        img0, img1 = imgs[:, :3], imgs[:, 3:]
        c0 = self.contextnet(img0, flow[:, :2])
        c1 = self.contextnet(img1, {second})
        flow = resize(flow, 2.0) * 2.0
        painted, warped0, warped1, _, _ = self.fusionnet(img0, img1, flow, c0, c1, flow_gt)
        mask = torch.sigmoid(painted[:, 3:4])
        merged = warped0 * mask + warped1 * (1 - mask)
        return torch.clamp(merged + torch.sigmoid(painted[:, :3]) * 2 - 1, 0, 1)

    def inference(self, img0, img1, scale=1.0):
        imgs = torch.cat((img0, img1), 1)
        flow, _ = self.flownet(imgs, scale)
        return self.predict(imgs, flow, training=False)
"""
_BLANKS = {
    "v1": {
        "channels": "2",
        "last": "nn.Sequential(nn.Conv2d(4, 16, 3, 1, 1), nn.PixelShuffle(2))",
        "second_large": "-flow",
        "second": "-flow",
    },
    "v2": {
        "channels": "4",
        "last": "nn.ConvTranspose2d(4, 4, 4, 2, 1)",
        "second_large": "flow[:, 2:4]",
        "second": "flow[:, 2:4]",
    },
}


@pytest.fixture(scope="session")
def make_networks(tmp_path_factory: pytest.TempPathFactory) -> MakeNetworks:
    """Write the source of three networks, of a kind and with blanks filled in another way."""

    def make(kind: str, **blanks: str) -> Path:
        folder = tmp_path_factory.mktemp("networks") / "train_log"
        folder.mkdir()
        model = _MODEL
        for name, text in {**_BLANKS[kind], **blanks}.items():
            model = model.replace("{" + name + "}", text)
        star = "from train_log.IFNet_HD import *\n"
        (folder / "IFNet_HD.py").write_text(_HEAD + _FLOW_NETWORKS[kind], encoding="utf-8")
        (folder / "RIFE_HD.py").write_text(_HEAD + star + model, encoding="utf-8")
        return folder

    return make


NETWORKS_FOLDERS = {"v1": "rife-HD", "v2": "rife-v2.3"}
OpenNetworks = Callable[[str], "OpenDonor"]
ExportNetworks = Callable[[str], "HubModel"]
ConvertNetworks = Callable[[str], "tuple[Path, Validation]"]


@pytest.fixture(scope="session")
def open_networks(make_networks: MakeNetworks) -> OpenNetworks:
    """The stand-in of a kind with calibrated weights, made once."""

    @functools.cache
    def make(kind: str) -> OpenDonor:
        from surgery.sources.open_donor import Weights, open_donor

        return open_donor(str(make_networks(kind)), Weights(random_seed=1))

    return make


@pytest.fixture(scope="session")
def export_networks(open_networks: OpenNetworks) -> ExportNetworks:
    """A hub model of the stand-in, made once and copied."""

    @functools.cache
    def export(kind: str) -> bytes:
        from surgery.conversion import export_donor

        return export_donor(open_networks(kind)).to_onnx().SerializeToString()

    def copy(kind: str) -> HubModel:
        import onnx

        from surgery.hub.model import from_onnx

        return from_onnx(onnx.load_from_string(export(kind)))

    return copy


@pytest.fixture(scope="session")
def convert_networks(
    make_networks: MakeNetworks, tmp_path_factory: pytest.TempPathFactory
) -> ConvertNetworks:
    """The model folder of the stand-in, proven, made once; nobody may change it."""

    @functools.cache
    def convert(kind: str) -> tuple[Path, Validation]:
        from surgery import conversion

        folder = tmp_path_factory.mktemp("converted") / NETWORKS_FOLDERS[kind]
        _, validation = conversion.convert(str(make_networks(kind)), folder, random_weights=1)
        assert validation is not None
        return folder, validation

    return convert
