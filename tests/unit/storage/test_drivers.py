"""Real mounts with each driver, in a user and mount namespace of their own."""

from __future__ import annotations

import os
from typing import Any

import pytest
from archives import Store, directory, hardlink, look, member, symlink

from rl.errors import RlError, UnsupportedError, UsageError
from rl.storage import driver as drivers
from rl.storage.container import prepare
from rl.storage.layers import lowers

NAMES = ("overlay", "fuse-overlayfs", "copy")


@pytest.fixture(params=NAMES)
def driver(request: pytest.FixtureRequest, store: Store) -> Any:
    chosen = drivers.by_name(request.param)
    reason = store.inside(chosen.probe, store.paths)
    if reason:
        pytest.skip(f"{request.param}: {reason}")
    return chosen


def stack(store: Store) -> list[str]:
    one = store.unpack(
        directory("./", mode=0o751) + member("keep", b"1", mode=0o4750) + member("gone", b"1") + member("changed", b"1")
        + directory("d") + member("d/a", b"1") + directory("o") + member("o/hidden", b"1")
        + directory("dir-then-file") + member("dir-then-file/x", b"") + member("h1", b"h") + hardlink("h2", "h1")
        + symlink("link-then-dir", "d")
    )
    two = store.unpack(
        directory("./", mode=0o755) + member(".wh.gone") + member("changed", b"22") + member("d/b", b"2")
        + directory("o") + member("o/.wh..wh..opq") + member("o/seen", b"2") + member("dir-then-file", b"f")
        + directory("link-then-dir") + member("link-then-dir/y", b"2")
    )
    return [one, two]


def in_container(store: Store, driver: Any, diff_ids: list[str], work: Any, **options: Any) -> Any:
    """Mount the layers for container "c", call *work* with the mount point, unmount."""
    directory_ = f"{store.paths.containers}/c"

    def run() -> Any:
        os.makedirs(directory_, exist_ok=True)
        stacked = lowers(store.paths, diff_ids, drivers.default_key(store.paths))
        upper, workdir, rootfs = prepare(store.paths, directory_, stacked)
        mounted = driver.mount(stacked, upper, workdir, rootfs, **options)
        try:
            result = work(rootfs)
        finally:
            driver.unmount(mounted)
        for pid in mounted["pids"]:
            assert not os.path.exists(f"/proc/{pid}")
        assert os.listdir(rootfs) == []
        return result

    return store.inside(run)


def test_layers_are_merged(store: Store, driver: Any) -> None:
    got = in_container(store, driver, stack(store), look)
    names = {name for name, entry in got.items() if entry["kind"] != "whiteout"}
    assert names == {".", "keep", "changed", "d", "d/a", "d/b", "o", "o/seen", "dir-then-file", "h1", "h2",
                     "link-then-dir", "link-then-dir/y"}
    assert not [name for name, entry in got.items() if entry["kind"] == "whiteout"]
    assert got["changed"]["content"] == "22" and got["keep"]["mode"] == 0o4750
    assert got["h1"]["inode"] == got["h2"]["inode"]
    assert got["."]["mode"] == 0o755 and got["dir-then-file"]["content"] == "f"
    assert got["keep"]["mtime"] == 10**18
    assert not [n for entry in got.values() for n in entry.get("xattrs", ()) if n.startswith("user.overlay")]


def test_what_is_written_persists_and_layers_stay(store: Store, driver: Any) -> None:
    diff_ids = stack(store)
    before = [store.listing(diff_id) for diff_id in diff_ids]

    def change(rootfs: str) -> None:
        with open(f"{rootfs}/new", "w", encoding="ascii") as file:
            file.write("mine")
        with open(f"{rootfs}/keep", "a", encoding="ascii") as file:
            file.write("+")
        os.unlink(f"{rootfs}/changed")
        os.unlink(f"{rootfs}/d/a")
        os.unlink(f"{rootfs}/d/b")
        os.rmdir(f"{rootfs}/d")
        os.mkdir(f"{rootfs}/d")
        os.rename(f"{rootfs}/h1", f"{rootfs}/d/moved")

    in_container(store, driver, diff_ids, change)
    for _ in range(2):
        got = in_container(store, driver, diff_ids, look)
        assert got["new"]["content"] == "mine" and got["keep"]["content"] == "1+"
        assert "changed" not in got and {n for n in got if n.startswith("d/")} == {"d/moved"}
    after = [store.listing(diff_id) for diff_id in diff_ids]
    for old, new in zip(before, after, strict=True):
        assert old == new


def test_readonly(store: Store, driver: Any) -> None:
    def write(rootfs: str) -> str:
        try:
            os.mkdir(f"{rootfs}/x")
        except OSError as error:
            return os.strerror(error.errno or 0)
        return "written"

    assert in_container(store, driver, stack(store), write, readonly=True) == "Read-only file system"


@pytest.mark.parametrize("count", [1, 2])
def test_without_upper(store: Store, driver: Any, count: int) -> None:
    diff_ids = stack(store)[:count]

    def run() -> Any:
        target = f"{store.base}/scratch"
        os.makedirs(target)
        mounted = driver.mount(lowers(store.paths, diff_ids, drivers.default_key(store.paths)), "", "", target)
        try:
            with pytest.raises(OSError, match="Read-only"):
                os.mkdir(f"{target}/x")
            return sorted(os.listdir(target))
        finally:
            driver.unmount(mounted)

    names = store.inside(run)
    assert ("gone" in names) is (count == 1) and "keep" in names


def test_127_layers(store: Store, driver: Any) -> None:
    diff_ids = []
    for n in range(127):
        mark = member(f".wh.f{n - 1}") if n % 2 else b""
        diff_ids.append(store.unpack(member(f"f{n}", b"") + member("last", b"%d" % n) + mark))
    got = in_container(store, driver, diff_ids, look)
    assert got["last"]["content"] == "126"
    assert {n for n in got if n.startswith("f")} == {f"f{n}" for n in range(127) if n % 2 or n == 126}


def test_data_directory_with_a_name_full_of_separators(tmp_path: Any, driver: Any) -> None:
    from rl.storage.trash import remove_tree

    odd = Store(f"{tmp_path}/a,b:c\\d e=f{'-' * 150}")
    if driver.name == "fuse-overlayfs":
        with pytest.raises(UnsupportedError, match="colon"):
            in_container(odd, driver, stack(odd), os.listdir)
        odd = Store(f"{tmp_path}/a,b\\d e=f{'-' * 150}")
    try:
        assert "keep" in in_container(odd, driver, stack(odd), os.listdir)
    finally:
        odd.inside(remove_tree, odd.paths.data)


def test_old_kernels_mount_call(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from rl.storage import overlay

    def refuse(*arguments: Any) -> None:
        raise OSError(22, "no lowerdir+")

    monkeypatch.setattr(overlay, "_mount_new", refuse)
    chosen = drivers.by_name("overlay")
    if reason := store.inside(chosen.probe, store.paths):
        pytest.skip(reason)
    diff_ids = [store.unpack(member(f"f{n}", b"")) for n in range(127)]
    assert len(in_container(store, chosen, diff_ids, os.listdir)) == 127


def test_overlay_mounts_again_after_a_kill(store: Store) -> None:
    """A volatile mount leaves a mark in the work directory that forbids the next one."""
    chosen = drivers.by_name("overlay")
    if reason := store.inside(chosen.probe, store.paths):
        pytest.skip(reason)
    diff_ids = stack(store)

    def die(rootfs: str) -> None:
        os._exit(9)

    with pytest.raises(RlError):
        in_container(store, chosen, diff_ids, die)
    assert "keep" in in_container(store, chosen, diff_ids, os.listdir)


def test_fuse_process_ends_with_its_parent(store: Store) -> None:
    import time

    chosen = drivers.by_name("fuse-overlayfs")
    if reason := store.inside(chosen.probe, store.paths):
        pytest.skip(reason)
    diff_ids = stack(store)
    note = f"{store.base}/pid"

    def die(rootfs: str) -> None:
        children = [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(name) == os.getpid()]
        with open(note, "w", encoding="ascii") as file:
            file.write(" ".join(map(str, children)))
        os._exit(9)

    with pytest.raises(RlError):
        in_container(store, chosen, diff_ids, die)
    with open(note, encoding="ascii") as file:
        children = file.read().split()
    assert len(children) == 1
    deadline = time.monotonic() + 5
    while os.path.exists(f"/proc/{children[0]}") and parent_of(children[0]) != -1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert parent_of(children[0]) == -1


def parent_of(pid: str) -> int:
    """-1 for a process that is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return -1
    return -1 if fields[0] == "Z" else int(fields[1])


def test_copy_killed_half_way_is_made_again(store: Store) -> None:
    chosen = drivers.by_name("copy")
    diff_ids = stack(store)
    directory_ = f"{store.paths.containers}/c"

    def half() -> None:
        os.makedirs(f"{directory_}/upper.copying/junk")
        os.mkdir(f"{directory_}/upper.new")

    store.inside(half)
    names = in_container(store, chosen, diff_ids, os.listdir)
    assert "keep" in names and "junk" not in names


def test_copy_whose_files_were_all_removed_stays_empty(store: Store) -> None:
    chosen = drivers.by_name("copy")
    diff_ids = [store.unpack(member("f", b""))]
    in_container(store, chosen, diff_ids, lambda rootfs: os.unlink(f"{rootfs}/f"))
    assert in_container(store, chosen, diff_ids, os.listdir) == []


# --------------------------------------------------------------------------- choosing


def test_names() -> None:
    for name, expected in (("overlay2", "overlay"), ("vfs", "copy"), ("fuse-overlayfs", "fuse-overlayfs")):
        assert drivers.by_name(name).name == expected
    with pytest.raises(UsageError) as caught:
        drivers.by_name("zfs")
    assert "fuse-overlayfs" in caught.value.hint


def test_choice_and_its_memory(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usable = [probe["name"] for probe in drivers.probes(store.paths) if probe["usable"]]
    assert "copy" in usable
    assert drivers.choose(store.paths).name == usable[0]
    assert [name for name in os.listdir(store.paths.data) if name.startswith(".probe")] == []

    def forbidden(*arguments: Any) -> None:
        raise AssertionError("probed again")

    monkeypatch.setattr(drivers, "probe_all", forbidden)
    assert drivers.choose(store.paths).name == usable[0]
    assert drivers.choose(store.paths, "vfs").name == "copy"


def test_a_driver_that_cannot_work_here(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rl.storage.fuse_overlayfs.find_program", lambda name: "")
    with pytest.raises(UnsupportedError, match="not installed"):
        drivers.choose(store.paths, "fuse-overlayfs")
    assert drivers.choose(store.paths).name in ("overlay", "copy")


CONFIGURATIONS = [
    ('[storage]\ndriver = "overlay"\n', "overlay"),
    ('[storage]\ndriver = "vfs"\n', "copy"),
    ('[storage]\ndriver = "overlay"\n[storage.options]\nmount_program = "/usr/bin/fuse-overlayfs"\n', "fuse-overlayfs"),
    ('[storage]\ndriver = "overlay"\n[storage.options.overlay]\nmount_program = "/usr/bin/fuse-overlayfs"\n',
     "fuse-overlayfs"),
    ('[storage]\ndriver = ""\n', ""),
    ("# nothing\n", ""),
]


@pytest.mark.parametrize(("text", "expected"), CONFIGURATIONS)
def test_storage_conf(store: Store, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    path = f"{store.base}/storage.conf"
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", path)
    name, source = drivers.configured(store.paths)
    if expected:
        assert drivers.by_name(name).name == expected and source == path
    else:
        assert name == "" or source != path


@pytest.mark.parametrize("text", ["[storage", "storage = 3\n", "[storage]\ndriver = 3\n"])
def test_broken_storage_conf_is_named(store: Store, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = f"{store.base}/storage.conf"
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", path)
    with pytest.raises(UsageError, match=r"storage\.conf"):
        drivers.choose(store.paths)


def test_root_directory_of_the_container(store: Store, many_ids: None) -> None:
    diff_id = store.unpack(directory("./", mode=0o1750, uid=3, gid=4))

    def run() -> list[int]:
        directory_ = f"{store.paths.containers}/x"
        os.makedirs(directory_)
        upper, _, _ = prepare(store.paths, directory_, lowers(store.paths, [diff_id]))
        again = prepare(store.paths, directory_, [])
        assert again[0] == upper
        status = os.stat(upper)
        return [status.st_mode & 0o7777, status.st_uid, status.st_gid]

    assert store.inside(run) == [0o1750, 3, 4]
