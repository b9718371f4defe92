"""Hosts that grant one id only: nothing fails for an owner, and what was wanted is written down."""

from __future__ import annotations

import os
from typing import Any

import pytest
from archives import Store, directory, look, member, symlink

from rl.runtime import userns
from rl.storage import driver as drivers
from rl.storage.container import prepare
from rl.storage.layers import has, layer_path, lowers
from rl.storage.unpack import Unpacker


@pytest.fixture(autouse=True)
def single(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user without a line in /etc/subuid."""
    maps = userns.IdMaps("single", [(0, os.getuid(), 1)], [(0, os.getgid(), 1)], "a test")
    monkeypatch.setattr(userns, "wanted_maps", lambda: maps)


def archive() -> bytes:
    return (
        directory("./", uid=1, gid=1) + directory("var/mail", mode=0o2775, gid=8) + member("var/mail/f", b"x", uid=1000)
        + member("bin/su", b"#!", mode=0o4755, gid=42) + symlink("l", "x", uid=5) + member("p", kind=b"6", uid=5)
        + member("plain", b"") + member(".wh.gone")
    )


def test_owners_are_recorded(store: Store) -> None:
    diff_id = store.unpack(archive())
    assert drivers.default_key(store.paths) == "single"
    assert has(store.paths, diff_id, "single") and not has(store.paths, diff_id)
    got = store.inside(look, layer_path(store.paths, diff_id, "single"))
    assert {(entry["uid"], entry["gid"]) for entry in got.values()} == {(0, 0)}
    recorded = {name: entry["xattrs"]["user.rl.owner"] for name, entry in got.items()
                if "user.rl.owner" in entry.get("xattrs", {})}
    assert recorded == {".": "1:1:755", "var/mail": "0:8:2775", "var/mail/f": "1000:0:644", "bin/su": "0:42:4755"}
    assert got["bin/su"]["mode"] == 0o4755 and got["gone"]["kind"] == "whiteout"


@pytest.mark.parametrize("name", drivers.NAMES)
def test_drivers(store: Store, name: str) -> None:
    driver = drivers.by_name(name)
    if reason := store.inside(driver.probe, store.paths):
        pytest.skip(reason)
    diff_id = store.unpack(archive())

    def run() -> Any:
        base = f"{store.paths.containers}/c"
        os.makedirs(base)
        stacked = lowers(store.paths, [diff_id], "single")
        upper, work, rootfs = prepare(store.paths, base, stacked)
        mounted = driver.mount(stacked, upper, work, rootfs)
        try:
            os.mkdir(f"{rootfs}/new")
            return sorted(os.listdir(rootfs))
        finally:
            driver.unmount(mounted)

    assert store.inside(run) == ["bin", "l", "new", "p", "plain", "var"]


def test_both_mappings_live_side_by_side(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path, diff_id = store.blob(archive() + b"\0" * 1024)
    with Unpacker(store.paths) as unpacker:
        unpacker.submit(path, diff_id)
        unpacker.results()
    monkeypatch.undo()
    if userns.wanted_maps().mode == "single":
        pytest.skip("this user has one id only")
    with Unpacker(store.paths) as unpacker:
        unpacker.submit(path, diff_id)
        assert unpacker.results()[0]["entries"] == 8
    assert has(store.paths, diff_id, "single") and has(store.paths, diff_id)
    assert store.listing(diff_id)["var/mail/f"]["uid"] == 1000
    assert store.leftovers() == [diff_id[7:]]
