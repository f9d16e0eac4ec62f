"""A model folder that converts in seconds, and a crew of two workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from surgery.collection.crew import Crew, open_crew


@pytest.fixture(scope="session")
def crew() -> Iterator[Crew]:
    with open_crew(None, workers=2) as crew:
        yield crew
