"""Ways out through other processes: tracing, signals, keys, sockets, terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from escape.conftest import Install, Installation, verdicts
from system.conftest import Rl, eventually

BOX = ("run", "--rm", "--network=none")
GRABS = ("mem", "environ", "root/etc/passwd", "cwd", "exe", "fd/0", "process_vm_readv", "ptrace", "pidfd_getfd", "setns")


@pytest.fixture
def victim(rl: Rl) -> Iterator[int]:
    """A process of the user, outside."""
    with rl.user.popen("sleep", "60", stdin=subprocess.DEVNULL) as process:
        eventually(lambda: os.readlink(f"/proc/{process.pid}/exe").endswith("sleep"))
        yield process.pid
        process.kill()


def test_processes_of_the_host_are_not_there(rl: Rl, victim: int) -> None:
    found = verdicts(rl.ok(*BOX, "--cap-add", "SYS_PTRACE", "attack", "attack", "grab", str(victim)))
    assert set(found.values()) <= {"ENOENT", "ESRCH", "EBADF"}, found


@pytest.mark.parametrize("flags", [(), ("--cap-add=SYS_PTRACE",), ("--privileged",)])
def test_pid_host_shows_processes_but_does_not_open_them(rl: Rl, victim: int, flags: tuple[str, ...]) -> None:
    """Root in the container is the user, but with no power over processes outside of its user namespace."""
    for pid in (victim, 1):
        found = verdicts(rl.ok(*BOX, "--pid=host", *flags, "attack", "attack", "grab", str(pid)))
        assert {name: found[name] for name in GRABS if found[name] == "ok"} == {}, (pid, found)
        assert found["root/etc/shadow"] != "ok"
    assert found["signal"] == "EPERM"  # to the host's init


def test_pid_host_does_not_open_the_monitor(rl: Rl) -> None:
    """It is root of the same user namespace, with all capabilities: only CAP_SYS_PTRACE has power over it."""
    identity = rl.ok("run", "-d", "--network=none", "attack", "sleep", "60")
    monitor = int((rl.run_dir / f"containers/{identity}/lock").read_text())
    found = verdicts(rl.ok(*BOX, "--pid=host", "attack", "attack", "grab", str(monitor)))
    assert {name: found[name] for name in GRABS if found[name] == "ok"} == {}, found


def test_control_the_user_can_open_it(rl: Rl, victim: int, programs: Path) -> None:
    found = verdicts(rl.user.run(programs / "attack", "grab", str(victim), check=True).stdout)
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    attaching = {"mem", "process_vm_readv", "ptrace", "pidfd_getfd"} if yama.exists() and yama.read_text().strip() != "0" else set()
    assert {name for name in GRABS if found[name] == "ok"} == {*GRABS} - {"setns"} - attaching, found


def test_kill_all_hits_the_container_only(rl: Rl, victim: int) -> None:
    """Neither the monitor nor the command line, for run in the foreground, -d and exec."""
    done = rl(*BOX, "attack", "sh", "-c", "sleep 50 & trap '' TERM; kill -9 -1; echo left")
    assert done.stdout == "left\n" and done.returncode == 0, done
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    done = rl("exec", "box", "sh", "-c", "kill -9 -1; kill -9 $PPID; kill -9 0")
    assert done.returncode == 137, done
    assert rl.ok("ps", "-q") and rl.ok("exec", "box", "echo", "there") == "there"
    assert os.path.exists(f"/proc/{victim}")


# Keys

def test_keys_of_the_caller_stay_out(rl: Rl, programs: Path) -> None:
    """run and exec begin with a new session keyring, even where the filter lets all of keyctl(2) through."""
    inside = ["--security-opt", "seccomp=unconfined", "attack", "attack", "keys", "SERIAL"]
    found = verdicts(rl.user.run(programs / "attack", "secret", "rl", *BOX, *inside, check=True).stdout)
    assert found["search"] == "ENOKEY" and found["read"] != "ok", found
    rl.ok("run", "-d", "--name", "box", "--network=none", "--security-opt", "seccomp=unconfined", "attack", "sleep", "60")
    found = verdicts(rl.user.run(programs / "attack", "secret", "rl", "exec", "box", "attack", "keys", "SERIAL", check=True).stdout)
    assert found["search"] == "ENOKEY" and found["read"] != "ok", found


def test_control_keys_outside(rl: Rl, programs: Path) -> None:
    done = rl.user.run(programs / "attack", "secret", programs / "attack", "keys", "SERIAL", check=True)
    found = verdicts(done.stdout)
    assert (found["search"], found["read"]) == ("ok", "ok")


# Abstract sockets (CVE-2020-15257)

@pytest.fixture
def abstract_name() -> Iterator[str]:
    name = f"rl-escape-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b"\0" + name.encode())
        server.listen(8)
        yield name


def test_abstract_sockets_of_the_host(each: Rl, abstract_name: str) -> None:
    for network in ("none", "pasta"):
        found = verdicts(each.ok("run", "--rm", f"--network={network}", "attack", "attack", "abstract", abstract_name))
        assert found == {"connect": "ECONNREFUSED"}, network
    found = verdicts(each.ok("run", "--rm", "--network=host", "attack", "attack", "abstract", abstract_name))
    assert found == {"connect": "ok"}  # the control


@pytest.fixture(params=["user", "root"])
def each(request: pytest.FixtureRequest) -> Rl:
    """An ordinary user, then real root."""
    rl: Rl = request.getfixturevalue("rl" if request.param == "user" else "root_rl")
    return rl


# The caller's terminal: TIOCSTI, TIOCLINUX (CVE-2016-2568 and others)

def _on_terminal(rl: Rl, *command: str | Path) -> tuple[str, bytes]:
    """The command with a terminal of the caller as 0, 1 and 2: what it printed, what was put into the input."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        rl.user.argv(command), env=rl.user.env(), cwd=rl.user.home, stdin=slave, stdout=slave, stderr=slave,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )
    said, end = b"", time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if select.select([master], [], [], 0.1)[0]:
            said += os.read(master, 4096)
    process.kill()
    process.wait()
    while select.select([master], [], [], 0.1)[0]:
        said += os.read(master, 4096)
    os.set_blocking(slave, False)
    mode = termios.tcgetattr(slave)
    mode[3] &= ~termios.ICANON
    termios.tcsetattr(slave, termios.TCSANOW, mode)
    try:
        injected = os.read(slave, 100)
    except BlockingIOError:
        injected = b""
    os.close(master)
    os.close(slave)
    return said.decode().replace("\r", ""), injected


def test_no_injection_into_the_callers_terminal(rl: Rl) -> None:
    """run -i, run -it, exec -i, exec: the container never holds the terminal itself, but a pipe or one of its own."""
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    for command in (
        ("rl", *BOX, "-i", "attack", "attack", "inject"), ("rl", *BOX, "-it", "attack", "attack", "inject"),
        ("rl", *BOX, "attack", "attack", "inject"), ("rl", "exec", "-i", "box", "attack", "inject"),
        ("rl", "exec", "box", "attack", "inject"), ("rl", "exec", "-it", "box", "attack", "inject"),
    ):
        said, injected = _on_terminal(rl, *command)
        assert "TIOCSTI" in said and injected == b"", (command, said, injected)


def test_control_injection_without_container(rl: Rl, programs: Path) -> None:
    said, injected = _on_terminal(rl, programs / "attack", "inject")
    if "TIOCSTI EIO" in said:
        assert Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "0"  # this host forbids it to all
    else:
        assert injected, said


def test_passthrough_of_a_terminal_is_refused(rl: Rl) -> None:
    said, injected = _on_terminal(rl, "rl", *BOX, "--log-driver=passthrough", "attack", "attack", "inject")
    assert "would hand this terminal" in said and injected == b"", said


# Limits and resources of the process

def test_errors_through_the_launcher(install: Install) -> None:
    """The errno of the last execve(2) decides message and exit code, whoever made the call."""
    rl: Installation = install("own")
    rl.ok("run", "-d", "--name", "box", "--network=none", "attack", "sleep", "60")
    for command, code, text in (
        ("/no/such", 127, "no such file"), ("/etc/passwd", 126, "Permission denied"), ("/etc", 126, "directory"),
        ("/etc/not-executable", 126, "Permission denied"), ("nosuch", 127, "not found in $PATH"),
    ):
        for words in ((*BOX, "attack", command), ("exec", "box", command)):
            done = rl(*words)
            assert (done.returncode, text in done.stderr) == (code, True), done


@pytest.mark.parametrize("limit", ["-u 1", "-u 3", "-n 12"])
def test_limits_of_the_caller_say_so(rl: Rl, limit: str) -> None:
    """RLIMIT_NPROC and RLIMIT_NOFILE that are too small for us: an error that names the limit, nothing left behind."""
    done = rl.user.run("bash", "-c", f"ulimit {limit}; exec rl run --rm --network=none attack true")
    assert done.returncode == 125 and f"ulimit {limit[:2]}" in done.stderr and "Traceback" not in done.stderr, done
    assert rl.containers() == []


def test_names_from_an_image_do_not_control_the_terminal(rl: Rl) -> None:
    """A command, as ENTRYPOINT of an image, with control sequences: shown, not executed, by the caller's terminal."""
    name = "/bin/\x1b]0;title\x07\x1b[2J\x9b\ttab é"
    done = rl(*BOX, "attack", name)
    assert done.returncode == 127 and "\\x1b]0;title\\x07" in done.stderr and "é" in done.stderr, done
    assert not {"\x1b", "\x07", "\x9b"} & set(done.stderr)
