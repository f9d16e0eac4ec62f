"""Plant faults in converted models: the proof has to find every one of them.

Most mutants are judged in this process at small sizes, some go through `surgery validate` with fp16
weights, as the default conversion has them. Results are kept in a file, so that an interrupted run
goes on where it was: a mutant that was begun and not ended is then judged in a process of its own,
and counts as found when that crashes. A mutant that survives is a hole in the proof, unless
`prove_equivalent` shows that it computes the same as the original.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from checks import resume
from checks.jury import Judgement, Jury, digest
from checks.mutations import OPERATORS, Mutant, list_mutants, trace_source
from surgery.formats.ncnn_param import NcnnGraph
from surgery.proof.structure import TIMESTEP

SEED = 1
# Ten architectures with what tells them apart: PReLU, no encoder, two kinds of encoders, groups,
# features from block to block, five blocks.
VERSIONS = (
    "4.0",
    "4.3",
    "4.5",
    "4.6",
    "4.7",
    "4.12.lite",
    "4.14.lite",
    "4.16.lite",
    "4.22.lite",
    "4.26",
)
# What a process dies of that reads or frees what is not its own; others may be anybody's doing.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
# Ways to resize, all of which keep a plane of one value as it is.
RESIZING = ("resize_to_nearest", "align_corners")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS))
    parser.add_argument("--count", type=int, default=52, help="mutants of each version")
    parser.add_argument("--operators", nargs="+", choices=list(OPERATORS), default=list(OPERATORS))
    parser.add_argument(
        "--through-command", type=int, default=0, metavar="N", help="judge N by surgery validate"
    )
    parser.add_argument("--results", type=Path, default=Path("out/mutants.jsonl"))
    parser.add_argument("--seconds", type=float, help="stop after so long; run again to go on")


def run(arguments: argparse.Namespace) -> int:
    """Judge every mutant and print what survived; 1 when something did, 2 when it is not done."""
    kept = Results(arguments.results)
    deadline = time.monotonic() + (arguments.seconds or float("inf"))
    mutants: list[Mutant] = []
    proofs: dict[Mutant, str] = {}
    is_done = True
    for version in arguments.versions:
        if time.monotonic() > deadline:
            print(f"not done: stopped before {version}; run again to go on")
            return 2
        jury = Jury(version, SEED)
        chosen = [
            mutant
            for mutant in list_mutants(version, jury.made.graph, arguments.count, SEED)
            if mutant.operator in arguments.operators
        ]
        state = digest(resume.hash_sources().encode(), jury.digest_model().encode())
        kept.expect(version, state)
        is_done &= judge_version(jury, chosen, kept, deadline)
        mutants += chosen
        proofs |= {mutant: prove_equivalent(jury.made.graph, mutant) for mutant in chosen}
    if not is_done:
        print("not done: the time is up; run again to go on")
        return 2
    survivors = report(mutants, kept, proofs)
    if arguments.through_command:
        alive = set(survivors)
        # What no folder can hold is found before there is anything to validate.
        survivors += judge_through_command(
            [one for one in mutants if one not in alive and _is_held(kept.find(one))],
            arguments.through_command,
        )
    return 1 if survivors or not mutants else 0


class Results:
    """Judgements in a file of JSON lines, each valid for one state of model and proof."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        self._states: dict[str, str] = {}
        self._lines: dict[tuple[str, str], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:  # the last one of a run that was killed
            return
        self._lines[entry["name"], entry["state"]] = entry

    def expect(self, version: str, state: str) -> None:
        """Take only judgements of this state for mutants of a version."""
        self._states[version] = state

    def find(self, mutant: Mutant) -> Judgement | None:
        """The judgement of a mutant, None for one that has none."""
        entry = self._find_entry(mutant)
        if entry is None or "by" not in entry:
            return None
        return Judgement(entry["passed"], entry["by"], entry["what"])

    def is_suspect(self, mutant: Mutant) -> bool:
        """Whether a mutant was begun and never ended: it may have killed what judged it."""
        entry = self._find_entry(mutant)
        return entry is not None and "by" not in entry

    def _find_entry(self, mutant: Mutant) -> dict[str, Any] | None:
        return self._lines.get((mutant.name, self._states[mutant.version]))

    def begin(self, mutant: Mutant) -> None:
        """Note that a mutant is about to be run."""
        self._append(mutant, {})

    def end(self, mutant: Mutant, judgement: Judgement) -> None:
        """Keep a judgement."""
        self._append(mutant, dataclasses.asdict(judgement))

    def _append(self, mutant: Mutant, content: dict[str, Any]) -> None:
        entry = {"name": mutant.name, "state": self._states[mutant.version], **content}
        self._lines[entry["name"], entry["state"]] = entry
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def judge_version(
    jury: Jury, mutants: Sequence[Mutant], kept: Results, deadline: float = float("inf")
) -> bool:
    """Judge the mutants of one version that have no judgement yet; False when time is up.

    Raises:
        RuntimeError: the model without any fault is found at fault, or a mutant is the original.
    """
    original = jury.judge(jury.made.graph)
    if not original.passed:
        raise RuntimeError(f"{jury.version}: the right conversion is found at fault: {original}")
    for number, mutant in enumerate(mutants, start=1):
        if kept.find(mutant) is not None:
            continue
        if time.monotonic() > deadline:
            return False
        if kept.is_suspect(mutant):
            judgement = judge_apart(mutant)
        else:
            kept.begin(mutant)
            judgement = jury.judge(mutant.plant(jury.made.graph))
        kept.end(mutant, judgement)
        mark = "SURVIVED" if judgement.passed else judgement.by
        print(f"{number}/{len(mutants)} {mutant.name}: {mark}", flush=True)
    return True


def judge_apart(mutant: Mutant) -> Judgement:
    """Judge a mutant in a process of its own, which it may crash."""
    try:
        judgement: Judgement = run_apart(_judge_one, mutant)
    except ChildProcessError as crash:
        return Judgement(False, "crash", str(crash))
    return judgement


def _judge_one(mutant: Mutant) -> Judgement:
    jury = Jury(mutant.version, SEED)
    return jury.judge(mutant.plant(jury.made.graph))


def run_apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function in a process of its own.

    Raises:
        ChildProcessError: the process crashed.
        RuntimeError: it ended otherwise without a result: by an exception, or by somebody's hand.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
    code = process.exitcode or 0
    if -code in CRASHES:
        raise ChildProcessError(f"its process died of it ({signal.Signals(-code).name})")
    raise RuntimeError(f"a process was ended without a result (exit code {code}); run again")


def _answer(sender: Connection, work: Callable[..., Any], arguments: Sequence[Any]) -> None:
    sender.send(work(*arguments))


def prove_equivalent(graph: NcnnGraph, mutant: Mutant) -> str:
    """Why a mutant computes the same as the original for every input; empty when it does not."""
    layer = next(one for one in graph.layers if one.name == mutant.layer)
    if mutant.operator in RESIZING and trace_source(graph, layer.inputs[0]) == TIMESTEP:
        return "it resizes the timestep, one value everywhere, which any resizing keeps"
    return ""


def report(mutants: Sequence[Mutant], kept: Results, proofs: Mapping[Mutant, str]) -> list[Mutant]:
    """Print the kill rate and every survivor; those that are not proven equivalent are returned."""
    found = {mutant: kept.find(mutant) for mutant in mutants}
    survivors = [mutant for mutant, one in found.items() if one is not None and one.passed]
    equivalent = [mutant for mutant in survivors if proofs[mutant]]
    ways = Counter(one.by for one in found.values() if one is not None and not one.passed)
    for mutant in survivors:
        judgement = found[mutant]
        reason = f"equivalent: {proofs[mutant]}" if proofs[mutant] else "SURVIVED"
        print(f"{reason}: {mutant.name} ({judgement.what if judgement else ''})")
    killable = len(mutants) - len(equivalent)
    killed = len(mutants) - len(survivors)
    print(
        f"kill rate {killed}/{killable} ({killed / max(killable, 1):.1%}): "
        + ", ".join(f"{count} by {way}" for way, count in ways.most_common())
        + f"; {len(equivalent)} equivalent; {len({one.version for one in mutants})} version(s)"
    )
    return [mutant for mutant in survivors if not proofs[mutant]]


def judge_through_command(mutants: Sequence[Mutant], count: int) -> list[Mutant]:
    """Give some mutants, spread over all, to `surgery validate`; those that it passes return.

    Raises:
        RuntimeError: the command does not pass the right conversion of a version, or has no
            verdict on a mutant.
    """
    survivors: list[Mutant] = []
    sample = mutants[:: max(len(mutants) // count, 1)][:count]
    jury: Jury | None = None
    for mutant in sample:
        if jury is None or jury.version != mutant.version:
            jury = Jury(mutant.version, SEED)
            refuse_wrong_original(mutant.version, run_command(jury, jury.made.graph))
        said = run_command(jury, mutant.plant(jury.made.graph))
        print(f"surgery validate: exit {said.code}: {mutant.name}: {said.words}", flush=True)
        if not is_found(said):
            survivors.append(mutant)
    print(f"through the command: {len(sample) - len(survivors)} of {len(sample)} found")
    return survivors


@dataclasses.dataclass(frozen=True)
class Said:
    """What `surgery validate` said.

    Attributes:
        code: its exit status.
        passed: the verdict in its JSON; None where it wrote none.
        words: its first complaint.
    """

    code: int
    passed: bool | None
    words: str


def refuse_wrong_original(version: str, said: Said) -> None:
    """Stop where the command finds a right conversion at fault: it would find anything.

    Raises:
        RuntimeError: it does.
    """
    if said.code != 0 or said.passed is not True:
        raise RuntimeError(f"{version}: surgery validate fails the right conversion: {said}")


def is_found(said: Said) -> bool:
    """Whether the command found a mutant to differ.

    Raises:
        RuntimeError: it came to no verdict, which is no sign of a fault being found.
    """
    if said.passed is None:
        raise RuntimeError(f"surgery validate came to no verdict: {said}")
    return said.code == 1 and not said.passed


def _is_held(judgement: Judgement | None) -> bool:
    """Whether a folder can hold the mutant: its graph is well-formed, whatever it computes."""
    if judgement is None or judgement.by in ("writing", "crash"):
        return False
    return not judgement.what.startswith("graph:") or "warps;" in judgement.what


def run_command(jury: Jury, graph: NcnnGraph) -> Said:
    """Let `surgery validate` compare a hub model with a folder of fp16 weights."""
    options = dataclasses.replace(jury.made.options, fp16=True)
    with tempfile.TemporaryDirectory(prefix="rife") as scratch:
        hub, folder, verdict = (Path(scratch) / name for name in ("hub.onnx", "model", "said.json"))
        hub.write_bytes(jury.hub.to_onnx().SerializeToString())
        folder.mkdir()
        dataclasses.replace(jury.made, graph=graph, options=options).write(folder)
        command = [sys.executable, "-c", "from surgery.cli import main; main()", "validate"]
        command += [str(hub), str(folder), "--size", "128x128", "--json", str(verdict)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        passed = json.loads(verdict.read_text())["passed"] if verdict.is_file() else None
    lines = result.stderr.strip().splitlines()
    return Said(result.returncode, passed, lines[0] if lines else "")
