"""Plant faults in converted models: `--bisect` has to name the layer that was changed.

A fault that no value shows (a blob beyond fp16) or that changes nothing is none to search for, and
is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import tempfile
from pathlib import Path

from checks import resume
from checks.jury import Jury
from checks.mutants import SEED, prove_equivalent
from checks.mutations import Mutant, list_mutants
from checks.resume import Case, Result
from surgery.proof.bisect import bisect_forms
from surgery.proof.forms import FolderForm, HubForm

# With PReLU; without an encoder; with both kinds of encoder; with features from block to block.
VERSIONS = ("4.0", "4.6", "4.12.lite", "4.16.lite", "4.22.lite")
OF_EACH = 10
# Another choice of layers than that of the mutation check.
CHOICE_SEED = 7
INVISIBLE = ("overflow_blob",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search for every fault; 1 when another layer is named for one of them."""
    results = resume.run_cases(list_cases(), measure, arguments)
    if arguments.list:
        return 0
    wrong = {name: one for name, one in results.items() if not one.get("right")}
    for name, one in wrong.items():
        print(f"{name}: {one.get('error') or one['words']}")
    print(f"the layer named is the changed one for {len(results) - len(wrong)} of {len(results)}")
    return 1 if wrong or not results else 0


def list_cases() -> list[Case]:
    """One case for each mutant, by number; which it is depends on the conversion."""
    return [
        Case(f"{version} {number}", {"version": version, "number": number})
        for version in VERSIONS
        for number in range(OF_EACH)
    ]


def measure(case: Case) -> Result:
    """Plant one fault and search for it."""
    jury = open_jury(case.settings["version"])
    return search(jury, choose_mutants(jury)[case.settings["number"]])


@functools.lru_cache(maxsize=1)
def open_jury(version: str) -> Jury:
    """The conversion that the faults of one version go into."""
    return Jury(version, SEED, sizes=())


def choose_mutants(jury: Jury) -> list[Mutant]:
    """Faults that a search can find, drawn at random from all operators."""
    graph = jury.made.graph
    mutants = [
        mutant
        for mutant in list_mutants(jury.version, graph, 100, CHOICE_SEED)
        if mutant.operator not in INVISIBLE and not prove_equivalent(graph, mutant)
    ]
    generator = Mutant(jury.version, "choice", "").make_generator()
    return [mutants[index] for index in generator.permutation(len(mutants))[:OF_EACH]]


def search(jury: Jury, mutant: Mutant) -> Result:
    """Whether the first layer that differs makes what the changed one made."""
    changed = next(one for one in jury.made.graph.layers if one.name == mutant.layer)
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        dataclasses.replace(jury.made, graph=mutant.plant(jury.made.graph)).write(folder)
        bisection = bisect_forms(HubForm(jury.hub.to_onnx(), "hub"), FolderForm(folder)).bisection
    first = bisection.first
    return {
        "mutant": mutant.name,
        "right": first is not None and first.place.name in changed.outputs,
        "named": first.place.name if first else None,
        "words": bisection.describe(),
    }
