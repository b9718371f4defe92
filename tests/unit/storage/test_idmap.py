"""Layers with other owners for containers with a user namespace of their own."""

from __future__ import annotations

import os
from typing import Any

import pytest
from archives import Store, directory, hardlink, look, member, symlink

from rl.errors import NotFoundError, UnsupportedError
from rl.storage import driver
from rl.storage.idmap import ensure_mapped, keep_id_map, key_for, shift_map
from rl.storage.layers import has, lowers
from rl.storage.treecopy import copy_tree

SIZE = 65537

KEYS = [
    ([], [], ""),
    ([(0, 0, 65536)], [(0, 0, 65536)], ""),
    (keep_id_map(0, SIZE), keep_id_map(0, SIZE), ""),
    (shift_map(1, 65536), shift_map(1, 65536), "shift1"),
    (shift_map(2000, 1024), shift_map(2000, 1024), "shift2000"),
    (keep_id_map(1000, SIZE), keep_id_map(1000, SIZE), "shift1+keep1000.1000"),
    (keep_id_map(70000, SIZE), keep_id_map(70000, SIZE), "shift1+keep70000.70000"),
    (keep_id_map(7, SIZE), keep_id_map(8, SIZE), "shift1+keep7.8"),
    ([(1000, 0, 1)], [(1000, 0, 1)], "single"),
]


@pytest.mark.parametrize(("uids", "gids", "key"), KEYS)
def test_keys(uids: Any, gids: Any, key: str) -> None:
    assert key_for(uids, gids) == key


def test_key_of_any_other_map() -> None:
    podman = [(0, 1, 1000), (1000, 0, 1), (1001, 1001, 64536)]
    key = key_for(podman, podman)
    assert key.startswith("map-") and key == key_for(list(reversed(podman)), podman)
    assert key != key_for(podman, shift_map(1, 65536))


@pytest.mark.parametrize("inside", [0, 1, 1000, 65535, 65536, 70000])
def test_keep_id_map_is_one_to_one_and_within_the_shared_ids(inside: int) -> None:
    outside: set[int] = set()
    for first, shared, count in keep_id_map(inside, SIZE):
        span = set(range(shared, shared + count))
        assert count > 0 and not span & outside and max(span) < SIZE
        assert (first <= inside < first + count) is (0 in span)
        outside |= span
    assert keep_id_map(inside, 1) == [(inside, 0, 1)]


def image(store: Store) -> list[str]:
    return [
        store.unpack(
            directory("home", uid=0) + directory("home/u", uid=1000, gid=1000, mode=0o700, mtime=5)
            + member("home/u/f", b"mine", uid=1000, gid=1000, mtime=6) + member("home/u/root", b"r")
            + directory("home/u/opaque") + member("home/u/opaque/.wh..wh..opq")
            + member("ping", b"p", uid=5, pax={"SCHILY.xattr.security.capability": b"\1\0\0\2\0\x20" + b"\0" * 14})
            + member("grp", b"g", gid=1000) + hardlink("hard", "home/u/f") + symlink("sl", "x", uid=1000, gid=1000)
            + member(".wh.white")
        ),
        store.unpack(directory("etc") + member("etc/only-root", b"x")),
    ]


def test_shift(store: Store, many_ids: None) -> None:
    diff_ids = image(store)
    seen: list[str] = []
    maps = shift_map(1, 65536)
    ensure_mapped(store.paths, diff_ids, "shift1", maps, maps, lambda diff_id, files: seen.append(diff_id))
    old, new = store.listing(diff_ids[0]), store.listing(diff_ids[0], "shift1")
    assert set(old) == set(new)
    for name, entry in old.items():
        other = new[name]
        if entry["kind"] != "whiteout":
            assert (other["uid"], other["gid"]) == (entry["uid"] + 1, entry["gid"] + 1), name
        for key in ("kind", "mode", "size", "mtime", "links", "content", "target"):
            assert other.get(key) == entry.get(key), (name, key)
    assert new["home/u/opaque"]["xattrs"]["user.overlay.opaque"] == "y"
    assert new["hard"]["inode"] == new["home/u/f"]["inode"]
    # For the nested root (shared id 1), not for ours: version 3 with that root id.
    capability = new["ping"]["xattrs"]["security.capability"].encode("latin-1")
    assert capability[3] == 3 and int.from_bytes(capability[20:], "little") == 1
    assert store.leftovers() == sorted(d[7:] for d in diff_ids)
    inode = os.stat(store.tree(diff_ids[0], "shift1")).st_ino
    ensure_mapped(store.paths, diff_ids, "shift1", shift_map(1, 65536), shift_map(1, 65536))
    assert os.stat(store.tree(diff_ids[0], "shift1")).st_ino == inode


@pytest.mark.parametrize("name", ["overlay", "fuse-overlayfs"])
def test_keep_id_is_a_patch_over_the_shifted_tree(store: Store, many_ids: None, name: str) -> None:
    chosen = driver.by_name(name)
    if reason := store.inside(chosen.probe, store.paths):
        pytest.skip(reason)
    diff_ids = image(store)
    maps = keep_id_map(1000, 65537)
    key = key_for(maps, maps)
    ensure_mapped(store.paths, diff_ids, key, maps, maps)
    assert all(has(store.paths, d, key) and has(store.paths, d, "shift1") for d in diff_ids)
    patch = store.listing(diff_ids[0], key)
    assert set(patch) == {".", "home", "home/u", "home/u/f", "grp", "hard", "sl"}
    stacked = lowers(store.paths, diff_ids, key)
    assert [os.path.basename(path) for path in stacked] == ["fs.shift1", f"fs.{key}", "fs.shift1"]  # no empty patch

    def mount() -> Any:
        target = f"{store.base}/scratch"
        os.makedirs(target)
        mounted = chosen.mount(stacked, "", "", target)
        try:
            return look(target)
        finally:
            chosen.unmount(mounted)

    got = store.inside(mount)
    plain = {name: entry for name, entry in store.listing(diff_ids[0]).items() if entry["kind"] != "whiteout"}
    assert set(got) == set(plain) | {"etc", "etc/only-root"}
    for entry_name, entry in plain.items():
        uid = 0 if entry["uid"] == 1000 else entry["uid"] + 1
        gid = 0 if entry["gid"] == 1000 else entry["gid"] + 1
        assert (got[entry_name]["uid"], got[entry_name]["gid"]) == (uid, gid), entry_name
        for field in ("mode", "mtime", "content", "target"):
            if (entry_name, field) == (".", "mtime"):
                continue  # of the layer on top, which does not say
            assert got[entry_name].get(field) == entry.get(field), (entry_name, field)
    assert got["hard"]["inode"] == got["home/u/f"]["inode"]


def test_a_second_user_costs_its_own_files_only(store: Store, many_ids: None) -> None:
    diff_ids = image(store)
    for user in (1000, 5):
        maps = keep_id_map(user, 65537)
        ensure_mapped(store.paths, diff_ids, key_for(maps, maps), maps, maps)
    assert set(store.listing(diff_ids[0], "shift1+keep5.5")) == {".", "ping"}


def test_ids_the_map_lacks(store: Store, many_ids: None) -> None:
    diff_ids = image(store)
    with pytest.raises(UnsupportedError) as caught:
        ensure_mapped(store.paths, diff_ids, "shift5", shift_map(5, 100), shift_map(5, 100))
    assert "1000" in caught.value.message and "size=1001" in caught.value.hint
    assert store.leftovers() == sorted(d[7:] for d in diff_ids)
    assert not has(store.paths, diff_ids[0], "shift5")


def test_layers_that_are_not_there(store: Store) -> None:
    with pytest.raises(NotFoundError):
        ensure_mapped(store.paths, ["sha256:" + "1" * 64], "shift1", shift_map(1, 9), shift_map(1, 9))
    with pytest.raises(NotFoundError):
        lowers(store.paths, ["sha256:" + "1" * 64])


def test_copy_tree_for_volumes(store: Store) -> None:
    diff_id = store.unpack(
        directory("./", mode=0o1711, mtime=4) + member("f", b"x" * 5000, mode=0o4711, pax={"SCHILY.xattr.user.a": b"b"})
        + hardlink("d/h", "f") + symlink("l", "f") + directory("d", mode=0o500, mtime=3) + member("p", kind=b"6")
    )
    target = f"{store.paths.volumes}/v"
    os.mkdir(target)

    def copy() -> None:
        fd = os.open(store.tree(diff_id), os.O_PATH | os.O_DIRECTORY)
        copy_tree(fd, target)
        copy_tree(fd, target)  # over itself: nothing changes

    with open(f"{store.tree(diff_id)}/sparse", "wb") as file:
        file.seek(1 << 30)
        file.write(b"end")
    store.inside(copy)
    old, new = store.listing(diff_id), store.inside(look, target)
    assert new["sparse"]["blocks"] < 100
    for listing in (old, new):
        for entry in listing.values():
            del entry["inode"], entry["blocks"]
            if entry["kind"] == "dir":
                del entry["size"]
    assert {n: e for n, e in old.items() if n != "."} == {n: e for n, e in new.items() if n != "."}
    assert new["."]["mode"] == 0o1711
