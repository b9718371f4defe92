"""What /proc tells: ids through a user namespace's map, mounts with every kind of name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rl.kernel import proc

RANGES = [(0, 1000, 1), (1, 100_000, 65_536)]


@pytest.mark.parametrize(
    ("inner", "outer"), [(0, 1000), (1, 100_000), (65_536, 165_535), (65_537, -1)], ids=["root", "first", "last", "none"]
)
def test_ids_through_a_map(inner: int, outer: int) -> None:
    assert proc.outside(RANGES, inner) == outer
    if outer >= 0:
        assert proc.inside(RANGES, outer) == inner


def test_an_id_without_a_counterpart_is_what_the_caller_says() -> None:
    assert proc.outside(RANGES, 70_000, 65_534) == proc.inside(RANGES, 5, 65_534) == 65_534
    assert proc.outside([], 7, 7) == 7


@pytest.mark.parametrize("name", ["plain", "two words", "tab\tand\nline", "back\\slash", "ünïcode", "ü\\ and blank"])
def test_mount_points_of_any_name(tmp_path: Path, name: str) -> None:
    point = tmp_path / name
    point.mkdir()
    code = "import sys; from rl.kernel import proc; sys.exit((sys.argv[1], 'tmpfs') not in proc.mounts())"
    script = 'mount -t tmpfs none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(point), sys.executable, code]
    assert subprocess.run(command, cwd="/").returncode == 0
    assert (str(point), "tmpfs") not in proc.mounts()
