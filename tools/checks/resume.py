"""Run many cases one after the other, and keep what each gave: a second run goes on from there.

A result is kept under a key made of the package's sources, its kernel, all checking commands (one
judges by what another defines) and the case, so that what any of them changes is done again. What
raised is told, counts as failed, and is not kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.collection.read_record import read_record
from surgery.errors import KernelMissing
from surgery.kernel_library import ops_library
from surgery.output import write_file_atomically

ROOT = Path(__file__).resolve().parents[2]
Result = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to check.

    Attributes:
        name: tells it from the others.
        settings: what to do, as JSON can say it.
    """

    name: str
    settings: Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that `run_cases` reads."""
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "build" / "checks",
        help="the folder that keeps results (default build/checks)",
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose whole name fits")
    parser.add_argument("--list", action="store_true", help="name the cases and do nothing")
    parser.add_argument("--kept", action="store_true", help="report kept results, run nothing")


def run_cases(
    cases: Sequence[Case], measure: Callable[[Case], Result], arguments: argparse.Namespace
) -> dict[str, Result]:
    """Measure every chosen case that has no result yet; returns all results by name of case.

    A case that raised has the result `{"error": message}`.
    """
    chosen = [case for case in cases if re.fullmatch(arguments.only or ".*", case.name)]
    if arguments.list:
        print(*(case.name for case in chosen), sep="\n")
        return {}
    folder = arguments.results / arguments.command
    results: dict[str, Result] = {}
    for number, case in enumerate(chosen, start=1):
        path = folder / f"{case.name.replace(' ', '_')}.json"
        key = make_key(arguments.command, case)
        kept = _read_kept(path, key)
        if kept is None and arguments.kept:
            continue
        start = time.perf_counter()
        results[case.name] = _measure(case, measure) if kept is None else kept
        seconds = time.perf_counter() - start
        if kept is None and "error" not in results[case.name]:
            record = {"key": key, "case": case.name, "result": results[case.name]}
            write_file_atomically(path, json.dumps(record, indent=1) + "\n", force=True)
        told = results[case.name].get("error", "kept" if kept else f"{seconds:.0f} s")
        print(f"[{number}/{len(chosen)}] {case.name}: {told}", flush=True)
    return results


def _measure(case: Case, measure: Callable[[Case], Result]) -> Result:
    try:
        return measure(case)
    # Whatever one case dies of, the others are still to be checked.
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def _read_kept(path: Path, key: str) -> Result | None:
    record = read_record(path)
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    result: Result | None = record.get("result")
    return result


def make_key(command: str, case: Case) -> str:
    """The key under which a case's result is kept."""
    settings = json.dumps([command, case.name, dict(case.settings)], sort_keys=True)
    return hashlib.sha256((hash_sources() + settings).encode()).hexdigest()


@functools.cache
def hash_sources() -> str:
    """Hash the package, its kernel and the checking commands: all that a judgement depends on."""
    digest = hashlib.sha256()
    for path in list_sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def list_sources() -> list[Path]:
    """The files that `hash_sources` reads."""
    package = sorted((ROOT / "surgery").rglob("*.py"))
    return [*package, *_find_kernel(), *sorted(Path(__file__).parent.glob("*.py"))]


def _find_kernel() -> list[Path]:
    try:
        return [ops_library()]
    except KernelMissing:
        return []
