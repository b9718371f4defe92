"""What a compiled filter says to one system call, without making it: for calls that would kill the one who tries.

Called by :mod:`rl.runtime.launcher`, outside of the container. Source: seccomp(2), struct seccomp_data.
"""

from __future__ import annotations

import struct

from rl.runtime.seccomp import bpf

_ALLOW, _LOG = 0x7FFF0000, 0x7FFC0000
_JSET = 0x45


def permits(program: bytes, architecture: int, number: int, arguments: tuple[int, ...]) -> bool:
    """Whether *program* lets system call *number* of *architecture* (AUDIT_ARCH_*) through to the kernel.

    False also for a program with instructions that the compiler does not make.
    """
    data = struct.pack("=IIQ6Q", number, architecture, 0, *(arguments + (0,) * 6)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    position = value = 0
    while position < len(code):  # all jumps go forward
        operation, true, false, k = code[position]
        position += 1
        if operation == bpf.LOAD and k % 4 == 0 and k < len(data):
            value = struct.unpack_from("=I", data, k)[0]
        elif operation == bpf.AND:
            value &= k
        elif operation == bpf.JUMP:
            position += k
        elif operation == bpf.RETURN:
            return k in (_ALLOW, _LOG)
        elif operation in (bpf.JEQ, bpf.JGT, bpf.JGE, _JSET):
            holds = {bpf.JEQ: value == k, bpf.JGT: value > k, bpf.JGE: value >= k, _JSET: bool(value & k)}[operation]
            position += true if holds else false
        else:
            return False
    return False
