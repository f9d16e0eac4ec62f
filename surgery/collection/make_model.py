"""The task of `collect`: convert one model, prove it, and hand back its files and what is known."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.collection.crew import limit_threads
from surgery.collection.plan import Recipe
from surgery.errors import SurgeryError

if TYPE_CHECKING:
    from surgery.proof.validate import Validation
    from surgery.targets.make_ncnn import NcnnModel


@dataclass(frozen=True)
class Order:
    """What a worker is asked for.

    Attributes:
        recipe: the model.
        sent: its donor's files by name and its weights, for a worker that does not see the paths;
            None where it does.
    """

    recipe: Recipe
    sent: Mapping[str, bytes] | None = None


@dataclass(frozen=True)
class Product:
    """What a worker made.

    Attributes:
        facts: what an index tells of the model.
        files: the content of the model folder, by name.
        proof: the whole proof, as JSON.
    """

    facts: Mapping[str, Any]
    files: Mapping[str, bytes]
    proof: str


def make_order(recipe: Recipe, *, send: bool) -> Order:
    """Ask for a model; with `send` its files travel along.

    Raises:
        OSError: a file is gone, or may not be read.
    """
    if not send:
        return Order(recipe)
    files = {} if recipe.root is None else dict(recipe.files)
    if recipe.weights is not None:
        files |= {_place_weights(recipe, one): one for one in recipe.weights_files}
    return Order(recipe, {name: path.read_bytes() for name, path in files.items()})


def make_model(order: Order) -> Product:
    """Convert a model and prove it.

    Raises:
        SurgeryError: it cannot be made, or the conversion differs from its donor.
    """
    from surgery.conversion import convert

    limit_threads()
    recipe = order.recipe
    with _lay_out(order) as (donor, weights), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / recipe.name
        made, validation = convert(
            donor,
            folder,
            weights=weights,
            random_weights=recipe.random_weights,
            **recipe.options,
        )
        assert validation is not None  # convert proves unless told not to
        files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    return Product(_list_facts(recipe, made, validation, files), files, validation.to_json())


def _place_weights(recipe: Recipe, path: Path) -> str:
    """Where a checkpoint, or a file of it, is sent to."""
    assert recipe.weights is not None
    # A folder of its own: a donor's files are below one or two others.
    return f"given weights/{path.relative_to(recipe.weights.parent).as_posix()}"


@contextlib.contextmanager
def _lay_out(order: Order) -> Iterator[tuple[str, Path | None]]:
    """The donor and the weights as this worker finds them."""
    recipe = order.recipe
    if order.sent is None:
        _check_sight(recipe)
        donor = recipe.donor if recipe.root is None else str(recipe.root / recipe.donor)
        yield donor, recipe.weights
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for file, content in order.sent.items():
            path = root / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        donor = recipe.donor if recipe.root is None else str(root / recipe.donor)
        weights = recipe.weights
        yield donor, None if weights is None else root / _place_weights(recipe, weights)


def _check_sight(recipe: Recipe) -> None:
    """Tell a worker that does not see the files from files that are not there."""
    for path in (*recipe.files.values(), *recipe.weights_files):
        if not path.exists():
            raise SurgeryError(
                f"the worker does not see {path.name}, which the client does; leave --shared out, "
                "and files are sent along"
            )


def _list_facts(
    recipe: Recipe, made: NcnnModel, validation: Validation, files: Mapping[str, bytes]
) -> dict[str, Any]:
    from surgery.conversion import list_refusals
    from surgery.targets.check_tta import describe_tta

    # Where the folder will be put, nobody knows yet: its name alone is judged.
    refusals = list_refusals(made, Path("/") / recipe.name)
    return {
        "donor": made.metadata.donor,
        "weights": made.metadata.weights,
        "version": made.metadata.version,
        "padding": made.metadata.padding,
        "warps": made.metadata.warps,
        "layers": len(made.graph.layers),
        "timestep": made.metadata.timestep,
        "runtimes": {name: reason or "runs" for name, reason in refusals.items()},
        "tta": describe_tta(made.graph),
        "notes": [*made.notes, *validation.warnings],
        "proof": summarize_proof(validation),
        "bytes": sum(len(content) for content in files.values()),
        "files": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        },
    }


def summarize_proof(validation: Validation) -> list[dict[str, Any]]:
    """The worst figures of every engine; a PSNR that is infinite is None."""
    engines: dict[str, list[Any]] = {}
    for row in validation.rows:
        engines.setdefault(row.engine, []).append(row)
    return [
        {
            "engine": engine,
            "frames": len(rows),
            "max_abs": max(row.comparison.max_abs for row in rows),
            "psnr": _finite(min(row.comparison.psnr for row in rows)),
            "ssim": min(row.comparison.ssim for row in rows),
            "accepted": f"{rows[0].tolerance.metric.value} {rows[0].tolerance.bound:g}",
            "passed": all(row.verdict.passed for row in rows),
        }
        for engine, rows in engines.items()
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def describe_options(recipe: Recipe) -> str:
    """The variant in words, `plain` where nothing was asked for."""
    options = recipe.options
    words = [
        "second stage" if options.get("second_stage") else "",
        "ensemble" if options.get("ensemble") else "",
        f"scale {options['scale']:g}" if options.get("scale", 1.0) != 1.0 else "",
        "fp16" if options.get("fp16", True) else "fp32",
        "fast" if options.get("fast") else "",
        f"for {options['runtime']}" if options.get("runtime") else "",
    ]
    return ", ".join(filter(None, words))


def render_facts(facts: Mapping[str, Any]) -> str:
    """JSON as every file of a release holds it."""
    return json.dumps(facts, indent=2) + "\n"
