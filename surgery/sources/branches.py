"""Decide the branches of a stock forward that depend on the data.

RIFE 4.0 and 4.1 run their first block again at half the resolution when a flow is very large
(`if i == 1 and f0[:, :2].abs().max() > 32 and ...`). A graph has no such branch, so an export bakes
one in. Every published conversion has the one that is not doubled, and so do we: on purpose, and on
record.

Source: torch.overrides.TorchFunctionMode, through which `bool(tensor)` passes.
"""

from __future__ import annotations

import ast
import dataclasses
import linecache
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@dataclasses.dataclass(frozen=True)
class Decision:
    """One `if` on a tensor, answered with False.

    Attributes:
        function: the function that it stands in.
        line: its line in the donor's source.
        condition: the whole condition, as the source has it; empty when that cannot be read.
        data_says: the value of the whole condition on this data; None where there is no data to
            ask, as in a trace.
    """

    function: str
    line: int
    condition: str
    data_says: bool | None

    @property
    def words(self) -> str:
        """The decision as one line for metadata and reports."""
        condition = f" (if {self.condition})" if self.condition else ""
        return f"{self.function}, line {self.line}{condition}: not taken"


class ChosenBranches(TorchFunctionMode):
    """While active, `if tensor` is not taken, and `decisions` lists where that happened.

    Works eagerly, in a trace (which has nothing left to warn of), in torch.export and on tensors
    without data.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[Decision] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Answer `bool`; let everything else through."""
        asking = _find_asking_frame() if func is torch.Tensor.__bool__ else None
        # The exporters ask tensors about themselves too, and need the truth.
        if asking is None or _is_torch(asking):
            return func(*args, **(kwargs or {}))
        self.decisions.append(_describe_decision(asking, args[0]))
        return False

    @property
    def overruled(self) -> list[Decision]:
        """The decisions on which the unaltered source would have taken the other branch."""
        return [decision for decision in self.decisions if decision.data_says]


def summarise_decisions(decisions: Iterable[Decision]) -> tuple[str, ...]:
    """Each place once, in words, in the order of the source."""
    places = {(decision.function, decision.line): decision.words for decision in decisions}
    return tuple(places[place] for place in sorted(places))


def _describe_decision(frame: FrameType, asked: torch.Tensor) -> Decision:
    linecache.checkcache(frame.f_code.co_filename)  # a file may have been replaced meanwhile
    source = "".join(linecache.getlines(frame.f_code.co_filename))
    test = _find_test(source, frame.f_lineno)
    text = "" if test is None else " ".join((ast.get_source_segment(source, test) or "").split())
    says = None
    if _has_data(asked):
        # The first operand of an `and` alone does not tell what the source would have done.
        says = bool(asked) if test is None else _evaluate(test, frame)
    return Decision(frame.f_code.co_name, frame.f_lineno, text, says)


def _has_data(tensor: torch.Tensor) -> bool:
    is_traced = torch.jit.is_tracing()
    return not (is_traced or torch.compiler.is_compiling() or tensor.is_meta)


def _evaluate(test: ast.expr, frame: FrameType) -> bool:
    """The condition's value, in the place where it stands; conditions have no side effects."""
    code = compile(ast.Expression(test), frame.f_code.co_filename, "eval")
    return bool(eval(code, frame.f_globals, frame.f_locals))


def _find_test(source: str, line: int) -> ast.expr | None:
    """The condition of the innermost `if` on a line; None when there is none to read."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return None
    tests = [
        node.test
        for node in ast.walk(tree)
        if isinstance(node, (ast.If, ast.IfExp, ast.While))
        and node.test.lineno <= line <= (node.test.end_lineno or node.test.lineno)
    ]
    return min(tests, key=lambda test: (test.end_lineno or 0) - test.lineno, default=None)


def _find_asking_frame() -> FrameType:
    """The frame that says `if tensor`: below it are this module's and other modes' functions."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        is_mode = frame.f_code.co_name == "__torch_function__" and _is_torch(frame)
        if frame.f_globals.get("__name__") != __name__ and not is_mode:
            break
        frame = frame.f_back
    return frame


def _is_torch(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).split(".", 1)[0] == "torch"
