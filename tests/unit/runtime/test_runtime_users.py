"""Names and numbers of users, against files that belong to an image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rl.errors import RlError
from rl.runtime import users


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/srv:/bin/sh\nbroken line\n7:x:70:71::/seven:/bin/sh\n:::\n"
        "nohome:x:50:50:::\n"
    )
    (tmp_path / "etc/group").write_text("root:x:0:\nweb:x:34:web\nlog:x:44:other,web\nadm:x:45:\nbad:x:y:web\n")
    return str(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0, [], "/root")),
        ("root", (0, 0, [], "/root")),
        ("web", (33, 34, [34, 44], "/srv")),
        ("33", (33, 34, [34, 44], "/srv")),
        ("web:adm", (33, 45, [45], "/srv")),
        ("web:1000", (33, 1000, [1000], "/srv")),
        ("1000", (1000, 0, [0], "/")),
        ("1000:log", (1000, 44, [44], "/")),
        ("1000:1001", (1000, 1001, [1001], "/")),
        ("7", (70, 71, [71], "/seven")),
        ("nohome", (50, 50, [50], "/")),
        (":log", (0, 44, [], "/root")),
    ],
)
def test_lookup(root: str, text: str, expected: tuple[int, int, list[int], str]) -> None:
    assert users.lookup(root, text) == expected
    fd = os.open(root, os.O_PATH)
    try:
        assert users.lookup(fd, text) == expected
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "text", ["nobody", "web:nogroup", "web:", "-1", "4294967295", "99999999999999999999999", "0x1", "²"]
)
def test_bad_users(root: str, text: str) -> None:
    with pytest.raises(RlError) as caught:
        users.lookup(root, text)
    assert caught.value.hint


def test_without_files_numbers_still_work(tmp_path: Path) -> None:
    assert users.lookup(str(tmp_path), "12:13") == (12, 13, [13], "/")


def test_the_files_are_the_images_own(root: str, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "passwd").write_text("evil:x:0:0::/:/bin/sh\n")
    (Path(root) / "etc/passwd").unlink()
    for link in (str(outside / "passwd"), f"../../{outside.name}/passwd"):
        (Path(root) / "etc/passwd").symlink_to(link)
        with pytest.raises(RlError):
            users.lookup(root, "evil")
        (Path(root) / "etc/passwd").unlink()
    os.mkfifo(f"{root}/etc/passwd")
    with pytest.raises(RlError, match="regular"):
        users.lookup(root, "root")


def test_a_huge_file_is_read_in_part(root: str) -> None:
    with open(f"{root}/etc/passwd", "w") as file:
        file.write("first:x:5:5::/:/bin/sh\n")
        file.truncate(1 << 40)
    assert users.lookup(root, "first")[0] == 5
