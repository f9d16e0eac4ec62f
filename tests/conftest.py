"""Fixtures of every test, and the rule on skips.

With SURGERY_FORBID_SKIPS=1 in the environment a skipped test fails, unless its reason is listed
here: a runtime that is missing where nothing should be is a fault, not a pass.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import TypeVar

import pytest

NO_PUBLISHED = "SURGERY_PUBLISHED names no folder of published .param files"

# Reasons that say what the machine is, not that something was not installed.
ALLOWED_SKIPS = {
    NO_PUBLISHED: "graphs of other people, which this project does not hold",
    "chromium is not installed: apt-get install chromium": "no part of the product runs a browser",
    "root may write anywhere": "a folder without write permission stops no root",
    "leftovers are told by flock": "Windows has no flock",
}

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.fixture(scope="session")
def published_folder() -> Path:
    """The folder of .param files that others published, named by SURGERY_PUBLISHED."""
    folder = os.environ.get("SURGERY_PUBLISHED")
    if not folder:
        pytest.skip(NO_PUBLISHED)
    return Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _fail_forbidden_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _fail_forbidden_skip((yield))


def _fail_forbidden_skip(report: Report) -> Report:
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if not is_skip or os.environ.get("SURGERY_FORBID_SKIPS") != "1":
        return report
    longrepr = report.longrepr
    reason = longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason not in ALLOWED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"skipped, and SURGERY_FORBID_SKIPS=1 forbids it: {reason}"
    return report
