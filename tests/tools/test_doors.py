"""The check of the other doors: what its cases cover, and that its race looks at the frames."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(autouse=True)
def _tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))


@dataclasses.dataclass
class FakeRecording:
    seconds: list[float]
    frames: list[np.ndarray]


def test_both_exporters_are_cases_at_every_opset() -> None:
    from checks import doors

    names = [case.name for case in doors.list_cases()]
    assert len(set(names)) == len(names)
    for opset in range(16, 21):
        assert {f"4.6 torchscript {opset}", f"4.6 dynamo {opset}"} <= set(names)
    assert not any(name.startswith(("4.0 dynamo", "4.1 dynamo")) for name in names)


@pytest.mark.parametrize(("levels", "passes"), [(0.0, True), (1.0, True), (2.0, False)])
def test_a_race_is_won_with_the_same_frame_alone(
    levels: float, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checks import doors

    class FakeEngine:
        def __init__(self, folder: Path, padding: int) -> None:
            self.is_candidate = folder.name == "ours"

        def record(self, samples: Any) -> FakeRecording:
            frame = np.full((1, 3, 4, 4), 100.0 + levels * self.is_candidate, np.float32)
            return FakeRecording([1.0 if self.is_candidate else 2.0] * 2, [frame / 255] * 2)

    monkeypatch.setattr(doors, "RifeNcnnVulkanEngine", FakeEngine)
    results = doors._race(Path("ours"), Path("theirs"), 32)
    assert results["times as fast in rife-ncnn-vulkan"]["passed"]
    assert results["levels of difference in rife-ncnn-vulkan"]["passed"] == passes
