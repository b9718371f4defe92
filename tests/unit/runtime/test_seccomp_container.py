"""Forbidden system calls made inside containers, by every way into the kernel that a processor of this kind has."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rl.runtime import seccomp
from rl.runtime.seccomp import compiler
from unit.runtime.container_lab import CAPABILITIES, KINDS, Lab, Result, lab_of, specification

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86_64 only: int 0x80 and x32 numbers")

# probe 64|32|x32 NUMBER [ARGUMENT…]: makes the call with nothing in between, prints what the kernel returned.
PROBE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(int argc, char **argv) {
    long a[4] = {0}, number = atol(argv[2]), result;
    for (int i = 3; i < argc && i < 7; i++) a[i - 3] = atol(argv[i]);
    if (!strcmp(argv[1], "32")) {
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a[0]), "c"(a[1]), "d"(a[2]), "S"(a[3])
                         : "memory", "r8", "r9", "r10", "r11");
        result = (int)result;
    } else {
        if (!strcmp(argv[1], "x32")) number |= 0x40000000;
        register long fourth __asm__("r10") = a[3];
        __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(fourth)
                         : "memory", "rcx", "r11");
    }
    printf("%ld\n", result);
    return 0;
}
"""
TABLES = {"64": "x86_64", "32": "x86", "x32": "x32"}
WAYS = tuple(TABLES)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("probe")
    (directory / "probe.c").write_text(PROBE)
    command = ["gcc", "-O1", "-static", "-o", str(directory / "probe"), str(directory / "probe.c")]
    subprocess.run(command, check=True)
    return directory / "probe"


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, probe: Path) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        shutil.copy(probe, made.root / "bin/probe")
        yield made


@pytest.fixture
def user_lab(probe: Path) -> Iterator[Lab]:
    with lab_of("user") as made:
        shutil.copy(probe, made.root / "bin/probe")
        yield made


def probing(way: str, name: str, *arguments: int) -> list[str]:
    return ["probe", way, str(compiler.numbers(TABLES[way])[name]), *map(str, arguments)]


def run(lab: Lab, profile: dict[str, Any], commands: list[list[str]], locked: bool = True) -> Result:
    """All *commands* in one container, and its exit code is that of the last."""
    script = "; ".join(" ".join(command) for command in commands)
    spec = specification(["sh", "-c", script])
    spec["process"]["noNewPrivileges"] = locked
    spec["linux"]["seccomp"] = profile
    result = lab.run(spec)
    assert result.error is None, result.error
    return result


@pytest.mark.parametrize("locked", [False, True], ids=["early", "late"])
def test_the_default_profile(lab: Lab, locked: bool) -> None:
    """What it forbids is forbidden by 64-bit, 32-bit and x32 numbers alike; what it allows is not in the way."""
    profile = seccomp.default_profile(CAPABILITIES)
    forbidden = {
        "kexec_load": -1, "bpf": -1, "perf_event_open": -1, "open_by_handle_at": -1, "swapon": -1, "init_module": -1,
        "add_key": -38, "io_uring_setup": -38,
    }  # fmt: skip
    calls = [(way, name) for way in WAYS for name in forbidden]
    result = run(lab, profile, [probing(way, name) for way, name in calls], locked)
    assert dict(zip(calls, map(int, result.output.split()), strict=True)) == {
        (way, name): forbidden[name] for way, name in calls
    }
    assert int(run(lab, profile, [probing("64", "getppid")], locked).output) >= 0


@pytest.mark.parametrize("way", WAYS)
def test_a_profile_for_one_architecture_kills_the_others(user_lab: Lab, way: str) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    result = run(user_lab, profile, [["exec", *probing(way, "getppid")]])
    assert result.code == (0 if way == "64" else -31)


@pytest.mark.parametrize("way", ["64", "32"])
@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 77}, -77), ({"action": "SCMP_ACT_ERRNO"}, -1),
        ({"action": "SCMP_ACT_TRACE", "errnoRet": 5}, -38), ({"action": "SCMP_ACT_LOG"}, 0),
        ({"action": "SCMP_ACT_KILL"}, None), ({"action": "SCMP_ACT_KILL_THREAD"}, None),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, None), ({"action": "SCMP_ACT_TRAP"}, None),
    ],
)  # fmt: skip
def test_actions(user_lab: Lab, way: str, action: dict[str, Any], expected: int | None) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [{"names": ["getppid"], **action}],
    }  # fmt: skip
    result = run(user_lab, profile, [["exec", *probing(way, "getppid")]])
    if expected is None:
        assert (result.code, result.output) == (-31, "")
    elif expected:
        assert int(result.output) == expected
    else:
        assert int(result.output) >= 0


@pytest.mark.parametrize("operator", compiler.OPERATORS)
def test_arguments_of_both_widths(user_lab: Lab, operator: str) -> None:
    """lseek(-1, OFFSET) says EBADF, unless the filter catches this OFFSET.

    By the 32-bit gate only 32 bits reach the call, so only they count, whatever a 64-bit program leaves above them.
    """
    value, second = 4096, 4096
    rule = {"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77,
            "args": [{"index": 1, "op": operator, "value": value, "valueTwo": second}]}  # fmt: skip
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [rule]}
    offsets = (0, 4095, 4096, 4097, 1 << 32, (1 << 32) + 4095, (1 << 32) + 4096, (5 << 32) + 4097)

    def caught(offset: int) -> bool:
        return {
            "NE": offset != value, "LT": offset < value, "LE": offset <= value, "EQ": offset == value,
            "GE": offset >= value, "GT": offset > value, "MASKED_EQ": offset & value == second,
        }[operator.removeprefix("SCMP_CMP_")]  # fmt: skip

    commands = [probing(way, "lseek", 999, offset) for way in ("64", "32") for offset in offsets]
    expected = [-77 if caught(offset) else -9 for offset in offsets]
    expected += [-77 if caught(offset & 0xFFFFFFFF) else -9 for offset in offsets]
    assert [int(line) for line in run(user_lab, profile, commands).output.split()] == expected


def test_socketcall(user_lab: Lab) -> None:
    """32-bit programs reach socket calls through one number; a rule without arguments is also for that."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
               "syscalls": [{"names": ["listen", "semget"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}  # fmt: skip
    numbers = [4, (1 << 32) + 4]
    commands = [probing("32", "listen"), *(probing("32", "socketcall", number) for number in numbers)]
    # semget is 2; above the lower 16 bits stands a version, which the kernel ignores here.
    commands += [probing("32", "ipc", number) for number in (2, (1 << 16) + 2, (1 << 32) + 2)]
    commands += [probing("32", "socketcall", 99), probing("32", "ipc", 99)]
    assert run(user_lab, profile, commands).output.split() == ["-77"] * 6 + ["-22", "-38"]


def test_a_damaged_cache_does_not_reach_the_container(user_lab: Lab, tmp_path: Path) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW",
               "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}]}  # fmt: skip
    seccomp.program_for(profile, str(tmp_path))
    (entry,) = (tmp_path / "seccomp").iterdir()
    good = entry.read_bytes()
    # A valid program that allows all, below the checksum of the right one; and one with a checksum of its own.
    allow = bytes.fromhex("06000000") + (0x7FFF0000).to_bytes(4, "little")
    for bad in (good[:32] + allow, good[:-1], b""):
        entry.write_bytes(bad)
        program = seccomp.program_for(profile, str(tmp_path))
        assert entry.read_bytes() == good and program == good[32:]


def test_start_container_hooks_run_under_the_default_profile(lab: Lab) -> None:
    """They come after the filter (design: security order), and a shell with pipes and files does its work."""
    (lab.root / "bin/hook").write_text("#!/bin/sh\nread -r state; echo $state | grep -o created; grep Seccomp: /proc/self/status; "
                                       "mkdir -p /tmp/a/b; probe 64 246\n")  # fmt: skip
    (lab.root / "bin/hook").chmod(0o755)
    spec = specification(["echo", "command"])
    spec["process"]["noNewPrivileges"] = True
    spec["hooks"] = {"startContainer": [{"path": "/bin/hook", "env": ["PATH=/bin"], "timeout": 10}]}
    spec["linux"]["seccomp"] = seccomp.default_profile(CAPABILITIES)
    result = lab.run(spec)
    assert result.error is None, result.error.message
    assert result.output.split()[-4:] == ["Seccomp:", "2", "-1", "command"]
