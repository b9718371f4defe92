"""OCI `process` in real containers: what the kernel says of the process is what was asked for."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rl.errors import RlError, UnsupportedError, UsageError
from rl.kernel import clone as kclone
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import rlimits, scheduling
from unit.runtime.container_lab import KINDS, Lab, lab_of, specification
from unit.runtime.test_runtime_exec import Running

#: fields of /proc/PID/stat: nice, real-time priority, policy (proc(5))
STAT = "cut -d' ' -f19,40,41 /proc/self/stat"
MAPS = {kind: [{"containerID": 0, "hostID": 0, "size": 65536}] for kind in ("uidMappings", "gidMappings")}


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        yield made


@pytest.fixture
def user_lab() -> Iterator[Lab]:
    with lab_of("user") as made:
        yield made


@pytest.fixture
def root_lab() -> Iterator[Lab]:
    with lab_of("root") as made:
        yield made


def sh(script: str, **process: Any) -> dict[str, Any]:
    spec = specification(["sh", "-c", script])
    spec["process"].update(process)
    return spec


def refused(lab: Lab, spec: dict[str, Any]) -> RlError:
    result = lab.run(spec)
    assert result.error is not None, result.output
    return result.error


# --- scheduling -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"policy": "SCHED_BATCH", "nice": 5}, "5 0 3"),
        ({"policy": "SCHED_IDLE"}, "0 0 5"),
        ({"policy": "SCHED_OTHER", "nice": 19, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, "19 0 0"),
    ],
)
def test_scheduler(lab: Lab, scheduler: dict[str, Any], expected: str) -> None:
    assert lab.run(sh(STAT, scheduler=scheduler)).output.strip() == expected


def test_real_time_scheduler(root_lab: Lab, user_lab: Lab) -> None:
    """Real root may, anyone else is told why not."""
    spec = sh(STAT, scheduler={"policy": "SCHED_RR", "priority": 7})
    assert root_lab.run(spec).output.strip() == "0 7 2"
    spec["process"]["scheduler"]["flags"] = ["SCHED_FLAG_RESET_ON_FORK"]
    spec["process"]["args"][-1] += "; true"  # so that the shell forks
    assert root_lab.run(spec).output.strip() == "0 0 0"
    error = refused(user_lab, spec)
    assert "process.scheduler SCHED_RR" in error.message and "CAP_SYS_NICE" in error.hint
    times = {"runtime": 5_000_000, "deadline": 50_000_000, "period": 100_000_000}
    spec = sh("", scheduler={"policy": "SCHED_DEADLINE", "flags": ["SCHED_FLAG_RESET_ON_FORK"], **times})
    spec["process"]["args"] = ["cut", "-d", " ", "-f41", "/proc/self/stat"]
    assert root_lab.run(spec).output.strip() == "6"


@pytest.mark.parametrize(
    ("process", "path"),
    [
        ({"scheduler": {"policy": "SCHED_FAST"}}, "process.scheduler.policy"),
        ({"scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK", "NO"]}}, "scheduler.flags[1]"),
        ({"scheduler": {"policy": "SCHED_OTHER", "nice": "much"}}, "process.scheduler.nice"),
        ({"scheduler": {"policy": "SCHED_OTHER", "priority": 5}}, "process.scheduler SCHED_OTHER: Invalid argument"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_NO", "priority": 1}}, "process.ioPriority.class"),
        ({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}, "process.ioPriority.priority"),
        ({"rlimits": [{"type": "RLIMIT_MOOD", "soft": 1, "hard": 1}]}, "RLIMIT_MOOD"),
        ({"oomScoreAdj": 1001}, "process.oomScoreAdj 1001"),
    ],
)
def test_what_is_wrong_is_named(user_lab: Lab, process: dict[str, Any], path: str) -> None:
    error = refused(user_lab, sh("true", **process))
    assert path in error.message and "Traceback" not in error.message, error.message


def test_io_priority(lab: Lab) -> None:
    best = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    assert lab.run(sh("ionice -p $$", ioPriority=best)).output.strip() == "best-effort: prio 6"
    assert lab.run(sh("ionice -p $$", ioPriority={"class": "IOPRIO_CLASS_IDLE"})).output.startswith("idle")


def test_personality(lab: Lab) -> None:
    spec = sh("uname -m")
    native = lab.run(spec).output.strip()
    spec["linux"]["personality"] = {"domain": "LINUX32"}
    assert native == os.uname().machine and lab.run(spec).output.strip() == {"x86_64": "i686"}.get(native, "armv8l")
    for wrong, path in (({"domain": "BSD"}, "domain"), ({"domain": "LINUX", "flags": ["X"]}, "flags")):
        spec["linux"]["personality"] = wrong
        error = refused(lab, spec)
        assert isinstance(error, UnsupportedError) and f"linux.personality.{path}" in error.message


def test_affinity_of_exec_only() -> None:
    everywhere = "0-1" if (os.cpu_count() or 1) == 2 else None
    if not everywhere:
        pytest.skip("written for two processors")
    script = ["grep", "Cpus_allowed_list", "/proc/self/status"]
    with lab_of("user") as lab:
        spec = specification(script)
        spec["process"]["execCPUAffinity"] = {"initial": "0", "final": "1"}
        assert lab.run(spec).output.split()[1] == everywhere, "not for the container's own process"
        box = Running(lab)
        try:
            for affinity, expected in (
                ({"initial": "0"}, "0"), ({"initial": "0", "final": "1"}, "1"), ({"final": "0-1"}, "0-1"), ({}, "0-1"),
            ):
                assert box.exec(script, execCPUAffinity=affinity)[1].split()[1] == expected, affinity
            for when in ("initial", "final"):
                for text in ("99", "a", "1-0", "1-", "0-9999999"):
                    with pytest.raises(RlError, match=f"process.execCPUAffinity.{when}"):
                        box.exec(script, execCPUAffinity={when: text})
        finally:
            box.end()


def test_lists_of_processors() -> None:
    assert scheduling.cpus("0-3, 7,9-9", "x") == {0, 1, 2, 3, 7, 9}


# --- limits -----------------------------------------------------------------------------------


def lowered(spec: dict[str, Any]) -> None:
    """In the monitor: a small hard limit of our own, and a bad oom_score_adj."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("100")


@pytest.mark.parametrize("own", [False, True], ids=["no user namespace", "a new user namespace"])
def test_real_root_raises_limits(root_lab: Lab, own: bool) -> None:
    """Also into a user namespace, where the container's process itself has no right to it any more."""
    if not kp.capget()[0] >> 24 & 1:
        pytest.skip("root of this machine has no CAP_SYS_RESOURCE: an outer container took it")
    spec = sh("ulimit -Hn; ulimit -n; cat /proc/self/oom_score_adj", oomScoreAdj=-300)
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 600, "hard": 700}]
    if own:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(MAPS)
    result = root_lab.run(spec, inside=lowered)
    assert result.error is None, result.error.message if result.error else ""
    assert result.output.split() == ["700", "600", "-300"] and result.extra["warnings"] == []


def test_limits_are_raised_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the parent asks the kernel for: more than the present hard limit only, and the present soft one stays."""
    asked: list[tuple[Any, ...]] = []
    present = {resource.RLIMIT_NOFILE: (100, 500), resource.RLIMIT_CORE: (0, 2**64 - 1)}
    monkeypatch.setattr(rlimits.kp, "get_rlimit", lambda number, pid: present[number])
    monkeypatch.setattr(rlimits.kp, "set_rlimit", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(rlimits.ns, "write_proc", lambda *arguments: asked.append(arguments))
    limits = [{"type": "RLIMIT_NOFILE", "soft": 600, "hard": 700}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    rlimits.raise_for(4321, {"rlimits": limits, "oomScoreAdj": -300})
    assert asked == [(resource.RLIMIT_NOFILE, 100, 700, 4321), ("/proc/4321/oom_score_adj", "-300")]


def test_a_user_asks_for_more_than_it_has(user_lab: Lab) -> None:
    spec = sh("cat /proc/self/oom_score_adj", oomScoreAdj=-300)
    result = user_lab.run(spec, inside=lowered)
    assert result.output.strip() == "100" and "oom_score_adj -300 is not set" in result.extra["warnings"][0]
    spec = sh("cat /proc/self/oom_score_adj", oomScoreAdj=300)
    assert user_lab.run(spec, inside=lowered).output.strip() == "300"
    spec["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 600, "hard": 700}]
    result = user_lab.run(spec, inside=lowered)
    assert result.error is not None and result.error.message == (
        "set RLIMIT_NOFILE to 600:700: the caller's hard limit is 500"
    )


@pytest.mark.parametrize("joined", [False, True], ids=["new", "joined"])
def test_oom_score_adj_in_a_nested_user_namespace(lab: Lab, joined: bool) -> None:
    """There the process's own file belongs to nobody it is: the parent writes it, or it is written before entering."""
    spec = sh("cat /proc/self/oom_score_adj", oomScoreAdj=300)
    maps = [{"containerID": 0, "hostID": 1, "size": 1000}]

    def made_before(spec: dict[str, Any]) -> None:
        pid, _ = kclone.clone(ns.CLONE_NEWUSER)
        if pid == 0:
            time.sleep(20)
        for kind in ("uid", "gid"):
            ns.write_proc(f"/proc/{pid}/{kind}_map", "0 1 1000\n")
        fd = ns.open_namespace(pid, "user")
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        spec["linux"]["namespaces"].append({"type": "user", "path": f"/proc/self/fd/{fd}"})

    if not joined:
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=maps, gidMappings=maps)
    result = lab.run(spec, inside=made_before if joined else None)
    assert result.error is None, result.error.message
    assert (result.output.strip(), result.extra["warnings"]) == ("300", [])


# --- user and capabilities --------------------------------------------------------------------


def test_unknown_capabilities_are_warned_of_once(lab: Lab) -> None:
    spec = sh("grep CapEff /proc/self/status")
    names = ["CAP_KILL", "CAP_FLY", "CAP_FLY"]
    spec["process"]["capabilities"] = dict.fromkeys(spec["process"]["capabilities"], names)
    result = lab.run(spec)
    assert result.output.split()[1] == f"{1 << 5:016x}"
    assert result.extra["warnings"] == ["capabilities unknown here are left out: CAP_FLY"]


def test_capability_sets(lab: Lab) -> None:
    """Each set for itself; ambient needs permitted and inheritable; outside of the bounding set there is nothing."""
    numbers = {"CAP_KILL": 5, "CAP_SETUID": 7, "CAP_CHOWN": 0}
    spec = sh("grep -E '^Cap' /proc/self/status")
    spec["process"]["user"] = {"uid": 33, "gid": 33}
    spec["process"]["capabilities"] = {
        "bounding": [*numbers], "permitted": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"],
        "inheritable": ["CAP_KILL", "CAP_SETUID"], "ambient": ["CAP_KILL", "CAP_CHOWN"],
    }
    values = dict(line.split(":\t") for line in lab.run(spec).output.splitlines())
    masks = {name: int(value, 16) for name, value in values.items()}
    kill, both = 1 << 5, 1 << 5 | 1 << 7
    # After exec as another user: permitted and effective are the ambient set (capabilities(7), "Transformation").
    assert masks == {"CapInh": both, "CapPrm": kill, "CapEff": kill, "CapBnd": both | 1, "CapAmb": kill}


def test_groups_that_are_not_mapped(user_lab: Lab) -> None:
    spec = sh("id -u")
    spec["linux"]["namespaces"].append({"type": "user"})
    one = {kind: [{"containerID": 0, "hostID": 0, "size": 1}] for kind in ("uidMappings", "gidMappings")}
    spec["linux"].update(one)
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["type"] != "devpts"]
    result = user_lab.run(spec)
    assert result.output.strip() == "0", result.error and result.error.message
    spec["process"]["user"]["additionalGids"] = [44]
    error = refused(user_lab, spec)
    assert "become groups 44" in error.message and "not mapped" in error.hint


def test_where_the_kernel_allows_no_groups() -> None:
    """A user without subordinate ids: the map has one id and setgroups is denied."""
    with lab_of("lone") as lab:
        spec = sh("id -G", user={"uid": 0, "gid": 0, "additionalGids": [44]})
        result = lab.run(spec)
        assert result.extra["mode"] == "single" and result.output.split() == ["0"], result.error


def test_the_environment(lab: Lab) -> None:
    spec = sh("env | sort", env=["PATH=/bin", "A=1", "A=2", "EMPTY=", "=x", "nothing", "HOME="])
    lines = lab.run(spec).output.split()
    assert [line for line in lines if not line.startswith(("PWD", "SHLVL", "OLDPWD"))] == [
        "A=2", "EMPTY=", "HOME=/root", "PATH=/bin",
    ]  # fmt: skip


def test_the_working_directory_of_a_user(user_lab: Lab) -> None:
    """Closed to root of the container without capabilities, open to its user."""

    def owned(spec: dict[str, Any]) -> None:
        os.mkdir(user_lab.root / "srv/private")
        os.chown(user_lab.root / "srv/private", 33, 33)
        os.chmod(user_lab.root / "srv/private", 0o700)

    spec = sh("pwd; touch here && stat -c %u here", cwd="/srv/private")
    spec["process"]["user"] = {"uid": 33, "gid": 33}
    assert user_lab.run(spec, inside=owned).output.split() == ["/srv/private", "33"]


# --- namespaces -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offsets", "path"),
    [
        ({"realtime": {"secs": 1}}, "linux.timeOffsets.realtime: there is no such clock"),
        ({"monotonic": {"secs": 1, "nanosecs": 10**9}}, "linux.timeOffsets.monotonic.nanosecs"),
        ({"boottime": {"secs": -(10**15)}}, "linux.timeOffsets.boottime"),
    ],
)
def test_time_offsets_are_named(user_lab: Lab, offsets: dict[str, Any], path: str) -> None:
    spec = sh("true")
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = offsets
    assert path in refused(user_lab, spec).message


def without(spec: dict[str, Any], kind: str, path: str = "") -> dict[str, Any]:
    kinds = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != kind]
    spec["linux"]["namespaces"] = [*kinds, *([{"type": kind, "path": path}] if path else [])]
    return spec


@pytest.mark.parametrize(
    ("key", "value", "file"),
    [
        ("kernel.shmmni", "1234", "kernel/shmmni"), ("kernel/msgmnb", "4321", "kernel/msgmnb"),
        ("fs.mqueue.msg_max", "17", "fs/mqueue/msg_max"), ("kernel.domainname", "zone", "kernel/domainname"),
        ("net.ipv4.conf.lo.forwarding", "1", "net/ipv4/conf/lo/forwarding"),
        ("net/ipv4/conf/lo/rp_filter", "2", "net/ipv4/conf/lo/rp_filter"),
    ],
)
def test_sysctls(user_lab: Lab, key: str, value: str, file: str) -> None:
    spec = sh(f"cat /proc/sys/{file}")
    spec["linux"]["sysctl"] = {key: value}
    result = user_lab.run(spec)
    assert result.output.strip() == value, result.error and result.error.message


@pytest.mark.parametrize(
    ("key", "kind", "path"),
    [
        ("net.ipv4.ip_forward", "network", ""), ("net.ipv4.ip_forward", "network", "/proc/self/ns/net"),
        ("kernel.msgmax", "ipc", "/proc/self/ns/ipc"), ("fs.mqueue.msg_max", "ipc", ""),
        ("kernel.domainname", "uts", "/proc/self/ns/uts"),
        ("user.max_user_namespaces", "", ""), ("kernel.core_pattern", "", ""), ("vm.overcommit_memory", "", ""),
        ("net", "", ""), ("fs.mqueue", "", ""), ("fs.file-max", "", ""), ("net.ipv4/../../kernel/core_pattern", "", ""),
    ],
)
def test_sysctls_of_the_host_are_refused(root_lab: Lab, key: str, kind: str, path: str) -> None:
    """As real root each of them would change the host, also where the namespace's path is the host's own."""
    spec = sh("true")
    del spec["hostname"]
    spec["mounts"] = [entry for entry in spec["mounts"] if entry["type"] not in ("mqueue", "sysfs")]
    if kind:
        without(spec, kind, path)
    spec["linux"]["sysctl"] = {key: "1"}
    error = refused(root_lab, spec)
    assert f"linux.sysctl.{key}" in error.message and "namespace of the container's own" in error.message


def test_sysctl_errors(user_lab: Lab) -> None:
    spec = sh("true")
    spec["linux"]["sysctl"] = {"kernel.hostname": "x"}
    error = refused(user_lab, spec)
    assert isinstance(error, UsageError) and "linux.sysctl.kernel.hostname" in error.message
    spec["process"]["args"][-1] = "hostname"
    del spec["hostname"]
    assert user_lab.run(spec).output == "x\n"
    for key, value, text in (("net.nothing", "1", "No such file"), ("kernel.msgmax", "many", "Invalid argument")):
        spec["linux"]["sysctl"] = {key: value}
        error = refused(user_lab, spec)
        assert f"linux.sysctl.{key}" in error.message and text in error.message
