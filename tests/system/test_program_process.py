"""`rl-runtime` and what stands between processes: a seccomp agent, a service manager, its sockets."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import users
from support.bundles import PROGRAM, Lab
from system.conftest import eventually
from unit.runtime.test_seccomp_listener import Agent

# notify TEXT: one datagram to $NOTIFY_SOCKET, as sd_notify(3)
NOTIFY = r"""
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
int main(int argc, char **argv) {
    struct sockaddr_un to = {AF_UNIX, ""};
    strncpy(to.sun_path, getenv("NOTIFY_SOCKET"), sizeof to.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    return sendto(fd, argv[1], strlen(argv[1]), 0, (struct sockaddr *)&to, sizeof to) < 0;
}
"""


@pytest.fixture(scope="module", params=["user", "root"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    base = Path(tempfile.mkdtemp(prefix="rl-test-oci-", dir="/var/tmp"))
    base.chmod(0o755)
    user = users.ensure("rltest-oci") if request.param == "user" else users.root(base / "home")
    made = Lab(user, base)
    (base / "notify.c").write_text(NOTIFY)
    program = made.bundle / "rootfs/bin/notify"
    subprocess.run(["gcc", "-static", "-o", str(program), str(base / "notify.c")], check=True)
    program.chmod(0o755)
    yield made
    shutil.rmtree(base)


@pytest.fixture(autouse=True)
def nothing_left(lab: Lab) -> Iterator[None]:
    yield
    left = lab.left()
    for name in left:
        lab("delete", "--force", name)
    assert left == []


@pytest.mark.parametrize("locked", [False, True], ids=["early", "late"])
def test_a_seccomp_agent(lab: Lab, locked: bool) -> None:
    """Of create, start (which is another process) and exec; for the state, the container's own numbers."""
    path = lab.base / f"agent-{locked}"
    agent = Agent(path)

    def change(spec: dict[str, Any]) -> None:
        spec["process"]["noNewPrivileges"] = locked
        spec["linux"]["seccomp"] = agent.profile("mkdir", "mkdirat")

    lab.write("mkdir /tmp/x 2>/dev/null || echo refused > /dev/stdout; exec sleep 1000", change)
    lab.ok("create", "one")
    try:
        assert bool(agent.told) is not locked, "with no_new_privs the filter is loaded after the start"
        lab.ok("start", "one")
        eventually(lambda: bool(agent.calls), every=0.02)
        pid = lab.state("one")["pid"]
        (told,) = agent.told
        assert (told["pid"], told["state"]["id"], told["state"]["pid"], told["metadata"]) == (pid, "one", pid, "meta: data")
        assert told["state"]["bundle"] == str(lab.bundle)
        done = lab("exec", "one", "mkdir", "/tmp/y")
        assert done.returncode == 1 and "non-socket" in done.stderr, done.stderr
        eventually(lambda: len(agent.told) == 2, every=0.02)
        told = agent.told[1]
        assert told["pid"] != pid and told["state"]["pid"] == pid and told["state"]["status"] == "running"
        agent.sock.close()
        path.unlink()
        done = lab("exec", "one", "true")
        assert done.returncode == 255 and "listenerPath" in done.stderr
    finally:
        lab("delete", "--force", "one")


def manager(base: Path) -> socket.socket:
    path = base / "manager"
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    path.chmod(0o777)
    sock.settimeout(10)
    return sock


def test_start_waits_for_ready(lab: Lab) -> None:
    """As under a unit of Type=notify: the start is done when the container says so."""
    sock = manager(lab.base)
    env = {"NOTIFY_SOCKET": str(lab.base / "manager")}
    lab.write("sleep 0.5; notify STATUS=warm; notify READY=1; exec sleep 1000")
    lab.ok("create", "one", env=env)
    before = time.monotonic()
    lab.ok("start", "one", env=env)
    assert time.monotonic() - before > 0.5
    assert sock.recv(1000) == b"STATUS=warm"
    assert sock.recv(1000) == b"READY=1\nMAINPID=%d" % lab.state("one")["pid"]
    sock.close()
    lab.ok("delete", "--force", "one")


def test_start_does_not_wait_for_what_has_ended(lab: Lab) -> None:
    sock = manager(lab.base)
    env = {"NOTIFY_SOCKET": str(lab.base / "manager")}
    lab.write("exit 3")
    lab.ok("create", "one", env=env)
    lab.ok("start", "one", env=env, timeout=20)
    sock.close()
    lab.ok("delete", "--force", "one")


def test_run_relays_all_the_time(lab: Lab) -> None:
    sock = manager(lab.base)
    lab.write("notify READY=1; sleep 0.3; notify WATCHDOG=1; sleep 0.3; exit 4")
    done = lab("run", "one", env={"NOTIFY_SOCKET": str(lab.base / "manager")})
    assert done.returncode == 4, done.stderr
    assert sock.recv(1000).startswith(b"READY=1\nMAINPID=")
    assert sock.recv(1000) == b"WATCHDOG=1"
    sock.close()


def test_sockets_of_the_service_manager(lab: Lab) -> None:
    """From 3 on, those of --preserve-fds behind them; for another process they are not ours to pass on."""
    for name in ("a", "b"):
        (lab.base / name).write_text(f"{name}\n")
    lab.write('cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID; ls /proc/self/fd | tr "\\n" " "')
    files = f"exec 3<{lab.base}/a 4<{lab.base}/b"
    command = f"{PROGRAM} --root {lab.root} run --preserve-fds 1 one"

    def run(environment: str) -> subprocess.CompletedProcess[str]:
        words = lab.user.argv(["sh", "-c", f"cd {lab.bundle}; {files}; {environment} exec {command}"])
        return subprocess.run(words, env=lab.user.env(), capture_output=True, text=True, timeout=60)

    done = run("LISTEN_FDS=1 LISTEN_PID=$$")
    assert (done.returncode, done.stdout) == (0, "a\nb\n1 1\n0 1 2 3 4 5 "), done.stderr
    done = run("LISTEN_FDS=1 LISTEN_PID=1")
    assert done.stdout.splitlines()[:2] == ["a", ""], (done.stdout, done.stderr)
    done = run("LISTEN_FDS=5 LISTEN_PID=$$")
    assert done.returncode and "LISTEN_FDS=5: descriptor 5" in done.stderr
