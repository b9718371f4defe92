"""Trees of an image with other owners and no data, seen through the kernel's overlay as a container sees them."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from archives import Store, directory, hardlink, look, member, symlink

from rl.errors import RlError, UnsupportedError
from rl.storage import driver, metatree
from rl.storage.idmap import keep_id_map, key_for, owner_function, shift_map
from rl.storage.layers import lowers

IMAGE = "f" * 64


@pytest.fixture
def mapped(store: Store, many_ids: None) -> Store:
    if not driver.data_layers(store.paths):
        pytest.skip("the kernel's overlay has no data-only layers in a user namespace: Linux 6.16")
    return store


def image(store: Store) -> list[str]:
    """Three layers that hide, replace, delete and add."""
    return [
        store.unpack(
            directory("d", mode=0o750, uid=3, mtime=5) + member("d/low", b"low" * 2000, uid=1000, gid=1000, mtime=6)
            + member("d/changed", b"old") + directory("gone") + member("gone/x", b"x")
            + directory("opaque") + member("opaque/hidden", b"h") + member("file-then-dir", b"f")
            + directory("dir-then-file") + member("dir-then-file/y", b"y") + member("empty", b"")
            + member("suid", b"s", mode=0o4755, uid=7) + symlink("sl", "d/low", uid=1000, gid=1000)
            + member("ping", b"p", uid=5, pax={"SCHILY.xattr.security.capability": b"\1\0\0\2\0\x20" + b"\0" * 14,
                                               "SCHILY.xattr.user.note": b"kept"})
            + member("one", b"linked") + hardlink("two", "one") + member("p", b"pair") + hardlink("q", "p") + member("del/a", b"a") + member("del/b", b"b")
            + member("l/" + "n" * 200, b"long")
        ),
        store.unpack(
            member("d/changed", b"new and longer", gid=1000) + member(".wh.gone")
            + directory("opaque") + member("opaque/.wh..wh..opq") + member("opaque/seen", b"s")
            + directory("file-then-dir") + member("file-then-dir/z", b"z") + member("dir-then-file", b"now a file")
            + member("one", b"no longer linked") + member("del/.wh.a")
        ),
        store.unpack(member("d/top", b"top") + directory("gone") + member("gone/again", b"again")),
    ]


def through_overlay(store: Store, stack: list[str], data: list[str]) -> dict[str, dict[str, Any]]:
    """What an overlay of these layers shows; after that a file is written to and must keep its content."""
    def mount() -> Any:
        chosen = driver.by_name("overlay")
        upper, work, target = (f"{store.base}/scratch/{name}" for name in ("upper", "work", "m"))
        for path in (upper, work, target):
            os.makedirs(path)
        mounted = chosen.mount(stack, upper, work, target, data=data)
        try:
            seen = look(target)
            with open(f"{target}/d/low", "a+b") as file:
                file.write(b"more")
                file.seek(0)
                assert file.read() == b"low" * 2000 + b"more"
            return seen
        finally:
            chosen.unmount(mounted)
            os.system(f"rm -rf {store.base}/scratch")

    result: dict[str, dict[str, Any]] = store.inside(mount)
    return result


def make(store: Store, diff_ids: list[str], uids: Any, gids: Any, seen: list[int] | None = None) -> str:
    layers = lowers(store.paths, diff_ids)
    owner = owner_function(uids, gids)
    progress = seen.append if seen is not None else None
    path: str = store.inside(
        metatree.ensure, store.paths, IMAGE, layers, key_for(uids, gids), owner, owner(0, 0)[0], progress
    )
    return path


@pytest.mark.parametrize(
    ("uids", "gids"), [(shift_map(1, 65536), shift_map(1, 65536)), (keep_id_map(1000, 65537), keep_id_map(1000, 65537))]
)
def test_a_container_sees_the_image_with_other_owners(mapped: Store, uids: Any, gids: Any) -> None:
    diff_ids = image(mapped)
    layers = lowers(mapped.paths, diff_ids)
    plain = through_overlay(mapped, layers, [])
    tree = make(mapped, diff_ids, uids, gids)
    got = through_overlay(mapped, [tree], layers)
    assert set(got) == set(plain)
    owner = owner_function(uids, gids)
    del plain["."]  # the writable layer's
    for name, entry in plain.items():
        assert (got[name]["uid"], got[name]["gid"]) == owner(entry["uid"], entry["gid"]), name
        for field in ("kind", "mode", "size", "mtime", "content", "target"):
            assert got[name].get(field) == entry.get(field), (name, field)
    assert got["ping"]["xattrs"]["user.note"] == "kept"
    capability = got["ping"]["xattrs"]["security.capability"].encode("latin-1")
    assert capability[3] == 3 and int.from_bytes(capability[20:], "little") == 1  # of the nested root, not of ours
    assert got["p"]["inode"] == got["q"]["inode"] and got["p"]["links"] == 2
    assert got["two"]["content"] == plain["two"]["content"] != got["one"]["content"]


def test_it_holds_no_data(mapped: Store) -> None:
    diff_ids = [mapped.unpack(member("big", os.urandom(1 << 20)))]
    tree = make(mapped, diff_ids, shift_map(1, 65536), shift_map(1, 65536))
    status = os.stat(f"{tree}/big")
    assert status.st_size == 1 << 20 and status.st_blocks * 512 <= 8192  # its attributes, at most


def test_users_without_files_share_a_tree(mapped: Store) -> None:
    diff_ids = image(mapped)
    trees = {}
    for user in (4321, 1000, 4322):
        maps = keep_id_map(user, 65537)
        trees[user] = os.path.realpath(make(mapped, diff_ids, maps, maps))
    nomap = make(mapped, diff_ids, shift_map(1, 65536), shift_map(1, 65536))
    assert trees[4321] == trees[4322] == nomap != trees[1000]


def test_an_id_the_map_lacks_leaves_nothing(mapped: Store) -> None:
    diff_ids = image(mapped)
    with pytest.raises(UnsupportedError, match="1000"):
        make(mapped, diff_ids, shift_map(5, 100), shift_map(5, 100))
    assert os.listdir(f"{mapped.paths.data}/mapped/{IMAGE}") == []
    assert mapped.leftovers() == sorted(d[7:] for d in diff_ids)


def test_a_big_image_is_made_by_several_processes(mapped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metatree, "_SPLIT_ENTRIES", 10)
    monkeypatch.setattr(metatree, "_SPLIT_DIRECTORIES", 4)
    many = b"".join(
        directory(f"many{number}", mtime=7) + directory(f"many{number}/sub", uid=number, mtime=8)
        + member(f"many{number}/sub/f", b"%d" % number, gid=number) for number in range(30)
    )
    pairs = b"".join(hardlink(f"many{number + 1}/sub/hard", f"many{number}/sub/f") for number in range(0, 30, 2))
    diff_ids = [*image(mapped), mapped.unpack(many + pairs)]
    layers = lowers(mapped.paths, diff_ids)
    plain = through_overlay(mapped, layers, [])
    maps = keep_id_map(29, 65537)
    got = through_overlay(mapped, [make(mapped, diff_ids, maps, maps)], layers)
    owner = owner_function(maps, maps)
    del plain["."]
    assert got.keys() - {"."} == plain.keys()
    for name, entry in plain.items():
        assert (got[name]["uid"], got[name]["gid"]) == owner(entry["uid"], entry["gid"]), name
        for field in ("kind", "mode", "size", "mtime", "content", "target"):
            assert got[name].get(field) == entry.get(field), (name, field)
    assert all(got[f"many{n + 1}/sub/hard"]["inode"] == got[f"many{n}/sub/f"]["inode"] for n in range(0, 30, 2))
    with open(f"{mapped.paths.data}/mapped/{IMAGE}/owners.json", encoding="utf-8") as file:
        assert set(range(30)) <= set(json.load(file)["uids"])


def test_an_error_of_a_worker_is_an_error(mapped: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metatree, "_SPLIT_ENTRIES", 10)
    monkeypatch.setattr(metatree, "_SPLIT_DIRECTORIES", 4)
    diff_ids = [mapped.unpack(b"".join(
        directory(f"d{number}") + b"".join(member(f"d{number}/{n}", uid=9000) for n in range(3)) for number in range(40)
    ))]
    with pytest.raises(UnsupportedError, match="9000"):
        make(mapped, diff_ids, shift_map(5, 100), shift_map(5, 100))
    assert os.listdir(f"{mapped.paths.data}/mapped/{IMAGE}") == []
    assert mapped.leftovers() == sorted(d[7:] for d in diff_ids)


@pytest.mark.parametrize("split", [10, 10**9])
def test_a_killed_maker_leaves_no_half_tree(mapped: Store, monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    monkeypatch.setattr(metatree, "_SPLIT_ENTRIES", split)
    diff_ids = [mapped.unpack(b"".join(
        directory(f"d{number}") + b"".join(member(f"d{number}/{n}", b"x") for n in range(10)) for number in range(200)
    ))]
    layers = lowers(mapped.paths, diff_ids)
    owner = owner_function(shift_map(1, 99), shift_map(1, 99))

    def die() -> None:
        def progress(count: int) -> None:
            os.kill(os.getpid(), 9)

        metatree.ensure(mapped.paths, IMAGE, layers, "shift1", owner, 1, progress)

    with pytest.raises(RlError, match="status -9"):
        mapped.inside(die)
    assert os.listdir(f"{mapped.paths.data}/mapped/{IMAGE}") == []
    assert any(name.startswith(".staging-") for name in mapped.leftovers())
    tree = make(mapped, diff_ids, shift_map(1, 99), shift_map(1, 99))
    assert len(mapped.inside(os.listdir, f"{tree}/d199")) == 10
    assert mapped.leftovers() == sorted(d[7:] for d in diff_ids)


def test_progress(mapped: Store) -> None:
    diff_ids = [mapped.unpack(b"".join(member(f"f{number}") for number in range(600)))]
    seen: list[int] = []
    inside = mapped.inside

    def count() -> list[int]:
        owner = owner_function(shift_map(1, 99), shift_map(1, 99))
        metatree.ensure(mapped.paths, IMAGE, lowers(mapped.paths, diff_ids), "shift1", owner, 1, seen.append)
        return seen

    assert inside(count) == [256, 512]
