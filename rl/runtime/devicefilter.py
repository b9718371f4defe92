"""The device filter of a container: which devices it may read, write and make (``linux.resources.devices``).

cgroup v2 has no file for it: the kernel asks an eBPF program attached to the cgroup. Only real root may attach one;
for a user nothing is lost: without CAP_MKNOD in the initial user namespace no device can be made, and what is bound
into /dev opens with the user's own rights. Called by :mod:`rl.runtime.program.groups`.
Source: OCI runtime specification, config-linux.md "Allowed Device list"; include/uapi/linux/bpf.h (struct
bpf_cgroup_dev_ctx); Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import errno
import os
import struct

from rl.errors import RlError, UnsupportedError
from rl.kernel import bpf, fs
from rl.kernel import namespaces as ns
from rl.kernel import process as kp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: What every container may use whatever its rules say, as runc and crun have it: making nodes (which a filter on
#: opening makes harmless), the default devices, the terminals of its devpts.
DEFAULT_RULES: list[dict[str, Any]] = [
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, -1))
    ),
]

_NAME = "rl_devices"
_TYPES = {"b": 1, "c": 2, "u": 2, "a": 0}  # BPF_DEVCG_DEV_BLOCK, BPF_DEVCG_DEV_CHAR
_ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_ALL = 7
_CAP_NET_ADMIN, _CAP_SYS_ADMIN, _CAP_SYS_RESOURCE, _CAP_MKNOD, _CAP_BPF = 12, 21, 24, 27, 39
_RLIMIT_MEMLOCK = 8

# Operations: class | source | code.
_LOAD_WORD = 0x61  # dst = *(u32 *)(src + off)
_SET, _COPY, _AND, _SHIFT_RIGHT = 0xB7, 0xBF, 0x57, 0x77  # 64-bit: dst = imm, dst = src, dst &= imm, dst >>= imm
_IF_NOT_EQUAL, _IF_ANY, _JUMP, _EXIT = 0x55, 0x45, 0x05, 0x95  # dst != imm, dst & imm, always
_RESULT, _CONTEXT, _TYPE, _LEFT, _MAJOR, _MINOR = range(6)  # registers; _LEFT: the access that no rule has decided


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | target, offset, immediate)


def compile_rules(rules: list[dict[str, Any]]) -> bytes:
    """The eBPF program of *rules* and :data:`DEFAULT_RULES`: returns 1 to allow, 0 to refuse.

    A later rule overrides an earlier one, for each of reading, writing and making by itself; what no rule names is
    refused. So the rules are asked from the last to the first, each taking away what it allows, until nothing is left
    of the access or a rule refuses some of it. Raises RlError for a rule that means nothing.
    """
    code = [
        _instruction(_LOAD_WORD, _TYPE, _CONTEXT, 0),  # access_type: the type below, the access in the upper 16 bits
        _instruction(_COPY, _LEFT, _TYPE),
        _instruction(_AND, _TYPE, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _LEFT, immediate=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed([*rules, *DEFAULT_RULES]):
        tests, access = _tests(rule)
        if access:
            code += _block(tests, access, bool(rule.get("allow")))
        if not tests and access == _ALL:
            break  # it decides everything: what stands before it has no effect
    code += [
        _instruction(_SET, _RESULT, immediate=0),
        _instruction(_IF_NOT_EQUAL, _LEFT, offset=1, immediate=0),
        _instruction(_SET, _RESULT, immediate=1),
        _instruction(_EXIT),
    ]
    return b"".join(code)


def _tests(rule: dict[str, Any]) -> tuple[list[tuple[int, int]], int]:
    """([(register, value it must have)], access bits) of *rule*."""
    kind = rule.get("type") or "a"
    if kind not in _TYPES:
        raise RlError(f"device rule: type {kind!r} is not one of a, b, c, u")
    tests = [(_TYPE, _TYPES[kind])] if kind != "a" else []
    for register, name, most in ((_MAJOR, "major", 0xFFF), (_MINOR, "minor", 0xFFFFF)):
        value = rule.get(name)
        if value is None or value == -1:
            continue
        if not 0 <= value <= most:
            raise RlError(f"device rule: {name} {value} is not the number of a device", f"0 to {most}, or -1 for any")
        tests.append((register, value))
    access = 0
    for letter in rule.get("access") or "rwm":
        if letter not in _ACCESS:
            raise RlError(f"device rule: access {rule['access']!r} is not made of r, w and m")
        access |= _ACCESS[letter]
    return tests, access


def _block(tests: list[tuple[int, int]], access: int, allow: bool) -> list[bytes]:
    """The instructions of one rule; each test that fails jumps behind them."""
    if allow:
        decide = [
            _instruction(_AND, _LEFT, immediate=~access),
            _instruction(_IF_NOT_EQUAL, _LEFT, offset=2, immediate=0),
            _instruction(_SET, _RESULT, immediate=1),
            _instruction(_EXIT),
        ]
    else:
        decide = [
            _instruction(_IF_ANY, _LEFT, offset=1, immediate=access),
            _instruction(_JUMP, offset=2),
            _instruction(_SET, _RESULT, immediate=0),
            _instruction(_EXIT),
        ]
    length = len(tests) + len(decide)
    return [
        *(
            _instruction(_IF_NOT_EQUAL, register, offset=length - 1 - number, immediate=value)
            for number, (register, value) in enumerate(tests)
        ),
        *decide,
    ]


def possible() -> bool:
    """Whether this process may attach a device filter, and this kernel has them; found out by loading one."""
    if not ns.is_initial_user_namespace():
        return False
    effective = kp.capget()[0]
    if not effective >> _CAP_SYS_ADMIN & 1 and not (effective >> _CAP_BPF & 1 and effective >> _CAP_NET_ADMIN & 1):
        return False
    try:
        os.close(_load(compile_rules([])))
    except OSError:
        return False
    return True


def enforce(cgroup_dir: str, rules: list[dict[str, Any]]) -> str:
    """:func:`apply` where it matters and can be done; else the reason for a warning, "" for a caller who needs none.

    *cgroup_dir* is "" where the container has no cgroup of its own. Raises as :func:`apply`.
    """
    if not ns.is_initial_user_namespace() or not kp.capget()[0] >> _CAP_MKNOD & 1:
        compile_rules(rules)  # a wrong rule is wrong for everybody
        return ""
    if not cgroup_dir:
        return "the container has no cgroup"
    if not possible():
        return "this kernel or an outer container does not let us load a device filter"
    apply(cgroup_dir, rules)
    return ""


def apply(cgroup_dir: str, rules: list[dict[str, Any]]) -> None:
    """Let *rules* (``linux.resources.devices``) and the default devices hold for cgroup v2 directory *cgroup_dir*.

    A filter that rl attached there before is replaced without a gap; one of somebody else (systemd's DeviceAllow=)
    stays, and both must agree. Raises RlError for a wrong rule, UnsupportedError where it cannot be done, OSError.
    """
    program = compile_rules(rules)
    cgroup = os.open(cgroup_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if fs.fs_type(cgroup) != fs.CGROUP2_SUPER_MAGIC:
            raise UnsupportedError(
                f"device filter of {cgroup_dir}: that is not in a cgroup v2 tree", "boot with cgroup v2 alone"
            )
        try:
            new = _load(program)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            raise UnsupportedError(
                f"device filter of {cgroup_dir}: loading an eBPF program is not permitted",
                "it needs real root; without it leave out linux.resources.devices",
            ) from None
        try:
            _attach(cgroup, new)
        finally:
            os.close(new)
    finally:
        os.close(cgroup)


def _attach(cgroup: int, new: int) -> None:
    present = bpf.device_filters(cgroup)
    try:
        old = [fd for fd, name in present if name == _NAME]
        if old:
            try:
                bpf.attach_device_filter(cgroup, new, old[0])
                old = old[1:]
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                bpf.attach_device_filter(cgroup, new)  # before Linux 5.6: beside it, then without it
        else:
            bpf.attach_device_filter(cgroup, new)
        for fd in old:
            bpf.detach_device_filter(cgroup, fd)
    finally:
        for fd, _ in present:
            os.close(fd)


def _load(program: bytes) -> int:
    """Load it; before Linux 5.11 its memory counts against RLIMIT_MEMLOCK, which root may raise."""
    try:
        return bpf.load_device_filter(program, _NAME)
    except OSError as error:
        soft, hard = kp.get_rlimit(_RLIMIT_MEMLOCK)
        unlimited = 2**64 - 1
        if error.errno != errno.EPERM or soft == unlimited or not kp.capget()[0] >> _CAP_SYS_RESOURCE & 1:
            raise
        kp.set_rlimit(_RLIMIT_MEMLOCK, unlimited, unlimited)
        try:
            return bpf.load_device_filter(program, _NAME)
        finally:
            kp.set_rlimit(_RLIMIT_MEMLOCK, soft, hard)
