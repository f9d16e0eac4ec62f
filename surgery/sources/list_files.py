"""Which files a donor is read from: whoever copies or hashes it needs all of them, and no more."""

from __future__ import annotations

import os
from pathlib import Path

from surgery.sources.checkpoint import list_files
from surgery.sources.find_donor import PAPER_ANY_TIMESTEP, PAPER_SOURCE, Donor
from surgery.sources.load_source import list_imported
from surgery.sources.read_recipe import RECIPE_FILES


def list_source_files(donor: Donor, named: Path | None = None) -> dict[Path, Path]:
    """The source of a donor, all that it imports from near it, and what tells how it is run.

    Args:
        donor: as it was found.
        named: what a user named, a file or a folder; None for an installed version.

    Returns:
        The files, by the place where the donor is looked for. Imports are followed from where the
        source really lies, which a link may lead to; the place is that without the link.

    Raises:
        DonorError: a file that is imported is not Python.
    """
    sources = {donor.source}
    if named is not None and named.is_dir():
        # Which of the two it is, the weights decide.
        pair = (donor.source.with_name(name) for name in (PAPER_SOURCE, PAPER_ANY_TIMESTEP))
        sources |= {one for one in pair if one.is_file()}
    elif named is not None and named.suffix == donor.source.suffix:
        sources.add(named)
    found: dict[Path, Path] = {}
    for source in sources:
        home = source.resolve().parent
        beside = sorted(home.glob(RECIPE_FILES))
        for file in [*list_imported(source, donor.label), *beside]:
            place = source.parent / os.path.relpath(file, home)
            found[normalise(source if file == source.resolve() else place)] = file
    return dict(sorted(found.items()))


def list_weights_files(donor: Donor, weights: Path | None = None) -> list[Path]:
    """The files of a donor's weights, or of other weights for it, as far as they are there."""
    path = weights or donor.weights
    return [] if path is None else list_files(path, of_three=donor.has_three_networks)


def normalise(path: Path) -> Path:
    """The absolute path without dots; links stay."""
    return Path(os.path.normpath(path.absolute()))
