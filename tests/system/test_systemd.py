"""rl on a host with systemd: a scope for each container, its layout, its end, and what the flags make of it.

That limits hold is tested where there are controllers, in tests/vm.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import images
from support.systemd_lab import UID, Lab
from system.conftest import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="systemd in namespaces of its own takes root")

MANAGER = f"/user.slice/user-{UID}.slice/user@{UID}.service"
CGROUP = ("sh", "-c", "grep ^0:: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | wc -l")
#: Says which signal ended it.
TRAPS = ("sh", "-c", "trap 'echo term; exit 7' TERM; trap 'echo usr1; exit 8' USR1; echo up; while :; do sleep 0.05; done")


@pytest.fixture(scope="module")
def _lab(busybox_archive: Path) -> Iterator[Lab]:
    with Lab() as lab:
        archive = Path(lab.path("/run/busybox.tar"))
        archive.write_bytes(busybox_archive.read_bytes())
        archive.chmod(0o644)
        lab.ok("rl", "load", "-q", "-i", "/run/busybox.tar")
        yield lab


@pytest.fixture
def lab(_lab: Lab) -> Iterator[Lab]:
    """After each test nothing may be left: no unit, no cgroup."""
    yield _lab
    _lab.run("rl", "rm", "--all", "--force", "--time", "0")
    eventually(lambda: units(_lab) == [], 5)
    eventually(lambda: cgroups(_lab) == [], 5)


def units(lab: Lab) -> list[str]:
    return [line.split()[0] for line in lab.ok("systemctl", "--user", "list-units", "--all", "--plain", "--no-legend", "rl-*").splitlines()]


def cgroups(lab: Lab) -> list[str]:
    return lab.root("find", "/sys/fs/cgroup", "-name", "rl-*").stdout.split()


def cgroup_of(lab: Lab, pid: int) -> str:
    lines = lab.root("cat", f"/proc/{pid}/cgroup").stdout.splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def state(lab: Lab, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(lab.ok("rl", "inspect", name))[0]["State"]
    return found


def until_up(lab: Lab, name: str) -> None:
    eventually(lambda: "up" in lab.ok("rl", "logs", name))


def test_layout(lab: Lab) -> None:
    identity = lab.ok("rl", "run", "-d", "--name", "web", "busybox", "sleep", "1000")
    scope = f"{MANAGER}/user.slice/rl-{identity}.scope"
    seen = state(lab, "web")
    assert seen["CgroupPath"] == f"{scope}/container"
    assert cgroup_of(lab, int(str(seen["Pid"]))) == f"{scope}/container"
    assert cgroup_of(lab, int(str(seen["ConmonPid"]))) == f"{scope}/supervisor"
    helpers = lab.root("pgrep", "-f", "^/usr/bin/pasta").stdout.split()
    assert helpers and {cgroup_of(lab, int(pid)) for pid in helpers} == {f"{scope}/supervisor"}
    assert units(lab) == [f"rl-{identity}.scope"]
    status = lab.ok("systemctl", "--user", "status", "--no-pager", "rl-*.scope")
    assert "sleep 1000" in status and f"rl container {identity[:12]}" in status
    shown = lab.ok("systemctl", "--user", "show", f"rl-{identity}.scope", "--property=Delegate,CollectMode,Slice,TimeoutStopUSec")
    assert sorted(shown.split()) == ["CollectMode=inactive-or-failed", "Delegate=yes", "Slice=user.slice", "TimeoutStopUSec=20s"]
    assert json.loads(lab.ok("rl", "inspect", "web"))[0]["HostConfig"]["CgroupManager"] == "systemd"


def test_survives_logout_unlike_a_monitor_left_in_the_session(lab: Lab) -> None:
    """Each command is a login of its own, and logind kills what it leaves in its session."""
    lab.ok("rl", "run", "-d", "--name", "stays", "busybox", "sleep", "1000")
    lab.run("rl", "run", "-d", "--name", "goes", "--cgroups=no-conmon", "--network=none", "--stop-timeout=1", "busybox", "sleep", "1000")
    eventually(lambda: state(lab, "goes")["Status"] == "exited")
    assert state(lab, "stays")["Status"] == "running"
    assert lab.ok("rl", "exec", "stays", "echo", "here") == "here"


def test_systemctl_stop_is_orderly(lab: Lab) -> None:
    """The container gets its stop signal and nothing else, from its monitor; its end is recorded as ever."""
    lab.ok("rl", "run", "-d", "--name", "a", *("busybox", *TRAPS))
    lab.ok("rl", "run", "-d", "--name", "b", "--stop-signal", "USR1", *("busybox", *TRAPS))
    for name in "ab":
        until_up(lab, name)
    began = time.monotonic()
    lab.ok("systemctl", "--user", "stop", "rl-*.scope")
    assert time.monotonic() - began < 8
    assert lab.ok("rl", "logs", "a").split() == ["up", "term"]
    assert lab.ok("rl", "logs", "b").split() == ["up", "usr1"]
    assert (state(lab, "a")["ExitCode"], state(lab, "b")["ExitCode"]) == (7, 8)
    assert units(lab) == []


def test_systemctl_stop_of_one_that_does_not_listen(lab: Lab) -> None:
    """The monitor kills it when the container's own time is over, well before systemd's is."""
    lab.ok("rl", "run", "-d", "--name", "deaf", "--stop-timeout", "1", "--network=none", "busybox", "sleep", "1000")
    began = time.monotonic()
    lab.ok("systemctl", "--user", "stop", "rl-*.scope")
    assert 0.9 < time.monotonic() - began < 9
    assert state(lab, "deaf")["ExitCode"] == 137


def test_nothing_is_left_when_the_monitor_is_killed(lab: Lab) -> None:
    lab.ok("rl", "run", "-d", "--name", "victim", "busybox", "sleep", "1000")
    assert lab.root("kill", "-KILL", str(state(lab, "victim")["ConmonPid"])).returncode == 0
    eventually(lambda: units(lab) == [], 5)
    assert state(lab, "victim")["Status"] == "exited"
    assert cgroups(lab) == []


def test_start_again_at_once(lab: Lab) -> None:
    """The scope of the run before may still be on its way out."""
    lab.ok("rl", "create", "--name", "again", "--network=none", "busybox", "true")
    script = "for i in 1 2 3 4 5 6; do rl start -a again || exit 1; done"
    assert lab.run("sh", "-c", script, check=True).stderr == ""


def test_exec_from_a_login_session_enters_the_container_s_cgroup(lab: Lab) -> None:
    lab.ok("rl", "run", "-d", "--name", "c", "--network=none", "busybox", "sleep", "1000")
    done = lab.run("rl", "exec", "c", *CGROUP, check=True)
    assert done.stdout.split()[0] == "0::/" and done.stderr == ""


@pytest.mark.parametrize("runtime", ["rl", "crun", "runc"])
@pytest.mark.parametrize("mode", ["enabled", "no-conmon"])
def test_every_runtime(lab: Lab, runtime: str, mode: str) -> None:
    """The container sees its own cgroup as the root, with nobody else in it."""
    show = "grep SigBlk /proc/self/status; echo up; exec sleep 1000"
    command = ("rl", "--runtime", runtime, "run", "--network=none", "--cgroups", mode, "--name", "c", "-d", "busybox", "sh", "-c", show)
    # In a scope of its own: with no-conmon the monitor would end with the login session.
    identity = lab.ok("systemd-run", "--user", "--scope", "--quiet", *command)
    place = f"{MANAGER}/user.slice/rl-{identity}.scope"
    seen = state(lab, "c")
    assert cgroup_of(lab, int(str(seen["Pid"]))) == seen["CgroupPath"] == f"{place}/container"
    assert (f"{place}/supervisor" == cgroup_of(lab, int(str(seen["ConmonPid"])))) == (mode == "enabled")
    assert lab.ok("rl", "exec", "c", "grep", "^0::", "/proc/1/cgroup") == "0::/"
    until_up(lab, "c")
    assert lab.ok("rl", "logs", "c").split()[1] == "0" * 16  # the monitor's blocked signals are not the container's


def test_as_a_service(lab: Lab) -> None:
    """`rl run -d` is the service: it lives as long as the container, and to stop it is to stop that."""
    service = ("systemd-run", "--user", "--quiet", "--unit=svc", "--property=Type=forking", "--setenv=PATH=" + lab.search_path)
    lab.ok(*service, "rl", "run", "-d", "--network=none", "--name", "c", *("busybox", *TRAPS))
    until_up(lab, "c")
    seen = state(lab, "c")
    assert cgroup_of(lab, int(str(seen["ConmonPid"]))) == f"{MANAGER}/app.slice/svc.service"
    assert cgroup_of(lab, int(str(seen["Pid"]))).startswith(f"{MANAGER}/user.slice/rl-")
    assert lab.ok("systemctl", "--user", "is-active", "svc") == "active"
    lab.ok("systemctl", "--user", "stop", "svc")
    eventually(lambda: state(lab, "c")["Status"] == "exited", 5)
    assert lab.ok("rl", "logs", "c").split() == ["up", "term"] and state(lab, "c")["ExitCode"] == 7


def test_disabled(lab: Lab) -> None:
    lab.ok("systemd-run", "--user", "--scope", "--quiet", "--unit=own",
           "rl", "run", "-d", "--network=none", "--cgroups=disabled", "--name", "c", "busybox", "sleep", "1000")  # fmt: skip
    seen = state(lab, "c")
    assert seen["CgroupPath"] == "" and units(lab) == []
    assert cgroup_of(lab, int(str(seen["Pid"]))).endswith("/own.scope")
    done = lab.run("rl", "run", "--rm", "--network=none", "--cgroups=disabled", "-m", "64m", "busybox", "true")
    assert done.returncode == 0 and "limits are not enforced: --cgroups=disabled" in done.stderr
    done = lab.run("rl", "update", "-m", "64m", "c")
    assert done.returncode == 125 and "has no cgroup" in done.stderr


def test_split(lab: Lab) -> None:
    """The unit's own cgroup is divided: the monitor on one side, the container on the other."""
    own = ("systemd-run", "--user", "--scope", "--quiet", "--unit=own", "--property=Delegate=yes")
    command = ("rl", "run", "-d", "--network=none", "--cgroups=split", "--name", "c", "busybox", "sleep", "1000")
    lab.ok(*own, *command)
    seen = state(lab, "c")
    place = f"{MANAGER}/app.slice/own.scope"
    assert seen["CgroupPath"] == cgroup_of(lab, int(str(seen["Pid"]))) == f"{place}/container"
    assert cgroup_of(lab, int(str(seen["ConmonPid"]))) == f"{place}/supervisor"
    assert units(lab) == []
    lab.ok("rl", "rm", "-f", "-t", "0", "c")
    eventually(lambda: lab.run("systemctl", "--user", "is-active", "own.scope").stdout.strip() != "active", 5)


@pytest.mark.parametrize(
    ("unit", "flags", "says"),
    [
        ((), ("--cgroups=split",), "is not delegated"),
        (("systemd-run", "--user", "--scope", "--quiet"), ("--cgroups=split",), "without Delegate=yes"),
        ((), ("--cgroups=split", "--cgroup-parent=a.slice"), "--cgroup-parent cannot be used with --cgroups=split"),
        ((), ("--cgroups=disabled", "--cgroup-parent=a.slice"), "--cgroup-parent cannot be used with --cgroups=disabled"),
        ((), ("--cgroups=disabled", "--cgroupns=host"), "--cgroupns cannot be used with --cgroups=disabled"),
        ((), ("--cgroup-parent=/some/where",), "is not the name of a systemd slice"),
        ((), ("--cgroup-parent=a--b.slice",), "is not the name of a systemd slice"),
        ((), ("--cgroup-parent=../x.slice",), "must not contain .."),
    ],
)
def test_refused(lab: Lab, unit: tuple[str, ...], flags: tuple[str, ...], says: str) -> None:
    done = lab.run(*unit, "rl", "run", "--rm", "--network=none", *flags, "busybox", "true")
    assert done.returncode == 125 and says in done.stderr and "hint:" in done.stderr, done


def test_cgroup_parent(lab: Lab) -> None:
    identity = lab.ok("rl", "run", "-d", "--network=none", "--cgroup-parent=batch-night.slice", "--name", "c", "busybox", "sleep", "1000")
    assert state(lab, "c")["CgroupPath"] == f"{MANAGER}/batch.slice/batch-night.slice/rl-{identity}.scope/container"
    assert json.loads(lab.ok("rl", "inspect", "c"))[0]["HostConfig"]["CgroupParent"] == "batch-night.slice"


def test_plain_cgroups_by_name(lab: Lab) -> None:
    """--cgroup-manager=cgroupfs: in the caller's own subtree, which a login session is not."""
    own = ("systemd-run", "--user", "--scope", "--quiet", "--unit=own", "--property=Delegate=yes")
    command = ("rl", "--cgroup-manager=cgroupfs", "run", "-d", "--network=none", "--name", "c", "busybox", "sleep", "1000")
    identity = lab.ok(*own, *command)
    seen = state(lab, "c")
    assert seen["CgroupPath"] == cgroup_of(lab, int(str(seen["Pid"]))) == f"{MANAGER}/app.slice/own.scope/rl-{identity}"
    lab.ok("rl", "rm", "-f", "-t", "0", "c")
    assert "/supervisor" not in " ".join(cgroups(lab))
    done = lab.run("rl", "--cgroup-manager=cgroupfs", "run", "--rm", "--network=none", "--cgroup-parent=a.slice", "busybox", "true")
    assert done.returncode == 125 and "no systemd is used" in done.stderr


def test_limits_without_controllers(lab: Lab) -> None:
    """A notice, once, with the drop-in that helps; an error where strictness was asked for; never silence."""
    done = lab.run("rl", "run", "--rm", "--network=none", "-m", "64m", "--pids-limit", "9", "busybox", "true")
    assert done.returncode == 0 and done.stderr.count("Warning") == 1
    assert "memory limit 64 MiB: controller memory is not available; pids limit 9: " in done.stderr
    assert "/etc/systemd/system/user@.service.d/delegate.conf" in done.stderr
    done = lab.run("rl", "--limits=strict", "run", "--rm", "--network=none", "-m", "64m", "busybox", "true")
    assert done.returncode == 125 and "memory limit 64 MiB" in done.stderr
    assert lab.ok("rl", "ps", "-aq") == ""


def test_cpus_are_bound_where_no_controller_does_it(lab: Lab) -> None:
    """The one limit that can be had otherwise; it is told, holds for exec too, and strict is strict."""
    done = lab.run("rl", "run", "-d", "--network=none", "--cpuset-cpus", "0", "--name", "c", "busybox", "sleep", "1000")
    assert done.returncode == 0
    assert "CPU affinity binds it to CPUs 0 instead" in done.stderr and "controller cpuset is not available" in done.stderr
    allowed = ("grep", "Cpus_allowed_list", "/proc/1/status", "/proc/self/status")
    assert [line.split()[1] for line in lab.ok("rl", "exec", "c", *allowed).splitlines()] == ["0", "0"]
    done = lab.run("rl", "run", "--rm", "--network=none", "--cpuset-cpus", "4000", "busybox", "true")
    assert done.returncode == 125 and "bind the container to CPUs 4000" in done.stderr
    done = lab.run("rl", "--limits=strict", "run", "--rm", "--network=none", "--cpuset-cpus", "0", "busybox", "true")
    assert done.returncode == 125


def test_update(lab: Lab) -> None:
    lab.ok("rl", "run", "-d", "--name", "c", "--network=none", "busybox", "sleep", "1000")
    for arguments, says in (
        (("-m", "64m", "c"), "memory limit 64 MiB: controller memory is not available"), (("c",), "nothing to change"),
        (("-m", "64m", "nobody"), "no such container"), (("-m", "many", "c"), "is not a size"),
        (("--memory-swappiness", "7", "c"), "cgroup v2 has no such setting"),
    ):  # fmt: skip
        done = lab.run("rl", "update", *arguments)
        assert done.returncode == 125 and says in done.stderr, done
    assert json.loads(lab.ok("rl", "inspect", "c"))[0]["HostConfig"]["Memory"] == 0  # nothing was recorded
    lab.ok("rl", "stop", "-t", "0", "c")
    assert lab.ok("rl", "update", "-m", "64m", "--cpus", "0.5", "c") == lab.ok("rl", "inspect", "-f", "{{.Id}}", "c")
    done = lab.run("rl", "start", "c")
    assert done.returncode == 0 and "memory limit 64 MiB" in done.stderr and "cpu limit 0.5" in done.stderr


def test_info(lab: Lab) -> None:
    document = json.loads(lab.ok("rl", "info", "--format", "json"))
    assert document["host"]["cgroupManager"] == "systemd" and document["host"]["cgroupVersion"] == "v2"
    limits = document["rl"]["limits"]
    assert [rung["name"] for rung in limits["rungs"]] == ["systemd", "cgroupfs", "none"]
    assert limits["inUse"] == "systemd" and limits["controllers"] == document["host"]["cgroupControllers"]
    if not limits["controllers"]:
        assert "no controller is delegated" in limits["reason"] and "delegate.conf" in limits["hint"]


@pytest.mark.parametrize("runtime_dir", ["", "/tmp/elsewhere"])
def test_found_without_xdg_runtime_dir(lab: Lab, runtime_dir: str) -> None:
    """As in a shell that came by `su` or cron."""
    words = ("env", "-u", "XDG_RUNTIME_DIR", "-u", "DBUS_SESSION_BUS_ADDRESS", *([f"XDG_RUNTIME_DIR={runtime_dir}"] if runtime_dir else []))
    script = "mkdir -p -m 700 /tmp/elsewhere; rl run -d --network=none busybox sleep 1000; rl inspect -l; rl rm -f -t 0 -l > /dev/null"
    printed = lab.ok(*words, "sh", "-c", script)
    identity, _, document = printed.partition("\n")
    assert json.loads(document)[0]["State"]["CgroupPath"] == f"{MANAGER}/user.slice/rl-{identity}.scope/container"


def test_over_the_bus_where_the_private_socket_is_out_of_reach(lab: Lab) -> None:
    private = f"/run/user/{UID}/systemd/private"
    lab.root("mv", private, f"{private}.away")
    try:
        identity = lab.ok("rl", "run", "-d", "--name", "c", "--network=none", "busybox", "sleep", "1000")
        assert state(lab, "c")["CgroupPath"] == f"{MANAGER}/user.slice/rl-{identity}.scope/container"
        lab.ok("rl", "rm", "-f", "-t", "0", "c")
        # Neither way: the next rung, said aloud; a slice asked for by name is an error.
        lab.root("mv", f"/run/user/{UID}/bus", f"/run/user/{UID}/bus.away")
        command = ("rl", "run", "--rm", "--network=none")
        assert lab.run(*command, "busybox", "true").returncode == 0
        done = lab.run(*command, "--cgroup-parent=a.slice", "busybox", "true")
        assert done.returncode == 125 and "a.slice" in done.stderr
    finally:
        lab.root("mv", f"/run/user/{UID}/bus.away", f"/run/user/{UID}/bus")
        lab.root("mv", f"{private}.away", private)


def test_as_real_root(lab: Lab) -> None:
    """The host's manager, and machine.slice."""
    environment = ("env", "HOME=/root", "XDG_RUNTIME_DIR=/run/rl-root")
    lab.root("mkdir", "-p", "/run/rl-root")
    assert lab.root(*environment, "rl", "load", "-q", "-i", "/run/busybox.tar").returncode == 0
    done = lab.root(*environment, "rl", "run", "-d", "--name", "r", "--network=none", "busybox", "sleep", "1000")
    assert done.returncode == 0, done
    identity = done.stdout.strip()
    seen = json.loads(lab.root(*environment, "rl", "inspect", "r").stdout)[0]["State"]
    assert cgroup_of(lab, seen["Pid"]) == f"/machine.slice/rl-{identity}.scope/container"
    assert cgroup_of(lab, seen["ConmonPid"]) == f"/machine.slice/rl-{identity}.scope/supervisor"
    assert lab.root(*environment, "rl", "rm", "-f", "-t", "0", "r").returncode == 0


def test_rl_runtime_with_systemd_cgroup(lab: Lab, tmp_path: Path) -> None:
    """The OCI command line: slice:prefix:name from config.json, freezer and figures, and no scope left."""
    layer = Path(lab.path("/run/layer.tar"))
    layer.write_bytes(images.busybox_layer(tmp_path / "layer.tar").read_bytes())
    layer.chmod(0o644)
    lab.ok("sh", "-ec", "mkdir -p b/rootfs; tar xf /run/layer.tar -C b/rootfs --no-same-owner; cd b; rl-runtime spec --rootless")
    config = Path(lab.path("/home/alice/b/config.json"))
    spec = json.loads(config.read_text())
    spec["process"].update({"terminal": False, "args": ["sleep", "1000"]})
    spec["linux"]["cgroupsPath"] = "rl-oci.slice:rl:name"
    config.write_text(json.dumps(spec))
    # The container keeps the streams it was given.
    lab.ok("sh", "-c", "rl-runtime --systemd-cgroup run --detach --bundle b one < /dev/null > out 2>&1 || { cat out >&2; exit 1; }")
    try:
        pid = int(json.loads(lab.ok("rl-runtime", "state", "one"))["pid"])
        assert cgroup_of(lab, pid) == f"{MANAGER}/rl.slice/rl-oci.slice/rl-name.scope/container"
        assert "rl-name.scope" in units(lab)
        assert json.loads(lab.ok("rl-runtime", "events", "--stats", "one"))["data"]["cpu"]["usage"]["total"] > 0
        lab.ok("rl-runtime", "pause", "one")
        assert json.loads(lab.ok("rl-runtime", "state", "one"))["status"] == "paused"
        lab.ok("rl-runtime", "resume", "one")
    finally:
        lab.run("rl-runtime", "delete", "--force", "one")
    eventually(lambda: "rl-name.scope" not in units(lab), 5)
    lab.ok("systemctl", "--user", "stop", "rl-oci.slice", "rl.slice")


STOP_A_SCOPE = """
import os, subprocess
from rl.errors import RlError
from rl.runtime import cgroup
from rl.runtime.cgroup import systemd

for end in ("stop", "remove"):
    sleeper = subprocess.Popen(["sleep", "1000"])
    manager = cgroup.manager("systemd", ":rl:lingers", "x")
    manager.prepare()
    manager.attach(sleeper.pid)
    assert cgroup.own_path(str(sleeper.pid)).endswith("/user.slice/rl-lingers.scope/container"), manager.path
    scope = os.path.dirname(manager.path)
    if end == "stop":
        systemd.stop("rl-lingers.scope")
        assert sleeper.wait(5) == -15
    else:
        group = cgroup.Cgroup(manager.path)
        group.kill()
        assert sleeper.wait(5) == -9
        group.remove()
    assert not os.path.exists(scope), scope
systemd.stop("rl-lingers.scope")  # it is not there: nothing to do
try:
    systemd.attach("rl-lingers.scope", "/container", [os.getpid()])
except RlError as error:
    print(error.message)
"""


def test_stopping_a_scope(lab: Lab) -> None:
    """What clears away a scope that does not go by itself; and what is said of one that is not there."""
    printed = lab.ok("python", "-c", STOP_A_SCOPE)
    assert printed.startswith("move process ") and "rl-lingers.scope" in printed


def test_a_container_that_is_started_again_stays_in_its_scope(lab: Lab) -> None:
    """The monitor never leaves it; and stopping the scope ends that, whether the container runs or not."""
    identity = lab.ok("rl", "run", "-d", "--name=a", "--network=none", "--restart=always", "--stop-timeout=0", "busybox", "sh", "-c",
                      "echo up; test -e /again && exec sleep 1000; touch /again; exit 3")  # fmt: skip
    eventually(lambda: lab.ok("rl", "logs", "a").count("up") == 2)
    eventually(lambda: state(lab, "a")["Status"] == "running")
    scope = f"{MANAGER}/user.slice/rl-{identity}.scope"
    seen = state(lab, "a")
    assert cgroup_of(lab, int(str(seen["Pid"]))) == f"{scope}/container" == seen["CgroupPath"]
    assert cgroup_of(lab, int(str(seen["ConmonPid"]))) == f"{scope}/supervisor"
    lab.ok("rl", "restart", "-t", "0", "a")
    assert cgroup_of(lab, int(str(state(lab, "a")["Pid"]))) == f"{scope}/container"
    lab.ok("systemctl", "--user", "stop", f"rl-{identity}.scope")
    assert state(lab, "a")["Status"] == "exited" and units(lab) == []


def test_a_paused_container_is_stopped_all_the_same(lab: Lab) -> None:
    lab.ok("rl", "run", "-d", "--name=a", "--network=none", "busybox", *TRAPS)
    until_up(lab, "a")
    lab.ok("rl", "pause", "a")
    began = time.monotonic()
    lab.ok("systemctl", "--user", "stop", "rl-*.scope")
    assert time.monotonic() - began < 8 and lab.ok("rl", "logs", "a").split() == ["up", "term"]
    assert state(lab, "a")["ExitCode"] == 7
