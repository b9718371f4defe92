"""A state directory for each test, and images in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from image_lab import MakeImage, make

from rl.config.paths import Paths
from rl.engine.context import Engine


@pytest.fixture
def paths(tmp_path: Path) -> Iterator[Paths]:
    found = Paths(*(str(tmp_path / "state" / name) for name in ("data", "run", "config", "cache")))
    found.ensure()
    yield found
    # Files of subordinate ids: pytest could not remove them.
    from rl.storage import trash

    trash.discard(found, found.layers)
    trash.empty(found)


@pytest.fixture
def engine(paths: Paths) -> Engine:
    return Engine(paths)


@pytest.fixture
def make_image(paths: Paths) -> MakeImage:
    """make_image(name, *layers, config=…, history=…): see image_lab.make."""
    return partial(make, paths)
