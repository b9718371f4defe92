"""Owners of whole trees: no link followed, no mount crossed, however deep, whatever moves meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from archives import Store

from rl.kernel import mount as m
from rl.storage import ownership


def owners(root: str) -> dict[str, tuple[int, int]]:
    found = {}
    for base, directories, files in os.walk(root):
        for name in directories + files:
            status = os.lstat(f"{base}/{name}")
            found[os.path.relpath(f"{base}/{name}", root)] = (status.st_uid, status.st_gid)
    return found


def tree(store: Store) -> str:
    root = f"{store.base}/scratch/v"
    for path in (f"{root}/d/e", f"{store.base}/scratch/outside"):
        os.makedirs(path)
    for path in ("d/f", "d/e/g", "../outside/h"):
        Path(f"{root}/{path}").touch()
    os.symlink("../outside", f"{root}/link")
    os.symlink("../outside/h", f"{root}/d/to-file")
    return root


def test_give_follows_no_link(store: Store, many_ids: None) -> None:
    root = tree(store)

    def give() -> Any:
        ownership.give(root, 5, 6)
        return [os.stat(root).st_uid, owners(root), owners(f"{store.base}/scratch/outside")]

    top, inside, outside = store.inside(give)
    assert top == 5
    assert inside.keys() == {"d", "d/f", "d/e", "d/e/g", "d/to-file", "link"}
    assert {tuple(owner) for owner in inside.values()} == {(5, 6)}
    assert outside == {"h": [0, 0]}


def test_a_link_that_is_mounted_means_its_target(store: Store, many_ids: None) -> None:
    root = tree(store)
    os.symlink("v", f"{store.base}/scratch/alias")

    def give() -> Any:
        ownership.give(f"{store.base}/scratch/alias", 5, 6)
        return [os.lstat(f"{store.base}/scratch/alias").st_uid, owners(root)["d/f"]]

    assert store.inside(give) == [0, [5, 6]]


@pytest.mark.parametrize("cross", [False, True])
def test_mounts_are_crossed_only_if_asked(store: Store, many_ids: None, cross: bool) -> None:
    root = tree(store)

    def change() -> Any:
        m.mount(f"{store.base}/scratch/outside", f"{root}/d/e", None, m.MS_BIND)
        failures: list[str] = []
        start = os.open(root, os.O_PATH)
        walk = ownership.Walk(lambda path, status: (5, 6), lambda path, error: failures.append(path), cross_mounts=cross)
        walk.tree(start)
        os.close(start)
        m.umount(f"{root}/d/e")
        return [owners(root), owners(f"{store.base}/scratch/outside"), failures]

    inside, outside, failures = store.inside(change)
    assert failures == [] and inside["d/f"] == [5, 6] and inside["d/e/g"] == [0, 0]
    assert outside == {"h": [5, 6] if cross else [0, 0]}


def test_deeper_than_any_path(store: Store, many_ids: None) -> None:
    def change() -> Any:
        root = f"{store.base}/scratch"
        os.makedirs(root, exist_ok=True)
        here = os.open(root, os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("deeper", dir_fd=here)
            below = os.open("deeper", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        ownership.give(root, 5, 6)
        return os.fstat(here).st_uid

    assert store.inside(change) == 5


def test_a_directory_that_is_moved_away_ends_the_walk(store: Store, many_ids: None) -> None:
    """Going up by ".." must not lead into what a container moved the directory to."""
    def change() -> Any:
        root = f"{store.base}/scratch/r"
        os.makedirs(root + "/x" * (ownership._KEPT_OPEN + 5))
        os.makedirs(f"{store.base}/scratch/elsewhere/untouched")
        failures: list[str] = []

        def choose(path: str, status: os.stat_result) -> tuple[int, int]:
            if path.count("x") == ownership._KEPT_OPEN + 5:
                os.rename(f"{root}/x/x", f"{store.base}/scratch/elsewhere/y")
            return 5, 6

        start = os.open(root, os.O_PATH)
        ownership.Walk(choose, lambda path, error: failures.append(error.strerror or "")).tree(start)
        os.close(start)
        return [failures, os.stat(f"{store.base}/scratch/elsewhere/untouched").st_uid]

    failures, untouched = store.inside(change)
    assert failures == ["the directory was moved meanwhile"] and untouched == 0


def test_what_is_not_ours_is_reported(store: Store, many_ids: None) -> None:
    start = os.open("/etc", os.O_PATH)
    failures: list[str] = []

    def change() -> Any:
        ownership.Walk(lambda path, status: (5, 6) if path in ("", "passwd") else None,
                       lambda path, error: failures.append(f"{path}:{error.errno}")).tree(start)
        return failures

    if os.getuid() == 0:
        pytest.skip("root may change /etc")
    assert store.inside(change) == [":1"]  # and nothing below it is tried
    os.close(start)
