"""Where two forms of a model part: the first layer that makes something else of the same values.

Every layer of the form that is judged is run twice: inside its own network, and from the values
of the reference. An error of the first kind alone is inherited; one of the second kind is born
there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from surgery.engines.frames import network_inputs
from surgery.errors import SurgeryError
from surgery.hub.model import V4_INPUTS, from_onnx
from surgery.proof.compare import compare, judge
from surgery.proof.forms import DonorForm, FolderForm, Form, HubForm, is_folder_of_three
from surgery.proof.inputs import make_samples
from surgery.proof.probes import Place, ProbedFolder, ProbedHub, Values, record_torch
from surgery.proof.tolerances import ONE_LAYER

if TYPE_CHECKING:
    import onnx

    from surgery.targets.make_ncnn import NcnnOptions

State = Literal["same", "inherited", "born here", "not run"]
INPUT_SEED = 1
# Another one than the middle, where a timestep that is ignored would not show.
TIMESTEP = 0.25
LEAST_SIDE = 128
FOLDED = ("Conv", "ConvTranspose")
INPUTS_FILE, EXPECTED_FILE, FACTS = "inputs.npz", "expected.npy", "difference.json"
CUT_OUT_HUB = "layer.onnx"
# What `write_first_difference` writes.
CUT_OUT_FILES = (CUT_OUT_HUB, "flownet.param", "flownet.bin", INPUTS_FILE, EXPECTED_FILE, FACTS)


@dataclasses.dataclass(frozen=True)
class LayerDifference:
    """One layer of the candidate against the reference.

    Attributes:
        place: the layer.
        region: the layers whose errors cannot be told apart, this one last; mostly this one alone.
        state: same, inherited, or born here; not run where the layer is right by itself and its
            network cannot be run.
        error: the largest difference inside its own network, as part of the largest value; NaN
            where it could not be run.
        own_error: the same from the reference's values.
        shape: of the reference's value.
        words: the difference from the reference's values, as a sentence.
    """

    place: Place
    region: tuple[str, ...]
    state: State
    error: float
    own_error: float
    shape: tuple[int, ...]
    words: str


@dataclasses.dataclass(frozen=True)
class Bisection:
    """All layers of a candidate, in the order in which they run.

    Attributes:
        reference: what is right.
        candidate: what was judged.
        layers: those that the reference knows.
        strangers: names of the candidate's values that the reference does not have.
        missing: names of the reference's values that the candidate does not have.
    """

    reference: str
    candidate: str
    layers: tuple[LayerDifference, ...]
    strangers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def first(self) -> LayerDifference | None:
        """The first layer where an error is born."""
        return next((one for one in self.layers if one.state == "born here"), None)

    def describe(self) -> str:
        """What was found, in a sentence or two."""
        first = self.first
        if first is None:
            alone = any(one.state == "not run" for one in self.layers)
            return (
                f"{self.candidate}: each of {len(self.layers)} layers computes what it does in "
                f"{self.reference}" + (", by itself: all together cannot be run" if alone else "")
            )
        heirs = sum(one.state == "inherited" for one in self.layers)
        births = sum(one.state == "born here" for one in self.layers)
        place = first.place
        origin = f"torch module {place.module}" if place.module else "the network itself"
        others = ", ".join(first.region[:-1])
        before = f", or at what leads to it ({others})" if others else ""
        return (
            f"{self.candidate} parts from {self.reference} at {place.name} ({place.kind}, "
            f"{origin}){before}: {first.words.removeprefix('failed: ')}. "
            f"{births - 1} more layer(s) have errors of their own, {heirs} inherit theirs"
        )

    def to_facts(self) -> dict[str, Any]:
        """As JSON can say it."""
        first = self.first
        return {
            "reference": self.reference,
            "candidate": self.candidate,
            "first": first.place.name if first else None,
            "words": self.describe(),
            "layers": [_list_facts(one) for one in self.layers],
            "strangers": list(self.strangers),
            "missing": list(self.missing),
        }


def _list_facts(one: LayerDifference) -> dict[str, Any]:
    return {
        "name": one.place.name,
        "layer": one.place.layer,
        "kind": one.place.kind,
        "module": one.place.module,
        "shape": list(one.shape),
        "state": one.state,
        "error": one.error,
        "own_error": one.own_error,
        "region": list(one.region),
        "words": one.words,
    }


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A bisection with the values that it is about, for a graph to be cut out."""

    bisection: Bisection
    probed: ProbedHub | ProbedFolder
    inputs: Values
    known: Values


def bisect_forms(reference: Form, candidate: Form) -> Evidence:
    """Find the first layer where a candidate parts from a reference.

    A donor is compared with a hub model, and through one with a folder; a hub model with a folder
    after the passes of the folder's conversion, and, where their nodes differ, with another hub
    model after the same passes on both; a folder with a folder. Weights of an fp16 folder are
    compared with weights rounded in the same way.

    Raises:
        SurgeryError: the two forms cannot be compared layer by layer.
        EngineError: a form does not run.
    """
    for form in (reference, candidate):
        if is_folder_of_three(form):
            raise SurgeryError(f"{form.label} holds three networks; layers are compared of one")
    inputs = _make_inputs(candidate.padding)
    kinds = type(reference), type(candidate)
    compared = _COMPARISONS.get(kinds)
    if compared is None:
        raise SurgeryError(
            f"{reference.label} and {candidate.label} cannot be compared layer by layer; accepted "
            "are a donor or a hub model against a hub model or a folder, and two folders"
        )
    evidence = compared(reference, candidate, inputs)
    if not evidence.bisection.layers:
        raise SurgeryError(
            f"no layer of {candidate.label} has the name of one in {reference.label}; layers are "
            "compared by the names that this tool's conversions give"
        )
    return evidence


def _make_inputs(padding: int) -> Values:
    side = -(-LEAST_SIDE // padding) * padding
    (sample,) = make_samples([(side, side)], [TIMESTEP], INPUT_SEED)
    return network_inputs(sample, padding)


def _compare_donor_with_hub(reference: Form, candidate: Form, inputs: Values) -> Evidence:
    assert isinstance(reference, DonorForm)
    assert isinstance(candidate, HubForm)
    fresh = _export(reference)
    if not _have_same_nodes(fresh.model, candidate.model):
        whole = _compare_hub_with_torch(reference, fresh, inputs)
        return whole if whole.bisection.first else _compare_hubs(fresh, candidate, inputs)
    return _compare_hub_with_torch(reference, candidate, inputs)


def _compare_donor_with_folder(reference: Form, candidate: Form, inputs: Values) -> Evidence:
    assert isinstance(reference, DonorForm)
    fresh = _export(reference)
    evidence = _compare_hub_with_torch(reference, fresh, inputs)
    if evidence.bisection.first:
        return evidence
    return _compare_hub_with_folder(fresh, candidate, inputs)


def _export(donor: DonorForm) -> HubForm:
    from surgery.sources.from_torch import export_hub

    opened = donor.opened
    hub = export_hub(
        opened.donor,
        opened.state,
        scale=opened.scale,
        ensemble=opened.network.ensemble,
        weights_label=opened.weights.label,
    )
    return HubForm(hub.to_onnx(), f"{donor.label}, exported")


def _compare_hub_with_torch(reference: DonorForm, hub: HubForm, inputs: Values) -> Evidence:
    probed = ProbedHub(hub.model)
    known = record_torch(reference.opened.network, probed, inputs)
    return _compare(reference.label, hub.label, probed, inputs, known, complete=False)


def _compare_hubs(reference: Form, candidate: Form, inputs: Values) -> Evidence:
    assert isinstance(reference, HubForm)
    assert isinstance(candidate, HubForm)
    models = [reference.model, candidate.model]
    if not _have_same_nodes(*models):
        models = [_optimise(model) for model in models]
    known = ProbedHub(models[0]).record(inputs)
    return _compare(reference.label, candidate.label, ProbedHub(models[1]), inputs, known)


def _have_same_nodes(first: onnx.ModelProto, second: onnx.ModelProto) -> bool:
    names = [sorted(node.name for node in model.graph.node) for model in (first, second)]
    return names[0] == names[1]


def _optimise(model: onnx.ModelProto) -> onnx.ModelProto:
    from surgery.passes import pipeline

    opened = from_onnx(model)
    pipeline.run_passes(opened, pipeline.PORTABLE)
    return opened.to_onnx()


def _compare_hub_with_folder(reference: Form, candidate: Form, inputs: Values) -> Evidence:
    from surgery.targets.legalise.name_flows import name_flows
    from surgery.targets.make_ncnn import make_ncnn

    assert isinstance(reference, HubForm)
    assert isinstance(candidate, FolderForm)
    opened = from_onnx(reference.model)
    # The translation leaves the graph behind that it read off: node for layer, tensor for blob.
    make_ncnn(opened, _read_options(candidate))
    if candidate.is_fp16:
        for node in opened.graph.nodes:
            if node.op in FOLDED:
                weight = node.inputs[1]
                weight.values = weight.values.astype(np.float16).astype(np.float32)
    names = name_flows(opened)
    known = ProbedHub(opened.to_onnx(), names).record(inputs)
    probed = ProbedFolder(candidate.folder)
    return _compare(reference.label, candidate.label, probed, inputs, known)


def _read_options(folder: FolderForm) -> NcnnOptions:
    """How a folder was translated, as the facts beside it say; the defaults where none are."""
    from surgery.targets.make_ncnn import NcnnOptions

    given: Mapping[str, Any] = folder.facts.get("options", {})
    known = {field.name for field in dataclasses.fields(NcnnOptions)}
    return NcnnOptions(**{name: value for name, value in given.items() if name in known})


def _compare_folders(reference: Form, candidate: Form, inputs: Values) -> Evidence:
    assert isinstance(reference, FolderForm)
    assert isinstance(candidate, FolderForm)
    known = ProbedFolder(reference.folder).record(inputs)
    probed = ProbedFolder(candidate.folder)
    return _compare(reference.label, candidate.label, probed, inputs, known)


_COMPARISONS = {
    (DonorForm, HubForm): _compare_donor_with_hub,
    (DonorForm, FolderForm): _compare_donor_with_folder,
    (HubForm, HubForm): _compare_hubs,
    (HubForm, FolderForm): _compare_hub_with_folder,
    (FolderForm, FolderForm): _compare_folders,
}


def _compare(
    reference: str,
    candidate: str,
    probed: ProbedHub | ProbedFolder,
    inputs: Values,
    known: Values,
    *,
    complete: bool = True,
) -> Evidence:
    """Judge every layer that the reference knows; `complete` where it should know all of them."""
    own = probed.record(inputs)
    recomputed, faults = probed.recompute(inputs, known)
    layers = [
        _judge_layer(probed, place, known, own, recomputed, faults)
        for place in probed.places
        if place.name in known
    ]
    names = {place.name for place in probed.places}
    bisection = Bisection(
        reference,
        candidate,
        tuple(layers),
        strangers=tuple(sorted(names - set(known))) if complete else (),
        missing=tuple(sorted(set(known) - names - set(V4_INPUTS))),
    )
    return Evidence(bisection, probed, inputs, known)


def _judge_layer(
    probed: ProbedHub | ProbedFolder,
    place: Place,
    known: Values,
    own: Values,
    recomputed: Values,
    faults: Mapping[str, str],
) -> LayerDifference:
    name = place.name
    wanted = known[name]
    error, is_same, _ = _measure(wanted, own.get(name))
    own_error, is_right, words = _measure(wanted, recomputed.get(name))
    state: State = "same" if is_same else "inherited"
    if not is_right:
        state = "born here"
    elif not own:
        state = "not run"
    return LayerDifference(
        place=place,
        region=tuple(one.name for one in probed.list_region(name, known)),
        state=state,
        error=error,
        own_error=own_error,
        shape=wanted.shape,
        words=faults.get(name, words),
    )


def _measure(wanted: np.ndarray, found: np.ndarray | None) -> tuple[float, bool, str]:
    """The difference as part of the largest value, whether it passes, and in words."""
    if found is None:
        return float("nan"), False, "it was not run"
    finite = wanted[np.isfinite(wanted)]
    # Silence against silence differs by nothing; anything against silence by all of itself.
    largest = float(np.abs(finite).max()) if finite.size and finite.any() else 1.0
    comparison = compare(wanted / np.float32(largest), found / np.float32(largest))
    verdict = judge(comparison, ONE_LAYER)
    return comparison.max_abs, verdict.passed, verdict.sentence


def write_first_difference(evidence: Evidence, folder: Path) -> None:
    """Write the first layer that differs as a graph of its own, with its inputs, into `folder`.

    The folder holds the graph (`layer.onnx`, or `flownet.param` and `flownet.bin`), what it is fed
    (`inputs.npz`, by input name), what it should give (`expected.npy`) and `difference.json`.

    Raises:
        SurgeryError: no layer differs.
    """
    first = evidence.bisection.first
    if first is None:
        raise SurgeryError(f"{evidence.bisection.describe()}: there is nothing to cut out")
    region = evidence.probed.list_region(first.place.name, evidence.known)
    if isinstance(evidence.probed, ProbedHub):
        feed = _write_hub_region(evidence.probed, region, evidence, folder)
    else:
        feed = _write_folder_region(evidence.probed, region, evidence, folder)
    np.savez(folder / INPUTS_FILE, **feed)  # type: ignore[arg-type]
    np.save(folder / EXPECTED_FILE, evidence.known[first.place.name])
    facts = {**_list_facts(first), "output": first.place.name, "inputs": sorted(feed)}
    (folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _write_hub_region(
    probed: ProbedHub, region: Sequence[Place], evidence: Evidence, folder: Path
) -> dict[str, np.ndarray]:
    from surgery.proof.probes import GIVEN

    model = probed.cut(evidence.known, region)
    (folder / CUT_OUT_HUB).write_bytes(model.SerializeToString(deterministic=True))
    values = {**evidence.known, **evidence.inputs}
    return {value.name: values[value.name.removeprefix(GIVEN)] for value in model.graph.input}


def _write_folder_region(
    probed: ProbedFolder, region: Sequence[Place], evidence: Evidence, folder: Path
) -> dict[str, np.ndarray]:
    from surgery.formats.ncnn_bin import write_weights
    from surgery.formats.ncnn_folder import write_network
    from surgery.formats.ncnn_param import render

    values = {**evidence.known, **evidence.inputs}
    feed = probed.feed_region(region, values)
    graph = probed.extract_region(region, feed)
    write_network(folder, render(graph), write_weights(graph, fp16=False))
    return {blob: values[source] for blob, source in feed.items()}
