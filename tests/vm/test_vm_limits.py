"""Limits that a real kernel enforces, set through systemd's user manager, for an ordinary user from a login session."""

from __future__ import annotations

import re

import pytest

from conftest import Vm
from support.vm_machine import Machine

NONE = ("--network", "none")


def value(vm: Vm, cgroup: str, file: str) -> str:
    return vm.machine.ok("cat", f"{cgroup}/{file}")


def test_where_a_container_is(vm: Vm) -> None:
    """Its scope is the user manager's, not the session's; monitor and container are in leaves of their own."""
    assert re.search(r"/session-\d+\.scope$", vm.sh("cat /proc/self/cgroup"))
    identity = vm.ok("run", "-d", "--name", "here", *NONE, "busybox", "sleep", "1000")
    directory = vm.cgroup("here")
    assert f"/user@1000.service/user.slice/rl-{identity}.scope/container" in directory
    assert vm.machine.ok("systemctl", "--user", "is-active", f"rl-{identity}.scope") == "active"
    assert vm.sh(f"wc -l < {directory}/cgroup.procs") == "1"
    assert int(vm.sh(f"wc -l < {directory}/../supervisor/cgroup.procs")) >= 1
    vm.ok("rm", "-f", "-t", "0", "here")
    vm.eventually(f"ls -d {directory} 2>/dev/null; systemctl --user is-active rl-{identity}.scope", "inactive")


def test_a_memory_hog_is_killed_and_shown_as_such(vm: Vm) -> None:
    done = vm.rl("run", "--name", "hog", *NONE, "-m", "32m", "busybox", "tail", "/dev/zero")
    assert done.returncode == 137, done
    assert vm.ok("inspect", "--format", "{{.State.OOMKilled}} {{.State.ExitCode}}", "hog") == "true 137"
    # The same within its limit, to be sure that it was the limit.
    vm.ok("run", "--rm", *NONE, "-m", "32m", "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=8M", "count=3")
    vm.ok("rm", "hog")


def test_a_process_that_runs_out_of_memory_beside_init(vm: Vm) -> None:
    """init survives its child's end: the exit code is its own, and the kernel's kill is shown all the same."""
    done = vm.rl("run", "--name", "child", *NONE, "-m", "32m", "busybox", "sh", "-c", "tail /dev/zero; echo $?; exit 3")
    assert (done.returncode, done.stdout) == (3, "137\n")
    assert vm.ok("inspect", "--format", "{{.State.OOMKilled}}", "child") == "true"
    vm.ok("rm", "child")


def test_limits_of_a_build(vm: Vm) -> None:
    """RUN has a cgroup with the limits; nothing of it is left."""
    text = "FROM busybox\\nRUN cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max /sys/fs/cgroup/cpu.weight; tail /dev/zero\\n"
    done = vm.sh(f"printf '{text}' | rl build --network=none --no-cache -m 50m -c 2048 - 2>&1 || echo code $?")
    assert str(50 << 20) in done and "code 137" in done and "[Warning]" not in done, done
    assert "rl-" not in vm.sh("ls /sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/*/ 2>/dev/null | grep container || true")


def test_a_fork_bomb_stops_at_the_pid_limit(vm: Vm) -> None:
    bomb = "b() { b | b & }; b; exec sleep 1000"
    vm.ok("run", "-d", "--name", "bomb", *NONE, "--pids-limit", "20", "busybox", "sh", "-c", bomb)
    directory = vm.cgroup("bomb")
    vm.eventually(f"test $(sed -n 's/^max //p' {directory}/pids.events) -gt 0 && echo stopped", "stopped")
    assert int(value(vm, directory, "pids.current")) <= 20
    assert vm.ok("ps", "--format", "{{.Names}}") == "bomb"  # the machine is well
    vm.ok("rm", "-f", "-t", "0", "bomb")
    vm.eventually(f"ls -d {directory} 2>/dev/null; echo gone", "gone")


def test_the_cpu_quota_holds_and_can_be_changed(vm: Vm) -> None:
    """Half a processor is half a processor: measured by the kernel, over seconds of the machine's own clock."""
    vm.ok("run", "-d", "--name", "busy", *NONE, "--cpus", "0.5", "busybox", "sh", "-c", "while :; do :; done")
    directory = vm.cgroup("busy")
    measure = (
        "import time\n"
        f"def used(): return int(open('{directory}/cpu.stat').readline().split()[1]) / 1e6\n"
        "a, t = used(), time.monotonic(); time.sleep(4); print((used() - a) / (time.monotonic() - t))"
    )
    assert value(vm, directory, "cpu.max") == "50000 100000"
    share = float(vm.machine.ok("python3", "-c", measure))
    assert 0.3 < share < 0.6, share
    vm.ok("update", "--cpus", "0.1", "busy")
    assert value(vm, directory, "cpu.max") == "10000 100000"
    share = float(vm.machine.ok("python3", "-c", measure))
    assert 0.03 < share < 0.17, share
    vm.ok("rm", "-f", "-t", "0", "busy")


def test_values_and_updates(vm: Vm) -> None:
    """What each flag writes, and `rl update` on the running container; a later start has the updated limits."""
    flags = ("-m", "64m", "--memory-swap", "64m", "--memory-reservation", "20m", "--pids-limit", "30", "--cpu-shares", "512",
             "--cgroup-conf", "memory.high=60000000")  # fmt: skip
    vm.ok("run", "-d", "--name", "values", *NONE, *flags, "busybox", "sleep", "1000")
    directory = vm.cgroup("values")
    # 512 shares: the conversion of the runtime specification's newer formula, where 1024 is weight 100.
    expected = {"memory.max": str(64 << 20), "memory.swap.max": "0", "memory.low": str(20 << 20), "pids.max": "30",
                "cpu.weight": "59", "memory.high": str(60000000 // 4096 * 4096)}  # fmt: skip
    assert {file: value(vm, directory, file) for file in expected} == expected
    vm.ok("update", "-m", "100m", "--memory-swap", "150m", "--pids-limit", "40", "values")
    changed = {"memory.max": str(100 << 20), "memory.swap.max": str(50 << 20), "pids.max": "40", "memory.low": str(20 << 20)}
    assert {file: value(vm, directory, file) for file in changed} == changed
    vm.ok("stop", "-t", "0", "values")
    vm.ok("start", "values")
    directory = vm.cgroup("values")
    assert {file: value(vm, directory, file) for file in changed} == changed
    vm.ok("rm", "-f", "-t", "0", "values")


LIMITS_OF_OTHERS = (
    (("--cpuset-cpus", "0"), "cpuset"),
    (("--blkio-weight", "100"), "io"),
    (("--device-read-bps", "/dev/vda:1mb"), "io"),
)


def test_what_systemd_does_not_delegate(vm: Vm) -> None:
    """Debian hands cpu, memory and pids to users: the rest is a warning, and with --limits=strict an error with the fix."""
    assert vm.sh("cat /sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers") == "cpu memory pids"
    for flags, controller in LIMITS_OF_OTHERS:
        done = vm.rl("run", "--rm", *NONE, *flags, "busybox", "true")
        assert done.returncode == 0 and f"controller {controller} is not available" in done.stderr, done
    for flags, controller in LIMITS_OF_OTHERS[:2]:
        done = vm.rl("run", "--rm", *NONE, "--limits", "strict", *flags, "busybox", "true")
        assert done.returncode == 125 and controller in done.stderr and "delegate.conf" in done.stderr, done
    assert vm.ok("ps", "-aq") == ""


def test_what_is_delegated_by_the_drop_in_of_the_hint(vm: Vm) -> None:
    """The command that `rl info` shows makes the rest work."""
    hint = vm.ok("info", "--format", "{{.rl.limits.hint}}")
    command, _, then = hint.partition(", and ")
    assert then == "log in again", hint
    vm.root(command.replace("sudo ", ""))
    try:
        vm.root("systemctl restart user@1000.service")
        flags = [word for flags, _ in LIMITS_OF_OTHERS for word in flags]
        done = vm.rl("run", "-d", "--name", "more", *NONE, "--limits", "strict", *flags, "busybox", "sleep", "1000")
        assert done.returncode == 0 and not done.stderr, done
        directory = vm.cgroup("more")
        assert value(vm, directory, "cpuset.cpus") == "0"
        assert vm.ok("exec", "more", "grep", "Cpus_allowed_list", "/proc/self/status").split()[1] == "0"
        assert re.search(r"^\d+:\d+ rbps=1048576 ", value(vm, directory, "io.max"))
        weights = vm.sh(f"cat {directory}/io.bfq.weight {directory}/io.weight 2>/dev/null || true")
        assert re.search(r"^default \d+$", weights, re.MULTILINE) and weights != "default 100", weights
        vm.ok("rm", "-f", "-t", "0", "more")
    finally:
        vm.root("rm -r /etc/systemd/system/user@.service.d; systemctl daemon-reload; systemctl restart user@1000.service")


SMALLEST = 256 << 10  # bytes; the step of the search


def smallest(machine: Machine, *runtime: str) -> int:
    """The least --memory with which `true` runs, in bytes."""
    low, high = 0, (16 << 20) // SMALLEST  # low fails, high works
    while high - low > 1:
        middle = (low + high) // 2
        done = machine.user("rl", *runtime, "run", "--rm", *NONE, "-m", str(middle * SMALLEST), "busybox", "true")
        low, high = (low, middle) if done.returncode == 0 else (middle, high)
    return high * SMALLEST


def test_the_smallest_memory_limit(vm: Vm, capsys: pytest.CaptureFixture[str]) -> None:
    """As low as runc's (and crun's): a container pays for its command, not for who starts it."""
    found = {name: smallest(vm.machine, "--runtime", name) for name in ("rl", "crun", "runc")}
    with capsys.disabled():
        print(f"\nsmallest memory limit under which `true` runs: {', '.join(f'{n} {b >> 10} KiB' for n, b in found.items())}")
    assert found["rl"] <= found["runc"] + SMALLEST, found
    done = vm.machine.user("rl", "run", "--rm", *NONE, "-m", str(SMALLEST), "busybox", "true")  # less than enough: told
    assert done.returncode == 125 and "memory limit may be too small: raise --memory" in done.stderr, done.stderr
    assert vm.ok("ps", "-aq") == ""


def test_stats_are_the_cgroups(vm: Vm) -> None:
    vm.ok("run", "-d", "--name", "used", *NONE, "-m", "64m", "busybox", "sh", "-c",
          "sleep 1000 & dd if=/dev/zero of=/dev/null bs=16M count=20; sleep 1000; true")
    directory = vm.cgroup("used")
    vm.eventually("rl stats --no-stream --format '{{.PIDs}}' used", "3")
    fields = "{{.MemLimit}} {{.MemPerc}} {{.PIDs}} {{.CPUNano}} {{.MemUsage}}"
    limit, share, pids, cpu, usage = vm.ok("stats", "--no-stream", "--format", fields, "used").split(" ", 4)
    assert (limit, pids, usage.partition(" / ")[2]) == ("67108864", "3", "67.11MB")
    assert 0 < float(share.rstrip("%")) < 100
    used = int(re.search(r"usage_usec (\d+)", value(vm, directory, "cpu.stat")).group(1))  # type: ignore[union-attr]
    assert 0 < int(cpu) <= used * 1000
    vm.ok("rm", "-f", "-t", "0", "used")
