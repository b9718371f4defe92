"""What of us a container could see while a process of ours is inside (design: "Self-protection", "Robust")."""

from __future__ import annotations

import _socket
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rl.kernel import clone as kclone
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import child, container, process, userns
from rl.runtime.sync import Io, Setup
from unit.runtime.container_lab import Lab, make_lab, specification

PR_GET_DUMPABLE = 3


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def _telling(monkeypatch: pytest.MonkeyPatch, look: Any) -> None:
    """Let the child report look(setup) after each of its steps, as warnings ``step=value``."""
    def telling(name: str, step: Any) -> Any:
        def told(setup: Setup) -> None:
            step(setup)
            setup.sync.tell(b"W", f"{name}={look(setup)}".encode())
        return told

    steps = tuple((n, telling(n, s) if n not in AFTER_START else s) for n, s in child.STEPS)
    monkeypatch.setattr(child, "STEPS", (("begin", lambda setup: setup.sync.tell(b"W", f"begin={look(setup)}".encode())), *steps))


#: Steps after which nobody reads warnings any more.
AFTER_START = [name for name, _ in process.STEPS[[n for n, _ in process.STEPS].index("wait for start"):]]


def _told(lab: Lab, spec: dict[str, Any]) -> dict[str, str]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            userns.enter(str(lab.run_dir))
            spec = spec() if callable(spec) else spec
            created = container.create(str(lab.bundle), spec, Io(0, 2, 2))
            os.write(write_end, "\n".join(created.warnings).encode())
            created.abandon()
        except BaseException as error:
            os.write(write_end, f"{error!r}".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return dict(line.rsplit("=", 1) for line in text.splitlines() if "=" in line)


def test_not_dumpable_inside(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the session on: no tracing, no /proc/PID/{exe,mem,fd,environ} for anybody in the container."""
    _telling(monkeypatch, lambda setup: kp.prctl(PR_GET_DUMPABLE))
    told = _told(lab, specification(["true"]))
    assert told["begin"] == "1"  # the control: it is what it is without the call
    names = list(told)
    after = names[names.index("start a session"):]
    assert len(after) > 12 and "change user and capabilities" in after
    assert {told[name] for name in after} == {"0"}


def test_not_dumpable_before_it_enters_the_pid_namespace_of_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """--pid=container: with CAP_SYS_PTRACE there, the other container could take over a child that still sees the host."""
    _telling(monkeypatch, lambda setup: kp.prctl(PR_GET_DUMPABLE))

    def spec() -> dict[str, Any]:
        other, _ = kclone.clone(ns.CLONE_NEWPID)
        if other == 0:
            kp.prctl(kp.PR_SET_PDEATHSIG, 9)
            time.sleep(30)
            os._exit(0)
        fd = os.open(f"/proc/{other}/ns/pid", os.O_RDONLY)
        config = specification(["true"])
        config["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}, {"type": "pid", "path": f"/proc/self/fd/{fd}"}]
        config.pop("hostname")
        config["mounts"] = []
        config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
        return config

    told = _told(lab, spec)
    assert len(told) > 12 and set(told.values()) == {"0"}


def test_a_huge_descriptor_limit_costs_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One close_range(2), not a call for each possible descriptor; measured in the step that does it."""
    soft, hard = kp.get_rlimit(7)
    limit = min(hard, 1 << 20)
    took: list[float] = []
    monkeypatch.setattr(process, "_close_from", _timed(process._close_from))
    for wanted in (256, limit):
        kp.set_rlimit(7, wanted, hard)
        try:
            high = os.dup2(0, wanted - 1)
            told = [float(_told(lab, specification(["true"]))["close"]) for _ in range(5)]
            os.close(high)
        finally:
            kp.set_rlimit(7, soft, hard)
        took.append(min(told))
    assert took[1] < took[0] + 0.001, took  # 20 000 calls of close(2) take 5 ms and more


def _timed(function: Any) -> Any:
    def timed(first: int) -> None:
        began = time.perf_counter()
        function(first)
        took = time.perf_counter() - began
        with pytest.raises(OSError):
            os.fstat(kp.get_rlimit(7)[0] - 1)  # the highest there can be is closed
        _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, os.dup(first - 1)).send(f"Wclose={took}".encode())

    return timed


def test_no_descriptor_of_ours_is_left_at_exec(lab: Lab) -> None:
    """Also files and directories that the caller holds open without close-on-exec (CVE-2024-21626)."""
    held = [os.open("/", os.O_RDONLY | os.O_DIRECTORY), os.open("/etc/passwd", os.O_RDONLY)]
    for fd in held:
        os.set_inheritable(fd, True)
    try:
        result = lab.run("ls /proc/self/fd")
    finally:
        for fd in held:
            os.close(fd)
    assert result.output.split() == ["0", "1", "2", "3"]  # 3: the listing itself
