"""Read how a donor's authors run their network, from source that is parsed and never imported.

`RIFE_HDv3.py` and its kin say what the network's file does not: the resolution of each block, and
which of the returned images is the result. Importing them takes torchvision, a GPU and more; what
is needed stands in them as literals.

Source: `Model.inference` in Practical-RIFE's train_log/RIFE_HDv3.py, ECCV2022-RIFE's model/RIFE.py
and vs-rife's RIFE_HDv3.py of 2021.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from surgery.errors import DonorError

RECIPE_FILES = "RIFE*.py"
SCALE_LIST = "scale_list"
MERGED = "merged"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How `Model.inference` runs the network.

    Attributes:
        file: the name of the file that says so.
        scale_list: each block's divisor of the resolution at scale 1; empty when it names none.
        image: which entry of `merged` is the result; None when it names none.
    """

    file: str
    scale_list: tuple[float, ...] = ()
    image: int | None = None


def find_recipe(source: Path) -> Recipe | None:
    """Read the file beside a network's source that imports it; None when there is none.

    Raises:
        DonorError: several disagree, one is not Python, or its scale list is not of numbers.
    """
    recipes = [
        _read_recipe(path, tree)
        for path in sorted(source.resolve().parent.glob(RECIPE_FILES))
        for tree in [parse_source(path, path.name)]
        if _imports(tree, source.stem)
    ]
    said = [recipe for recipe in recipes if recipe.scale_list]
    if len({recipe.scale_list for recipe in said}) > 1:
        lists = "; ".join(f"{r.file} has {list(r.scale_list)}" for r in said)
        raise DonorError(f"{source.name}: {lists}; one scale list is expected, move the others")
    return next(iter(said or recipes), None)


def parse_source(path: Path, label: str) -> ast.Module:
    """Parse a Python file.

    Raises:
        DonorError: it is not Python.
    """
    try:
        return ast.parse(path.read_text(encoding="utf-8", errors="replace"))
    except SyntaxError as error:
        raise DonorError(f"{label} is not Python 3: line {error.lineno}, {error.msg}") from error


def read_scale_list(tree: ast.AST, label: str) -> tuple[float, ...]:
    """Read `scale_list = [8 / scale, ...]`, as scale 1 has it; empty when there is none.

    Raises:
        DonorError: an entry is neither a number nor a number divided by the scale.
    """
    for target, value in _assignments(tree):
        if target == SCALE_LIST and isinstance(value, (ast.List, ast.Tuple)):
            return tuple(_read_dividend(entry, label) for entry in value.elts)
    return ()


def _read_recipe(path: Path, tree: ast.Module) -> Recipe:
    inference = next(
        (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "inference"),
        None,
    )
    if inference is None:
        return Recipe(path.name)
    scale_list = read_scale_list(inference, path.name) or _read_default(inference, path.name)
    return Recipe(path.name, scale_list, next(_returned_entries(inference), None))


def _read_default(function: ast.FunctionDef, label: str) -> tuple[float, ...]:
    """Read `def inference(..., scale_list=[4, 2, 1])`."""
    arguments = function.args.args
    with_default = arguments[len(arguments) - len(function.args.defaults) :]
    for argument, value in zip(with_default, function.args.defaults, strict=True):
        if argument.arg == SCALE_LIST and isinstance(value, (ast.List, ast.Tuple)):
            return tuple(_read_dividend(entry, label) for entry in value.elts)
    return ()


def _returned_entries(function: ast.FunctionDef) -> Iterator[int]:
    """The k of each `return merged[k]`."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Return)
            and isinstance(node.value, ast.Subscript)
            and isinstance(node.value.value, ast.Name)
            and node.value.value.id == MERGED
        ):
            index = _read_literal(node.value.slice)
            if isinstance(index, int):
                yield index


def _read_literal(node: ast.expr) -> object:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _assignments(tree: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    yield target.id, node.value


def _imports(tree: ast.Module, stem: str) -> bool:
    modules = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    return any(module.rsplit(".", 1)[-1] == stem for module in modules)


def _read_dividend(entry: ast.expr, label: str) -> float:
    is_division = isinstance(entry, ast.BinOp) and isinstance(entry.op, ast.Div)
    number = entry.left if isinstance(entry, ast.BinOp) and is_division else entry
    if isinstance(number, ast.Constant) and isinstance(number.value, (int, float)):
        return float(number.value)
    raise DonorError(
        f"{label}: {SCALE_LIST} holds {ast.unparse(entry)}; numbers and 'N / scale' are known"
    )
