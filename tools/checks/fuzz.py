"""Broken and hostile files, by the thousand: each is refused or read, and nothing else happens.

Graphs, weights, facts, hub models, foreign ONNX and checkpoints are mutated and given to the verbs
that read them, in processes of their own. At fault is a reader that crashes, takes more than 10 s
or 2 GiB, raises anything but a `SurgeryError`, leaves a file behind, or runs what a file asks for.
An input is told by its kind and number: `--show "param 17"` reads that one in this process.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from checks import fuzz_kinds, fuzz_watch, resume
from checks.fuzz_kinds import Kind
from checks.fuzz_watch import Outcome
from checks.resume import Case, Result
from surgery.errors import SurgeryError

INPUTS = 100_000
SEED = 1
BATCH = 500
SHARES = 1000
# Its readers run onnxruntime, whose threads no fork survives.
UNFIT_TO_FORK = "foreign"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    resume.add_arguments(parser)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--show", metavar="'KIND NUMBER'", help="read one input, and raise")


def run(arguments: argparse.Namespace) -> int:
    """Feed every input and print the figures; 1 when a reader is at fault."""
    kinds = fuzz_kinds.make_kinds()
    if arguments.show:
        return _show(kinds, arguments.show, arguments.seed)
    if not arguments.list and not arguments.kept:
        for name in set(kinds) - {UNFIT_TO_FORK}:
            fuzz_watch.check_seeds(kinds[name])

    def measure(case: Case) -> Result:
        numbers = range(case.settings["first"], case.settings["last"])
        name = case.settings["kind"]
        fed = fuzz_watch.feed(kinds[name], name, numbers, case.settings["seed"], arguments.jobs)
        return summarise(fed)

    results = resume.run_cases(list_cases(kinds, arguments), measure, arguments)
    if arguments.list:
        return 0
    print(*format_table(results), sep="\n")
    faults = list_faults(results)
    print(*faults, sep="\n")
    total = sum(result.get("inputs", 0) for result in results.values())
    print(f"{total} inputs, {len(faults)} faults")
    return 1 if faults or not results else 0


def list_cases(kinds: Mapping[str, Kind], arguments: argparse.Namespace) -> list[Case]:
    """Every input, in batches, so that what is done is kept; the kinds take turns."""
    batches = [
        (first // BATCH, name, first, min(first + BATCH, count))
        for name, kind in kinds.items()
        for count in [arguments.inputs * kind.share // SHARES]
        for first in range(0, count, BATCH)
    ]
    return [
        Case(
            f"{name} {first} to {last - 1}",
            {"kind": name, "first": first, "last": last, "seed": arguments.seed},
        )
        for _, name, first, last in sorted(batches)
    ]


def summarise(outcomes: Iterable[Outcome]) -> Result:
    """The figures of a batch, and every fault with the first input that shows it."""
    every = list(outcomes)
    faults: dict[str, list[int]] = {}
    for one in every:
        if one.is_fault:
            faults.setdefault(one.verdict, []).append(one.number)
    return {
        "inputs": len(every),
        **Counter(one.verdict for one in every if not one.is_fault),
        "slowest": max((one.seconds for one in every), default=0.0),
        "peak": max((one.peak for one in every), default=0),
        "faults": {verdict: [min(found), len(found)] for verdict, found in faults.items()},
    }


def format_table(results: Mapping[str, Result]) -> list[str]:
    """One line for each kind."""
    kinds: dict[str, list[Result]] = {}
    for name, result in results.items():
        if "error" not in result:
            kinds.setdefault(name.split()[0], []).append(result)
    lines = [f"{'kind':<12}{'inputs':>8}{'refused':>9}{'accepted':>9}{'slowest s':>11}{'GiB':>6}"]
    for kind, met in kinds.items():
        counts = [
            sum(one.get(what, 0) for one in met) for what in ("inputs", "refused", "accepted")
        ]
        slowest, peak = (max(one[what] for one in met) for what in ("slowest", "peak"))
        lines.append(
            f"{kind:<12}{counts[0]:>8}{counts[1]:>9}{counts[2]:>9}{slowest:>11.2f}"
            f"{peak / 2**30:>6.2f}"
        )
    return lines


def list_faults(results: Mapping[str, Result]) -> list[str]:
    """Every fault once, with the input that showed it first and how many did."""
    found: dict[tuple[str, str], list[int]] = {}
    errors = []
    for name, result in results.items():
        if "error" in result:
            errors.append(f"{name}: {result['error']}")
        for verdict, (first, count) in result.get("faults", {}).items():
            known = found.setdefault((name.split()[0], verdict), [first, 0])
            found[name.split()[0], verdict] = [min(known[0], first), known[1] + count]
    faults = [f"{kind} {at} ({n} of these): {what}" for (kind, what), (at, n) in found.items()]
    return [*errors, *sorted(faults)]


def _show(kinds: Mapping[str, Kind], text: str, seed: int) -> int:
    name, number = text.split()
    whole, data, random = fuzz_watch.make_input(kinds[name], name, int(number), seed)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"), fuzz_watch.FOLDER)
    path = fuzz_watch.write_files(folder, whole, data)
    print(f"the input is {path}", file=sys.stderr)
    readers = [kinds[name].opens]
    readers += [random.choice(kinds[name].readers)] if kinds[name].readers else []
    for reader in readers:
        try:
            reader(path)
        except SurgeryError as error:
            print(f"{reader.__name__}: refused: {error}")
        else:
            print(f"{reader.__name__}: accepted")
    return 0
