"""Filters loaded into the kernel, in children, and the forbidden calls made."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from rl.kernel import libc, process
from rl.runtime import seccomp
from rl.runtime.seccomp import compiler

MACHINE = os.uname().machine
x86_64 = pytest.mark.skipif(MACHINE != "x86_64", reason="x86_64 only")
NUMBER = compiler.numbers(MACHINE) if MACHINE in compiler.MACHINES else {}


def outcome(profile: dict[str, Any], action: Callable[[], int]) -> int:
    """errno of *action* under *profile*, 0 when it worked, -signal when it was killed."""
    program = seccomp.program_for(profile)
    assert program
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
            assert seccomp.install(program, seccomp.flags_of(profile)) == 0
            try:
                action()
                code = 0
            except OSError as error:
                code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def call(name: str, *args: int) -> Callable[[], int]:
    return lambda: libc.syscall(NUMBER[name], *args)


def deny(name: str, errno: int = 77, **more: Any) -> dict[str, Any]:
    rule = {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno, **more}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


def test_plain_denial() -> None:
    assert outcome(deny("getppid"), call("getppid")) == 77
    assert outcome(deny("getppid"), call("getuid")) == 0
    assert outcome(deny("getppid", 4095), call("getuid")) == 0


@pytest.mark.parametrize(
    ("action", "expected"),
    [("SCMP_ACT_KILL_PROCESS", -31), ("SCMP_ACT_KILL", -31), ("SCMP_ACT_KILL_THREAD", -31), ("SCMP_ACT_TRAP", -31),
     ("SCMP_ACT_LOG", 0), ("SCMP_ACT_ALLOW", 0), ("SCMP_ACT_TRACE", 38)],
)  # fmt: skip
def test_actions(action: str, expected: int) -> None:
    assert signal.SIGSYS == 31
    rule = {"names": ["getppid"], "action": action}
    default = "SCMP_ACT_ERRNO" if action == "SCMP_ACT_ALLOW" else "SCMP_ACT_ALLOW"
    profile = {"defaultAction": default, "syscalls": [rule, {"names": ["exit_group"], "action": "SCMP_ACT_ALLOW"}]}
    assert outcome(profile, call("getppid")) == expected


@pytest.mark.parametrize("operator", compiler.OPERATORS)
def test_operators(operator: str) -> None:
    """lseek(-1, OFFSET, 0) says EBADF, unless the filter catches this OFFSET: all 64 bits of it count."""
    value = (3 << 32) + 7
    profile = deny("lseek", args=[{"index": 1, "op": operator, "value": value, "valueTwo": (2 << 32) + 5}])
    for offset in (0, 7, 3 << 32, value - 1, value, value + 1, (3 << 32) + 0xFFFFFFFF, (2 << 32) + 5, (6 << 32) + 13):
        expected = {
            "NE": offset != value, "LT": offset < value, "LE": offset <= value, "EQ": offset == value,
            "GE": offset >= value, "GT": offset > value, "MASKED_EQ": offset & value == (2 << 32) + 5,
        }[operator.removeprefix("SCMP_CMP_")]  # fmt: skip
        assert outcome(profile, call("lseek", -1, offset, 0)) == (77 if expected else 9), offset


@x86_64
def test_x32_numbers_do_not_slip_through() -> None:
    x32 = compiler.X32_BIT | NUMBER["getppid"]
    assert outcome(deny("getppid"), lambda: libc.syscall(x32)) == -signal.SIGSYS
    listed = {**deny("getppid"), "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]}
    assert outcome(listed, lambda: libc.syscall(x32)) == 77


def int80(number: int) -> int:
    """getppid-like call through 32-bit x86's gate: mov eax, NUMBER; int 0x80; ret."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8" + number.to_bytes(4, "little") + b"\xcd\x80\xc3")
    entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    result = int(entry())
    if result < 0:
        raise OSError(-result, "int 0x80")
    return result


@x86_64
def test_32_bit_gate_does_not_slip_through() -> None:
    getppid = compiler.numbers("x86")["getppid"]
    if outcome({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]}, lambda: int80(getppid)):
        pytest.skip("this kernel has no 32-bit system calls")
    assert outcome(deny("getppid"), lambda: int80(getppid)) == -signal.SIGSYS
    assert outcome({**deny("getppid"), "architectures": ["SCMP_ARCH_X86"]}, lambda: int80(getppid)) == 77


def test_notify_gives_a_listener() -> None:
    rule = {"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent", "syscalls": [rule]}
    program = seccomp.program_for(profile)
    assert program
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            process.prctl(process.PR_SET_NO_NEW_PRIVS, 1)
            fd = seccomp.install(program, seccomp.flags_of(profile))
            code = 0 if "seccomp" in os.readlink(f"/proc/self/fd/{fd}") else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_install_without_no_new_privs() -> None:
    """As root it works (CAP_SYS_ADMIN), for anyone else the kernel refuses: the runtime must order its steps."""
    program = seccomp.program_for(deny("getppid"))
    assert program
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            seccomp.install(program)
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    expected = 0 if process.capget()[0] >> 21 & 1 else 13
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == expected


def test_bad_program_is_refused() -> None:
    with pytest.raises(OSError):
        seccomp.install(b"\xff" * 8)


def test_default_profile_at_work() -> None:
    profile = seccomp.default_profile(["CAP_CHOWN"])
    expected = {
        ("getppid",): 0, ("kexec_load", 0, 0, 0, 0): 1, ("chroot", 0): 1, ("bpf", 0, 0, 0): 1, ("add_key", 0, 0, 0): 38,
        ("io_uring_setup", 1, 0): 38, ("socket", 16, 3, 9): 22, ("socket", 1, 1, 9): 93, ("socket", 1, 1, 0): 0,
        ("personality", 0xFFFFFFFF): 0, ("personality", 0x0040000): 38, ("mseal", 0, 0, 0): 38,
    }  # fmt: skip
    for (name, *args), errno in expected.items():
        assert outcome(profile, call(name, *args)) == errno, (name, args)
    assert outcome(profile, lambda: libc.syscall(7777)) == 38
    assert outcome(seccomp.default_profile(["CAP_SYS_CHROOT"]), call("chroot", 0)) in (14, 1)  # the kernel's own answer


def test_python_runs_under_the_default_profile() -> None:
    """A program that starts threads, processes and sockets notices nothing."""

    def work() -> int:
        import subprocess
        import threading

        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        return subprocess.run(["/bin/sh", "-c", "ls / >/dev/null && exec true"], check=True).returncode

    assert outcome(seccomp.default_profile([]), work) == 0
