"""What differs between stacks of directories that look as overlayfs leaves them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl.storage.changes import compared, written


def tree(base: Path, *entries: str) -> str:
    """A layer: ``d/`` a directory, ``d!/`` an opaque one, ``-x`` a whiteout, ``f=text`` a file."""
    base.mkdir(exist_ok=True)
    for entry in entries:
        if entry.endswith("/"):
            path = base / entry.replace("!", "")
            path.mkdir(parents=True, exist_ok=True)
            if "!" in entry:
                os.setxattr(path, "user.overlay.opaque", b"y")
        elif "-" in entry:
            (base / entry).parent.mkdir(parents=True, exist_ok=True)
            try:
                os.mknod(base / entry.replace("-", ""), 0o020000, 0)
            except PermissionError:
                pytest.skip("making a whiteout takes root, or a user namespace")
        else:
            name, _, text = entry.partition("=")
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text(text)
            os.utime(base / name, (0, 0))
    for directory, _, _ in os.walk(base, topdown=False):
        os.utime(directory, (0, 0))
    return str(base)


CASES = [
    ([], ["f=1"], ["A /f"]),
    (["f=1"], ["f=2"], ["C /f"]),
    (["f=1"], ["-f"], ["D /f"]),
    (["d/f=1"], ["d/-f"], ["C /d", "D /d/f"]),
    (["d/f=1"], ["d/g=1"], ["C /d", "A /d/g"]),
    (["d/e/f=1"], ["d/e/f=22"], ["C /d/e/f"]),  # what leads there looks as before
    (["d/f=1"], ["d!/", "d/g=1"], ["D /d", "A /d/g"]),
    ([], ["d!/", "d/g=1"], ["A /d", "A /d/g"]),
    (["d/f=1"], ["d=now a file"], ["C /d"]),
    (["d=1"], ["d/f=1"], ["C /d", "A /d/f"]),
    ([], ["-never"], ["D /never"]),
]


@pytest.mark.parametrize(("lower", "upper", "lines"), CASES)
def test_written(tmp_path: Path, lower: list[str], upper: list[str], lines: list[str]) -> None:
    found = written(tree(tmp_path / "upper", *upper), [tree(tmp_path / "lower", *lower)])
    assert [f"{kind} {path}" for kind, path in found] == lines


def test_written_above_layers_that_hide_each_other(tmp_path: Path) -> None:
    bottom = tree(tmp_path / "1", "d/f=1", "e/f=1", "x/y/z=1")
    middle = tree(tmp_path / "2", "d/", "d/-f", "e!/", "-x")
    upper = tree(tmp_path / "3", "d/f=1", "e/f=1", "x/y/z=1")
    assert [f"{kind} {path}" for kind, path in written(upper, [middle, bottom])] == [
        "C /d", "A /d/f", "C /e", "A /e/f", "A /x", "A /x/y", "A /x/y/z"]


def test_compared(tmp_path: Path) -> None:
    old = [tree(tmp_path / "2", "d/-f", "new=1", "o!/", "o/only=1"), tree(tmp_path / "1", "d/f=1", "d/g=1", "o/hidden=1", "k=1")]
    new = [tree(tmp_path / "3", "d/f=1", "d/g=1", "o/only=1", "o/more=1", "k=1", "kind/f=1")]
    os.chmod(tmp_path / "3/k", 0o600)
    assert [f"{kind} {path}" for kind, path in compared(old, new)] == [
        "C /d", "A /d/f", "C /k", "A /kind", "A /kind/f", "D /new", "C /o", "A /o/more"]
    assert compared(old, old) == [] and compared(new, new) == []


def test_compared_with_owners_shifted(tmp_path: Path) -> None:
    old, new = [tree(tmp_path / "1", "f=1")], [tree(tmp_path / "2", "f=1")]
    if os.getuid() == 0:
        os.chown(tmp_path / "2/f", 5, 5)
        assert [line[0] for line in compared(old, new)] == ["C"]
        assert compared(old, new, lambda uid, gid: (uid and uid - 5, gid and gid - 5)) == []
    else:
        assert [line[1] for line in compared(old, new, lambda uid, gid: (uid + 1, gid))] == ["/f"]


def test_times_of_archives_are_whole_seconds(tmp_path: Path) -> None:
    old, new = [tree(tmp_path / "1", "f=1")], [tree(tmp_path / "2", "f=1")]
    os.utime(tmp_path / "1/f", ns=(0, 5_000_000_001))
    os.utime(tmp_path / "2/f", ns=(0, 5_000_000_000))
    assert compared(old, new) == []
    os.utime(tmp_path / "2/f", ns=(0, 5_000_000_002))
    assert compared(old, new) == [("C", "/f")]
