"""Read the weights that people hold, without executing anything, and fit them to a network."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from surgery.errors import CheckpointError
from surgery.hub import networks
from surgery.sources.architectures import EXTRAS, describe_tensors, recognise
from surgery.sources.scan_pickle import ARCHIVE_START, Scan, scan_pickle

State = dict[str, torch.Tensor]

SUFFIXES = (".pkl", ".pth", ".pt", ".safetensors")
# The files of three networks; FusionNet was a U-Net before.
# Source: `Model.load_model` of RIFE_HD.py and its kin.
NETWORK_FILES = {
    networks.FLOWNET: ("flownet",),
    networks.CONTEXTNET: ("contextnet",),
    networks.FUSIONNET: ("unet", "fusionnet"),
}
# What torch.nn.parallel.DistributedDataParallel puts in front of every key.
DDP_PREFIX = "module."
# What wrappers of a whole network put there, where all keys have it.
WHOLE_PREFIXES = ("flownet.", "net.", "model.", "_orig_mod.")
# Under which name training scripts save the state dict beside other things.
WRAPPERS = ("state_dict", "model_state_dict", "model", "params_ema", "params", "flownet", "net")
# What a batch normalisation counts while it is trained; no frame depends on it.
COUNTER = "num_batches_tracked"
# How files begin that get taken for checkpoints.
IMPOSTORS = {
    b"version https://git-lfs": "a Git LFS pointer; 'git lfs pull' fetches the file itself",
    b"<!DOCTYPE": "a web page; download the file itself, not the page that shows it",
    b"<html": "a web page; download the file itself, not the page that shows it",
}
# A training checkpoint of the largest RIFE has 300 MB, its optimiser included.
MAX_BYTES = 2**30
MAX_REASON_CHARACTERS = 300
# How many tensors are told of each kind of fault.
NAMES_TOLD = 3
# How many names of a refused pickle are told, and how long a name may be.
MAX_WISHES = 5
MAX_GLOBAL_CHARACTERS = 200
# Those that torch turns into float32.
FLOATS = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
)
FLOAT32_BYTES = 4
# What the pickle of a state dict names.
TENSOR_GLOBALS = ("torch.", "collections.OrderedDict")
# What torch lets a pickle call, although it takes as much memory as it is told to.
GREEDY_GLOBALS = ("builtins.bytearray",)


@dataclasses.dataclass(frozen=True)
class CheckpointReport:
    """What became of a checkpoint's tensors.

    Attributes:
        used: how many the network took.
        dropped: the names of those that forward never reads.
    """

    used: int
    dropped: tuple[str, ...]


def read_checkpoint(path: Path) -> State:
    """Read a state dict as float32 tensors, the `module.` prefix removed.

    Raises:
        CheckpointError: the file is absent, is no checkpoint, holds something other than finite
            floating-point tensors, or asks for code to be run.
    """
    _check_file(path)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path)
    state = _strip_prefix(path, _unwrap(path, content))
    state = {name: tensor.to(torch.float32) for name, tensor in state.items()}
    broken = sorted(name for name, tensor in state.items() if not tensor.isfinite().all())
    if broken:
        raise CheckpointError(f"{path} holds NaN or infinite weights: {', '.join(broken)}")
    return state


def read_networks(path: Path) -> State:
    """Read the state dicts of three networks, each under the name of its own.

    They are three files in one folder, which is named itself or by any of them, or one file of all.
    A file that is named is read for its own network, and its suffix is preferred for the others.

    Raises:
        CheckpointError: one is absent, a file is named of which nobody knows the network, and as
            `read_checkpoint`.
    """
    named: dict[str, Path] = {}
    if not path.is_dir():
        state = read_checkpoint(path)
        if {name.split(".", 1)[0] for name in state} == set(NETWORK_FILES):
            return state
        named[_tell_network(path)] = path
    folder = path if path.is_dir() else path.parent
    found = {
        network: named.get(network) or _find_network(folder, names, path.suffix)
        for network, names in NETWORK_FILES.items()
    }
    lacking = [NETWORK_FILES[network][0] for network, file in found.items() if file is None]
    if lacking:
        raise CheckpointError(
            f"{path}: no {' and no '.join(lacking)} beside it ({', '.join(SUFFIXES)}); RIFE 1.x to "
            "3.1 need the weights of three networks"
        )
    return {
        f"{network}.{name}": tensor
        for network, file in found.items()
        if file is not None
        for name, tensor in read_checkpoint(file).items()
    }


def list_files(path: Path, *, of_three: bool = False) -> list[Path]:
    """The files that a checkpoint is read from, as far as they are there.

    Args:
        path: the checkpoint, as `read_checkpoint` takes it.
        of_three: it is one of three networks, as `read_networks` takes it.
    """
    named = [path] if path.is_file() else []
    if not of_three:
        return named
    folder = path if path.is_dir() else path.parent
    found = (_find_network(folder, names, path.suffix) for names in NETWORK_FILES.values())
    return list(dict.fromkeys([*named, *filter(None, found)]))


def _tell_network(path: Path) -> str:
    for network, names in NETWORK_FILES.items():
        if path.stem in names:
            return network
    accepted = ", ".join(name for names in NETWORK_FILES.values() for name in names)
    raise CheckpointError(
        f"{path}: found {path.stem!r}, which does not say the weights of which network it holds; "
        f"accepted: {accepted}; name one of those, or a file of all three"
    )


def _find_network(folder: Path, names: Sequence[str], preferred: str) -> Path | None:
    suffixes = sorted(SUFFIXES, key=lambda suffix: suffix != preferred)
    files = (folder / f"{name}{suffix}" for suffix in suffixes for name in names)
    return next((file for file in files if file.is_file()), None)


def _check_file(path: Path) -> None:
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "no such file"
        raise CheckpointError(f"{path}: {kind}; a file is expected: {', '.join(SUFFIXES)}")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path}: {size} bytes; at most {MAX_BYTES} are read")
    if size == 0:
        raise CheckpointError(
            f"{path} is empty (the files in vsrife's wheel are placeholders); "
            "the trained weights are a download of their own"
        )
    with path.open("rb") as file:
        start = file.read(max(map(len, IMPOSTORS)))
    for beginning, what in IMPOSTORS.items():
        if start.startswith(beginning):
            raise CheckpointError(f"{path} is {what}")
    if start.startswith(ARCHIVE_START):
        _check_archive(path, size)


def _check_archive(path: Path, size: int) -> None:
    """Refuse an archive that unpacks to more than itself: torch stores its records as they are."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    # zipfile raises many kinds for broken archives.
    except Exception as error:
        raise CheckpointError(
            f"{path} is a broken archive, or a part of one: {_shorten(error)}"
        ) from error
    if unpacked > size:
        raise CheckpointError(
            f"{path}: {size} bytes that unpack to {unpacked}; an archive is accepted as torch.save "
            "writes it, with nothing compressed"
        )


def _load_pickle(path: Path) -> object:
    scan = scan_pickle(path)
    _check_scan(path, scan)
    with warnings.catch_warnings():
        # What torch warns of here, it refuses right after.
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            told = re.search(r"GLOBAL (\S+)", str(error))
            if told and "." in told[1]:
                raise _refuse_wishes(path, [told[1]]) from error
            raise _refuse_wishes(path, _list_wishes(scan)) from error
        except Exception as error:
            # torch raises many kinds for broken archives; none of them is this package's fault.
            raise _refuse_broken(path, _shorten(error)) from error


def _check_scan(path: Path, scan: Scan) -> None:
    """Refuse before torch.load what it would run into, or refuse after minutes."""
    long = [name for name in scan.names if len(name) > MAX_GLOBAL_CHARACTERS]
    if long:
        raise _refuse_wishes(
            path, [f"{long[0][:MAX_GLOBAL_CHARACTERS]}... ({len(long[0])} letters)"]
        )
    wishes = _list_wishes(scan)
    greedy = [one for one in wishes if one in GREEDY_GLOBALS]
    if greedy or (scan.fault and wishes):
        raise _refuse_wishes(path, greedy or wishes)
    if scan.fault:
        raise _refuse_broken(path, scan.fault[:MAX_REASON_CHARACTERS])


def _list_wishes(scan: Scan) -> list[str]:
    """The globals that no state dict needs, as people know them."""
    known = (one.replace("__builtin__", "builtins", 1) for one in scan.names)
    return [one for one in known if not one.startswith(TENSOR_GLOBALS)]


def _refuse_wishes(path: Path, wishes: Sequence[str]) -> CheckpointError:
    asked = (
        f"it asks for {', '.join(wishes[:MAX_WISHES])}" if wishes else "it is no pickle of tensors"
    )
    return CheckpointError(
        f"{path} is refused: {asked}, and reading such a file can run code or fill memory; "
        "a state dict is accepted, as torch.save(network.state_dict(), ...) writes it"
    )


def _refuse_broken(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is no checkpoint that torch.load reads, or a part of one ({reason}); "
        "a state dict is accepted"
    )


def _shorten(error: Exception) -> str:
    """The first sentence of a library's error."""
    sentence = re.split(r"\. |\n", str(error))[0] or type(error).__name__
    return sentence[:MAX_REASON_CHARACTERS]


def _load_safetensors(path: Path) -> object:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(f"{path}: reading it takes 'pip install safetensors'") from error
    try:
        return load_file(path)
    # The library has an exception of its own, and torch raises others for what it hands on.
    except Exception as error:
        raise CheckpointError(f"{path} is not a safetensors file: {_shorten(error)}") from error


def _unwrap(path: Path, content: object) -> State:
    """Take the state dict out of `{'state_dict': ...}` and the like."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        what = "nothing" if content == {} else f"a {type(content).__name__}"
        raise CheckpointError(f"{path} holds {what}; a state dict is accepted")
    content = {
        name: one
        for name, one in content.items()
        if not (isinstance(name, str) and name.endswith(COUNTER))
    }
    for name, tensor in content.items():
        _check_tensor(path, name, tensor)
    _check_claims(path, content)
    return content


def _check_tensor(path: Path, name: object, tensor: object) -> None:
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: a key is of {type(name).__name__}; names are accepted")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{path}: the key {name[:MAX_GLOBAL_CHARACTERS]!r} is no text that UTF-8 can write; "
            "names are accepted"
        ) from error
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in FLOATS:
        kind = getattr(tensor, "dtype", type(tensor).__name__)
        accepted = ", ".join(str(one).removeprefix("torch.") for one in FLOATS)
        raise CheckpointError(
            f"{path}: {name!r} is {kind}; tensors of floats are accepted: {accepted}"
        )
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise CheckpointError(
            f"{path}: {name!r} is a tensor of {tensor.layout} on {tensor.device}; plain tensors "
            "with their numbers in the file are accepted"
        )


def _check_claims(path: Path, state: State) -> None:
    """Refuse tensors with more numbers than the file has bytes: one number repeated, or shared.

    And those that take more memory than a file may have bytes, once they are float32.
    """
    claimed = sum(tensor.numel() for tensor in state.values())
    size = path.stat().st_size
    if claimed > size:
        largest = max(state, key=lambda name: state[name].numel())
        raise CheckpointError(
            f"{path}: its tensors claim {claimed} numbers, {largest!r} most of them, and the file "
            f"has {size} bytes"
        )
    if claimed > MAX_BYTES // FLOAT32_BYTES:
        raise CheckpointError(
            f"{path}: {claimed} numbers; at most {MAX_BYTES // FLOAT32_BYTES} are read"
        )


def _strip_prefix(path: Path, state: State) -> State:
    """Remove `module.` wherever it is; upstream loaders drop every key without it in silence."""
    stripped = {_without_ddp(name): tensor for name, tensor in state.items()}
    if len(stripped) < len(state):
        twice = sorted({_without_ddp(n) for n in state if _without_ddp(n) != n} & set(state))
        raise CheckpointError(
            f"{path} holds keys with and without {DDP_PREFIX!r}: {', '.join(twice)}; "
            "one of them is accepted"
        )
    for prefix in WHOLE_PREFIXES:
        if all(name.startswith(prefix) for name in stripped):
            stripped = {name.removeprefix(prefix): tensor for name, tensor in stripped.items()}
    return stripped


def _without_ddp(name: str) -> str:
    """`flownet.module.block0.beta` -> `flownet.block0.beta`; whole parts of a name alone."""
    return ".".join(part for part in name.split(".") if part + "." != DDP_PREFIX)


@runtime_checkable
class KnowsItsReads(Protocol):
    """A network in a wrapper that knows which tensors its forward reads."""

    net: torch.nn.Module
    reads: frozenset[str]


def load_into(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> CheckpointReport:
    """Fit a state dict to a stock network, every key that forward reads, or change nothing.

    What forward does not read (a teacher, the second stage of 4.0 to 4.4) is dropped, whatever its
    shape, and what a network has of it keeps its initial values.

    Args:
        network: from `surgery.sources.stock.build_network`, which knows what its forward reads; of
            another network all is required but what is known to be for training.
        state: from `read_checkpoint`, or of calibrated weights.

    Raises:
        CheckpointError: keys are missing, unexpected or misshapen; one message lists them all,
            with the architecture that the tensors look like.
    """
    net = network.net if isinstance(network, KnowsItsReads) else network
    wanted = net.state_dict()
    if isinstance(network, KnowsItsReads):
        required = [name for name in wanted if name in network.reads]
    else:
        required = [name for name in wanted if not _is_extra(name)]
    dropped = sorted(n for n in state if n not in required and (n in wanted or _is_extra(n)))
    given = {name: tensor for name, tensor in state.items() if name not in dropped}
    faults = {
        "missing": _merge_names([name for name in required if name not in given], required),
        "unexpected": _merge_names([name for name in given if name not in wanted], given),
        "of another shape": [
            f"{name} ({_shape(tensor)}; {_shape(wanted[name])} is expected)"
            for name, tensor in given.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ],
    }
    if any(faults.values()):
        parts = "".join(
            f"\n  {what}: {_join_some(names)}" for what, names in faults.items() if names
        )
        raise CheckpointError(
            f"the weights do not fit the network; {describe_tensors(state)}{parts}\n"
            f"take the source that belongs to the weights{_name_source(state)}"
        )
    net.load_state_dict({**wanted, **given}, strict=True)
    return CheckpointReport(len(given), tuple(dropped))


def _is_extra(name: str) -> bool:
    return name.split(".", 1)[0] in EXTRAS


def _merge_names(names: Iterable[str], whole: Iterable[str]) -> list[str]:
    """List names; where all that `whole` has of a module are among them, the module alone."""
    listed = set(names)
    modules: dict[str, list[str]] = {}
    for name in whole:
        modules.setdefault(name.split(".", 1)[0], []).append(name)
    merged: list[str] = []
    for module, members in modules.items():
        at_fault = [name for name in members if name in listed]
        if len(at_fault) == len(members) > 1:
            merged.append(f"{module}.* ({len(members)} tensors)")
        else:
            merged += at_fault
    return merged


def _name_source(state: Mapping[str, torch.Tensor]) -> str:
    found = recognise(state)
    return f", as vsrife:{found.versions[0]}" if found is not None else ""


def _join_some(names: Sequence[str]) -> str:
    """A sentence's worth of names: who gave the wrong file needs no list of its tensors."""
    left = len(names) - NAMES_TOLD
    return ", ".join(names[:NAMES_TOLD]) + (f" and {left} more" if left > 0 else "")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """Hash names, shapes and float32 values with SHA-256; the order of the keys does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()
