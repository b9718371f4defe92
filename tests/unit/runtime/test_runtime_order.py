"""The security order of design/runtime.md, seen from outside: the system calls of one create and start, in order."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.runtime import seccomp
from unit.runtime.container_lab import CAPABILITIES, Lab, lab_of, specification
from unit.runtime.test_runtime_lsm import Host

#: what is traced, and what each call is named in the lists below
CALLS = ("openat2,write,seccomp,prctl,setgroups,setresgid,setresuid,capset,sendmsg,recvfrom,execve,pivot_root,chdir,umask,"
         "setsid,keyctl,close_range,vfork,clone,clone3,prlimit64,ioctl")  # fmt: skip


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of("user") as made:
        yield made


def traced(lab: Lab, spec: dict[str, Any], prepare: str = "") -> list[str]:
    """Names of the steps that the container's process took, in order."""
    import json

    (lab.bundle.parent / "spec.json").write_text(json.dumps(spec))
    script = f"""
import json, os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from support.users import User
from unit.runtime.container_lab import Lab
from rl.runtime import container
from rl.runtime.sync import Io
lab = Lab.__new__(Lab)
lab.user, lab.shared, lab.run_dir, lab.bundle = {lab.user!r}, True, Path({str(lab.run_dir)!r}), Path({str(lab.bundle)!r})
import pathlib; lab.user.home = pathlib.Path(lab.user.home)
spec = json.load(open({str(lab.bundle.parent / "spec.json")!r}))
lab.enter()
{prepare}
created = container.create(str(lab.bundle), spec, Io())
container.start(created)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1]))
"""
    (lab.bundle.parent / "script.py").write_text(script.replace("PosixPath(", "Path("))
    output = lab.bundle.parent / "trace"
    command = ["strace", "-ff", "-qq", "-s", "64", "-e", f"trace={CALLS}", "-o", str(output), sys.executable,
               str(lab.bundle.parent / "script.py")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # One file for each process: the container's is the one that pivots.
    (own,) = [text for file in output.parent.glob("trace.*") if "pivot_root" in (text := file.read_text())]
    return list(named(own))


NAMES = (
    (r"keyctl\(.*JOIN_SESSION", "keyring"), (r"pivot_root\(", "pivot"), (r"close_range\(", "close"),
    (r'write\(\d+, "exec my-profile"', "apparmor"), (r'write\(\d+, "u:r:t:s0"', "selinux"), (r'write\(\d+, "", 0\)', "keyring labelled"),
    (r"ioctl\(.*TIOCSCTTY", "terminal"),
    (r"prlimit64\(0, RLIMIT_CORE, \{", "rlimits"), (r"seccomp\(SECCOMP_SET_MODE_FILTER", "seccomp"),
    (r"prctl\(PR_CAPBSET_DROP", "bounding"), (r"prctl\(PR_SET_KEEPCAPS, 1", "keepcaps"), (r"setgroups\(", "groups"),
    (r"setresgid\(33", "gid"), (r"setresuid\(33", "uid"), (r"prctl\(PR_SET_KEEPCAPS, 0", "no keepcaps"),
    (r"capset\(", "capset"), (r"prctl\(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE", "ambient"),
    (r"umask\(", "umask"), (r"prctl\(PR_SET_DUMPABLE, ", "not dumpable"),
    (r"prctl\(PR_SET_NO_NEW_PRIVS", "no_new_privs"), (r"prctl\(PR_SET_PDEATHSIG", "parent death"),
    (r'sendmsg\(\d+, .*iov_base="R"', "ready"), (r'recvfrom\(\d+, "S"', "start"),
    (r"(vfork|clone3?)\(", "hook"), (r"execve\(", "exec"),
)  # fmt: skip


def named(text: str) -> Iterator[str]:
    last = ""
    for line in text.splitlines():
        for pattern, name in NAMES:
            if re.match(pattern, line):
                if name != last:
                    yield name
                last = name


def full(lab: Lab, locked: bool) -> dict[str, Any]:
    spec = specification(["true"])
    sets = dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), CAPABILITIES)
    spec["process"].update(
        noNewPrivileges=locked, user={"uid": 33, "gid": 33, "additionalGids": [44]}, capabilities=sets,
        apparmorProfile="my-profile", selinuxLabel="u:r:t:s0", terminal=True,
        rlimits=[{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    )  # fmt: skip
    spec["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    spec["linux"]["seccomp"] = seccomp.default_profile(CAPABILITIES)
    return spec


BEFORE = ["selinux", "keyring", "keyring labelled", "pivot", "selinux", "apparmor", "terminal", "close", "rlimits"]
IDENTITY = ["bounding", "keepcaps", "groups", "gid", "uid", "no keepcaps", "capset", "ambient", "umask", "not dumpable"]


@pytest.mark.parametrize("locked", [False, True], ids=["without no_new_privs", "with no_new_privs"])
def test_security_order(lab: Lab, locked: bool) -> None:
    host = Host(lab.bundle.parent / "host")
    prepare = f"""
from unit.runtime.test_runtime_lsm import Host
host = Host.__new__(Host); host.proc, host.sys = Path({str(host.proc)!r}), Path({str(host.sys)!r})
host.show()
"""
    steps = traced(lab, full(lab, locked), prepare)
    steps = steps[steps.index("selinux") :]
    early, late = ([], ["seccomp"]) if locked else (["seccomp"], [])
    nnp = ["no_new_privs"] if locked else []
    rest = ["parent death", "ready", "start", *late, "hook", "exec"]
    # "not dumpable" also stands in the session's step: said once more when the user has changed.
    expected = [*BEFORE[:3], "not dumpable", *BEFORE[3:], *early, *IDENTITY, *nnp, *rest]
    assert steps == expected


def test_the_filter_is_the_last_thing_before_the_command(lab: Lab) -> None:
    """With no_new_privs: between seccomp(2) and execve(2) there is nothing of ours that a profile would have to allow."""
    spec = full(lab, True)
    for key in ("apparmorProfile", "selinuxLabel"):
        del spec["process"][key]
    del spec["hooks"]
    traced(lab, spec)
    (own,) = [text for file in Path(lab.bundle.parent).glob("trace.*") if "pivot_root" in (text := file.read_text())]
    lines = own.splitlines()
    position = next(index for index, line in enumerate(lines) if line.startswith("seccomp(SECCOMP_SET"))
    assert lines[position + 1].startswith("execve("), lines[position:]
