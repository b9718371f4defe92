"""rl exec against a container that runs, with the records the engine keeps about it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rl
from rl.config.paths import Paths
from rl.engine.context import Engine
from rl.engine.exec import exec_
from rl.errors import CommandNotFoundError, RlError, StateError, UsageError
from rl.kernel import process as kp
from rl.runtime import container, userns
from rl.runtime.sync import Io
from unit.runtime.container_lab import make_lab, read_until, specification

ID = "c0ffee" + "0" * 58


class Box:
    """A running container named box, and its monitor."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.lab = make_lab(base)
        self.engine = Engine(Paths(f"{base}/data", f"{base}/run", f"{base}/config", f"{base}/cache"))
        paths = self.engine.paths
        paths.ensure()
        self.directory = Path(paths.container(ID))
        (self.directory / "bundle").mkdir(parents=True)
        os.makedirs(paths.container_run(ID))
        os.symlink(f"../containers/{ID}", f"{paths.names}/box")
        self.write("config.json", {
            "id": ID, "name": "box", "env": ["COLOR=red"], "cap_add": ["NET_RAW"], "cap_drop": [], "privileged": False,
            "user": "",
        })
        spec = specification(["sleep", "60"])
        spec["root"]["path"] = str(self.lab.root)
        spec["process"]["env"] += ["COLOR=red", "HOME=/root"]
        self.write("bundle/config.json", spec)
        read_end, write_end = os.pipe()
        self.monitor = os.fork()
        if self.monitor == 0:
            try:
                self._monitor(spec, write_end)
            finally:
                os._exit(1)
        os.close(write_end)
        assert os.read(read_end, 1) == b"1"
        os.close(read_end)

    def _monitor(self, spec: dict[str, Any], ready: int) -> None:
        paths = self.engine.paths
        lock = os.open(f"{paths.container_run(ID)}/lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        userns.enter(paths.run, lock)
        null = os.open("/dev/null", os.O_RDWR)
        created = container.create(str(self.directory / "bundle"), spec, Io(null, null, null))
        container.start(created)
        self.state("running", created.pid)
        os.write(ready, b"1")
        os.waitpid(created.pid, 0)

    def state(self, status: str, pid: int) -> None:
        start = kp.start_time(pid)
        self.write("state.json", {"status": status, "pid": pid, "pid_start": start, "boot_id": kp.boot_id()})

    def write(self, name: str, value: object) -> None:
        (self.directory / name).write_text(json.dumps(value))

    def end(self) -> None:
        os.kill(self.monitor, 9)
        os.waitpid(self.monitor, 0)

    def command(self, options: dict[str, Any], *command: str) -> list[str]:
        """A command line that calls exec_ as the real one does."""
        paths = self.engine.paths
        program = (
            "import sys\nfrom rl.config.paths import Paths\nfrom rl.engine.context import Engine\n"
            "from rl.engine.exec import exec_\nfrom rl.errors import RlError\n"
            f"e = Engine(Paths({paths.data!r}, {paths.run!r}, {paths.config!r}, {paths.cache!r}))\n"
            "try:\n"
            f"    r = exec_(e, 'box', {list(command)!r}, **{options!r})\n"
            "except RlError as error:\n    print(error.message, file=sys.stderr)\n    sys.exit(error.exit_code)\n"
            "if isinstance(r, str):\n    print(r)\n    r = 0\nsys.exit(r)\n"
        )
        return [sys.executable, "-c", program]

    def run(self, options: dict[str, Any], *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        argv = self.command(options, *command)
        return subprocess.run(argv, input=stdin, capture_output=True, timeout=20, check=False, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(rl.__file__))}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    yield made
    made.end()


@pytest.mark.parametrize(
    ("options", "command", "code", "output"),
    [
        ({}, ["sh", "-c", "hostname; pwd; echo $HOME $COLOR"], 0, "box\n/\n/root red\n"),
        ({"env": ["COLOR=blue", "A=1"]}, ["sh", "-c", "echo $COLOR $A"], 0, "blue 1\n"),
        ({"workdir": "/srv"}, ["pwd"], 0, "/srv\n"),
        ({}, ["sh", "-c", "exit 42"], 42, ""),
        ({}, ["sh", "-c", "kill -9 $$"], 137, ""),
        ({}, ["cat"], 0, ""),
        ({"interactive": True}, ["cat"], 0, "from stdin"),
        ({}, ["no-such-program"], 127, ""),
        ({}, ["/etc/passwd"], 126, ""),
        ({"workdir": "/not/there"}, ["true"], 127, ""),
        ({"user": "ghost"}, ["true"], 125, ""),
    ],
)
def test_exec(box: Box, options: dict[str, Any], command: list[str], code: int, output: str) -> None:
    result = box.run(options, *command, stdin=b"from stdin")
    assert (result.returncode, result.stdout.decode()) == (code, output), result.stderr
    assert bool(result.stderr) == (code in (125, 126, 127))


def test_another_user(box: Box) -> None:
    result = box.run({"user": "web"}, "sh", "-c", "id; echo $HOME; grep CapEff /proc/self/status")
    if b"become group 33" in result.stderr:
        pytest.skip("this user has no subordinate ids (/etc/subuid)")
    assert result.stdout.decode().splitlines()[:2] == ["uid=33(web) gid=33(web) groups=33(web),44(log)", "/srv"]
    # as podman does: what --cap-add gave was for the container's own user
    assert int(result.stdout.split()[-1], 16) == 0
    record = json.loads((box.directory / "config.json").read_text())
    box.write("config.json", {**record, "user": "web"})
    result = box.run({"user": "web"}, "grep", "CapEff", "/proc/self/status")
    assert int(result.stdout.split()[-1], 16) == 1 << 13


def test_privileged(box: Box) -> None:
    effective = int(box.run({"privileged": True}, "grep", "CapEff", "/proc/self/status").stdout.split()[1], 16)
    normal = int(box.run({}, "grep", "CapEff", "/proc/self/status").stdout.split()[1], 16)
    assert effective & normal == normal and effective >> 21 & 1 and not normal >> 21 & 1


def test_megabytes_pass(box: Box) -> None:
    data = os.urandom(3 << 20)
    assert box.run({"interactive": True}, "cat", stdin=data).stdout == data


def test_preserved_descriptors(box: Box) -> None:
    (box.base / "third").write_text("third\n")
    argv = box.command({"preserve_fds": 1}, "sh", "-c", "cat <&3")
    result = subprocess.run(
        ["/bin/sh", "-c", f'exec 3<{box.base}/third; exec "$@"', "sh", *argv],
        capture_output=True, timeout=20, check=False, env=environment(),
    )
    assert result.stdout == b"third\n", result.stderr
    assert box.run({"preserve_fds": 2}, "true").returncode == 125


class Terminal:
    """`rl exec -it` on a terminal of its own."""

    def __init__(self, box: Box, options: dict[str, Any], *command: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(OSError):
                argv = box.command({"tty": True, "interactive": True, **options}, *command)
                os.execve(argv[0], argv, environment())
            os._exit(99)

    def say(self, text: bytes, until: bytes) -> bytes:
        os.write(self.fd, text)
        return read_until(self.fd, until)

    def end(self) -> int:
        read_until(self.fd, b"never said", 10)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_a_shell_on_a_terminal(box: Box) -> None:
    terminal = Terminal(box, {}, "sh", "-c", "echo ready; exec sh")
    assert b"ready" in read_until(terminal.fd, b"ready")
    assert b"/dev/pts/0" in terminal.say(b"tty\n", b"/dev/pts/0")
    fcntl.ioctl(terminal.fd, 0x5414, struct.pack("=HHHH", 31, 99, 0, 0))
    os.kill(terminal.pid, signal.SIGWINCH)
    time.sleep(0.3)
    assert b"31 99" in terminal.say(b"stty size\n", b"31 99")
    terminal.say(b"echo $((40+2))go; sleep 30\n", b"42go")
    time.sleep(0.3)
    assert b"was130" in terminal.say(b"\x03echo was$?\n", b"was130"), "job control: ctrl-c ends sleep, not the shell"
    os.write(terminal.fd, b"exit 4\n")
    assert terminal.end() == 4


def test_detaching_leaves_it_running(box: Box) -> None:
    script = "echo ready; read line; sleep 2; echo $line > /tmp/said"
    terminal = Terminal(box, {"detach_keys": "ctrl-a,x"}, "sh", "-c", script)
    read_until(terminal.fd, b"ready")
    os.write(terminal.fd, b"hello\n\x01x")
    assert terminal.end() == 0
    said = box.lab.root / "tmp/said"
    assert not said.exists()
    end = time.monotonic() + 8
    while not said.exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.1)
    assert said.read_text() == "hello\n"


@pytest.mark.parametrize("tty", [False, True])
def test_detached(box: Box, tty: bool) -> None:
    began = time.monotonic()
    script = "sleep 4; head -c 300000 /dev/zero; echo x > /tmp/done"
    result = box.run({"detach": True, "tty": tty}, "sh", "-c", script)
    assert time.monotonic() - began < 3.5
    assert result.returncode == 0 and len(result.stdout.strip()) == 64
    done = box.lab.root / "tmp/done"
    end = time.monotonic() + 12
    while not done.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert done.exists()
    failed = box.run({"detach": True}, "no-such-program")
    assert failed.returncode == 127 and b"no-such-program" in failed.stderr


def test_only_running_containers(box: Box) -> None:
    state = json.loads((box.directory / "state.json").read_text())
    for change in ({"status": "paused"}, {"status": "exited"}, {"status": "created"}, {"pid_start": 1}):
        box.write("state.json", {**state, **change})
        with pytest.raises(StateError, match="can only create exec sessions on running containers"):
            exec_(box.engine, "box", ["true"])


def test_bad_requests(box: Box) -> None:
    for options in ({"workdir": "relative"}, {"preserve_fds": 900}, {"detach_keys": "ctrl-ctrl"}):
        with pytest.raises(UsageError):
            exec_(box.engine, "box", ["true"], **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        exec_(box.engine, "box", [])
    with pytest.raises(CommandNotFoundError):
        exec_(box.engine, "box", [""])
    (box.directory / "bundle/config.json").write_text("{")
    with pytest.raises(RlError, match=r"bundle/config\.json"):
        exec_(box.engine, "box", ["true"])
