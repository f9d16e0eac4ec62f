"""Check what a test run has no time for: `python tools/check.py COMMAND --help`.

Every command is a module in `tools/checks` with `add_arguments` and `run`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Protocol

from checks import (
    collect,
    conversions,
    donors,
    doors,
    first_layer,
    fuzz,
    interrupted,
    layers,
    mutants,
    no_false_alarm,
    passes,
    score,
    versions,
    wheels,
)


class Command(Protocol):
    """What a module in `tools/checks` has to offer."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Check and report; the exit status is the verdict."""


COMMANDS: dict[str, Command] = {
    "collect": collect,
    "conversions": conversions,
    "donors": donors,
    "doors": doors,
    "first-layer": first_layer,
    "fuzz": fuzz,
    "interrupted": interrupted,
    "layers": layers,
    "mutants": mutants,
    "no-false-alarm": no_false_alarm,
    "passes": passes,
    "score": score,
    "versions": versions,
    "wheels": wheels,
}


def main() -> int:
    """Run the command that the command line names; the exit status is its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    arguments = parser.parse_args()
    return COMMANDS[arguments.command].run(arguments)


if __name__ == "__main__":
    sys.exit(main())
