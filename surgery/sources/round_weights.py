"""Round a donor's weights as a conversion with fp16 weights rounds them.

Compared with this donor, an fp16 conversion has to agree as closely as an fp32 one does: what is
left is the fault of the translation, and the rounding itself is measured apart from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_BETA = ".beta"
# A batch normalisation folds into the convolution before it in a Sequential, as RIFE 1.x has them.
_NORM = re.compile(r"(.+)\.(\d+)\.running_var")
NORM_EPSILON = torch.nn.BatchNorm2d(1).eps


def round_weights(
    state: Mapping[str, torch.Tensor], *, fast: bool = False, keep_betas: bool = False
) -> dict[str, torch.Tensor]:
    """Round every convolution weight to fp16, through the beta that will be folded into it.

    A ResConv computes beta * conv(x) + x. The converted weight is fp16(beta * w), or with `fast`
    fp16(beta * w + identity); the weight returned gives that in the donor's own arithmetic. With
    `keep_betas` nothing is folded, and it is fp16(w).
    Biases, betas and slopes stay as they are, as ncnn keeps them in fp32. What a batch
    normalisation multiplies by is treated as a beta that is always folded.
    """
    rounded = {name: tensor.clone() for name, tensor in state.items()}
    norms = _find_norm_factors(state)
    for name, tensor in state.items():
        if tensor.ndim != 4 or name.endswith(_BETA):
            continue
        parent = name.removesuffix(".conv.weight")
        beta = state.get(parent + _BETA)
        if name in norms:
            rounded[name] = _round_folded(tensor, norms[name])
            continue
        if keep_betas or beta is None or parent == name:
            rounded[name] = _to_fp16(tensor)
            continue
        identity = _identity(tensor) if fast else 0.0
        rounded[name] = _round_folded(tensor, beta.reshape(-1, 1, 1, 1), identity)
    return rounded


def _round_folded(
    tensor: torch.Tensor, factors: torch.Tensor, identity: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """The weight that is fp16 once it is multiplied by the factors and the identity is added."""
    folded = _to_fp16(tensor * factors + identity)
    # A factor of 0 silences its channel, whatever the weight.
    return torch.where(factors == 0, tensor, (folded - identity) / factors)


def _find_norm_factors(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What each convolution before a batch normalisation is multiplied by, [out,1,1,1]."""
    factors = {}
    for name, variance in state.items():
        match = _NORM.fullmatch(name)
        if match is None or not int(match[2]):
            continue
        gain = state.get(f"{match[1]}.{match[2]}.weight", torch.ones_like(variance))
        convolution = f"{match[1]}.{int(match[2]) - 1}.weight"
        factors[convolution] = (gain / (variance + NORM_EPSILON).sqrt()).reshape(-1, 1, 1, 1)
    return factors


def _to_fp16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float16).to(torch.float32)


def _identity(weight: torch.Tensor) -> torch.Tensor:
    """1 on the centre tap of every output's own input: [out, in / groups, kh, kw]."""
    outputs, inputs, height, width = weight.shape
    identity = torch.zeros_like(weight)
    index = torch.arange(outputs)
    identity[index, index % inputs, height // 2, width // 2] = 1.0
    return identity
