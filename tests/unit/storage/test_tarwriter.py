"""What the writer makes, tar programs read: GNU tar, Python's tarfile, and our own reader."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from rl.storage.tarstream import TarStream
from rl.storage.tarwriter import TarWriter


def write(root: Path, archive: Path, prefix: bytes = b"", select: object = None) -> None:
    with open(archive, "wb") as file:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            writer = TarWriter(file.fileno(), select)  # type: ignore[arg-type]
            writer.tree(fd, prefix)
            writer.finish()
        finally:
            os.close(fd)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "dir/empty").mkdir(parents=True)
    (root / "dir/file").write_bytes(b"content" * 100)
    (root / "dir/file").chmod(0o4755)
    os.utime(root / "dir/file", ns=(5, 1_234_567_890_123_456_789))
    os.link(root / "dir/file", root / "hard")
    (root / "soft").symlink_to("dir/file")
    (root / "dangling").symlink_to("x/" * 150 + "y")
    os.mkfifo(root / "pipe")
    deep = root / "/".join(["a" * 60] * 5)[1:]
    deep.mkdir(parents=True)
    (deep / ("n" * 120)).write_bytes(b"deep")
    (root / "ünïcode").write_bytes(b"u")
    (root / "zero").touch()
    with open(root / "sparse", "wb") as file:
        file.seek(3_000_000)
        file.write(b"end")
        file.truncate(6_000_000)
    (root / "big").write_bytes(os.urandom(3_000_001))
    return root


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else os.readlink(path) if path.is_symlink() else ""
        mtime = status.st_mtime_ns if not path.is_dir() and not path.is_symlink() else 0
        found[str(path.relative_to(root))] = (status.st_mode, status.st_uid, status.st_nlink, mtime, content)
    return found


def test_gnu_tar_restores_the_tree(tree: Path, tmp_path: Path) -> None:
    write(tree, tmp_path / "a.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xpf", tmp_path / "a.tar", "-C", tmp_path / "out"], check=True)
    assert facts(tmp_path / "out") == facts(tree)
    assert (tmp_path / "a.tar").stat().st_size < 3_300_000, "holes are not written"


def test_python_and_our_reader_agree(tree: Path, tmp_path: Path) -> None:
    write(tree, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = [member.name for member in tar.getmembers()]
        sparse = tar.extractfile("sparse")
        assert sparse is not None and sparse.read() == (tree / "sparse").read_bytes()
    assert sorted(names) == sorted(facts(tree))
    ours = []
    with open(tmp_path / "a.tar", "rb") as file:
        stream = TarStream(file.fileno())
        while (entry := stream.next()) is not None:
            ours.append(entry.name.decode().rstrip("/"))
            if entry.name == b"sparse":
                assert (entry.size, entry.sparse is not None) == (6_000_000, True)
    assert ours == names


def test_attributes_numbers_and_devices(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").write_bytes(b"x")
    os.setxattr(root / "file", "user.mine", b"val\0ue")
    os.setxattr(root / "file", "user.overlay.opaque", b"y")
    os.chown(root / "file", 3_000_000_000, 4_000_000)
    os.utime(root / "file", (-5.5, -5.5))
    os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    write(root, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmember("file")
        assert (member.uid, member.gid, member.mtime) == (3_000_000_000, 4_000_000, -5.5)
        assert member.pax_headers["SCHILY.xattr.user.mine"] == "val\0ue"
        assert not any("overlay" in key for key in member.pax_headers)
        device = tar.getmember("null")
        assert device.ischr() and (device.devmajor, device.devminor) == (1, 3)


def test_prefix_and_selection(tree: Path, tmp_path: Path) -> None:
    write(tree, tmp_path / "a.tar", b"top/", lambda name: name != "top/dir")
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert "top/hard" in names and not any(name.startswith("top/dir/") or name == "top/dir" for name in names)


@pytest.mark.parametrize("length", [98, 99, 100, 101, 102, 155, 156, 199, 200, 255])
def test_names_of_every_length(tmp_path: Path, length: int) -> None:
    root = tmp_path / "tree"
    (root / "d").mkdir(parents=True)
    (root / "d" / ("f" * (length - 2))).touch()
    (root / "d" / ("e" * (length - 3))).mkdir()
    write(root, tmp_path / "a.tar")
    out = subprocess.run(["tar", "-tf", tmp_path / "a.tar"], check=True, capture_output=True, text=True).stdout.split()
    assert out == ["d/", f"d/{'e' * (length - 3)}/", f"d/{'f' * (length - 2)}"]
