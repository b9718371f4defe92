"""Which driver a container with a user namespace of its own gets, and what is made ready for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "storage"))

from archives import Store, member

from rl.config.jsonio import read_json, write_json
from rl.engine import rootfs
from rl.storage import driver
from rl.storage.idmap import key_for, shift_map
from rl.storage.trash import remove_tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path))
    if driver.default_key(made.paths) == "single" or driver.choose(made.paths).name != "overlay":
        pytest.skip("needs subordinate ids and the kernel's overlay")
    yield made
    made.inside(remove_tree, made.paths.data)


def config(store: Store, **more: Any) -> Any:
    maps = shift_map(1, 65536)
    layers = [store.unpack(member("a", b"x" * 1000) + member("b", b"y", uid=5))]
    return {"uid_map": maps, "gid_map": maps, "id_key": key_for(maps, maps), "layers": layers, "image": "name",
            "image_id": "e" * 64, "userns": "nomap", "rootfs": "", **more}


def pretend(store: Store, what: str, reason: str) -> None:
    """The probes' memory says something else: an older kernel, a missing program."""
    path = f"{store.paths.run}/storage-probe.json"
    record = read_json(path)
    record["reasons"][what] = reason
    write_json(path, record, sync=False)


def chosen(store: Store, wanted: str, document: Any) -> tuple[str, list[str]]:
    notes: list[str] = []
    return rootfs.choose(store.paths, wanted, document, notes.append).name, notes


def test_an_older_kernel_starts_big_images_by_fuse(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if not driver.usable(store.paths, "fuse-overlayfs"):
        pytest.skip("fuse-overlayfs cannot be used here")
    document = config(store)
    pretend(store, "data layers", "too old")
    assert chosen(store, "", document) == ("overlay", [])  # small
    monkeypatch.setattr(rootfs, "_BIG", 500)
    name, notes = chosen(store, "", document)
    assert name == "fuse-overlayfs" and "rl pull --policy=missing --userns=nomap name" in notes[0]
    assert chosen(store, "overlay", document)[0] == "overlay"
    assert chosen(store, "", {**document, "uid_map": [], "gid_map": [], "id_key": ""})[0] == "overlay"
    rootfs.prepare(store.paths, document)
    assert chosen(store, "", document) == ("overlay", [])  # the copy is there
    assert rootfs.lower_directories(store.paths, document, "overlay")[0].endswith("/fs.shift1")
    assert rootfs.lower_directories(store.paths, document, "fuse-overlayfs")[0].endswith("/fs")


def test_very_many_files(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if not driver.data_layers(store.paths) or not driver.usable(store.paths, "fuse-overlayfs"):
        pytest.skip("needs Linux 6.16 and fuse-overlayfs")
    document = config(store)
    monkeypatch.setattr(rootfs, "_MANY", 1)
    assert chosen(store, "", document)[0] == "fuse-overlayfs"
    pretend(store, "fuse-overlayfs", "not installed")
    assert chosen(store, "", document)[0] == "overlay"
    pretend(store, "fuse-overlayfs", "")
    rootfs.prepare(store.paths, document)
    assert chosen(store, "", document)[0] == "overlay"
    (tree,) = rootfs.lower_directories(store.paths, document, "overlay")
    assert sorted(os.listdir(tree)) == ["a", "b"] and os.stat(f"{tree}/a").st_uid != os.getuid()
