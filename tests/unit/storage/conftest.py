"""A store per test, removed with what subordinate ids own in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from archives import Store

from rl.storage.trash import remove_tree


@pytest.fixture
def store(tmp_path: object) -> Iterator[Store]:
    made = Store(str(tmp_path))
    yield made
    for path in (made.paths.data, f"{made.base}/scratch"):
        made.inside(remove_tree, path)


@pytest.fixture
def many_ids(store: Store) -> None:
    """Skips where only one id is mapped: owners cannot be told apart there."""
    from rl.storage.driver import default_key

    if default_key(store.paths) == "single":
        pytest.skip("no subordinate ids: this user has one id only")
