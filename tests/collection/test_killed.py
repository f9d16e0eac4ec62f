"""A worker and then the client killed in the middle of `surgery collect`: nothing is lost by it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from surgery.collection.collect import collect
from surgery.collection.crew import Crew
from surgery.conversion import convert

DONORS = ("one", "two", "three")
PATIENCE = 600
MANIFEST = '[[models]]\ndonor = "donors/*"\nname = "rife-v4-{donor}"\n'


@pytest.fixture
def folder(tmp_path: Path, write_tiny_model: Callable[[Path, int], None]) -> Path:
    for seed, name in enumerate(DONORS, start=3):
        write_tiny_model(tmp_path / "donors" / name, seed)
    (tmp_path / "manifest.toml").write_text(MANIFEST, encoding="utf-8")
    return tmp_path


@pytest.fixture
def client(folder: Path) -> Iterator[psutil.Popen]:
    """The command, running with two workers of its own."""
    code = "from surgery.cli import main; main()"
    words = ["collect", "manifest.toml", "-o", "release", "--workers", "2"]
    process = psutil.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, stdout=subprocess.DEVNULL
    )
    yield process
    if process.is_running():
        process.kill()
    process.wait()


def _wait_for(client: psutil.Popen, release: Path, count: int) -> int:
    """Wait until so many models are done; returns how many are."""
    end = time.monotonic() + PATIENCE
    while (done := len(list((release / ".records").glob("*.json")))) < count:
        assert client.poll() is None, "the command ended"
        assert time.monotonic() < end, f"no {count} models were made in {PATIENCE} s"
        time.sleep(0.02)
    return done


def _read(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_worker_and_a_client_that_are_killed_lose_nothing(
    folder: Path, client: psutil.Popen, crew: Crew
) -> None:
    release = folder / "release"
    _wait_for(client, release, 1)
    workers = [one for one in client.children() if "spawn_main" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[0].kill()
    kept = _wait_for(client, release, 2)
    client.kill()
    client.wait()
    before = _read(release / "models")

    again = collect(folder / "manifest.toml", release, scheduler=crew.address)
    assert again.is_complete
    assert len(again.done) == len(DONORS) - kept
    models = _read(release / "models")
    # What was done is as it was, and nothing lies beside it.
    assert before.items() <= models.items()
    assert not [name for name in _read(release) if ".surgery-" in name]
    index = json.loads((release / "index.json").read_text())
    assert [row["status"] for row in index["models"]] == ["made"] * len(DONORS)
    # Each is what its donor makes where nobody is killed.
    for name in DONORS:
        output = folder / "undisturbed" / f"rife-v4-{name}"
        convert(str(folder / "donors" / name), output, proof=False)
        own = {key: one for key, one in models.items() if key.startswith(f"{output.name}/")}
        assert own == {f"{output.name}/{key}": one for key, one in _read(output).items()}
