"""Logout and reboot."""

from __future__ import annotations

from conftest import Vm

NONE = ("--network", "none")


def test_a_container_survives_the_session_it_was_started_in(vm: Vm) -> None:
    """logind kills what a session leaves behind, here as strictly as it can; the container is not the session's."""
    started = vm.root(
        "su -l user -c 'cat /proc/self/cgroup; ~/venv/bin/rl run -d --network none --name stays busybox sleep 1000;"
        " setsid sleep 4242 >/dev/null 2>&1 &'", 180
    ).splitlines()  # fmt: skip
    session = started[0].rpartition("/")[2]
    assert session.startswith("session-") and session not in vm.sh("cat /proc/self/cgroup"), started
    vm.eventually(f"loginctl --no-legend list-sessions | grep -c '^ *{session[8:-6]} '", "0")
    vm.eventually("pgrep -f 'sleep 424[2]' || echo killed", "killed")  # that it was a logout
    assert vm.ok("ps", "--format", "{{.Names}} {{.State}}") == "stays running"
    assert vm.ok("exec", "stays", "echo", "here") == "here"
    vm.ok("rm", "-f", "-t", "0", "stays")


def test_after_a_reboot(vm: Vm) -> None:
    """Containers are stopped in their own manner, shown as exited with their exit code, and start again."""
    graceful = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.2; done"
    vm.ok("run", "-d", "--name", "graceful", *NONE, "--stop-timeout", "20", "busybox", "sh", "-c", graceful)
    vm.ok("run", "-d", "--name", "stubborn", *NONE, "--stop-timeout", "1", "busybox", "sleep", "1000")
    vm.ok("create", "--name", "never", *NONE, "busybox", "true")
    vm.eventually("rl logs graceful", "ready")
    vm.restart()
    shown = vm.ok("ps", "-a", "--format", "{{.Names}} {{.State}} {{.ExitCode}}").splitlines()
    assert sorted(shown) == ["graceful exited 7", "never created 0", "stubborn exited 137"]
    assert vm.ok("logs", "graceful").splitlines() == ["ready", "bye"]
    vm.ok("start", "graceful", "stubborn", "never")
    assert sorted(vm.ok("ps", "--format", "{{.Names}}").splitlines()) == ["graceful", "stubborn"]
    vm.ok("rm", "-f", "-t", "0", "graceful", "stubborn", "never")
    assert vm.ok("ps", "-aq") == ""
