"""Paths inside a root: where they lead, and that others who rename files do not get in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rl.kernel import fs
from rl.runtime import rootpath


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    directory = tmp_path / "root"
    directory.mkdir()
    fd = os.open(directory, os.O_PATH)
    yield directory, fd
    os.close(fd)


def where(fd: int) -> str:
    path = os.readlink(f"/proc/self/fd/{fd}")
    os.close(fd)
    return path


@pytest.mark.parametrize("link", ["/etc", "../../../../../../../../../etc", "../root/../../etc", "/../etc/."])
def test_links_stay_in_the_root(root: tuple[Path, int], link: str) -> None:
    directory, fd = root
    (directory / "etc").mkdir()
    (directory / "root").mkdir()
    (directory / "link").symlink_to(link)
    assert where(rootpath.resolve(fd, "/link")) == f"{directory}/etc"
    assert where(rootpath.ensure_file(fd, "link/new/file")) == f"{directory}/etc/new/file"
    assert where(rootpath.ensure_directory(fd, "/link/../../link/dir/")) == f"{directory}/etc/dir"
    assert not os.path.lexists("/etc/new")


def test_dangling_links_are_made_inside(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "a").mkdir()
    (directory / "a/link").symlink_to("../b/c")
    (directory / "second").symlink_to("/a/link")
    assert where(rootpath.ensure_file(fd, "/second")) == f"{directory}/b/c"
    (directory / "x").symlink_to("y")
    (directory / "y").symlink_to("z/target")
    assert where(rootpath.ensure_directory(fd, "/x/below")) == f"{directory}/z/target/below"


def test_loops_and_magic_links_are_errors(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "loop").symlink_to("loop")
    (directory / "one").symlink_to("two")
    (directory / "two").symlink_to("one")
    for path in ("/loop", "/one/x"):
        for function in (rootpath.ensure_directory, rootpath.ensure_file, rootpath.resolve):
            with pytest.raises(OSError) as caught:
                function(fd, path)
            assert caught.value.errno == errno.ELOOP
    proc = os.open("/", os.O_PATH)
    with pytest.raises(OSError) as caught:
        rootpath.resolve(proc, "/proc/self/exe")
    os.close(proc)
    assert caught.value.errno == errno.ELOOP


def test_what_lies_in_the_way(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "file").write_text("")
    for function in (rootpath.ensure_directory, rootpath.ensure_file):
        with pytest.raises(NotADirectoryError):
            function(fd, "/file/below")
    assert rootpath.resolve_or_none(fd, "/file/below") is None and rootpath.resolve_or_none(fd, "/none") is None


def test_a_link_itself(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "link").symlink_to("/etc/passwd")
    assert where(rootpath.ensure_nofollow(fd, "/link", directory=False)) == f"{directory}/link"
    assert where(rootpath.ensure_nofollow(fd, "/new/file", directory=False)) == f"{directory}/new/file"
    assert where(rootpath.ensure_nofollow(fd, "/new/dir", directory=True)) == f"{directory}/new/dir"


def test_renames_elsewhere_do_not_disturb(root: tuple[Path, int], tmp_path: Path) -> None:
    """openat2(2) gives up with EAGAIN at ".." when anything on the machine was renamed meanwhile."""
    directory, fd = root
    (directory / "a/b/c").mkdir(parents=True)
    (tmp_path / "1").write_text("")
    pid = os.fork()
    if pid == 0:
        while True:
            os.rename(tmp_path / "1", tmp_path / "2")
            os.rename(tmp_path / "2", tmp_path / "1")
    try:
        for _ in range(5000):
            os.close(rootpath.resolve(fd, "/a/b/c/" + "../c/" * 20))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_it_does_not_try_for_ever(root: tuple[Path, int], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def always(*arguments: object, **named: object) -> int:
        calls.append(arguments)
        raise OSError(errno.EAGAIN, "again")

    monkeypatch.setattr(fs.k, "syscall", always)
    with pytest.raises(OSError, match="renamed or mounted"):
        rootpath.resolve(root[1], "/x")
    assert 1000 < len(calls) < 100000


def test_reading_no_more_than_wanted(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "file").write_text("x" * 100)
    os.mkfifo(directory / "fifo")
    assert rootpath.read_limited(fd, "/file", 10) == b"x" * 10
    assert rootpath.read_limited(fd, "/none", 10) == b""
    with pytest.raises(OSError, match="not a regular file"):
        rootpath.read_limited(fd, "/fifo", 10)
