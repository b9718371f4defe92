"""Archives as tarfile, GNU tar and our own reader see them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from rl.storage.tarstream import TarStream
from rl.storage.tarwrite import TarWriter, block, record, to_fd


def written(tree: Path, **options: object) -> bytes:
    out = io.BytesIO()
    writer = TarWriter(out.write, **options)  # type: ignore[arg-type]
    root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        writer.tree(root)
    finally:
        os.close(root)
    writer.finish()
    return out.getvalue()


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name: member for member in tar}


def test_all_that_a_tree_holds(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "d/empty").mkdir(parents=True)
    long = "n" * 90 + "/" + "m" * 200
    (tree / long).parent.mkdir()
    for name, data in (("a", b"1"), (long, b"2" * 513), ("grün", b""), ("d/big", os.urandom(3 << 20)), ("with space ", b"3")):
        (tree / name).write_bytes(data)
    os.link(tree / "a", tree / "d/z")
    os.symlink("x" * 150, tree / "link")
    os.mkfifo(tree / "fifo")
    os.setxattr(tree / "a", "user.note", b"\0line\n=")
    os.setxattr(tree / "a", "user.overlay.origin", b"own")
    (tree / "a").chmod(0o4751)
    os.utime(tree / "a", (5, 1_234_567_890.9))
    os.utime(tree / "d", (5, -10))
    data = written(tree)
    found = members(data)
    assert found.keys() == {"a", "d", "d/empty", "d/big", "d/z", long, long.split("/")[0], "grün", "with space ", "link", "fifo"}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.extractfile("d/big").read() == (tree / "d/big").read_bytes()  # type: ignore[union-attr]
        assert tar.extractfile(long).read() == b"2" * 513  # type: ignore[union-attr]
    assert found["d/z"].islnk() and found["d/z"].linkname == "a" and found["link"].linkname == "x" * 150
    assert (found["a"].mode, found["a"].mtime, found["d"].mtime) == (0o4751, 1_234_567_890, -10)
    assert found["a"].pax_headers["SCHILY.xattr.user.note"] == "\0line\n=" and "SCHILY.xattr.user.overlay.origin" not in found[
        "a"].pax_headers
    assert found["fifo"].isfifo() and found["d/empty"].isdir()
    listed = subprocess.run(["tar", "t"], input=data, capture_output=True, check=True)
    assert len(listed.stdout.splitlines()) == len(found) and not listed.stderr
    assert written(tree) == data


def test_what_the_kernel_copies_is_the_same(tmp_path: Path) -> None:
    """To a file, to a pipe, to a file opened to append, which sendfile(2) refuses."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "big").write_bytes(os.urandom((1 << 20) + 7))
    plain = written(tree)
    for flags in (os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
        fd = os.open(tmp_path / f"out{flags}", flags)
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
        writer = TarWriter(to_fd(fd), fd=fd)
        writer.tree(root)
        writer.finish()
        os.close(root)
        os.close(fd)
        assert (tmp_path / f"out{flags}").read_bytes() == plain


def test_owners(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    found = members(written(tmp_path, owner=lambda uid, gid: (uid + 3_000_000_000, gid + 5)))
    assert (found["f"].uid, found["f"].gid) == (os.getuid() + 3_000_000_000, os.getgid() + 5)
    os.setxattr(tmp_path / "f", "user.rl.owner", b"7:8:644")
    found = members(written(tmp_path, single=True))
    assert (found["f"].uid, found["f"].gid) == (7, 8) and not found["f"].pax_headers


def test_marks_of_a_layer(tmp_path: Path) -> None:
    """Both drivers' notations; in a tree that is no layer the same names are just names."""
    for name in ("kernel", "fuse", "plain"):
        (tmp_path / name).mkdir()
    os.setxattr(tmp_path / "kernel", "user.overlay.opaque", b"y")
    (tmp_path / "fuse/.wh..wh..opq").write_text("")
    (tmp_path / "plain/.wh.gone").write_text("")
    with_marks = {"kernel", "kernel/.wh..wh..opq", "fuse", "fuse/.wh..wh..opq", "plain", "plain/.wh.gone"}
    try:
        os.mknod(tmp_path / "kernel/gone", 0o020000, 0)
        with_marks.add("kernel/.wh.gone")
    except PermissionError:
        pass  # not root
    out = io.BytesIO()
    writer = TarWriter(out.write)
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    writer.tree(root, marks=True)
    writer.finish()
    os.close(root)
    assert members(out.getvalue()).keys() == with_marks


def test_a_file_that_shrinks_and_one_that_goes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1" * 1000)
    out = io.BytesIO()
    writer = TarWriter(out.write)
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    status = os.stat(tmp_path / "f")
    (tmp_path / "gone").write_text("")
    gone = os.stat(tmp_path / "gone")
    os.unlink(tmp_path / "gone")
    writer.entry(root, "gone", b"gone", gone)
    os.mkfifo(tmp_path / "swapped")
    writer.entry(root, "swapped", b"swapped", status)  # it was a file when its directory was read
    writer.entry(root, "f", b"f", status)
    writer.finish()
    os.close(root)
    assert members(out.getvalue()).keys() == {"f"}


@pytest.mark.parametrize("length", [*range(80, 105), *range(980, 1005)])
def test_a_record_counts_itself(length: int) -> None:
    data = record("path", b"x" * length)
    assert int(data.split(b" ")[0]) == len(data) and data.endswith(b"x\n")


def test_large_numbers(tmp_path: Path) -> None:
    """A size from 8 GiB on stands in a record of its own; read back by the reader of layers."""
    out = io.BytesIO()
    writer = TarWriter(out.write)
    writer._header(b"big", b"0", 9 << 30, 0o644, 0, 0, 0)
    path = tmp_path / "archive"
    path.write_bytes(out.getvalue() + bytes(writer._buffer))
    with open(path, "rb") as file:
        entry = TarStream(file.fileno()).next()
    assert entry is not None and (entry.name, entry.size) == (b"big", 9 << 30)
    assert len(block(b"n", b"0", 0, 0)) == 512
