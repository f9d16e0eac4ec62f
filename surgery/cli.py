"""The command line: one command per verb, no logic."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(name="surgery", no_args_is_help=True, add_completion=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"surgery {version('surgery-rife')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Turn any RIFE into a verified, fast rife-ncnn-vulkan model."""


def main() -> None:
    """Run the command that the command line names."""
    app()
