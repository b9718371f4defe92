"""After clone nothing is imported any more: once the root has changed, it would come from the container's files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from rl.errors import CommandNotFoundError, RlError
from rl.runtime import exec as runtime_exec
from rl.runtime import seccomp
from rl.runtime.sync import Io
from unit.runtime.container_lab import CAPABILITIES, Lab, lab_of, specification
from unit.runtime.test_runtime_exec import Running
from unit.runtime.test_runtime_lsm import Host
from unit.runtime.test_seccomp_listener import Agent

LAZY = ("rl.runtime.lsm", "rl.runtime.scheduling", "rl.runtime.sysctl", "rl.runtime.netdevices", "rl.runtime.idmap",
        "rl.runtime.seccomp.listener", "rl.runtime.seccomp.compiler", "rl.runtime.copyup", "rl.runtime.devicefilter")  # fmt: skip


class Guard:
    """A finder that refuses to look for a module in any process but the one that installed it."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if os.getpid() != self.pid:
            raise RlError(f"the container's process imports {name}")


def forget() -> None:
    """As in a fresh process: the modules that are imported on demand are not there yet."""
    for name in [name for name in sys.modules if name in LAZY or name.startswith("pyroute2")]:
        parent, _, attribute = name.rpartition(".")
        del sys.modules[name]
        if hasattr(sys.modules.get(parent), attribute):
            delattr(sys.modules[parent], attribute)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of("user") as made:
        yield made


def everything(lab: Lab, agent: Agent, command: list[str]) -> dict[str, Any]:
    spec = specification(command)
    spec["process"].update(
        terminal=True, consoleSize={"height": 20, "width": 60}, noNewPrivileges=True, oomScoreAdj=100, cwd="/new/directory",
        scheduler={"policy": "SCHED_BATCH"}, ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 6},
        rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}], selinuxLabel="u:r:t:s0", apparmorProfile="p",
        execCPUAffinity={"final": "0"}, user={"uid": 33, "gid": 33, "additionalGids": [44], "umask": 0o27},
    )  # fmt: skip
    spec["process"]["capabilities"]["ambient"] = ["CAP_KILL", "CAP_UNKNOWN"]
    spec["hooks"] = {"startContainer": [{"path": "/bin/true", "timeout": 5}], "createContainer": [{"path": "/bin/true"}]}
    spec["mounts"].append({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]})
    spec["root"]["readonly"] = True
    (lab.root / "new/directory").mkdir(parents=True, exist_ok=True)
    spec["linux"].update(
        sysctl={"kernel.domainname": "x", "kernel.msgmax": "7000"}, personality={"domain": "LINUX32"},
        seccomp=agent.profile("mkdir"), rootfsPropagation="private",
        devices=[{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
    )  # fmt: skip
    spec["linux"]["namespaces"].append({"type": "time"})
    spec["linux"]["timeOffsets"] = {"boottime": {"secs": 10}}
    return spec


def guarded(host: Host) -> Any:
    def inside(spec: dict[str, Any]) -> None:
        forget()
        from rl.runtime import lsm

        for module in ("_SELINUX_MAGIC", "is_procfs"):
            assert hasattr(lsm, module)
        sys.modules["unit.runtime.test_runtime_lsm"].lsm = lsm  # type: ignore[attr-defined]
        host.show()
        sys.meta_path.insert(0, Guard())  # type: ignore[arg-type]

    return inside


@pytest.mark.parametrize("command", [["true"], ["nothing"], ["/etc/passwd"]], ids=["runs", "not found", "not executable"])
def test_create(lab: Lab, command: list[str]) -> None:
    host, agent = Host(lab.bundle.parent / "host"), Agent(lab.bundle.parent / "agent")
    spec = everything(lab, agent, command)
    result = lab.run(spec, inside=guarded(host), talk=lambda master: b"")
    if command == ["true"]:
        assert (result.code, result.error) == (0, None), result.error and result.error.message
        assert agent.told and host.read()
    else:
        assert result.error is not None and "imports" not in result.error.message
        assert isinstance(result.error, CommandNotFoundError) or command != ["nothing"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scheduler": {"policy": "SCHED_OTHER", "priority": 3}}, "process.scheduler"),
        ({"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 2**40, "hard": 2**40}]}, "RLIMIT_NOFILE"),
        ({"user": {"uid": 3000000, "gid": 0}}, "become user"), ({"cwd": "/etc/passwd"}, "working directory"),
    ],
)  # fmt: skip
def test_errors(lab: Lab, change: dict[str, Any], text: str) -> None:
    host, agent = Host(lab.bundle.parent / "host"), Agent(lab.bundle.parent / "agent")
    spec = everything(lab, agent, ["true"])
    spec["process"].update(change)
    error = lab.run(spec, inside=guarded(host), talk=lambda master: b"").error
    assert error is not None and text in error.message, error.message


def test_exec(lab: Lab) -> None:
    box = Running(lab)
    profile = seccomp.default_profile(CAPABILITIES)
    process = specification(["true"])["process"]
    process.update(scheduler={"policy": "SCHED_BATCH"}, execCPUAffinity={"initial": "0", "final": "0"}, oomScoreAdj=100)
    guard: Any = Guard()
    kept = {name: sys.modules[name] for name in sys.modules if name in LAZY}
    try:
        program, flags = seccomp.program_for(profile), seccomp.flags_of(profile)
        forget()
        sys.meta_path.insert(0, guard)
        specified = {"process": process, "linux": {"personality": {"domain": "LINUX32"}}}
        created = runtime_exec.spawn(
            box.pid, box.pidfd, specified, Io(), seccomp_program=program, seccomp_flags=flags, profile=profile
        )
        assert os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1]) == 0
        os.close(created.pidfd)
    finally:
        sys.meta_path.remove(guard)
        sys.modules.update(kept)
        box.end()
