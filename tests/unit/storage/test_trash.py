"""Deletion: of what refuses it, of what is deeper than any path, by many at once."""

from __future__ import annotations

import os
import time

from archives import Store, directory, member

from rl.storage import trash


def names(store: Store) -> list[str]:
    return os.listdir(store.paths.trash)


def test_discard_and_empty(store: Store, many_ids: None) -> None:
    diff_id = store.unpack(directory("d", mode=0, uid=9) + member("d/f", b"x", mode=0, uid=1000))
    layer = f"{store.paths.layers}/{diff_id[7:]}"
    there = trash.discard(store.paths, layer)
    assert not os.path.exists(layer) and os.path.isdir(there)
    assert trash.discard(store.paths, layer) == ""
    trash.empty(store.paths)
    assert names(store) == []
    trash.empty(store.paths)


def test_discard_of_a_directory_of_another_id(store: Store, many_ids: None) -> None:
    path = f"{store.paths.volumes}/v"

    def make() -> None:
        os.mkdir(path, 0o700)
        os.chown(path, 33, 33)

    store.inside(make)
    assert trash.discard(store.paths, path)
    trash.empty(store.paths)
    assert names(store) == []


def test_same_name_many_times(store: Store) -> None:
    for _ in range(5):
        os.mkdir(f"{store.paths.volumes}/v")
        trash.discard(store.paths, f"{store.paths.volumes}/v")
    with open(f"{store.paths.volumes}/file", "w", encoding="ascii"):
        pass
    trash.discard(store.paths, f"{store.paths.volumes}/file")
    assert len(names(store)) == 6
    trash.empty(store.paths)
    assert names(store) == []


def test_modes_that_refuse_the_owner(tmp_path: object) -> None:
    base = f"{tmp_path}/t"
    os.makedirs(f"{base}/a/b/c")
    with open(f"{base}/a/b/f", "w", encoding="ascii"):
        pass
    for path in (f"{base}/a/b/c", f"{base}/a/b", f"{base}/a", base):
        os.chmod(path, 0)
    trash.remove_tree(base)
    assert not os.path.lexists(base)


def test_deeper_than_a_path_can_say(store: Store) -> None:
    top = os.open(store.paths.trash, os.O_RDONLY | os.O_DIRECTORY)
    fd = os.dup(top)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=fd))
    os.close(fd)
    os.close(top)
    trash.empty(store.paths)
    assert names(store) == []


def test_links_are_removed_not_followed(tmp_path: object) -> None:
    keep = f"{tmp_path}/keep"
    os.mkdir(keep)
    with open(f"{keep}/f", "w", encoding="ascii"):
        pass
    os.mkdir(f"{tmp_path}/t")
    os.symlink(keep, f"{tmp_path}/t/link")
    os.symlink(keep, f"{tmp_path}/link")
    trash.remove_tree(f"{tmp_path}/t")
    trash.remove_tree(f"{tmp_path}/link")
    assert os.listdir(keep) == ["f"] and sorted(os.listdir(str(tmp_path))) == ["keep"]


def test_many_at_once_and_one_killed(store: Store) -> None:
    for number in range(6):
        base = f"{store.paths.trash}/x{number}"
        for middle in range(20):
            os.makedirs(f"{base}/{middle}/d")
            for leaf in range(20):
                os.close(os.open(f"{base}/{middle}/{leaf}", os.O_WRONLY | os.O_CREAT, 0o600))
    children = []
    for index in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                trash.empty(store.paths)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
        if index == 0:
            time.sleep(0.02)
            os.kill(pid, 9)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert codes[1:] == [0, 0, 0]
    trash.empty(store.paths)
    assert names(store) == []


def test_disk_usage(tmp_path: object) -> None:
    base = f"{tmp_path}/t"
    os.makedirs(f"{base}/d")
    empty = trash.disk_usage(base)
    with open(f"{base}/f", "wb") as file:
        file.write(b"x" * 100_000)
        file.flush()
        os.fsync(file.fileno())
    one = trash.disk_usage(base)
    assert 100_000 <= one - empty < 130_000
    os.link(f"{base}/f", f"{base}/d/g")
    with open(f"{base}/sparse", "wb") as file:
        file.truncate(1 << 30)
    assert trash.disk_usage(base) - one < 20_000
    assert trash.disk_usage(f"{base}/f") >= 100_000
    assert trash.disk_usage(f"{base}/none") == 0
