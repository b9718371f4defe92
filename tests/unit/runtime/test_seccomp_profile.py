"""The default profile against containers-common's, and profile files in both formats."""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import bpf_interpreter as bpf
import pytest

from rl.errors import UsageError
from rl.runtime import seccomp
from rl.runtime.seccomp import compiler, profile

PEER = "/usr/share/containers/seccomp.json"
CAPABILITIES = sorted([*profile.BY_CAPABILITY, "CAP_AUDIT_WRITE"])
SETS = [(), *((capability,) for capability in CAPABILITIES), tuple(CAPABILITIES)]
FIRST = (0, 1, 8, 16, 0x20000, 0x20008, 0x20001, 0xFFFFFFFF)
VECTORS = [(first, 0, third, 0, 0, 0) for first in FIRST for third in (0, 9)]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
@pytest.mark.skipif(not os.path.exists(PEER), reason=f"no {PEER} (package golang-github-containers-common)")
def test_same_decisions_as_containers_common(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name, with every capability by itself, none and all, and the arguments that matter."""
    uname = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*uname[:4], machine)))
    with open(PEER, encoding="utf-8") as file:
        peer = json.load(file)
    names = {name for rule in peer["syscalls"] for name in rule["names"]} | set(compiler.numbers(machine)) | {"no_such"}
    # A newer containers-common may know calls that are newer than this profile: those we leave at ENOSYS.
    ours_knows = {name for rule in seccomp.default_profile(CAPABILITIES)["syscalls"] for name in rule["names"]}
    names -= {name for name, number in compiler.numbers(machine).items() if number > 450 and name not in ours_knows}
    for held in SETS:
        ours, theirs = seccomp.default_profile(held), seccomp.resolve(peer, held)
        assert set(ours["architectures"]) == set(theirs.get("architectures") or ours["architectures"])
        for name, args in itertools.product(sorted(names), VECTORS):
            if name not in ("personality", "socket") and args != VECTORS[0]:
                continue
            expected = bpf.decision_by_name(theirs, name, args)
            assert bpf.decision_by_name(ours, name, args) == expected, (held, name, args)


def document(**change: Any) -> dict[str, Any]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW"}], **change}


def rule(**change: Any) -> list[dict[str, Any]]:
    return [{"names": ["read"], "action": "SCMP_ACT_ALLOW", **change}]


def test_plain_oci_profile_stays_as_it_is() -> None:
    plain = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
                      "args": [{"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 2, "valueTwo": 2}]}],
    }  # fmt: skip
    assert seccomp.resolve(plain, []) == plain
    assert seccomp.flags_of(plain) == 2


def test_docker_format() -> None:
    own = profile._specification_name(compiler.machine_architectures(os.uname().machine)[0])
    resolved = seccomp.resolve(
        document(
            archMap=[{"architecture": "SCMP_ARCH_S390X", "subArchitectures": ["SCMP_ARCH_S390"]},
                     {"architecture": own, "subArchitectures": ["SCMP_ARCH_X86"]}],
            defaultErrno="ENOSYS", defaultErrnoRet=None,
            syscalls=[{"name": "read", "action": "SCMP_ACT_ERRNO", "errno": "EBUSY", "args": None, "comment": "x"}],
        ),
        [],
    )  # fmt: skip
    assert resolved == {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": [own, "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 16}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_B"]}}, True),
        ({"includes": {"caps": ["CAP_A", "CAP_C"]}}, False),
        ({"excludes": {"caps": ["CAP_C"]}}, True),
        ({"excludes": {"caps": ["CAP_C", "CAP_B"]}}, False),
        ({"includes": {"arches": ["s390x"]}}, False),
        ({"excludes": {"arches": ["s390x"]}}, True),
        ({"includes": {"minKernel": "3.10"}}, True),
        ({"includes": {"minKernel": "999.0"}}, False),
        ({"excludes": {"minKernel": "3.10"}}, False),
        ({"excludes": {"minKernel": "999.0"}}, True),
    ],
)
def test_conditions_of_rules(condition: dict[str, Any], applies: bool) -> None:
    resolved = seccomp.resolve(document(syscalls=rule(**condition)), ["CAP_A", "CAP_B"])
    assert bool(resolved["syscalls"]) is applies


@pytest.mark.parametrize(
    ("wrong", "path"),
    [
        ([], r"my.json: \$: must be an object"),
        ({}, "defaultAction"),
        (document(syscalls=rule(name="write")), r"syscalls\[0\].name: stands beside names"),
        (document(syscalls=rule(includes={"cpus": 2})), r"syscalls\[0\].includes: unknown condition 'cpus'"),
        (document(syscalls=rule(excludes={"minKernel": "new"})), r"syscalls\[0\].excludes.minKernel"),
        (document(syscalls=rule(errno="EFOO")), r"syscalls\[0\].errno: unknown error name 'EFOO'"),
        (document(syscalls=rule(includes={"caps": "CAP_X"})), r"syscalls\[0\].includes.caps: must be an array"),
        (document(syscalls=rule(args=[{"index": 9}])), r"syscalls\[0\].args\[0\].index"),
        (document(architectures=["SCMP_ARCH_X86"], archMap=[{"architecture": "SCMP_ARCH_X86"}]), "archMap"),
        (document(archMap=["SCMP_ARCH_X86"]), r"archMap\[0\]: must be an object"),
        (document(defaultErrno=5), "defaultErrno: unknown error name 5"),
    ],
)
def test_bad_files_are_named(wrong: Any, path: str) -> None:
    with pytest.raises(UsageError, match=path):
        seccomp.resolve(wrong, [], "my.json")
