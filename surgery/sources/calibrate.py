"""Random weights that behave like trained ones where it matters: their flows exercise the warp.

Freshly initialised networks have betas of 1 and flows near 0, which hides most faults of a
conversion: a swapped flow of 0 is still 0. Calibrated weights have random betas, and each block's
last convolution is scaled and shifted, block after block, until the flow at every warp has a
wanted size and varies across the frame.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch

from surgery.engines.frames import network_inputs
from surgery.errors import DonorError
from surgery.proof.inputs import make_samples
from surgery.proof.statistics import measure_flows, too_small
from surgery.sources.branches import ChosenBranches
from surgery.sources.find_donor import Donor
from surgery.sources.replace_shuffles import is_shuffle
from surgery.sources.stock import StockNetwork, build_network
from surgery.sources.three_networks import ThreeNetworks

log = logging.getLogger(__name__)

Inputs = tuple[torch.Tensor, ...]
# Of a forward hook that is given the keyword arguments, too.
BlockHook = Callable[
    [torch.nn.Module, tuple[Any, ...], dict[str, Any], torch.Tensor], torch.Tensor | None
]
# Mean and deviation that a raw channel is to have, where one of its pixels is so many of the frame.
Wanted = Callable[[int, float], tuple[float, float]]
Hook = Callable[[torch.nn.Module, Inputs, torch.Tensor], torch.Tensor | None]

ATTEMPTS = 6
# Several receptive fields of the coarsest block, in multiples of the padding.
LEAST_SIZE = (192, 256)
LEAST_PADDINGS = (2, 3)
# Weights are calibrated at the first; the second has to give another frame.
TIMESTEPS = (0.4, 0.7)
INPUT_SEED = 20

# Deviation of what a block adds to each component of the flow, in pixels: the first finds the
# motion, later ones refine it, as in trained networks. Larger refinements would make the result
# chaotic, and the smallest rounding visible.
FIRST_FLOW, LATER_FLOW = 4.0, 1.0
# The two directions differ in their means as well: x, y for the first frame, then the second.
FIRST_MEANS = (2.0, 1.5, -2.0, -1.5)
# An ensemble averages two nearly independent flows, which makes the mean smaller by sqrt(2).
ENSEMBLE_GAIN = 2**0.5
FRAME_CHANNELS, FLOW_CHANNELS = 3, 4
# The flow of three networks is in pixels of half the frame.
HALF_SIZE = 2.0
# Where a block's raw output comes from, and which channel each begins with: 3.x has the mask apart.
HEADS = {"lastconv": 0, "conv1": 0, "conv2": FLOW_CHANNELS}
# Of the paper's second stage, whose sigmoid adds to the frame: a tenth of white, not all of it.
REFINEMENT_HEAD = "unet.conv"
REFINED = 0.2
SUBPIXELS = 4  # of a pixel shuffle by 2
LEAST_RAW = 1e-6  # of a channel that does not vary, which no factor can help
OPPOSITE_PART = 0.1
TIMESTEP_GAIN = 3.0
# The last block's mask counts from 4.7 on, the sum of all before: 1 gives 1, and 2 for four blocks.
MASK = 1.0
FEATURE = 1.0
LEAKY_SLOPE = 0.2  # of every LeakyReLU in the stock sources
SMALL_BIAS = 0.05
BETAS = (0.5, 1.2)
SLOPES = (0.1, 0.3)
# Sub-pixels of a pixel shuffle get kernels that are alike, as trained ones are; the rest differs,
# so that exchanging two of them shows.
COMMON_PART, OWN_PART = 0.9, 0.45
# Factors keep so many bits: what the machine rounds in its sums then hardly ever changes a weight.
FACTOR_BITS = 8
# A frame of one colour, or one that hardly minds the timestep, would prove nothing.
LEAST_DEVIATION = 0.02
LEAST_TIMESTEP_EFFECT = 1 / 255


def calibrated_weights(
    donor: Donor, seed: int, *, scale: float = 1.0, ensemble: bool = False
) -> dict[str, torch.Tensor]:
    """Make a state dict for a donor, the same for the same arguments.

    Raises:
        DonorError: the donor cannot be built as asked, or no attempt reached the flows of
            `surgery.proof.tolerances.CALIBRATED_FLOW`.
    """
    network = build_network(donor, scale=scale, ensemble=ensemble)
    heeds_timestep = network.timestep == "plane"
    inputs, later_inputs = _make_inputs(network.padding)
    complaints = ""
    for attempt in range(ATTEMPTS):
        generator = torch.Generator().manual_seed(seed * ATTEMPTS + attempt)
        _initialise(network.net, generator)
        if network.averages_directions:
            _oppose_frames(network)
        elif heeds_timestep:
            _heed_timestep(network)
        _calibrate_blocks(network, inputs)
        complaints = _find_complaints(network, inputs, later_inputs)
        if not complaints:
            return network.read_state()
        log.info("%s, seed %d, attempt %d: %s", donor.label, seed, attempt, complaints)
    raise DonorError(
        f"{donor.label}: no calibrated weights from seed {seed} after {ATTEMPTS} attempts "
        f"({complaints}); try another seed"
    )


def _make_inputs(padding: int) -> list[Inputs]:
    height, width = (
        max(least, padding * count) // padding * padding
        for least, count in zip(LEAST_SIZE, LEAST_PADDINGS, strict=True)
    )
    samples = make_samples([(width, height)], TIMESTEPS, INPUT_SEED)
    return [
        tuple(torch.from_numpy(array) for array in network_inputs(sample, padding).values())
        for sample in samples
    ]


def _find_complaints(network: StockNetwork, inputs: Inputs, later_inputs: Inputs) -> str:
    """Say why weights prove too little; empty when they do."""
    flows: list[np.ndarray] = []
    with network.observe_warps(lambda _, flow: flows.append(flow.numpy().copy())):
        frame = _run(network, inputs)
    complaints = too_small(measure_flows(flows))
    if complaints:
        return complaints
    if not float(frame.std()) >= LEAST_DEVIATION:
        return f"the frame varies by {float(frame.std()):.3f}"
    if network.timestep != "plane":
        return ""
    effect = float((_run(network, later_inputs) - frame).abs().mean())
    if not effect >= LEAST_TIMESTEP_EFFECT:
        return f"another timestep changes the frame by {effect:.4f}"
    return ""


def _run(network: StockNetwork, inputs: Inputs) -> torch.Tensor:
    with torch.no_grad(), ChosenBranches():
        result: torch.Tensor = network(*inputs)
    return result


def _initialise(net: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter so that the variance of what flows through stays as it is."""
    last = []
    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            _draw_convolution(module, generator, linear="lastconv" in name)
        elif isinstance(module, torch.nn.PReLU):
            module.weight.data.uniform_(*SLOPES, generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            _draw_normalisation(module, generator)
        beta = getattr(module, "beta", None)
        if isinstance(beta, torch.nn.Parameter):
            beta.data.uniform_(*BETAS, generator=generator)
        if name.endswith("lastconv"):
            last.append(module)
    for module in last:  # a Sequential comes before the convolution in it
        _liken_subpixels(module)


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


def _draw_normalisation(module: torch.nn.BatchNorm2d, generator: torch.Generator) -> None:
    assert module.running_mean is not None  # in every stock source
    assert module.running_var is not None
    for tensor in (module.weight.data, module.running_var):
        tensor.uniform_(*BETAS, generator=generator)
    for tensor in (module.bias.data, module.running_mean):
        tensor.uniform_(-SMALL_BIAS, SMALL_BIAS, generator=generator)


def _get_first(network: StockNetwork) -> torch.nn.Conv2d:
    """The first convolution: of in0 and in1, then the two encodings, if any, then the timestep."""
    first = network.net.get_submodule("block0.conv0.0.0")
    assert isinstance(first, torch.nn.Conv2d)  # in every stock source
    return first


def _heed_timestep(network: StockNetwork) -> None:
    """Let the timestep matter, as in trained networks, though it is one channel of many.

    In an ensemble it matters already: the two directions get t and 1 - t.
    """
    _get_first(network).weight.data[:, -1] *= TIMESTEP_GAIN


def _oppose_frames(network: StockNetwork) -> None:
    """Let the first block look at the difference of the two frames, as trained ones do.

    An ensemble adds what the block finds for the frames exchanged. A block that hardly minds
    their order would find both flows alike then, and hide that they were exchanged.
    """
    weight = _get_first(network).weight.data
    encoded = (weight.shape[1] - 2 * FRAME_CHANNELS) // 2
    for start, channels in ((0, FRAME_CHANNELS), (2 * FRAME_CHANNELS, encoded)):
        own = weight[:, start : start + channels]
        other = weight[:, start + channels : start + 2 * channels]
        other.copy_(OPPOSITE_PART * other - own)


def _calibrate_blocks(network: StockNetwork, inputs: Inputs) -> None:
    """Calibrate all blocks in one forward: each is met behind those that are calibrated."""
    width = inputs[0].shape[-1]
    if isinstance(network.net, ThreeNetworks):
        _calibrate_networks(network, network.net, inputs)
        return
    with ExitStack() as hooks:
        for index, divisor in enumerate(network.scale_list):
            for name, first in HEADS.items():
                last = _get_module(network.net, f"block{index}.{name}")
                if last is not None:
                    wanted = partial(
                        _wanted, index=index, first=first, averages=network.averages_directions
                    )
                    hook = _make_hook(wanted, width, divisor)
                    hooks.callback(last.register_forward_hook(hook).remove)
        refined = _get_module(network.net, REFINEMENT_HEAD)
        if refined is not None:
            hook = _make_hook(lambda _channel, _pixels: (0.0, REFINED), width, 1)
            hooks.callback(refined.register_forward_hook(hook).remove)
        _run(network, inputs)


def _calibrate_networks(network: StockNetwork, three: ThreeNetworks, inputs: Inputs) -> None:
    """As `_calibrate_blocks`, for the three networks of RIFE 1.x to 3.1."""
    with ExitStack() as hooks:
        for index, block in enumerate(three.flownet.children()):
            hook = _make_block_hook(is_first=index == 0)
            hooks.callback(block.register_forward_hook(hook, with_kwargs=True).remove)
        last = _find_last(three.fusionnet)
        wanted = partial(_wanted_of_fusion, subpixels=last.out_channels // (FRAME_CHANNELS + 1))
        refined = _make_hook(wanted, inputs[0].shape[-1], 1)
        hooks.callback(last.register_forward_hook(refined).remove)
        _run(network, inputs)


def _wanted_of_fusion(channel: int, _pixels: float, *, subpixels: int) -> tuple[float, float]:
    """Of what is added to the frame, and then of the mask; each may be shuffled of subpixels."""
    return 0.0, REFINED if channel // subpixels < FRAME_CHANNELS else MASK


def _find_last(net: torch.nn.Module) -> torch.nn.Conv2d | torch.nn.ConvTranspose2d:
    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    *_, last = (module for module in net.modules() if isinstance(module, kinds))
    return last


def _make_block_hook(is_first: bool) -> BlockHook:
    """Calibrate what a block adds to the flow, whatever it does behind its last convolution.

    That is linear: enlarged, shuffled, multiplied. How the bias comes out is tried.
    """
    is_calibrated = False
    deviation = (FIRST_FLOW if is_first else LATER_FLOW) / HALF_SIZE

    def calibrate(
        block: torch.nn.Module, args: tuple[Any, ...], options: dict[str, Any], flow: torch.Tensor
    ) -> torch.Tensor | None:
        nonlocal is_calibrated
        if is_calibrated:
            return None
        is_calibrated = True
        last = _find_last(block)
        assert last.bias is not None  # in every stock source
        weight, bias = last.weight.data, last.bias.data
        if isinstance(last, torch.nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)  # a view: inputs come first there
        rows = last.out_channels // flow.shape[1]
        groups = [slice(one * rows, (one + 1) * rows) for one in range(flow.shape[1])]
        for channel, group in enumerate(groups):
            factor = _round(deviation / max(float(flow[0, channel].std()), LEAST_RAW))
            weight[group] *= factor
            bias[group] *= factor
        plain: torch.Tensor = block.forward(*args, **options)
        bias += 1.0
        response = block.forward(*args, **options) - plain
        for channel, group in enumerate(groups):
            mean = FIRST_MEANS[channel] / HALF_SIZE if is_first else 0.0
            shift = (mean - float(plain[0, channel].mean())) / float(response[0, channel].mean())
            bias[group] += _round(shift) - 1.0
        result: torch.Tensor = block.forward(*args, **options)
        return result

    return calibrate


def _get_module(net: torch.nn.Module, name: str) -> torch.nn.Module | None:
    return dict(net.named_modules()).get(name)


def _make_hook(wanted: Wanted, width: int, divisor: float) -> Hook:
    is_calibrated = False

    def calibrate(
        last: torch.nn.Module, inputs: tuple[torch.Tensor, ...], raw: torch.Tensor
    ) -> torch.Tensor | None:
        nonlocal is_calibrated
        pixels = width / raw.shape[-1]
        # An ensemble calls each block again, with the frames exchanged; 3.8 tries its first block
        # at half the resolution before.
        if is_calibrated or pixels > divisor * (1 if _is_3_x(last) else 2):
            return None
        is_calibrated = True
        _calibrate_last(last, raw, pixels, wanted)
        result: torch.Tensor = last.forward(*inputs)
        return result

    return calibrate


def _is_3_x(last: torch.nn.Module) -> bool:
    """Whether a block ends in two convolutions that both enlarge, as in 3.x."""
    return isinstance(last, torch.nn.Sequential) and not _shuffles(last)


def _shuffles(last: torch.nn.Module) -> bool:
    return isinstance(last, torch.nn.Sequential) and is_shuffle(last[-1])


def _calibrate_last(
    last: torch.nn.Module, raw: torch.Tensor, pixels: float, wanted: Wanted
) -> None:
    """Give the raw output of one block the wanted mean and deviation in every channel."""
    conv, subpixels = _split_last(last)
    assert conv.bias is not None  # as in every stock source
    weight = conv.weight.data
    if isinstance(conv, torch.nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)  # a view: inputs come first there
    # What counts is the deviation after the block has enlarged its output, which smooths it.
    enlarged = torch.nn.functional.interpolate(raw, scale_factor=pixels, mode="bilinear")
    for channel in range(raw.shape[1]):
        mean, deviation = wanted(channel, pixels)
        rows = slice(channel * subpixels, (channel + 1) * subpixels)
        factor = _round(deviation / max(float(enlarged[0, channel].std()), LEAST_RAW))
        weight[rows] *= factor
        shift = mean - float(raw[0, channel].mean()) * factor
        conv.bias.data[rows] = conv.bias.data[rows] * factor + _round(shift)


def _split_last(
    last: torch.nn.Module,
) -> tuple[torch.nn.ConvTranspose2d | torch.nn.Conv2d, int]:
    """A head's last convolution, and how many of its channels make one after it."""
    conv = last
    if isinstance(last, torch.nn.Sequential):
        conv = last[0] if _shuffles(last) else last[-1]
    assert isinstance(conv, (torch.nn.ConvTranspose2d, torch.nn.Conv2d))  # in every stock source
    return conv, SUBPIXELS if _shuffles(last) else 1


def _round(number: float) -> float:
    mantissa, exponent = math.frexp(number)
    return math.ldexp(round(mantissa * 2**FACTOR_BITS) / 2**FACTOR_BITS, exponent)


def _liken_subpixels(last: torch.nn.Module) -> None:
    conv, subpixels = _split_last(last)
    inputs, outputs, height, width = conv.weight.shape
    own = conv.weight.data.view(inputs, outputs // subpixels, subpixels, height, width)
    own.copy_(OWN_PART * own + COMMON_PART * own[:, :, :1])


def _wanted(
    channel: int, pixels: float, *, index: int, first: int, averages: bool
) -> tuple[float, float]:
    """Mean and deviation of a raw channel: 0 to 3 are flow, 4 is the mask, the rest features."""
    gain = ENSEMBLE_GAIN if averages else 1.0
    channel += first
    if channel < FLOW_CHANNELS:
        mean = FIRST_MEANS[channel] if index == 0 else 0.0
        return mean / pixels, gain * (FIRST_FLOW if index == 0 else LATER_FLOW) / pixels
    return 0.0, gain * (MASK if channel == FLOW_CHANNELS else FEATURE)
