"""The compiler's programs, interpreted, against a naive reading of the profile and against libseccomp."""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import os
import random
import tempfile
from typing import Any

import bpf_interpreter as bpf
import pytest

import rl
from rl.errors import RlError, UnsupportedError, UsageError
from rl.runtime import seccomp
from rl.runtime.seccomp import compiler

ROOT = os.path.dirname(os.path.dirname(rl.__file__))
VALUES = (0, 1, 2, 9, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, (9 << 32) + 2, (1 << 64) - 1)
SOME_NAMES = """
    read write open openat socket connect accept4 socketcall ipc semop shmat personality ioctl clone kexec_load
    mmap no_such_call lseek _llseek arch_prctl execve exit_group io_uring_setup mseal
"""
NAMES = SOME_NAMES.split()
FAMILIES = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm"), "riscv64": ("riscv64",)}
WORDS = {"x86_64": 0xC000003E, "x86": 0x40000003, "x32": 0xC000003E, "aarch64": 0xC00000B7, "arm": 0x40000028,
         "riscv64": 0xC00000F3}  # fmt: skip


def random_rule(random: random.Random, names: list[str]) -> dict[str, Any]:
    action = random.choice(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP",
                            "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_KILL"])  # fmt: skip
    rule: dict[str, Any] = {"names": random.sample(names, random.randint(1, min(6, len(names)))), "action": action}
    if action in compiler.WITH_ERRNO and random.random() < 0.7:
        rule["errnoRet"] = random.randint(0, 200)
    if random.random() < 0.6:
        rule["args"] = [
            {"index": random.randint(0, 5), "op": random.choice(compiler.OPERATORS), "value": random.choice(VALUES),
             "valueTwo": random.choice(VALUES)}
            for _ in range(random.randint(1, 3))
        ]  # fmt: skip
    return rule


def random_profile(random: random.Random, machine: str, names: list[str], rules: int) -> dict[str, Any]:
    listed = [name for name, ours in compiler.ARCHITECTURES.items() if ours in FAMILIES[machine]]
    return {
        "defaultAction": random.choice(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"]),
        "architectures": random.sample(listed, random.randint(0, len(listed))) + ["SCMP_ARCH_S390X"],
        "syscalls": [random_rule(random, names) for _ in range(random.randint(0, rules))],
    }


def compare(profile: dict[str, Any], machine: str, random: random.Random, numbers: dict[str, list[int]]) -> None:
    program = compiler.compile_profile(profile, machine)
    for arch in FAMILIES[machine]:
        for number in numbers[arch]:
            for _ in range(3):
                args = tuple(random.choice(VALUES) for _ in range(6))
                word = "x86_64" if arch == "x32" else arch
                expected = bpf.decision(profile, word, number, args)
                assert bpf.run(program, WORDS[arch], number, args) == expected, (arch, number, args, profile)


@pytest.mark.parametrize("machine", FAMILIES)
def test_random_profiles_mean_what_they_say(machine: str) -> None:
    generator = random.Random(machine)
    numbers = {}
    for arch in FAMILIES[machine]:
        table = compiler.numbers(arch)
        numbers[arch] = [table[name] for name in NAMES if name in table] + [7777, 0xFFFFFFFF]
        numbers[arch] += [number + 1 for number in numbers[arch][:4]]
    for _ in range(60):
        compare(random_profile(generator, machine, NAMES, 12), machine, generator, numbers)


def test_programs_with_far_jumps() -> None:
    """Every call decides differently from its neighbours, and many by their arguments: > 255 instructions apart."""
    generator = random.Random(1)
    table = compiler.numbers("x86_64")
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": number % 7 + 1}
                     for name, number in table.items() if number % 5]
        + [{"names": [name], "action": "SCMP_ACT_TRAP",
            "args": [{"index": 1, "op": "SCMP_CMP_GT", "value": number << 30}]}
           for name, number in table.items() if number % 5 == 0],
    }  # fmt: skip
    assert len(compiler.compile_profile(profile, "x86_64")) // 8 > 1000
    numbers = {arch: sorted(compiler.numbers(arch).values()) for arch in FAMILIES["x86_64"]}
    compare(profile, "x86_64", generator, numbers)


def test_too_long_for_the_kernel() -> None:
    table = list(compiler.numbers("x86_64"))
    args = [{"index": index, "op": "SCMP_CMP_EQ", "value": index} for index in range(6)]
    rules = [
        {"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": number, "args": args[: number % 7]}
        for number, name in enumerate(table)
    ]
    with pytest.raises(RlError, match="instructions"):
        compiler.compile_profile({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}, "x86_64")


def test_operators_of_64_bit_values() -> None:
    for operator in compiler.OPERATORS:
        for value in VALUES:
            for second in (0, 9, (1 << 40) + 9):
                argument = {"index": 4, "op": operator, "value": value, "valueTwo": second}
                rule = {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [argument]}
                program = compiler.compile_profile({"defaultAction": "SCMP_ACT_TRAP", "syscalls": [rule]}, "x86_64")
                for given in VALUES:
                    args = (5, 5, 5, 5, given, 5)
                    expected = 0x7FFC0000 if bpf.holds(argument, args) else 0x00030000
                    assert bpf.run(program, WORDS["x86_64"], 0, args) == expected, (argument, given)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_operators_of_32_bit_architectures(machine: str) -> None:
    """The upper half of an argument is not the call's; a value that needs it is larger than any argument."""
    narrow, listed = {"x86_64": ("x86", "SCMP_ARCH_X86"), "aarch64": ("arm", "SCMP_ARCH_ARM")}[machine]
    read = compiler.numbers(narrow)["read"]
    for operator in compiler.OPERATORS:
        for value in VALUES:
            for second in (0, 9, (1 << 40) + 9):
                argument = {"index": 4, "op": operator, "value": value, "valueTwo": second}
                rule = {"names": ["read"], "action": "SCMP_ACT_LOG", "args": [argument]}
                profile = {"defaultAction": "SCMP_ACT_TRAP", "architectures": [listed], "syscalls": [rule]}
                program = compiler.compile_profile(profile, machine)
                for given in VALUES:
                    seen = (5, 5, 5, 5, given & 0xFFFFFFFF, 5)
                    expected = 0x7FFC0000 if bpf.holds(argument, seen) else 0x00030000
                    assert bpf.run(program, WORDS[narrow], read, (5, 5, 5, 5, given, 5)) == expected, (argument, given)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"defaultAction": "ALLOW"}, "defaultAction: unknown action 'ALLOW'"),
        ({"defaultAction": None}, "defaultAction"),
        ({"defaultErrnoRet": 70000}, "defaultAction: defaultErrnoRet must be"),
        ({"architectures": ["SCMP_ARCH_VAX"]}, r"architectures\[0\]: unknown architecture 'SCMP_ARCH_VAX'"),
        ({"architectures": "SCMP_ARCH_X86"}, "architectures: must be an array"),
        ({"flags": ["SECCOMP_FILTER_FLAG_FAST"]}, r"flags\[0\]: unknown flag"),
        ({"syscalls": {}}, "syscalls: must be an array"),
        ({"syscalls": [7]}, r"syscalls\[0\]: must be an object"),
        ({"syscalls": [{"names": [], "action": "SCMP_ACT_ALLOW"}]}, r"syscalls\[0\].names"),
        ({"syscalls": [{"names": ["read", 3], "action": "SCMP_ACT_ALLOW"}]}, r"syscalls\[0\].names\[1\]"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_DENY"}]}, r"syscalls\[0\].action: unknown action"),
        ({"syscalls": [{"names": ["read"], "action": ["SCMP_ACT_ALLOW"]}]}, r"syscalls\[0\].action: unknown action \["),
        ({"architectures": [{}]}, r"architectures\[0\]: unknown architecture \{\}"),
        ({"flags": [[]]}, r"flags\[0\]: unknown flag \[\]"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 3}]}, r"\[0\].action: errnoRet"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": "EIO"}]}, r"\[0\].action: errnoRet"),
        ({"syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}, "listenerPath: missing"),
        ({"args": {"index": 6, "op": "SCMP_CMP_EQ", "value": 0}}, r"syscalls\[0\].args\[0\].index"),
        ({"args": {"index": True, "op": "SCMP_CMP_EQ", "value": 0}}, r"syscalls\[0\].args\[0\].index"),
        ({"args": {"index": 0, "op": "==", "value": 0}}, r"syscalls\[0\].args\[0\].op: unknown operator '=='"),
        ({"args": {"index": 0, "op": "SCMP_CMP_EQ", "value": -1}}, r"syscalls\[0\].args\[0\].value: "),
        ({"args": {"index": 0, "op": "SCMP_CMP_EQ"}}, r"syscalls\[0\].args\[0\].value: "),
        ({"args": {"index": 0, "op": "SCMP_CMP_EQ", "value": 0, "valueTwo": 1 << 64}}, r"args\[0\].valueTwo"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], path: str) -> None:
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}
    if "args" in change:
        profile["syscalls"][0]["args"] = [change["args"]]  # type: ignore[index]
    else:
        profile.update(change)
    with pytest.raises(UsageError, match=path):
        compiler.compile_profile(profile)


def test_unknown_machine() -> None:
    with pytest.raises(UnsupportedError, match="sparc64"):
        compiler.compile_profile({"defaultAction": "SCMP_ACT_ALLOW"}, "sparc64")


def test_cache(tmp_path: Any) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}
    program = seccomp.program_for(profile, str(tmp_path))
    assert program and program == seccomp.program_for(profile)
    (entry,) = (tmp_path / "seccomp").iterdir()
    written = entry.read_bytes()
    for damaged in (b"", written[:-8], written[:40] + b"\0" * 8 + written[48:], written + b"\0" * 8, b"x" * 100000):
        entry.write_bytes(damaged)
        assert seccomp.program_for(profile, str(tmp_path)) == program
        assert entry.read_bytes() == written
    assert seccomp.program_for(profile, "/proc/no/such/place") == program
    other = {**profile, "defaultAction": "SCMP_ACT_LOG"}
    assert seccomp.program_for(other, str(tmp_path)) != program
    assert seccomp.program_for({}) is None


def test_hot_path_does_not_import_the_compiler(tmp_path: Any) -> None:
    import subprocess
    import sys

    script = (
        "import sys; from rl.runtime import seccomp; p = {'defaultAction': 'SCMP_ACT_ALLOW', 'syscalls': []};"
        f"seccomp.program_for(p, {str(tmp_path)!r}); seccomp.flags_of(p);"
        "print([m for m in ('re', 'json', 'hashlib', 'rl.runtime.seccomp.compiler') if m in sys.modules])"
    )
    first, second = (subprocess.run([sys.executable, "-SEc", f"import sys; sys.path.insert(0, {ROOT!r});" + script],
                                    capture_output=True, text=True, check=True).stdout for _ in range(2))  # fmt: skip
    assert "compiler" in first
    assert second.strip() == "[]"


def test_version_covers_the_programs() -> None:
    """A cached program must never outlive the compiler that made it: new programs, new COMPILER_VERSION."""
    programs = b""
    for machine, family in FAMILIES.items():
        names = sorted({name for arch in family for name in compiler.numbers(arch)})
        args = [{"index": index % 6, "op": op, "value": 5 << 30, "valueTwo": 1 << 30} for index, op in
                enumerate(compiler.OPERATORS)]  # fmt: skip
        profile = {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": [name for name, ours in compiler.ARCHITECTURES.items() if ours in family],
            "syscalls": [{"names": names[::2], "action": "SCMP_ACT_ALLOW"},
                         *({"names": names[1::99], "action": "SCMP_ACT_TRAP", "args": [arg]} for arg in args)],
        }  # fmt: skip
        programs += compiler.compile_profile(profile, machine)
    assert (seccomp.COMPILER_VERSION, hashlib.sha256(programs).hexdigest()[:16]) == (2, "0806c7a31800795e"), (
        "the compiler or its tables have changed: raise COMPILER_VERSION and write the new checksum here"
    )


# --- libseccomp, where it is installed -------------------------------------------------------


class Comparison(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def libseccomp_program(profile: dict[str, Any]) -> bytes:
    """The program libseccomp makes of *profile*, called as runc and crun call it."""
    path = ctypes.util.find_library("seccomp")
    if not path:
        pytest.skip("libseccomp is not installed")
    library = ctypes.CDLL(path)
    library.seccomp_init.restype = ctypes.c_void_p
    default = bpf.returned(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    for name in profile["architectures"]:
        token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        assert token and library.seccomp_arch_add(context, ctypes.c_uint32(token)) in (0, -17)
    for rule in profile["syscalls"]:
        value = bpf.returned(rule["action"], rule.get("errnoRet"))
        array = (Comparison * 6)()
        for position, argument in enumerate(rule.get("args") or []):
            array[position] = (argument["index"], compiler.OPERATORS.index(argument["op"]) + 1, argument["value"],
                               argument.get("valueTwo", 0))  # fmt: skip
        for name in rule["names"]:
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number != -1:
                result = library.seccomp_rule_add_array(
                    context, ctypes.c_uint32(value), ctypes.c_int(number), len(rule.get("args") or []), array
                )
                assert result in (0, -13), (name, result)
    with tempfile.TemporaryFile() as file:
        assert library.seccomp_export_bpf(context, file.fileno()) == 0
        file.seek(0)
        return file.read()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="compares with libseccomp's x86_64 programs")
@pytest.mark.parametrize("capabilities", [(), ("CAP_AUDIT_WRITE", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE")])
def test_default_profile_as_libseccomp_compiles_it(capabilities: tuple[str, ...]) -> None:
    profile = seccomp.default_profile(capabilities)
    ours, theirs = compiler.compile_profile(profile), libseccomp_program(profile)
    assert len(ours) < len(theirs)
    vectors = [(first, 0, third, 0, 0, 0) for first in (0, 1, 8, 16, 0x20000, 0xFFFFFFFF) for third in (0, 9)]
    numbers = [*range(470), 7777, 0xFFFFFFFF]
    # Its tree of conditions loses a rule of socket on the 32-bit architectures, which one depends on their order.
    unlike = {(WORDS[arch], compiler.numbers(arch)["socket"]) for arch in ("x86", "x32")}
    for word in (WORDS["x86_64"], WORDS["x86"]):
        for number in [*numbers, *(number | 0x40000000 for number in range(560))]:
            if (word, number) in unlike:
                continue
            for args in vectors if number & 0xFFFF in (41, 135, 136, 102) else vectors[:1]:
                expected = bpf.run(theirs, word, number, args)
                assert bpf.run(ours, word, number, args) == expected, (hex(word), number, args)
