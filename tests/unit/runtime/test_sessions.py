"""Exec sessions on record: which are shown, which are stale, and what their end takes along."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

from rl.kernel import proc
from rl.runtime import sessions


def started(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", script], start_new_session=True)


def left(pattern: str) -> list[str]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:
            continue
        if re.fullmatch(pattern, words):
            found.append(name)
    return found


def test_living_and_stale(tmp_path: Path) -> None:
    run = str(tmp_path)
    one, two = started("exec sleep 631"), started("exec sleep 632")
    (tmp_path / "lock").touch()
    (tmp_path / "exec-empty").touch()  # being written this moment
    try:
        assert sessions.record(run, "one", one.pid) == f"{run}/exec-one"
        assert sessions.record(run, "one", one.pid) == ""  # a name is taken once
        file = sessions.record(run, "two", two.pid)
        (tmp_path / "exec-reused").write_text(f"{one.pid} 1")  # its number is another process's now
        assert {found[0] for found in sessions.living(run)} == {"one", "two"}
        assert not (tmp_path / "exec-reused").exists()
        two.kill()
        two.wait()
        assert [found[0] for found in sessions.living(run)] == ["one"]
        assert not os.path.exists(file) and (tmp_path / "exec-empty").exists()
    finally:
        for process in (one, two):
            process.kill()
            process.wait()
    assert sessions.living(f"{run}/no-such-directory") == []
    assert sessions.record(f"{run}/no-such-directory", "x", os.getpid()) == ""


def test_end_all(tmp_path: Path) -> None:
    """With grandchildren and orphans; not another session, not a process that has the number by now."""
    run = str(tmp_path)
    ours = started("(sleep 633 &) ; sh -c 'sleep 634 & wait' & sleep 635")
    other = started("exec sleep 636")
    try:
        sessions.record(run, "ours", ours.pid)
        (tmp_path / "exec-reused").write_text(f"{other.pid} 1")
        end = time.monotonic() + 10
        while len(left("sleep 63[345]")) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        sessions.end_all(run)
        assert ours.wait(5) == -9
        end = time.monotonic() + 5
        while left("sleep 63[345]") and time.monotonic() < end:
            time.sleep(0.01)
        assert not left("sleep 63[345]") and other.poll() is None
        assert os.listdir(run) == []
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()


def test_session_of_a_process() -> None:
    process = started("exec sleep 637")
    try:
        assert proc.session(process.pid) == process.pid and proc.session("self") == os.getsid(0)
    finally:
        process.kill()
        process.wait()
    assert proc.session(process.pid) == 0
