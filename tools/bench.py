"""Measure this project: `python tools/bench.py COMMAND --help`.

Every command is a module in `tools/benches` with `add_arguments` and `run`.
"""

from __future__ import annotations

import argparse
import sys
from typing import Protocol

from benches import against, convert, fast, kernel, optimize


class Command(Protocol):
    """What a module in `tools/benches` has to offer."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Measure and report; the exit status is the verdict."""


COMMANDS: dict[str, Command] = {
    "against": against,
    "convert": convert,
    "fast": fast,
    "kernel": kernel,
    "optimize": optimize,
}


def main() -> int:
    """Run the command that the command line names; the exit status is its verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(commands.add_parser(name, help=summary, description=module.__doc__))
    given = sys.argv[1:]
    if given[:1] == ["--against"]:
        given[0] = "against"
    arguments = parser.parse_args(given)
    return COMMANDS[arguments.command].run(arguments)


if __name__ == "__main__":
    sys.exit(main())
