"""LISTEN_FDS and NOTIFY_SOCKET of the runtime's own environment, into the container and back."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError
from rl.runtime import activation
from unit.runtime.container_lab import Lab, lab_of, specification


@pytest.fixture(params=["user", "root"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        yield made


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The service manager's socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(tmp_path / "manager"))
    sock.settimeout(5)
    yield sock
    sock.close()


def test_sockets_reach_the_container(lab: Lab) -> None:
    """As systemd passes them: from 3 on, with the names; our other descriptors do not come along."""
    pipes = [os.pipe() for _ in range(2)]
    for number, (_, writer) in enumerate(pipes):
        os.write(writer, b"socket %d\n" % number)

    def inside(spec: dict[str, Any]) -> None:
        for number, (reader, _) in enumerate(pipes):
            os.dup2(reader, 100 + number)
        os.closerange(3, 5)
        for number in range(2):
            os.dup2(100 + number, 3 + number)
        environ = {"LISTEN_FDS": "2", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b"}
        assert activation.adapt(spec, environ) == [3, 4]

    spec = specification(["sh", "-c", "read a <&3; read b <&4; echo $a $b; env | grep ^LISTEN | sort; ls /proc/self/fd"])
    spec["process"]["env"].append("LISTEN_FDS=99")
    result = lab.run(spec, preserve=[3, 4], inside=inside)
    assert result.error is None, result.error.message
    lines = result.output.split("\n")
    assert lines[:4] == ["socket 0 socket 1", "LISTEN_FDNAMES=a:b", "LISTEN_FDS=2", "LISTEN_PID=1"]
    assert lines[4:-1] == ["0", "1", "2", "3", "4", "5"]  # 5 is ls looking
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_whose_sockets_they_are() -> None:
    reader, writer = os.pipe()
    ours = {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    saved = os.dup(3) if os.path.exists("/proc/self/fd/3") else -1
    try:
        os.dup2(reader, 3)
        assert activation.listen_fds(ours) == activation.listen_fds({"LISTEN_FDS": "1"}) == 1
        assert activation.listen_fds({**ours, "LISTEN_PID": "1"}) == 0
        assert activation.listen_fds({}) == activation.listen_fds({"LISTEN_FDS": "0"}) == 0
        spec = specification(["true"])
        before = list(spec["process"]["env"])
        assert activation.adapt(spec, {**ours, "LISTEN_PID": "1"}, "/x") == []
        assert spec["process"]["env"] == before
    finally:
        if saved >= 0:
            os.dup2(saved, 3)
            os.close(saved)
        else:
            os.close(3)
        os.close(reader)
        os.close(writer)
    for text, problem in (("many", "not a number"), ("-1", "not a number"), ("60000", "Bad file descriptor")):
        with pytest.raises(RlError, match=problem):
            activation.listen_fds({"LISTEN_FDS": text})


def notifying(lab: Lab, script: str, address: str) -> tuple[dict[str, Any], activation.Notify]:
    """The specification of a container with a socket for readiness, and our end of it."""
    spec = specification(["sh", "-c", script])
    state = lab.bundle.parent / "state"
    state.mkdir()
    state.chmod(0o711)
    environ = {"NOTIFY_SOCKET": address}
    assert activation.Notify.of(str(state), environ) is None, "not prepared"
    assert activation.adapt(spec, environ, str(state)) == []
    assert activation.Notify.of(str(state), {}) is None
    notify = activation.Notify.of(str(state), environ)
    assert notify is not None
    return spec, notify


def test_the_container_says_ready(lab: Lab, manager: socket.socket, tmp_path: Path) -> None:
    """The mount, the variable, an ordinary user inside; and a relay that says who the main process is."""
    script = 'echo "$NOTIFY_SOCKET"; stat -c "%F %a" $NOTIFY_SOCKET; echo x > /run/notify/x; sleep 0.3'
    spec, notify = notifying(lab, script, str(tmp_path / "manager"))
    spec["process"]["user"] = {"uid": 33, "gid": 33}
    lab.bundle.parent.joinpath("state/notify").chmod(0o777)

    def say() -> None:
        time.sleep(0.2)
        container = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        container.sendto(b"STATUS=starting\n", notify.path)
        container.sendto(b"MAINPID=7\nREADY=1\nSTATUS=up\n", notify.path)

    threading.Thread(target=say).start()
    pidfd = os.pidfd_open(os.getpid())
    assert notify.wait_ready(4321, pidfd, 10) is True
    assert manager.recv(1000) == b"STATUS=starting"
    assert manager.recv(1000) == b"READY=1\nSTATUS=up\nMAINPID=4321"
    notify.close()
    os.close(pidfd)
    result = lab.run(spec)
    lines = result.output.splitlines()
    assert lines[:2] == ["/run/notify/notify.sock", "socket 777"], (result.error, result.output)
    assert len(lines) == 3 and "Read-only file system" in lines[2], "nobody may put anything beside it"


def test_waiting_ends(lab: Lab, manager: socket.socket, tmp_path: Path) -> None:
    """With the container, or with the time; a message that came just before the end still counts."""
    _, notify = notifying(lab, "true", str(tmp_path / "manager"))
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    assert notify.wait_ready(pid, pidfd) is False
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.sendto(b"READY=1", notify.path)
    assert notify.wait_ready(pid, pidfd) is True
    os.waitpid(pid, 0)
    os.close(pidfd)
    alive = os.pidfd_open(os.getpid())
    assert notify.wait_ready(1, alive, 0.2) is False
    os.close(alive)
    assert time.monotonic() - start < 5
    client.close()
    manager.close()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.sendto(b"WATCHDOG=1", notify.path)
    os.unlink(tmp_path / "manager")
    assert notify.relay(1) is False, "a manager that is gone is no error"
    notify.close()
    client.close()


def test_abstract_addresses_and_a_second_start(lab: Lab) -> None:
    name = f"rl-test-{os.getpid()}"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind("\0" + name)
    manager.settimeout(5)
    spec, first = notifying(lab, "true", f"@{name}")
    first.close()
    again = activation.Notify.of(str(lab.bundle.parent / "state"), {"NOTIFY_SOCKET": f"@{name}"})
    assert again is not None
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.sendto(b"READY=1", again.path)
    assert again.relay(5) is True and manager.recv(100) == b"READY=1\nMAINPID=5"
    for sock in (client, manager):
        sock.close()
    again.close()
    assert [item for item in spec["process"]["env"] if item.startswith("NOTIFY")] == ["NOTIFY_SOCKET=/run/notify/notify.sock"]
