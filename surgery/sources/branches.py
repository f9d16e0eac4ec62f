"""Decide the branches of a stock forward that depend on the data.

RIFE 4.0 and 4.1 run their first block again at half the resolution when a flow is very large
(`if f0.abs().max() > 32 and ...`). A graph has no such branch, so an export bakes one in. Every
published conversion has the undoubled one, and so do we: on purpose, and on record.

Source: torch.overrides.TorchFunctionMode, through which `bool(tensor)` passes.
"""

from __future__ import annotations

import dataclasses
import sys
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@dataclasses.dataclass(frozen=True)
class Decision:
    """One `if` on a tensor: where it stands, what was chosen, what the data would have said.

    `data_says` is None while tracing, where there is no data to ask.
    """

    function: str
    line: int
    chosen: bool
    data_says: bool | None


class ChosenBranches(TorchFunctionMode):
    """While active, `bool(tensor)` is False, and `decisions` lists where that happened."""

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[Decision] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer `bool`; let everything else through."""
        if func is not torch.Tensor.__bool__:
            return func(*args, **(kwargs or {}))
        frame = _calling_frame()
        says = None if torch.jit.is_tracing() else bool(func(*args))
        self.decisions.append(
            Decision(frame.f_code.co_name, frame.f_lineno, chosen=False, data_says=says)
        )
        return False

    @property
    def overruled(self) -> bool:
        """Whether the unaltered source would have taken another branch on this data."""
        return any(decision.data_says for decision in self.decisions)


def _calling_frame() -> FrameType:
    """The nearest frame outside torch and this module: the donor's own code."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module != __name__ and module != "torch" and not module.startswith("torch."):
            break
        frame = frame.f_back
    return frame
