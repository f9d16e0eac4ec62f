"""A pixel shuffle that a source spells out is one for exporters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from surgery.sources.find_donor import Donor
from surgery.sources.from_torch import export_hub
from surgery.sources.replace_shuffles import is_shuffle, replace_shuffles
from surgery.sources.stock import build_network


class Spelled(torch.nn.Module):
    """As vs-rife had it in 2023, with an order of the axes that tests change."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 4, 2, 5, 3)) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.size()
        parts = x.view(batch, channels // 4, 2, 2, height, width).permute(*self.order)
        return parts.reshape(batch, channels // 4, height * 2, width * 2)


class Weighted(Spelled):
    """A shuffle with a weight is more than one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Spelled(), True),
        (torch.nn.PixelShuffle(2), True),
        (torch.nn.PixelShuffle(4), False),
        (Spelled((0, 1, 4, 3, 5, 2)), False),
        (Weighted(), False),
        (torch.nn.Identity(), False),
        (torch.nn.ReLU(), False),
    ],
)
def test_a_shuffle_is_known_by_what_it_computes(module: torch.nn.Module, expected: bool) -> None:
    assert is_shuffle(module) == expected


def test_every_shuffle_is_replaced_and_nothing_else() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.Sequential(Spelled()), Spelled((0, 1, 4, 3, 5, 2))
    )
    frame = torch.rand(1, 3, 6, 10)
    before = copy.deepcopy(net)(frame)
    assert replace_shuffles(net) == 1
    assert [type(module) for module in net.modules()].count(torch.nn.PixelShuffle) == 1
    assert torch.equal(net(frame), before)
    assert replace_shuffles(net) == 0


SHUFFLE = """
class MyPixelShuffle(torch.nn.Module):
    def forward(self, x):
        b, c, h, w = x.size()
        x = x.view(b, c // 4, 2, 2, h, w)
        return x.permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, h * 2, w * 2)

class IFNet"""


def test_a_source_that_spells_it_out_exports(
    make_donor: Callable[[str], Donor], tiny_source: str
) -> None:
    text = tiny_source.replace("class IFNet", SHUFFLE.lstrip())
    text = text.replace(
        "self.conv = torch.nn.Conv2d(7, 5, 3, 1, 1)",
        "self.conv = torch.nn.Sequential(torch.nn.Conv2d(7, 20, 3, 2, 1), MyPixelShuffle())",
    )
    donor = make_donor(text)
    hub = export_hub(donor, build_network(donor).read_state())
    assert [node.op for node in hub.graph.nodes].count("DepthToSpace") == 1
