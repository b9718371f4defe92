"""Containers that share namespaces with another one."""

from __future__ import annotations

from system.conftest import Rl, eventually


def test_ipc_of_another_container(rl: Rl) -> None:
    """System V and POSIX shared memory both ways; the first container keeps its own when the second ends."""
    rl.ok("run", "-d", "--name", "first", "--ipc", "shareable", "--network", "none", "busybox", "sh", "-c",
          "echo one > /dev/shm/one; sleep 1000")
    eventually(lambda: rl.ok("exec", "first", "ls", "/dev/shm") == "one")
    inside = "cat /dev/shm/one; echo two > /dev/shm/two; readlink /proc/self/ns/ipc"
    said = rl.ok("run", "--rm", "--ipc", "container:first", "--network", "none", "busybox", "sh", "-c", inside).split()
    assert said == ["one", rl.ok("exec", "first", "readlink", "/proc/self/ns/ipc")]
    assert rl.ok("exec", "first", "cat", "/dev/shm/two") == "two"


def test_network_and_pid_of_another_container(rl: Rl) -> None:
    rl.ok("run", "-d", "--name", "first", "--hostname", "box", "busybox", "sleep", "1234")
    share = ["run", "--rm", "--network", "container:first", "--pid", "container:first", "busybox"]
    assert "sleep 1234" in rl.ok(*share, "ps")
    assert rl.ok(*share, "readlink", "/proc/self/ns/net") == rl.ok("exec", "first", "readlink", "/proc/self/ns/net")
    assert "box" in rl.ok(*share, "cat", "/etc/hosts")


def test_the_other_container_is_started_first(rl: Rl) -> None:
    rl.ok("create", "--name", "idle", "busybox", "sleep", "1000")
    for flag in ("--network", "--pid", "--ipc", "--uts"):
        rl.ok("run", "--rm", flag, "container:idle", "busybox", "true")
        assert rl.ok("inspect", "--format", "{{.State.Status}}", "idle") == "running"
        rl.ok("stop", "-t", "0", "idle")


def test_another_container_that_cannot_be_started(rl: Rl) -> None:
    rl.ok("create", "--name", "broken", "busybox", "/no/such")
    for flag in ("--network", "--pid", "--ipc", "--uts"):
        done = rl("run", "--rm", flag, "container:broken", "busybox", "true")
        assert done.returncode in (125, 127) and "/no/such" in done.stderr and "hint: " in done.stderr
    assert len(rl.containers()) == 1
