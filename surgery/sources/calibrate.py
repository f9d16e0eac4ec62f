"""Random weights that behave like trained ones where it matters: their flows exercise the warp.

Freshly initialised networks have betas of 1 and flows near 0, which hides most faults of a
conversion: a swapped flow of 0 is still 0. Calibrated weights have random betas, and each block's
last convolution is scaled and shifted, block after block, until the flow at every warp has a
wanted size and varies across the frame.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch

from surgery.engines.frames import timestep_plane
from surgery.errors import DonorError
from surgery.proof.inputs import make_samples
from surgery.proof.statistics import measure_flows, too_small
from surgery.sources.branches import ChosenBranches
from surgery.sources.stock import Donor, StockNetwork, build_network
from surgery.sources.torch_warp import call_warp

log = logging.getLogger(__name__)

ATTEMPTS = 6
# Several receptive fields of the coarsest block, in multiples of the padding.
LEAST_SIZE = (192, 256)
LEAST_PADDINGS = (2, 3)
TIMESTEP = 0.4
INPUT_SEED = 20

# Deviation of what a block adds to each component of the flow, in pixels: the first finds the
# motion, later ones refine it, as in trained networks. Larger refinements would make the result
# chaotic, and the smallest rounding visible.
FIRST_FLOW, LATER_FLOW = 5.0, 1.0
# The two directions differ in their means as well: x, y for the first frame, then the second.
FIRST_MEANS = (2.0, 1.5, -2.0, -1.5)
# An ensemble averages two nearly independent flows, which makes the mean smaller by sqrt(2).
ENSEMBLE_GAIN = 2**0.5
FRAME_CHANNELS = 3
OPPOSITE_PART = 0.1
FIRST_MASK, LATER_MASK = 1.5, 0.5
FEATURE = 1.0
LEAKY_SLOPE = 0.2  # of every LeakyReLU in the stock sources
SMALL_BIAS = 0.05
BETAS = (0.5, 1.2)
SLOPES = (0.1, 0.3)
# Sub-pixels of a pixel shuffle get kernels that are alike, as trained ones are; the rest differs,
# so that exchanging two of them shows.
COMMON_PART, OWN_PART = 0.9, 0.45


def calibrated_weights(
    donor: Donor, seed: int, *, scale: float = 1.0, ensemble: bool = False
) -> dict[str, torch.Tensor]:
    """Make a state dict for a donor, the same for the same seed.

    Raises:
        DonorError: no attempt reached the flows of `surgery.proof.tolerances.CALIBRATED_FLOW`.
    """
    flows: list[np.ndarray] = []

    def record(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        flows.append(flow.numpy().copy())
        return call_warp(image, flow)

    network = build_network(donor, scale=scale, ensemble=ensemble, warp=record)
    complaints = ""
    for attempt in range(ATTEMPTS):
        generator = torch.Generator().manual_seed(seed * ATTEMPTS + attempt)
        _initialise(network.net, generator)
        if ensemble:
            _oppose_frames(network)
        inputs = _make_inputs(network.padding)
        for index, block in enumerate(_blocks(network)):
            _calibrate_block(network, block, index, inputs)
        flows.clear()
        _run(network, inputs)
        complaints = too_small(measure_flows(flows))
        if not complaints:
            state = network.net.state_dict()
            return {name: tensor.detach().clone() for name, tensor in state.items()}
        log.info("%s, seed %d, attempt %d: %s", donor.label, seed, attempt, complaints)
    raise DonorError(
        f"{donor.label}: no calibrated weights from seed {seed} after {ATTEMPTS} attempts "
        f"({complaints}); try another seed"
    )


def _make_inputs(padding: int) -> tuple[torch.Tensor, ...]:
    height, width = (
        max(least, padding * count) // padding * padding
        for least, count in zip(LEAST_SIZE, LEAST_PADDINGS, strict=True)
    )
    (sample,) = make_samples([(width, height)], [TIMESTEP], INPUT_SEED)
    plane = timestep_plane(height, width, TIMESTEP)
    return tuple(torch.from_numpy(array) for array in (sample.in0, sample.in1, plane))


def _run(network: StockNetwork, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad(), ChosenBranches():
        result: torch.Tensor = network(*inputs)
    return result


def _blocks(network: StockNetwork) -> list[torch.nn.Module]:
    return [
        getattr(network.net, f"block{index}") for index in range(len(network.scale_list))
    ]


def _initialise(net: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter so that the variance of what flows through stays as it is."""
    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            _draw_convolution(module, generator, linear="lastconv" in name)
        elif isinstance(module, torch.nn.PReLU):
            module.weight.data.uniform_(*SLOPES, generator=generator)
        beta = getattr(module, "beta", None)
        if isinstance(beta, torch.nn.Parameter):
            beta.data.uniform_(*BETAS, generator=generator)


def _draw_convolution(
    module: torch.nn.Conv2d | torch.nn.ConvTranspose2d, generator: torch.Generator, linear: bool
) -> None:
    weight = module.weight.data
    taps = module.in_channels // module.groups * weight.shape[2] * weight.shape[3]
    if isinstance(module, torch.nn.ConvTranspose2d):
        # Each output meets one tap in stride x stride.
        taps //= module.stride[0] * module.stride[1]
    gain = 1.0 if linear else 2.0 / (1.0 + LEAKY_SLOPE**2)
    weight.normal_(0.0, (gain / taps) ** 0.5, generator=generator)
    if module.bias is not None:
        module.bias.data.uniform_(-SMALL_BIAS, SMALL_BIAS, generator=generator)


def _oppose_frames(network: StockNetwork) -> None:
    """Let the first block look at the difference of the two frames, as trained ones do.

    An ensemble adds what the block finds for the frames exchanged. A block that hardly minds
    their order would find both flows alike then, and hide that they were exchanged.
    """
    first = network.net.get_submodule("block0.conv0.0.0")
    assert isinstance(first, torch.nn.Conv2d)  # in every stock source
    weight = first.weight.data
    # in0 and in1 with 3 channels each, then the two encodings, if any, then the timestep.
    encoded = (weight.shape[1] - 2 * FRAME_CHANNELS) // 2
    for start, channels in ((0, FRAME_CHANNELS), (2 * FRAME_CHANNELS, encoded)):
        own = weight[:, start : start + channels]
        other = weight[:, start + channels : start + 2 * channels]
        other.copy_(OPPOSITE_PART * other - own)


def _calibrate_block(
    network: StockNetwork, block: torch.nn.Module, index: int, inputs: Sequence[torch.Tensor]
) -> None:
    """Give the raw output of one block the wanted mean and deviation in every channel."""
    last = block.lastconv
    shuffles = isinstance(last, torch.nn.Sequential)
    conv = last[0] if isinstance(last, torch.nn.Sequential) else last
    assert isinstance(conv, torch.nn.ConvTranspose2d)  # in every stock source
    subpixels = 4 if shuffles else 1
    _liken_subpixels(conv, subpixels)
    # Without a pixel shuffle the output is enlarged, and the flow multiplied, by 2 more.
    pixels = network.scale_list[index] * (1 if shuffles else 2)
    raw = _capture(network, last, inputs)
    for channel in range(raw.shape[1]):
        mean, deviation = _wanted(channel, index, pixels)
        if network.ensemble:
            deviation *= ENSEMBLE_GAIN
        rows = slice(channel * subpixels, (channel + 1) * subpixels)
        factor = deviation / max(float(raw[0, channel].std()), 1e-6)
        conv.weight.data[:, rows] *= factor
        assert conv.bias is not None  # as in every stock source
        bias = conv.bias.data
        bias[rows] = (bias[rows] - raw[0, channel].mean()) * factor + mean


def _liken_subpixels(conv: torch.nn.ConvTranspose2d, subpixels: int) -> None:
    if subpixels == 1:
        return
    inputs, outputs, height, width = conv.weight.shape
    own = conv.weight.data.view(inputs, outputs // subpixels, subpixels, height, width)
    own.copy_(OWN_PART * own + COMMON_PART * own[:, :, :1])


def _wanted(channel: int, index: int, pixels: float) -> tuple[float, float]:
    """Mean and deviation of a raw channel: 0 to 3 are flow, 4 is the mask, the rest features."""
    if channel < 4:
        mean = FIRST_MEANS[channel] if index == 0 else 0.0
        return mean / pixels, (FIRST_FLOW if index == 0 else LATER_FLOW) / pixels
    if channel == 4:
        return 0.0, FIRST_MASK if index == 0 else LATER_MASK
    return 0.0, FEATURE


def _capture(
    network: StockNetwork, module: torch.nn.Module, inputs: Sequence[torch.Tensor]
) -> torch.Tensor:
    """The output of a module in one forward; of its first call, where there are several."""
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda _m, _i, output: outputs.append(output.clone()))
    try:
        _run(network, inputs)
    finally:
        hook.remove()
    return outputs[0]
