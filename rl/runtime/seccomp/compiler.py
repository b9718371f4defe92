"""The seccomp compiler: an OCI ``linux.seccomp`` object → a classic BPF program. Called on a cache miss.

Where the specification leaves room, the decisions are those of libseccomp as runc and crun use it, so
that a profile means the same here:

- names no architecture of this machine knows are skipped;
- of several rules for one call, the first without ``args`` decides alone; else the first whose args match;
- all args of a rule must match; but if an index occurs twice in a rule, each arg is a rule of its own;
- a rule whose action is the default action is left out;
- the machine's own architecture is always filtered, others as listed; a call made through an architecture
  that is not listed kills the process (x32 numbers too, they share x86_64's architecture word);
- a rule without args on a socket or System V IPC call also applies to 32-bit x86's socketcall(2) and ipc(2);
  one with args cannot: those arguments are in memory, which a filter does not see.

The program finds the number by binary search over ranges of numbers with the same decision.
"""

from __future__ import annotations

import os

from rl.errors import UnsupportedError, UsageError
from rl.runtime.seccomp import bpf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: (argument index, operator, value, second value)
    Condition = tuple[int, str, int, int]
    #: a return value, or ((conditions, return value), …) tried in turn
    Decision = int | tuple[tuple[tuple[Condition, ...], int], ...]

ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
NOTIFY = "SCMP_ACT_NOTIFY"
KILL_PROCESS = ACTIONS["SCMP_ACT_KILL_PROCESS"]

OPERATORS = (
    "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ",
)

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
#: Not for profiles to name. A listener and TSYNC together need TSYNC_ESRCH: both would be the call's answer (5.7).
NEW_LISTENER = 8
TSYNC_ESRCH = 16

ARCHITECTURES = {  # name of the specification: ours; "" is known and never runs on the machines below
    "SCMP_ARCH_X86_64": "x86_64", "SCMP_ARCH_X86": "x86", "SCMP_ARCH_X32": "x32",
    "SCMP_ARCH_AARCH64": "aarch64", "SCMP_ARCH_ARM": "arm", "SCMP_ARCH_RISCV64": "riscv64",
    **dict.fromkeys(
        ("SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64",
         "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_S390",
         "SCMP_ARCH_S390X", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K",
         "SCMP_ARCH_SH", "SCMP_ARCH_SHEB"), "",
    ),
}  # fmt: skip

#: machine (uname -m): (its own architecture, the others its kernel can run)
MACHINES = {
    "x86_64": ("x86_64", ("x86", "x32")),
    "aarch64": ("aarch64", ("arm",)),
    "riscv64": ("riscv64", ()),
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "x86": 0x40000003, "aarch64": 0xC00000B7, "arm": 0x40000028, "riscv64": 0xC00000F3}

#: Arguments of 32 bits. A 64-bit program that comes by the 32-bit gate can leave anything in the upper halves of its
#: registers: a filter sees it, the call does not, so a comparison of 64 bits could be evaded.
NARROW = ("x86", "arm")

X32_BIT = 0x40000000
NO_CALL = 0xFFFFFFFF  # what a tracer writes to skip a call

SOCKETCALLS = (
    "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom shutdown"
    " setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg"
)
#: 32-bit x86: call → (multiplexer, its first argument); kernel include/uapi/linux/{net,ipc}.h
MULTIPLEXED = {
    **{name: ("socketcall", number) for number, name in enumerate(SOCKETCALLS.split(), 1)},
    "semop": ("ipc", 1), "semget": ("ipc", 2), "semctl": ("ipc", 3), "semtimedop": ("ipc", 4),
    "msgsnd": ("ipc", 11), "msgrcv": ("ipc", 12), "msgget": ("ipc", 13), "msgctl": ("ipc", 14),
    "shmat": ("ipc", 21), "shmdt": ("ipc", 22), "shmget": ("ipc", 23), "shmctl": ("ipc", 24),
}  # fmt: skip

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6]
OFFSET_NUMBER = 0
OFFSET_ARCH = 4
OFFSET_ARGS = 16

LOW = 0xFFFFFFFF


class Rule:
    """One entry of ``syscalls``, checked: ``alternatives`` is empty (always), or lists of conditions."""

    __slots__ = ("alternatives", "names", "value")

    def __init__(self, names: list[str], value: int, alternatives: list[tuple[Condition, ...]]) -> None:
        self.names = names
        self.value = value
        self.alternatives = alternatives


def wrong(path: str, problem: str) -> UsageError:
    """The error for what stands at JSON *path*."""
    hint = "see the OCI runtime specification, config-linux.md, Seccomp"
    return UsageError(f"seccomp profile: {path}: {problem}", hint)


def action_value(action: Any, errno: Any, path: str, errno_key: str = "errnoRet") -> int:
    """The SECCOMP_RET_ value of *action*. Raises UsageError for an unknown one or an errno it cannot carry."""
    if not isinstance(action, str) or action not in ACTIONS:
        raise wrong(path, f"unknown action {action!r}, use one of {' '.join(ACTIONS)}")
    if action not in WITH_ERRNO:
        if errno is not None:
            raise wrong(path, f"{errno_key} has no meaning with {action}")
        return ACTIONS[action]
    if errno is None:
        errno = 1  # EPERM, says the specification
    if type(errno) is not int or not 0 <= errno <= 0xFFFF:
        raise wrong(path, f"{errno_key} must be a number from 0 to 65535, not {errno!r}")
    return ACTIONS[action] | errno


def flags_of(profile: dict[str, Any]) -> int:
    """See :func:`rl.runtime.seccomp.flags_of`."""
    result = 0
    for index, flag in enumerate(_array(profile, "flags", "")):
        if not isinstance(flag, str) or flag not in FLAGS:
            raise wrong(f"flags[{index}]", f"unknown flag {flag!r}, use one of {' '.join(FLAGS)}")
        result |= FLAGS[flag]
    if profile.get("defaultAction") == NOTIFY:
        raise wrong("defaultAction", f"{NOTIFY} is for single calls: the container could not even start")
    rules = _array(profile, "syscalls", "")
    listening = [index for index, rule in enumerate(rules) if isinstance(rule, dict) and rule.get("action") == NOTIFY]
    for index in listening:
        if "sendmsg" in _array(rules[index], "names", f"syscalls[{index}]."):
            problem = "sendmsg cannot be sent to the agent: it is the call that hands the listener over"
            raise wrong(f"syscalls[{index}].names", problem)
    if not listening:
        # Says how a call waits for the agent, and the kernel refuses it without one.
        return result & ~FLAGS["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]
    if not profile.get("listenerPath"):
        raise wrong("listenerPath", f"missing, and a rule has the action {NOTIFY}")
    for key in ("listenerPath", "listenerMetadata"):
        if not isinstance(profile.get(key, ""), str):
            raise wrong(key, "must be a string")
    return result | NEW_LISTENER | (TSYNC_ESRCH if result & FLAGS["SECCOMP_FILTER_FLAG_TSYNC"] else 0)


def machine_architectures(machine: str) -> tuple[str, tuple[str, ...]]:
    """(own architecture, the others) of *machine*. Raises UnsupportedError for one whose numbers are not known."""
    known = {"i686": "x86_64", "i386": "x86_64", "armv7l": "aarch64", "armv8l": "aarch64"}.get(machine, machine)
    if known not in MACHINES:
        raise UnsupportedError(
            f"compile the seccomp profile: the system call numbers of {machine} are not known",
            "run with --security-opt seccomp=unconfined, or with --runtime=crun",
        )
    own, others = MACHINES[known]
    if known != machine:  # a 32-bit personality or kernel: its own architecture is the 32-bit one
        small = others[0]
        return small, (own, *others[1:])
    return own, others


def compile_profile(profile: dict[str, Any], machine: str = "") -> bytes:
    """The program (struct sock_filter[]) of *profile* for *machine*, the running one by default.

    Raises UsageError for a profile that is not valid, UnsupportedError for an unknown machine.
    """
    if not isinstance(profile, dict):
        raise wrong("$", "must be an object")
    own, others = machine_architectures(machine or os.uname().machine)
    listed = _architectures(profile)
    flags_of(profile)
    errno = profile.get("defaultErrnoRet")
    default = action_value(profile.get("defaultAction"), errno, "defaultAction", "defaultErrnoRet")
    rules = [_rule(rule, f"syscalls[{index}]") for index, rule in enumerate(_array(profile, "syscalls", ""))]

    assembler = bpf.Assembler()
    # x32 shares the architecture word of x86_64, and its block.
    wanted = [own, *(other for other in others if other in listed and other != "x32")]
    blocks = [(AUDIT_ARCH[name], _block(assembler, name, "x32" in listed, rules, default)) for name in wanted]
    position = assembler.give(KILL_PROCESS)
    for word, block in reversed(blocks):
        position = assembler.jump(bpf.JEQ, word, block, position)
    assembler.load(OFFSET_ARCH, position)
    return assembler.program()


def _array(holder: dict[str, Any], key: str, path: str) -> list[Any]:
    value = holder.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise wrong(f"{path}{key}", "must be an array")
    return value


def _architectures(profile: dict[str, Any]) -> set[str]:
    listed = set()
    for index, name in enumerate(_array(profile, "architectures", "")):
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise wrong(f"architectures[{index}]", f"unknown architecture {name!r}")
        listed.add(ARCHITECTURES[name])
    return listed


def _rule(rule: Any, path: str) -> Rule:
    if not isinstance(rule, dict):
        raise wrong(path, "must be an object")
    names = _array(rule, "names", path + ".")
    if not names:
        raise wrong(f"{path}.names", "must name a system call")
    for index, name in enumerate(names):
        if not isinstance(name, str):
            raise wrong(f"{path}.names[{index}]", f"must be a string, not {name!r}")
    value = action_value(rule.get("action"), rule.get("errnoRet"), f"{path}.action")
    arguments = _array(rule, "args", path + ".")
    conditions = [_condition(argument, f"{path}.args[{index}]") for index, argument in enumerate(arguments)]
    if len({condition[0] for condition in conditions}) < len(conditions):
        return Rule(names, value, [(condition,) for condition in conditions])
    return Rule(names, value, [tuple(conditions)] if conditions else [])


def _condition(argument: Any, path: str) -> Condition:
    if not isinstance(argument, dict):
        raise wrong(path, "must be an object")
    index, operator = argument.get("index"), argument.get("op")
    if type(index) is not int or not 0 <= index <= 5:
        raise wrong(f"{path}.index", f"must be a number from 0 to 5, not {index!r}")
    if operator not in OPERATORS:
        raise wrong(f"{path}.op", f"unknown operator {operator!r}, use one of {' '.join(OPERATORS)}")
    values = []
    for key in ("value", "valueTwo"):
        number = argument.get(key, 0 if key == "valueTwo" else None)
        if type(number) is not int or not 0 <= number < 1 << 64:
            raise wrong(f"{path}.{key}", f"must be a number from 0 to 2^64 - 1, not {number!r}")
        values.append(number)
    return index, operator, values[0], values[1]


def numbers(architecture: str) -> dict[str, int]:
    """System call name → number."""
    from rl.runtime.seccomp.numbers import TABLES

    result = {}
    for run in TABLES[architecture].split():
        first, _, names = run.partition(":")
        for offset, name in enumerate(names.split(",")):
            result[name] = int(first) + offset
    return result


def decide(architecture: str, rules: list[Rule], default: int) -> dict[int, Decision]:
    """Number → decision, for the calls whose decision is not simply *default*."""
    table = numbers(architecture)
    result: dict[int, Decision] = {}
    for rule in rules:
        if rule.value == default:
            continue
        for name in rule.names:
            if name in table:
                _add(result, table[name], rule.alternatives, rule.value)
            if architecture == "x86" and name in MULTIPLEXED and not rule.alternatives:
                call, first = MULTIPLEXED[name]
                # ipc(2) keeps a version above the call's 16 bits and goes on whatever it is.
                mask = 0xFFFF if call == "ipc" else LOW
                _add(result, table[call], [((0, "SCMP_CMP_MASKED_EQ", mask, first),)], rule.value)
    return result


def _add(result: dict[int, Decision], number: int, alternatives: list[tuple[Condition, ...]], value: int) -> None:
    known = result.get(number, ())
    if isinstance(known, int):
        return
    result[number] = known + tuple((conditions, value) for conditions in alternatives) if alternatives else value


def _block(assembler: bpf.Assembler, name: str, with_x32: bool, rules: list[Rule], default: int) -> int:
    """The code for one architecture word; returns its first position."""
    position = _search(assembler, decide(name, rules, default), default, name in NARROW)
    if name == "x86_64":
        if with_x32:
            beyond = _search(assembler, decide("x32", rules, default), default)
        else:
            beyond = assembler.jump(bpf.JEQ, NO_CALL, assembler.give(default), assembler.give(KILL_PROCESS))
        position = assembler.jump(bpf.JGE, X32_BIT, beyond, position)
    return assembler.load(OFFSET_NUMBER, position)


def _search(assembler: bpf.Assembler, decisions: dict[int, Decision], default: int, narrow: bool = False) -> int:
    """Binary search of the number in A over the ranges of equal decision."""
    ranges: list[tuple[int, Decision]] = [(0, default)]  # (first number, decision), each up to the next
    following = 0
    for number in sorted(decisions):
        if number > following and ranges[-1][1] != default:
            ranges.append((following, default))
        if ranges[-1][1] != decisions[number]:
            ranges.append((number, decisions[number]))
        following = number + 1
    if ranges[-1][1] != default:
        ranges.append((following, default))
    if len(ranges) > 1 and ranges[1][0] == 0:
        del ranges[0]

    shared: dict[Decision, int] = {}

    def tree(first: int, last: int) -> int:
        if first == last:
            return _leaf(assembler, ranges[first][1], default, shared, narrow)
        middle = (first + last + 1) // 2
        right = tree(middle, last)
        left = tree(first, middle - 1)
        return assembler.jump(bpf.JGE, ranges[middle][0], right, left)

    return tree(0, len(ranges) - 1)


def _leaf(
    assembler: bpf.Assembler, decision: Decision, default: int, shared: dict[Decision, int], narrow: bool
) -> int:
    if isinstance(decision, int):
        return assembler.give(decision)
    if decision not in shared:
        position = assembler.give(default)
        for conditions, value in reversed(decision):
            otherwise = position
            position = assembler.give(value)
            for condition in reversed(conditions):
                position = _test(assembler, condition, position, otherwise, narrow)
        shared[decision] = position
    return shared[decision]


def _test(assembler: bpf.Assembler, condition: Condition, true: int, false: int, narrow: bool) -> int:
    """Go to *true* if an argument meets *condition*, else to *false*; two 32-bit words, upper first.

    *narrow*: the upper word counts as 0, whatever it is.
    """
    index, operator, value, second = condition
    low = OFFSET_ARGS + 8 * index  # all machines we know are little-endian
    high = low + 4
    if operator in ("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE"):
        operator = {"NE": "SCMP_CMP_EQ", "LT": "SCMP_CMP_GE", "LE": "SCMP_CMP_GT"}[operator[-2:]]
        true, false = false, true
    if operator == "SCMP_CMP_MASKED_EQ":
        position = _masked(assembler, low, second & value & LOW, value & LOW, true, false)
        if narrow:
            return false if (second & value) >> 32 else position
        return _masked(assembler, high, (second & value) >> 32, value >> 32, position, false)
    if operator == "SCMP_CMP_EQ":
        position = _masked(assembler, low, value & LOW, LOW, true, false)
        if narrow:
            return false if value >> 32 else position
        return _masked(assembler, high, value >> 32, LOW, position, false)
    compare = bpf.JGT if operator == "SCMP_CMP_GT" else bpf.JGE
    position = assembler.load(low, assembler.jump(compare, value & LOW, true, false))
    if narrow:
        return false if value >> 32 else position
    position = assembler.jump(bpf.JEQ, value >> 32, position, false)
    return assembler.load(high, assembler.jump(bpf.JGT, value >> 32, true, position))


def _masked(assembler: bpf.Assembler, offset: int, value: int, mask: int, true: int, false: int) -> int:
    if mask == 0:
        return true
    position = assembler.jump(bpf.JEQ, value, true, false)
    if mask != LOW:
        position = assembler.mask(mask, position)
    return assembler.load(offset, position)
