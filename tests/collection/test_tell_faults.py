"""Faults of manifests: each in one sentence, with what was found and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgery.collection.manifest import Entry, read_manifest
from surgery.collection.tell_faults import ACCEPTED
from surgery.errors import SurgeryError

DONOR = '[[models]]\ndonor = "a"\n'
CASES = {
    "a key with a dash": (
        DONOR + "random-weights = 1\n",
        ["models[1].random-weights: there is no such key; write random_weights"],
    ),
    "a key like no other": (
        DONOR + "zzz = 1\n",
        ["models[1].zzz: there is no such key; remove it"],
    ),
    "what follows from a misspelled key": (
        DONOR + '[[models]]\ndoner = "b"\n',
        ["models[2].doner: there is no such key; write donor"],
    ),
    "a key that is missing": (
        "[[models]]\nfast = true\n",
        ["models[1] has no donor; give one: " + ACCEPTED["donor"]],
    ),
    "one pair of brackets": (
        '[models]\ndonor = "a"\n',
        ["[models] makes a single table; write [[models]], with two brackets, for each model"],
    ),
    "a misspelled table": (
        '[[model]]\ndonor = "a"\n',
        ["model: there is no such key; write models"],
    ),
    "a key above its table": (
        'fast = true\n[[models]]\ndonor = "a"\n',
        ["fast belongs to a model: write [[models]] on a line above it"],
    ),
    "no models": (
        "models = []\n",
        ["models is empty; write [[models]] and its keys for each model"],
    ),
    "models that are text": (
        'models = "a"\n',
        ['models is "a"; write [[models]] and its keys, donor at least, for each'],
    ),
    "a model that is a number": (
        "models = [1]\n",
        ["models[1] is 1; a table is accepted: [[models]], and its keys below"],
    ),
    "a title that is a number": ("title = 3\n" + DONOR, ["title is 3; text is accepted"]),
    "a value of two possible forms": (
        DONOR + 'ensemble = "yes"\n',
        ['models[1].ensemble is "yes"; accepted: true, false or "both", or a list of such'],
    ),
    "a value in a list": (
        DONOR + "fast = [true, 1]\n",
        ["models[1].fast[2] is 1; accepted: true or false"],
    ),
    "an empty list": (
        DONOR + "scale = []\n",
        [f"models[1].scale is an empty list; accepted: {ACCEPTED['scale']}, or a list of such"],
    ),
    "a list where one value belongs": (
        DONOR + 'name = ["a"]\n',
        ['models[1].name is ["a"]; accepted: a folder\'s name, as text'],
    ),
    "a long value": (
        DONOR + f'precision = "{"x" * 50}"\n',
        [f'models[1].precision is "{"x" * 39}...; accepted: "fp16" or "fp32", or a list of such'],
    ),
    "keys that exclude each other": (
        DONOR + 'weights = "w"\nrandom_weights = 1\n',
        ["models[1]: weights and random_weights are given; one of the two is accepted"],
    ),
    "models in their order": (
        (DONOR + 'scale = "1"\n') * 11,
        [
            f'models[{index}].scale is "1"; accepted: {ACCEPTED["scale"]}, or a list of such'
            for index in range(1, 12)
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fault_is_told_once_and_in_words_of_the_manifest(tmp_path: Path, case: str) -> None:
    text, faults = CASES[case]
    path = tmp_path / "manifest.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SurgeryError) as caught:
        read_manifest(path)
    assert [line[2:] for line in str(caught.value).splitlines()[1:-1]] == faults


def test_every_key_has_words_for_what_it_takes() -> None:
    assert list(ACCEPTED) == list(Entry.model_fields)
