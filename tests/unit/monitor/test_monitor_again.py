"""The decisions of rl.monitor.restart and rl.monitor.notify, and what crosses from one interpreter to the next."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rl.monitor import notify, restart
from unit.monitor.harness import Monitored, eventually, receive
from unit.monitor.test_loop import both, sh


@pytest.mark.parametrize(
    ("policy", "status", "more", "again"),
    [
        ("no", 1, {}, False),
        ("always", 0, {}, True),
        ("always", 0, {"stopped_by_user": True}, False),
        ("unless-stopped", 0, {}, True),
        ("on-failure", 0, {}, False),
        ("on-failure", 1, {}, True),
        ("on-failure", -1, {}, True),
        ("on-failure:2", 1, {"restarts": 1}, True),
        ("on-failure:2", 1, {"restarts": 2}, False),
        ("always", 129, {"user_signals": [1]}, False),
        ("always", 143, {"user_signals": [1]}, True),
        ("no", 0, {"after": "restart"}, True),
        ("always", 0, {"after": "stop"}, False),
        ("always", 0, {"after": "restart", "stopped_by_user": True}, True),
    ],
)
def test_wanted(policy: str, status: int, more: dict[str, Any], again: bool) -> None:
    name, _, count = policy.partition(":")
    params: Any = {"restart": {"policy": name, "retries": int(count or 0)}, **more}
    assert restart.wanted(params, status) == again


def test_backoff() -> None:
    """Doubled to a minute, from the start again after ten seconds of running."""
    waits = [restart.backoff(0, 0)]
    for _ in range(12):
        waits.append(restart.backoff(waits[-1], 3))
    assert waits[:4] == [0.1, 0.2, 0.4, 0.8] and waits[-2:] == [60.0, 60.0]
    assert restart.backoff(60, 9.9) == 60 and restart.backoff(60, 10) == 0.1


@pytest.mark.parametrize(
    ("message", "passed"),
    [
        (b"READY=1", [b"READY=1"]),
        (b"READY=0", []),
        (b"STATUS=a=b\nMAINPID=1\n\nERRNO=2\n", [b"STATUS=a=b", b"ERRNO=2"]),
        (b"WATCHDOG=trigger\nWATCHDOG_USEC=5\nEXTEND_TIMEOUT_USEC=9", [b"WATCHDOG=trigger", b"WATCHDOG_USEC=5", b"EXTEND_TIMEOUT_USEC=9"]),
        (b"FDSTORE=1\nFDNAME=x\nBARRIER=1\nNOTIFYACCESS=all\nMAINPIDFDID=3\nX_OWN=1", []),
        (b"\xff\xfe", []),
    ],
)
def test_what_a_container_may_say(message: bytes, passed: list[bytes]) -> None:
    assert notify.allowed(message) == passed


@both
def test_oom_score_adj(tmp_path: Path, linger: float) -> None:
    """The monitor is killed later than its container, as far as that is allowed; the container is as its caller."""
    own = Path("/proc/self/oom_score_adj")
    before = own.read_text()
    own.write_text("500")
    try:
        m = Monitored(str(tmp_path), ["sleep", "60"], linger=linger)
        eventually(lambda: Path(f"/proc/{m.pid}/comm").read_text() == "rl-monitor\n")
        assert Path(f"/proc/{m.init}/oom_score_adj").read_text() == "500\n"
        assert int(Path(f"/proc/{m.pid}/oom_score_adj").read_text()) <= max(0, int(before))
    finally:
        own.write_text(before)
    os.kill(m.pid, signal.SIGTERM)
    assert m.wait()["exit_code"] == 143


@both
def test_time_limit(tmp_path: Path, linger: float) -> None:
    m = Monitored(str(tmp_path), ["sleep", "60"], linger=linger, deadline=time.monotonic() + 0.3)
    assert m.wait()["exit_code"] == -1


def test_what_a_client_has_not_taken_crosses(tmp_path: Path) -> None:
    """A new interpreter while the first client is far behind: it gets every byte, in order."""
    m = Monitored(str(tmp_path), sh("seq 1 200000"), attach=True, linger=0.001)
    time.sleep(0.3)  # both buffers are full; it is in the middle of something
    root = str(Path(notify.__file__).parents[2])
    helper = next(path for path in (f"{root}/helpers/rl-monitor", f"{sys.prefix}/libexec/rl/rl-monitor") if os.path.exists(path))
    for _ in range(3):
        asker = m.attach(output=False)
        python = os.path.realpath(getattr(sys, "_base_executable", ""))
        wish = f'{{"upgrade": {{"interpreter": "{python}", "helper": "{helper}", "root": "{root}", "version": 1}}}}'
        asker.send(b"\x08" + wish.encode())
        assert asker.recv(1000) == b'\x06{"upgraded": 1}'
        asker.close()
    streams, info = receive(m.client)
    assert streams[1] == "".join(f"{n}\n" for n in range(1, 200001)).encode() and info
    m.wait()
    assert m.logged() == streams[1]


def test_another_user_may_not_upgrade(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("takes root, to be another user")
    m = Monitored(str(tmp_path), ["sleep", "60"], linger=0.001)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    os.chmod(f"{m.run}/attach", 0o777)
    for directory in (m.run, os.path.dirname(m.run), os.path.dirname(os.path.dirname(m.run))):
        os.chmod(directory, 0o755)
    pid = os.fork()
    if not pid:
        try:
            os.setuid(12345)
            asker = m.attach(output=False)
            asker.send(b'\x08{"upgrade": {"interpreter": "/bin/sh", "helper": "/bin/sh", "root": "/", "version": 1}}')
            os._exit(0 if b"only its own user" in asker.recv(1000) else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.kill(m.pid, signal.SIGTERM)
    m.wait()
