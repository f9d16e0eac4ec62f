"""Fixtures of every test, and the rule on skips.

With SURGERY_FORBID_SKIPS=1 in the environment a skipped test fails, unless its reason is listed
here: a runtime that is missing where nothing should be is a fault, not a pass.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from surgery.formats.ncnn_bin import write_weights
from surgery.formats.ncnn_param import parse
from surgery.formats.ncnn_random import fill_random_weights

if TYPE_CHECKING:
    from surgery.hub.model import HubModel
    from surgery.proof.validate import Validation
    from surgery.sources.open_donor import OpenDonor

NO_BROWSER = "chromium is not installed: apt-get install chromium"
NO_PUBLISHED = "SURGERY_PUBLISHED names no folder of published .param files"

# Reasons that say what the machine is, not that something was not installed.
ALLOWED_SKIPS = {
    NO_PUBLISHED: "graphs of other people, which this project does not hold",
    NO_BROWSER: "no part of the product runs a browser",
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


# ---- pages -------------------------------------------------------------------------------------


class _Tags(HTMLParser):
    """Notes tags that are left open, and every address that is asked for."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="session")
def list_addresses() -> Callable[[str], list[str]]:
    """Every address that a page asks for; its tags have to be closed in order."""
    return _list_addresses


def _list_addresses(page: str) -> list[str]:
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    return tags.addresses


# What a page measures of itself in a browser stands in its title.
LookAtPage = Callable[..., list[Any]]


@pytest.fixture(scope="session")
def look_at_page() -> LookAtPage:
    """Load a page in headless Chromium, keep its picture and tell what it measures of itself."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip(NO_BROWSER)
    return functools.partial(_look_at_page, browser)


def _look_at_page(
    browser: str, text: str, measures: str, picture: Path, size: tuple[int, int], *options: str
) -> list[Any]:
    """The values of `measures`, expressions of JavaScript; the page lies beside its picture.

    Units: size is (width, height) of the window in pixels.
    """
    probe = (
        "<script>addEventListener('load', () => { document.title = "
        f"JSON.stringify([{measures}]); }});</script>"
    )
    page = picture.with_suffix(".html")
    page.write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=2000",
        f"--user-data-dir={picture.parent / 'profile'}",
        f"--window-size={size[0]},{size[1]}",
        *options,
    ]
    for output in (f"--screenshot={picture}", "--dump-dom"):
        done = subprocess.run(
            [*command, output, page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    title = re.search(r"<title>(\[.*?\])</title>", done.stdout)
    assert title is not None
    values: list[Any] = json.loads(title[1])
    return values


# ---- a model of one block ----------------------------------------------------------------------

TINY_LAYERS = """
Input in0 0 1 in0
Split s0 1 2 in0 in0_a in0_b
Input in1 0 1 in1
Split s1 1 2 in1 in1_a in1_b
Input in2 0 1 in2
Concat join 3 1 in0_a in1_a in2 x 0=0
Interp down 1 1 x down 0=2 1=0.25 2=0.25
Convolution c0 1 1 down c0 0=32 1=3 4=1 5=1 6=2016 9=2 -23310=1,0.2
Convolution c1 1 1 c0 c1 0=5 1=3 4=1 5=1 6=1440
Interp up 1 1 c1 up 0=2 1=4.0 2=4.0
Split su 1 3 up up_0 up_1 up_2
Crop f0 1 1 up_0 f0 -23309=1,0 -23310=1,2 -23311=1,0
Crop f1 1 1 up_1 f1 -23309=1,2 -23310=1,4 -23311=1,0
Crop m0 1 1 up_2 m0 -23309=1,4 -23310=1,5 -23311=1,0
rife.Warp w0 2 1 in0_b f0 w0
rife.Warp w1 2 1 in1_b f1 w1
Sigmoid m 1 1 m0 m
Split sm 1 2 m m_0 m_1
BinaryOp rest 1 1 m_0 rest 0=7 1=1 2=1.0
BinaryOp left 2 1 w0 m_1 left 0=2
BinaryOp right 2 1 w1 rest right 0=2
BinaryOp end 2 1 left right out0 0=0
"""

WriteTinyModel = Callable[[Path, int], None]


@pytest.fixture(scope="session")
def write_tiny_model() -> WriteTinyModel:
    """Write a model folder of one block and two warps, its weights random ones of a seed."""
    return _write_tiny_model


def _write_tiny_model(folder: Path, seed: int) -> None:
    lines = TINY_LAYERS.strip().splitlines()
    text = f"7767517\n{len(lines)} 32\n" + "\n".join(lines) + "\n"
    graph = parse(text)
    fill_random_weights(graph, seed)
    for layer in graph.layers:
        if layer.name == "c1":
            # Flows of some pixels.
            layer.weights["weight"] *= np.float32(20)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flownet.param").write_text(text, encoding="utf-8")
    (folder / "flownet.bin").write_bytes(write_weights(graph, fp16=False))


# ---- three networks ----------------------------------------------------------------------------

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
