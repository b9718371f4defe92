"""Archives that keep holes: GNU tar, Python's tarfile and our own reader restore the same file from them."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from rl.storage.tarsparse import SparseWriter
from rl.storage.tarstream import TarStream
from rl.storage.tarwrite import to_fd

MIB = 1 << 20
#: (offset, bytes) of the data, size of the file
FILES = [
    ([(3 * MIB, b"end")], 6 * MIB),
    ([(0, b"start" * 1000)], 5 * MIB),
    ([(0, b"a"), (MIB, b"b" * 300_000), (4 * MIB - 1, b"z")], 4 * MIB),
    ([], 2 * MIB),
]


def write(root: Path, archive: Path) -> None:
    with open(archive, "wb") as file:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            writer = SparseWriter(to_fd(file.fileno()), fd=file.fileno())
            writer.tree(fd)
            writer.finish()
        finally:
            os.close(fd)


@pytest.mark.parametrize(("data", "size"), FILES)
def test_holes(tmp_path: Path, data: list[tuple[int, bytes]], size: int) -> None:
    root = tmp_path / "tree"
    (root / "dir").mkdir(parents=True)
    path = root / "dir" / ("sparse" + "x" * 120)
    with open(path, "wb") as file:
        for offset, content in data:
            file.seek(offset)
            file.write(content)
        file.truncate(size)
    path.chmod(0o640)
    os.utime(path, (1_234_567_890, 1_234_567_890))
    os.setxattr(path, "user.mine", b"value")
    os.setxattr(path, "user.overlay.opaque", b"y")
    (root / "later").mkdir()
    os.link(path, root / "later/hard")
    (root / "plain").write_bytes(b"p" * 100_001)
    write(root, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").stat().st_size < 900_000, "holes are not written"
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xpf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True)
    restored = tmp_path / "out" / path.relative_to(root)
    assert restored.read_bytes() == path.read_bytes() and (tmp_path / "out/plain").read_bytes() == b"p" * 100_001
    status = restored.stat()
    assert (status.st_mode & 0o777, status.st_mtime, status.st_nlink) == (0o640, 1_234_567_890, 2)
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmember(str(path.relative_to(root)))
        inner = tar.extractfile(member)
        assert inner is not None and inner.read() == path.read_bytes()
        assert member.pax_headers["SCHILY.xattr.user.mine"] == "value"
        assert not any("overlay" in key for key in member.pax_headers)
    with open(tmp_path / "a.tar", "rb") as file:
        stream = TarStream(file.fileno())
        seen = {}
        while (entry := stream.next()) is not None:
            seen[entry.name.decode()] = (entry.size, entry.sparse is not None)
    assert seen[str(path.relative_to(root))] == (size, True) and seen["plain"] == (100_001, False)
