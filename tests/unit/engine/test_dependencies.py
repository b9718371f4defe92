"""Which containers need which: the order of starts and removals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rl.config.paths import Paths
from rl.engine import containers, dependencies
from rl.errors import NoSuchContainerError, StateError, UsageError

A, B, C, D = (letter * 64 for letter in "abcd")


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A needs nobody, B needs A, C needs B and uses A's network, D is alone."""
    paths = Paths(*(str(tmp_path / name) for name in ("data", "run", "config", "cache")))
    paths.ensure()
    put(paths, A)
    put(paths, B, requires=[A])
    put(paths, C, requires=[B], network={"mode": f"container:{A}"})
    put(paths, D)
    return paths


@pytest.mark.parametrize("key", ["pid_mode", "ipc_mode", "uts_mode", "cgroupns_mode", "userns"])
def test_whose_namespace_it_joins_is_needed(key: str) -> None:
    assert containers.needs({key: f"container:{A}", "requires": [B, A]}) == [B, A]  # type: ignore[misc]
    assert containers.needs({key: "host"}) == []  # type: ignore[misc]


def put(paths: Paths, container_id: str, **config: Any) -> None:
    directory = Path(paths.container(container_id))
    directory.mkdir(exist_ok=True)
    record = {"id": container_id, "name": container_id[0], "created": "2026-01-01T00:00:00Z", **config}
    (directory / "config.json").write_text(json.dumps(record))
    (directory / "state.json").write_text('{"status": "created", "pid": 0}')


def test_what_it_needs_is_started_first(paths: Paths) -> None:
    order = {each: dependencies.to_start(paths, containers.read_config(paths, each)) for each in (A, B, C, D)}
    assert order == {A: [], B: [A], C: [A, B], D: []}


def test_what_needs_it_is_removed_first(paths: Paths) -> None:
    found = dependencies.Dependents(paths)
    assert sorted(found.of(A)) == [B, C] and found.of(C) == []
    assert found.all_of(A) == [C, B]
    assert found.removal_order([A, D, B, C]) == [C, B, A, D]
    assert found.removal_order([A, B]) == [B, A]
    with pytest.raises(StateError, match="has dependent containers which must be removed before it"):
        found.check(B)
    found.check(C)


def test_a_circle_is_an_error_and_not_for_ever(paths: Paths) -> None:
    put(paths, A, requires=[C])
    with pytest.raises(StateError, match="need each other"):
        dependencies.to_start(paths, containers.read_config(paths, B))
    assert set(dependencies.Dependents(paths).removal_order([A, B, C])) == {A, B, C}


def test_one_that_is_not_there(paths: Paths) -> None:
    put(paths, D, requires=["e" * 64])
    with pytest.raises(NoSuchContainerError, match="container d needs container eeee"):
        dependencies.to_start(paths, containers.read_config(paths, D))
    with pytest.raises(UsageError, match='"nobody" is not a valid container'):
        dependencies.requires(paths, ["nobody"])
