"""A release folder: model folders, archives, proofs, an index, and what is needed to go on.

    index.json, index.html     what there is, and what was refused and why
    models/NAME/               the model folder
    archives/NAME.zip          the same, to publish
    proofs/NAME.json           every figure of its proof
    .records/NAME.json         the key that it was made under
    .records/.lock             held by the process that works on the release

Every file and folder appears whole. A model's record is written after all else of it, and before
anything of it changes it is removed: whatever has a record is complete. A model that cannot be made
at the moment, for want of a drive or of a package, stays as it was made, and is called stale; one
that its inputs forbid goes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from surgery.collection.lock_folder import lock_folder
from surgery.collection.make_model import Product, describe_options, render_facts
from surgery.collection.plan import Recipe
from surgery.collection.read_record import read_record
from surgery.errors import OutputExists
from surgery.output import new_folder, refuse_taken, write_file_atomically
from surgery.versions import describe_versions

INDEX, PAGE = "index.json", "index.html"
MODELS, ARCHIVES, PROOFS, RECORDS = "models", "archives", "proofs", ".records"
MADE, STALE, REFUSED, FAILED, WAITING = "made", "stale", "refused", "failed", "waiting"
# Whatever lies in a model's folder: those of a release are made by its manifest alone. What lies in
# folders below it is somebody's.
ANY_FILE = ("*",)
# The earliest that a zip can tell: its bytes depend on what is in it, and on nothing else.
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
ZIP_MODE = 0o644 << 16

Row = dict[str, Any]


class Release:
    """A release folder, open for writing.

    Attributes:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder that is a release already, or make one.

        Raises:
            OutputExists: there is something else of that name.
        """
        is_taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if is_taken and not (folder / RECORDS).is_dir():
            raise OutputExists(f"{folder} exists and is no release; name a folder of its own")
        self.folder = folder
        (folder / RECORDS).mkdir(parents=True, exist_ok=True)

    def lock(self) -> AbstractContextManager[None]:
        """Keep the release to this process; what writes to it belongs into the block.

        Raises:
            SurgeryError: as `lock_folder`.
        """
        return lock_folder(self.folder, self.folder / RECORDS)

    def find_row(self, recipe: Recipe, key: str) -> Row | None:
        """What is known of a model that was done under this key; None for one to be done."""
        record = self._read_record(recipe.name)
        if record is None or record["key"] != key:
            return None
        row: Row = record["row"]
        return row

    def _read_record(self, name: str) -> dict[str, Any] | None:
        """The record of a model; None where there is none, or where it tells of other files."""
        record: dict[str, Any] | None = read_record(self._locate_record(name))
        try:
            is_whole = record is not None and self._is_record(record)
        except (KeyError, TypeError, AttributeError):
            # JSON, but none that was written here.
            return None
        return record if is_whole else None

    def _is_record(self, record: dict[str, Any]) -> bool:
        is_ours = isinstance(record["key"], str) and isinstance(record["row"]["reason"], str)
        return is_ours and self._is_whole(record["row"], record["proof_sha256"])

    def _is_whole(self, row: Row, proof: str) -> bool:
        """Whether the files that a row tells of are there, and nobody has changed them."""
        if row["status"] != MADE:
            return True
        folder, archive, figures = self._locate(row["name"])
        wanted = {folder / name: facts["sha256"] for name, facts in row["files"].items()}
        wanted |= {archive: row["archive"]["sha256"], figures: proof}
        return all(
            path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest
            for path, digest in wanted.items()
        )

    def store(self, recipe: Recipe, key: str, product: Product) -> Row:
        """Put a model in its place.

        Raises:
            OutputExists: something lies there that `collect` did not make.
        """
        place, path, proof = self._locate(recipe.name)
        refuse_taken(place, force=True, files=ANY_FILE)
        for file in (path, proof):
            refuse_taken(file, force=True)
        # Only now: what cannot be replaced stays what it is.
        self._forget(recipe.name)
        archive = make_archive(recipe.name, product.files)
        with new_folder(place, force=True, files=ANY_FILE) as folder:
            for name, content in product.files.items():
                (folder / name).write_bytes(content)
        write_file_atomically(path, archive, force=True)
        write_file_atomically(proof, product.proof, force=True)
        row = {
            **describe_recipe(recipe, MADE),
            **product.facts,
            "archive": {
                "name": path.name,
                "bytes": len(archive),
                "sha256": hashlib.sha256(archive).hexdigest(),
            },
        }
        self._remember(recipe.name, key, row, hashlib.sha256(product.proof.encode()).hexdigest())
        return row

    def refuse(self, recipe: Recipe, key: str, reason: str) -> Row:
        """Note that inputs forbid a model, which is known from now on; an older one goes."""
        self._forget(recipe.name)
        place, *files = self._locate(recipe.name)
        with contextlib.suppress(OutputExists):
            refuse_taken(place, force=True, files=ANY_FILE)
            shutil.rmtree(place, ignore_errors=True)
        for path in files:
            # A folder of that name is somebody's.
            if not path.is_dir():
                path.unlink(missing_ok=True)
        row = describe_recipe(recipe, REFUSED, reason)
        self._remember(recipe.name, key, row)
        return row

    def keep(self, recipe: Recipe, status: str, reason: str) -> Row:
        """Tell why a model cannot be made at the moment; one that was made once stays, stale."""
        record = self._read_record(recipe.name)
        if record is None or record["row"]["status"] != MADE:
            return describe_recipe(recipe, status, reason)
        return {**record["row"], "status": STALE, "reason": reason}

    def find_strangers(self, recipes: Sequence[Recipe]) -> dict[str, list[str]]:
        """The models that were made once and that the manifest asks for no more.

        Each by its name, with what there is of it, relative to the release folder. One that was
        refused is none: whatever lies in its place is somebody's.
        """
        known = {recipe.name for recipe in recipes}
        found = {}
        for record in sorted((self.folder / RECORDS).glob("*.json")):
            name = record.stem
            places = [path for path in self._locate(name) if path.exists()]
            if name in known or not places or self._is_refused(name):
                continue
            found[name] = [one.relative_to(self.folder).as_posix() for one in (*places, record)]
        return found

    def _is_refused(self, name: str) -> bool:
        record = self._read_record(name)
        return record is not None and record["row"]["status"] == REFUSED

    def write_index(self, title: str, rows: Sequence[Row]) -> None:
        """Write the index and its page."""
        from surgery.collection.pages import render_index

        index = {"title": title, "made_with": describe_versions().splitlines(), "models": rows}
        write_file_atomically(self.folder / INDEX, render_facts(index), force=True)
        write_file_atomically(self.folder / PAGE, render_index(index), force=True)

    def _locate(self, name: str) -> tuple[Path, Path, Path]:
        """Where a model's folder, its archive and its proof belong."""
        return (
            self.folder / MODELS / name,
            self.folder / ARCHIVES / f"{name}.zip",
            self.folder / PROOFS / f"{name}.json",
        )

    def _locate_record(self, name: str) -> Path:
        return self.folder / RECORDS / f"{name}.json"

    def _forget(self, name: str) -> None:
        self._locate_record(name).unlink(missing_ok=True)

    def _remember(self, name: str, key: str, row: Row, proof: str = "") -> None:
        record = render_facts({"key": key, "row": row, "proof_sha256": proof})
        write_file_atomically(self._locate_record(name), record, force=True)


def describe_recipe(recipe: Recipe, status: str, reason: str = "") -> Row:
    """What a row says of a model that is not, or not yet, made."""
    return {
        "name": recipe.name,
        "status": status,
        "reason": reason,
        "donor": recipe.donor_label,
        "weights": recipe.weights_label,
        "variant": describe_options(recipe),
    }


def make_archive(name: str, files: Mapping[str, bytes]) -> bytes:
    """A zip of a model folder; the same files make the same bytes.

    Nothing is compressed: weights hardly shrink, and every zlib compresses differently.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(files):
            entry = zipfile.ZipInfo(f"{name}/{file}", ZIP_TIME)
            entry.external_attr = ZIP_MODE
            # As on Unix, wherever this runs.
            entry.create_system = 3
            archive.writestr(entry, files[file])
    return buffer.getvalue()
