from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SKIPPED = "import pytest\ndef test_it(): pytest.skip({reason!r})\n"
SOURCES = {
    "test_skipped.py": SKIPPED.format(reason="no driver"),
    "test_listed.py": SKIPPED.format(reason="root may write anywhere"),
    "test_module.py": "import pytest\npytest.importorskip('no_such_module')\n",
    "test_xfail.py": "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False\n",
}
OPTIONS = ["-q", "-rA", "--continue-on-collection-errors", "-p", "no:cacheprovider"]


def _list_outcomes(folder: Path, *, forbid: bool) -> set[tuple[str, str]]:
    """Run the sources above under this project's conftest; give (outcome, file) of each."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    # An empty configuration keeps this project's own out.
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for name, source in SOURCES.items():
        (folder / name).write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS],
        env=os.environ | {"SURGERY_FORBID_SKIPS": "1" if forbid else "0"},
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    outcomes = ("FAILED", "ERROR", "SKIPPED", "XFAIL", "PASSED")
    lines = [line for line in done.stdout.splitlines() if line.startswith(outcomes)]
    return {(line.split()[0], name) for line in lines for name in SOURCES if name in line}


def test_only_listed_skips_pass_where_skips_are_forbidden(tmp_path: Path) -> None:
    assert _list_outcomes(tmp_path, forbid=True) == {
        ("FAILED", "test_skipped.py"),
        ("SKIPPED", "test_listed.py"),
        ("ERROR", "test_module.py"),
        ("XFAIL", "test_xfail.py"),
    }


def test_skips_pass_where_none_is_forbidden(tmp_path: Path) -> None:
    assert _list_outcomes(tmp_path, forbid=False) == {
        ("SKIPPED", "test_skipped.py"),
        ("SKIPPED", "test_listed.py"),
        ("SKIPPED", "test_module.py"),
        ("XFAIL", "test_xfail.py"),
    }
