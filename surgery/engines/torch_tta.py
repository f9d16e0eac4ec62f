"""What rife-ncnn-vulkan means to compute with -x and -z, by the donor itself: their reference.

The runtime runs the network in several views, stops at each of the first four blocks, and goes on
with the mean of what the block found in all of them. The means are of raw outputs: what a block's
last convolution gives, before it is enlarged, scaled or added up. Channels 0 and 1 are x and y of
the flow to the first frame, 2 and 3 those to the second, 4 is the mask before its sigmoid; further
ones stay each view's own. The frames of all views are averaged last.

Source: rife-ncnn-vulkan rife.cpp, `process_v4`, and `rife_v4_flow_tta_avg.comp` beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from surgery.engines import Sample
from surgery.engines.frames import crop_frame, network_inputs
from surgery.sources.branches import ChosenBranches
from surgery.sources.stock import StockNetwork

# The runtime knows the names flow0 to flow3: a fifth block's output is averaged by nobody.
STAGES = 4
AVERAGED = 5  # channels: two flows and the mask
HEIGHT, WIDTH = 2, 3
EXCHANGED_FLOWS = [2, 3, 0, 1, 4]
EXCHANGED_AXES = [1, 0, 3, 2, 4]


@dataclass(frozen=True)
class View:
    """One way to look at the two frames.

    Attributes:
        is_transposed: height and width change places, before the flips.
        is_flipped_x: right and left change places.
        is_flipped_y: top and bottom change places.
        is_reversed: the frames change places, and the timestep is counted from the other.
    """

    is_transposed: bool = False
    is_flipped_x: bool = False
    is_flipped_y: bool = False
    is_reversed: bool = False

    def turn(self, picture: torch.Tensor) -> torch.Tensor:
        """Turn a picture [1,C,H,W] as this view sees it."""
        turned = picture.transpose(HEIGHT, WIDTH) if self.is_transposed else picture
        return turned.flip(self._flipped_axes())

    def turn_back(self, picture: torch.Tensor) -> torch.Tensor:
        """Undo `turn`."""
        straight = picture.flip(self._flipped_axes())
        return straight.transpose(HEIGHT, WIDTH) if self.is_transposed else straight

    def show(self, raw: torch.Tensor) -> torch.Tensor:
        """A raw output [1,5,H,W] as this view would have found it: its vectors turn, too."""
        seen = exchange(raw) if self.is_reversed else raw
        seen = seen[:, EXCHANGED_AXES] if self.is_transposed else seen
        return self.turn(seen) * self._signs()

    def show_back(self, raw: torch.Tensor) -> torch.Tensor:
        """Undo `show`."""
        straight = self.turn_back(raw * self._signs())
        straight = straight[:, EXCHANGED_AXES] if self.is_transposed else straight
        return exchange(straight) if self.is_reversed else straight

    def _flipped_axes(self) -> list[int]:
        flips = {HEIGHT: self.is_flipped_y, WIDTH: self.is_flipped_x}
        return [axis for axis, is_flipped in flips.items() if is_flipped]

    def _signs(self) -> torch.Tensor:
        x, y = (-1.0 if flip else 1.0 for flip in (self.is_flipped_x, self.is_flipped_y))
        return torch.tensor([x, y, x, y, 1.0]).reshape(1, -1, 1, 1)


def exchange(raw: torch.Tensor) -> torch.Tensor:
    """What a raw output [1,5,H,W] would be with the frames exchanged: flows swapped, mask negated.

    Exchanging twice changes nothing.
    """
    swapped = raw[:, EXCHANGED_FLOWS]
    return torch.cat([swapped[:, :4], -swapped[:, 4:]], dim=1)


def list_views(*, spatial: bool, temporal: bool) -> list[View]:
    """The views of -x (eight), -z (two), both (sixteen) or neither (one)."""
    both, one = (False, True), (False,)
    turns = both if spatial else one
    ways = both if temporal else one
    return [View(*view) for view in itertools.product(turns, turns, turns, ways)]


class TorchTtaEngine:
    """Run a stock network in several views and average, as the runtime's -x and -z do.

    Attributes:
        name: what messages and reports call the engine.
    """

    def __init__(self, network: StockNetwork, *, tta: bool, tta_temporal: bool) -> None:
        """Prepare; `tta` and `tta_temporal` are the runtime's -x and -z."""
        self.name = "torch, averaging"
        self._network = network.eval()
        self._views = list_views(spatial=tta, temporal=tta_temporal)

    def run(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Interpolate; one float32 [1,3,H,W] for each sample, not clamped."""
        with torch.no_grad(), ChosenBranches():
            return [self._run_one(sample) for sample in samples]

    def _run_one(self, sample: Sample) -> np.ndarray:
        arrays = network_inputs(sample, self._network.padding)
        planes = [torch.from_numpy(np.array(arrays[name])) for name in ("in0", "in1", "in2")]
        means: list[torch.Tensor] = []
        for stage in range(min(STAGES, len(self._network.scale_list))):
            found = [self._find_raw(planes, view, means, stage) for view in self._views]
            means.append(torch.stack(found).mean(dim=0))
        frames = [self._compute_frame(planes, view, means) for view in self._views]
        frame = torch.stack(frames).mean(dim=0)
        return crop_frame(frame.numpy(), *sample.in0.shape[-2:])

    def _find_raw(
        self, planes: list[torch.Tensor], view: View, means: list[torch.Tensor], stage: int
    ) -> torch.Tensor:
        """The raw output of a block in one view, turned back."""
        block = _Block(self._network.ensemble)
        try:
            self._forward(planes, view, means, {stage: block})
        except _Found:
            return view.show_back(block.take())
        raise AssertionError(f"the network never ran block {stage}")

    def _compute_frame(
        self, planes: list[torch.Tensor], view: View, means: list[torch.Tensor]
    ) -> torch.Tensor:
        return view.turn_back(self._forward(planes, view, means, {}))

    def _forward(
        self,
        planes: list[torch.Tensor],
        view: View,
        means: list[torch.Tensor],
        watched: dict[int, _Block],
    ) -> torch.Tensor:
        hooks: dict[int, Any] = {
            stage: _Replacement(view.show(mean)) for stage, mean in enumerate(means)
        }
        in0, in1, in2 = (view.turn(plane) for plane in planes)
        inputs = (in1, in0, 1 - in2) if view.is_reversed else (in0, in1, in2)
        with ExitStack() as stack:
            for stage, hook in (hooks | watched).items():
                last: torch.nn.Module = self._network.net.get_submodule(f"block{stage}.lastconv")
                stack.enter_context(last.register_forward_hook(hook))
            result: torch.Tensor = self._network(*inputs)
        return result


class _Found(Exception):
    """The block whose output is wanted has run: the rest of the forward is not needed."""


class _Block:
    """Takes down what a block finds; an ensemble's is the mean of its two evaluations."""

    def __init__(self, ensemble: bool) -> None:
        self._calls = 2 if ensemble else 1
        self._raws: list[torch.Tensor] = []

    def __call__(self, module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        raw = output[:, :AVERAGED]
        self._raws.append(exchange(raw) if self._raws else raw)
        if len(self._raws) == self._calls:
            raise _Found

    def take(self) -> torch.Tensor:
        return torch.stack(self._raws).mean(dim=0)


class _Replacement:
    """Puts a mean in the place of what a block finds; an ensemble's second evaluation is exchanged.

    The ensemble's own mean of the two is then the given one.
    """

    def __init__(self, mean: torch.Tensor) -> None:
        self._next, self._other = mean, exchange(mean)

    def __call__(
        self, module: torch.nn.Module, inputs: object, output: torch.Tensor
    ) -> torch.Tensor:
        mean, self._next, self._other = self._next, self._other, self._next
        return torch.cat([mean, output[:, AVERAGED:]], dim=1)
