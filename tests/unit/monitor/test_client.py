"""rl.monitor.client against the real monitor."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from rl.errors import RlError
from rl.monitor import client, terminal
from unit.monitor.harness import Monitored, eventually, read_until


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def relay(m: Monitored, **options: object) -> tuple[int, bytes, bytes]:
    """Relay the first client in this process; exit code, standard output, standard error."""
    out, err = os.memfd_create("out"), os.memfd_create("err")
    code = client.relay(m.client.detach(), stdout=out, stderr=err, **options)  # type: ignore[arg-type]
    texts = []
    for fd in (out, err):
        texts.append(os.pread(fd, os.fstat(fd).st_size, 0))
        os.close(fd)
    m.wait()
    return code, texts[0], texts[1]


def test_relay(tmp_path: Path) -> None:
    m = Monitored(str(tmp_path), sh("cat; echo err >&2; exit 3"), stdin=True, attach=True)
    r, w = os.pipe()
    os.write(w, b"in\n")
    os.close(w)
    assert relay(m, stdin=r) == (3, b"in\n", b"err\n")
    os.close(r)


def test_big_input_from_file(tmp_path: Path) -> None:
    """More than every buffer on the way holds, through a filter, and back."""
    data = os.urandom(1 << 20) * 20
    (tmp_path / "input").write_bytes(data)
    m = Monitored(str(tmp_path), ["cat"], stdin=True, attach=True, log={"driver": "none"})
    with open(tmp_path / "input", "rb") as file:
        code, out, _ = relay(m, stdin=file.fileno())
    assert code == 0 and hashlib.sha256(out).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("by_pid", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_signals_are_proxied(tmp_path: Path, number: int, by_pid: bool) -> None:
    m = Monitored(
        str(tmp_path), sh(f"trap 'exit 42' {int(number)}; echo ready; while :; do sleep 0.02; done"), attach=True
    )
    read_until(m.client, b"ready")
    before = signal.getsignal(number)
    child = os.fork()
    if not child:
        time.sleep(0.1)
        os.kill(os.getppid(), number)
        os._exit(0)
    assert relay(m, pid=m.init if by_pid else 0)[0] == 42
    os.waitpid(child, 0)
    assert signal.getsignal(number) == before


def test_stdout_breaks(tmp_path: Path) -> None:
    """The caller's reader goes away: the relay ends, the container goes on."""
    m = Monitored(str(tmp_path), sh("yes | head -c 10000000; exit 5"), attach=True)
    r, w = os.pipe()
    os.close(r)
    with pytest.raises(BrokenPipeError):
        client.relay(m.client.detach(), stdout=w)
    os.close(w)
    assert m.wait()["exit_code"] == 5


def test_nonblocking_stdout(tmp_path: Path) -> None:
    m = Monitored(str(tmp_path), sh("seq 1 50000"), attach=True)
    r, w = os.pipe()
    os.set_blocking(w, False)
    child = os.fork()
    if not child:
        os.close(w)
        total = 0
        while data := os.read(r, 1 << 16):
            total += len(data)
            time.sleep(0.001)
        os._exit(0 if total == 288894 else 1)
    os.close(r)
    assert client.relay(m.client.detach(), stdout=w) == 0
    os.close(w)
    assert os.waitpid(child, 0)[1] == 0
    m.wait()


def test_monitor_killed(tmp_path: Path) -> None:
    m = Monitored(str(tmp_path), sh("sleep 60"), attach=True)
    child = os.fork()
    if not child:
        time.sleep(0.2)
        os.kill(m.pid, signal.SIGKILL)
        os._exit(0)
    with pytest.raises(RlError, match="monitor is gone"):
        client.relay(m.client.detach(), stdout=1)
    os.waitpid(child, 0)
    os.waitpid(m.pid, 0)


def test_terminal_session(tmp_path: Path) -> None:
    """A person at a terminal: raw mode, size, resize, detach keys, attaching again; the terminal is as before."""
    m = Monitored(
        str(tmp_path),
        sh("trap 'stty size' WINCH; echo ready; while :; do read x && echo got:$x:$(stty size); done"),
        terminal=True,
        stdin=True,
        attach=True,
    )
    master, slave = os.openpty()
    terminal.set_window_size(master, 30, 90)
    before = termios.tcgetattr(slave)

    def session(fd: int, redraw: bool) -> int:
        pid = os.fork()
        if not pid:
            os.setsid()
            import fcntl

            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            signal.alarm(20)
            result = client.attach(fd, stdin=slave, stdout=slave, stderr=slave, tty=True, redraw=redraw)
            os._exit({"exited": 10, "detached": 20, "lost": 30}[result.kind])
        return pid

    first = session(m.client.fileno(), False)
    m.client.close()
    assert _see(master, b"ready")
    os.write(master, b"hi\r")
    assert _see(master, b"got:hi:30 90")
    terminal.set_window_size(master, 31, 91)
    assert _see(master, b"31 91")
    os.write(master, b"hello\r")
    assert _see(master, b"got:hello")
    os.write(master, b"\x10")
    os.write(master, b"\x11")
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 20
    assert termios.tcgetattr(slave) == before
    second = session(client.connect(m.run, stdin=True, stdout=True, stderr=True), True)
    assert _see(master, b"31 91")  # repainted though the size is the same
    os.write(master, b"again\r")
    assert _see(master, b"got:again")
    os.write(master, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]) == 10
    assert termios.tcgetattr(slave) == before
    assert m.wait()["exit_code"] == 130
    os.close(master)
    os.close(slave)


def _see(fd: int, text: bytes) -> bool:
    seen = b""
    while text not in seen:
        assert select.select([fd], [], [], 10)[0], seen
        seen += os.read(fd, 4096)
    return True


def end_of(run_dir: str) -> dict[str, Any] | None:
    """What an ExitWatch tells at the end."""
    watch = client.ExitWatch(run_dir)
    while watch.fd >= 0:
        assert select.select([watch.fd], [], [], 10)[0]
        watch.ended()
    return watch.info


def test_exit_watch(tmp_path: Path) -> None:
    m = Monitored(str(tmp_path), sh("sleep 0.3; exit 8"))
    watch = client.ExitWatch(m.run)
    assert not select.select([watch.fd], [], [], 0.05)[0]
    watch.close()
    assert end_of(m.run) == {"exit_code": 8, "oom_killed": False, "error": ""}
    m.wait()
    assert end_of(m.run) is None


def test_exit_watch_of_a_killed_monitor(tmp_path: Path) -> None:
    for break_socket in (False, True):
        m = Monitored(str(tmp_path), sh("sleep 60"))
        if break_socket:
            os.unlink(f"{m.run}/attach")
        child = os.fork()
        if not child:
            time.sleep(0.2)
            os.kill(m.pid, signal.SIGKILL)
            os._exit(0)
        assert end_of(m.run) is None
        os.waitpid(child, 0)
        os.waitpid(m.pid, 0)
        _gone(m.init)


def _gone(pid: int) -> None:
    stat = Path(f"/proc/{pid}/stat")
    eventually(lambda: not stat.exists() or b") Z" in stat.read_bytes())


def test_imports_little() -> None:
    """The client is on the path of run and start (docs/architecture.md, "Start-up rules")."""
    import subprocess

    code = "import sys; import rl.monitor.client; print(*sys.modules)"
    names = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    ).stdout.split()
    heavy = {"socket", "signal", "enum", "re", "json", "typing", "dataclasses", "subprocess", "contextlib", "termios"}
    assert not heavy & set(names)
