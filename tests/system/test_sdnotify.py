"""--sdnotify: what the service manager hears, from whom, and that a unit of Type=notify works."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.systemd_lab import UID, Lab
from system.conftest import Rl, eventually

#: A program for busybox that speaks sd_notify: each argument is one message. There is no such applet, so a real one.
NOTIFY = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for message in sys.argv[1:]:
    sock.sendto(message.encode().replace(b"|", b"\\n"), os.environ["NOTIFY_SOCKET"])
"""


class Manager:
    """A socket like systemd's, and what was said to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        path.chmod(0o777)
        self.heard: list[str] = []

    def said(self, seconds: float = 0) -> list[str]:
        while select.select([self.sock], [], [], seconds)[0]:
            self.heard += self.sock.recv(4096).decode().split("\n")
        return self.heard


@pytest.fixture
def manager(rl: Rl) -> Iterator[Manager]:
    path = rl.user.home / "manager"
    path.unlink(missing_ok=True)
    found = Manager(path)
    yield found
    found.sock.close()
    path.unlink()


def speaks(rl: Rl, manager: Manager, mode: str, *words: str) -> str:
    return rl.ok("run", "-d", "--network=none", f"--sdnotify={mode}", *words, env={"NOTIFY_SOCKET": str(manager.path)})


def test_container(rl: Rl, manager: Manager) -> None:
    """What the container says is passed on if it is on the list; the main process is the monitor."""
    code = "printf 'READY=1\\nMAINPID=1\\nSTATUS=all is well\\nFDSTORE=1\\nWATCHDOG=1' | nc -u local:$NOTIFY_SOCKET"
    done = rl("run", "--rm", "--network=none", "busybox", "nc", "--help")
    if "local:" not in done.stderr:  # this busybox speaks to no Unix socket: python of the host does
        mounts = ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"]
        words = [*mounts, "--name=c", "busybox", "/usr/bin/python3", "-c", NOTIFY,
                 "READY=1|MAINPID=1|STATUS=all is well|FDSTORE=1|WATCHDOG=1", "STOPPING=1", "BARRIER=1"]  # fmt: skip
    else:
        words = ["--name=c", "busybox", "sh", "-c", code]
    speaks(rl, manager, "container", *words)
    eventually(lambda: "STOPPING=1" in manager.said(0.02), every=0.01)
    pid = manager.heard[0]
    assert pid.startswith("MAINPID=") and pid != "MAINPID=1"
    assert manager.heard == [pid, "READY=1", "STATUS=all is well", "WATCHDOG=1", pid, "STOPPING=1"]


def test_conmon(rl: Rl, manager: Manager) -> None:
    """The monitor says it; the container knows nothing of it, and again after each start."""
    speaks(rl, manager, "conmon", "--name=c", "busybox", "sh", "-c", "env; sleep 60")
    eventually(lambda: "READY=1" in manager.said(0.02), every=0.01)
    monitor = rl.ok("inspect", "--format", "{{.State.ConmonPid}}", "c")
    assert manager.heard == [f"MAINPID={monitor}", "READY=1", f"MAINPID={monitor}"]
    assert "NOTIFY_SOCKET" not in rl.ok("logs", "c")
    assert rl.ok("inspect", "--format", "{{.Config.sdNotifyMode}}", "c") == "conmon"
    rl.ok("restart", "-t", "0", "c")
    eventually(lambda: manager.said(0.02)[3:] == ["READY=1", f"MAINPID={monitor}"], every=0.01)


@pytest.mark.parametrize("mode", ["ignore", "healthy"])
def test_silence(rl: Rl, manager: Manager, mode: str) -> None:
    speaks(rl, manager, mode, "--name=c", "--health-cmd=false", "busybox", "sh", "-c", "test -z $NOTIFY_SOCKET && echo none")
    assert rl.ok("wait", "c") == "0" and rl.ok("logs", "c") == "none"
    assert [word for word in manager.said(0.05) if not word.startswith("MAINPID=")] == []
    assert bool(manager.heard) == (mode == "healthy")


def test_healthy(rl: Rl, manager: Manager) -> None:
    """The first health check that succeeds, and it alone."""
    speaks(rl, manager, "healthy", "--name=c", "--health-cmd=test -e /ok", "--health-interval=disable", "busybox", "sleep", "60")
    monitor = rl.ok("inspect", "--format", "{{.State.ConmonPid}}", "c")
    for makes, code, said in (("true", 1, 1), ("touch /ok", 0, 3), ("rm /ok", 1, 3), ("touch /ok", 0, 3)):
        rl.ok("exec", "c", *makes.split())
        assert rl("healthcheck", "run", "c").returncode == code
        assert manager.said(0.05) == [f"MAINPID={monitor}", "READY=1", f"MAINPID={monitor}"][:said]


@pytest.mark.parametrize(("mode", "says"), [("bogus", 'invalid sdnotify value "bogus"'), ("healthy", "requires a healthcheck")])
def test_a_wrong_mode(rl: Rl, mode: str, says: str) -> None:
    done = rl("run", f"--sdnotify={mode}", "busybox", "true")
    assert done.returncode == 125 and says in done.stderr and not rl.containers()


# units ------------------------------------------------------------------------------------------------

UNIT = """[Service]
Type=notify
NotifyAccess={access}
Environment=PATH={path}
ExecStart={rl} run -d --name={name} --replace --network=none --sdnotify={mode} {words}
Restart=no
Delegate=yes
"""


@pytest.fixture(scope="module")
def lab(busybox_archive: Path) -> Iterator[Lab]:
    if os.geteuid():
        pytest.skip("systemd in namespaces of its own takes root")
    with Lab() as lab:
        archive = Path(lab.path("/run/busybox.tar"))
        archive.write_bytes(busybox_archive.read_bytes())
        archive.chmod(0o644)
        lab.ok("rl", "load", "-q", "-i", "/run/busybox.tar")
        yield lab


def unit(lab: Lab, name: str, **values: str) -> None:
    directory = Path(lab.path("/home/alice/.config/systemd/user"))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.service").write_text(UNIT.format(name=name, path=lab.search_path, rl=Path(sys.executable).parent / "rl", **values))
    lab.root("chown", "-R", f"{UID}:{UID}", "/home/alice/.config")
    lab.ok("systemctl", "--user", "daemon-reload")


def begin(lab: Lab, name: str) -> None:
    done = lab.run("systemctl", "--user", "start", name, timeout=30)
    assert done.returncode == 0, done.stderr + lab.run("systemctl", "--user", "status", "--no-pager", "-l", name).stdout


def show(lab: Lab, name: str, *keys: str) -> list[str]:
    text = lab.ok("systemctl", "--user", "show", f"{name}.service", *(f"--property={key}" for key in keys))
    found = dict(line.split("=", 1) for line in text.splitlines())
    return [found[key] for key in keys]


@pytest.mark.parametrize("access", ["main", "all"])
def test_a_service_of_type_notify(lab: Lab, access: str) -> None:
    """It is up when the command runs, its main process is the monitor, and it ends as the container does."""
    words = "busybox sh -c 'trap \"exit 7\" TERM; while :; do sleep 0.05; done'".replace('"', '\\"')
    unit(lab, "web", access=access, mode="conmon", words=words)
    begin(lab, "web")
    active, main = show(lab, "web", "ActiveState", "MainPID")
    assert active == "active" and main == lab.ok("rl", "inspect", "--format", "{{.State.ConmonPid}}", "web")
    lab.ok("systemctl", "--user", "stop", "web", timeout=30)
    assert show(lab, "web", "ExecMainStatus") == ["7"]
    assert lab.ok("rl", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "web") == "exited 7"


def test_a_service_that_says_itself_when_it_is_ready(lab: Lab) -> None:
    mounts = "-v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro"
    program = (
        "import os,socket,time;s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM);time.sleep(0.5);"
        "s.sendto(b'READY=1\\\\nSTATUS=here we are',os.environ['NOTIFY_SOCKET']);time.sleep(60)"
    )
    unit(lab, "own", access="main", mode="container", words=f'--stop-timeout=0 {mounts} busybox /usr/bin/python3 -c "{program}"')
    begin(lab, "own")
    assert show(lab, "own", "ActiveState", "StatusText") == ["active", "here we are"]
    lab.ok("systemctl", "--user", "stop", "own", timeout=30)
    lab.ok("rl", "rm", "--all", "--force", "--time", "0")


#: Obeys SIGTERM with its exit code, as what is not PID 1 does by default.
TERM = ("busybox", "sh", "-c", "trap 'exit 143' TERM; while :; do sleep 0.05; done")


def test_containers_of_before_the_boot(lab: Lab) -> None:
    """contrib/systemd/rl-restart.service starts what its policy says, and not what its user has stopped."""
    text = (Path(__file__).parents[2] / "contrib/systemd/rl-restart.service").read_text()
    text = text.replace("ExecStart=rl", f"ExecStart={Path(sys.executable).parent / 'rl'}")
    path = Path(lab.path("/home/alice/.config/systemd/user/rl-restart.service"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    lab.root("chown", "-R", f"{UID}:{UID}", "/home/alice/.config")
    for name, policy in (("a", "always"), ("b", "unless-stopped"), ("c", "unless-stopped"), ("d", "no"), ("e", "on-failure")):
        lab.ok("rl", "run", "-d", "--network=none", f"--name={name}", f"--restart={policy}", *TERM)
    lab.ok("rl", "stop", "-t", "0", "c")
    pids = lab.ok("rl", "inspect", "--format", "{{.State.ConmonPid}}", "a", "b", "d", "e").split()
    lab.root("kill", "-KILL", *pids)  # as a power cut: nobody could write its end
    lab.ok("systemctl", "--user", "daemon-reload")
    lab.ok("systemctl", "--user", "start", "rl-restart", timeout=30)
    assert sorted(lab.ok("rl", "ps", "--format", "{{.Names}}").split()) == ["a", "b"]
    lab.ok("systemctl", "--user", "stop", "rl-restart", timeout=30)
    assert lab.ok("rl", "ps", "-q") == ""
    assert lab.ok("rl", "inspect", "--format", "{{.State.ExitCode}} {{.State.StoppedByUser}}", "a", "b").split("\n") == ["143 false"] * 2
    lab.ok("systemctl", "--user", "start", "rl-restart", timeout=30)
    assert sorted(lab.ok("rl", "ps", "--format", "{{.Names}}").split()) == ["a", "b"]
    lab.ok("rl", "rm", "--all", "--force", "--time", "0")
