"""What the kernel does with a seccomp program, and what the OCI profile says should happen: both as plain as can be."""

from __future__ import annotations

import struct
from typing import Any

from rl.runtime.seccomp import compiler

KILL_PROCESS = 0x80000000


def run(program: bytes, arch: int, number: int, args: tuple[int, ...]) -> int:
    """The value *program* returns for one system call."""
    code = [struct.unpack_from("=HBBI", program, offset) for offset in range(0, len(program), 8)]
    data = struct.pack("=IIQ6Q", number, arch, 0, *(tuple(args) + (0,) * 6)[:6])
    position, a = 0, 0
    while True:
        operation, true, false, k = code[position]
        position += 1
        if operation == 0x20:
            assert k % 4 == 0 and k < 64
            (a,) = struct.unpack_from("=I", data, k)
        elif operation == 0x54:
            a &= k
        elif operation == 0x05:
            position += k
        elif operation == 0x06:
            return k
        elif operation == 0x15:
            position += true if a == k else false
        elif operation == 0x25:
            position += true if a > k else false
        elif operation == 0x35:
            position += true if a >= k else false
        elif operation == 0x45:
            position += true if a & k else false
        else:
            raise AssertionError(f"operation {operation:#x}")


def holds(argument: dict[str, Any], args: tuple[int, ...]) -> bool:
    value, given = argument["value"], args[argument["index"]]
    return {
        "NE": given != value, "LT": given < value, "LE": given <= value, "EQ": given == value, "GE": given >= value,
        "GT": given > value, "MASKED_EQ": given & value == argument.get("valueTwo", 0) & value,
    }[argument["op"].removeprefix("SCMP_CMP_")]  # fmt: skip


def returned(action: str, errno: int | None) -> int:
    if action in ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE"):
        return compiler.ACTIONS[action] | (1 if errno is None else errno)
    return compiler.ACTIONS[action]


def decision_by_name(profile: dict[str, Any], name: str, args: tuple[int, ...], arch: str = "") -> int:
    """What *profile* means for a call of *name*, by its rules read one after the other."""
    default = returned(profile["defaultAction"], profile.get("defaultErrnoRet"))
    conditional = []
    for rule in profile["syscalls"]:
        value = returned(rule["action"], rule.get("errnoRet"))
        if value == default:
            continue
        arguments = rule.get("args") or []
        if arch == "x86" and not arguments:
            if name == "socketcall" and any(compiler.MULTIPLEXED.get(n) == (name, args[0]) for n in rule["names"]):
                conditional.append(value)
            if name == "ipc" and any(compiler.MULTIPLEXED.get(n) == (name, args[0] & 0xFFFF) for n in rule["names"]):
                conditional.append(value)
        if name not in rule["names"]:
            continue
        if not arguments:
            return value
        indexes = [argument["index"] for argument in arguments]
        test = any if len(set(indexes)) < len(indexes) else all
        if test([holds(argument, args) for argument in arguments]):
            conditional.append(value)
    return conditional[0] if conditional else default


def decision(profile: dict[str, Any], arch: str, number: int, args: tuple[int, ...]) -> int:
    """What *profile* means for a call by number on architecture word *arch* (ours: x86_64, x86, aarch64, arm)."""
    own = {"x86": "x86_64", "arm": "aarch64"}.get(arch, arch)
    listed = {compiler.ARCHITECTURES[name] for name in profile.get("architectures") or []}
    if arch not in (own, *listed):
        return KILL_PROCESS
    if arch == "x86_64" and number >= 0x40000000 and number != 0xFFFFFFFF:
        if "x32" not in listed:
            return KILL_PROCESS
        arch = "x32"
    if arch in ("x86", "arm"):
        args = tuple(value & 0xFFFFFFFF for value in args)  # what of a register reaches the call
    names = {value: name for name, value in compiler.numbers(arch).items()}
    return decision_by_name(profile, names.get(number, "?"), args, arch)
