"""The C library, bound once; every other file of this package calls through here.

A failed call raises OSError with the errno, the strerror and, where one is given, the path, so
that callers never look at return values.
"""

from __future__ import annotations

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

# ctypes.c_long for every register-sized argument of syscall(2): a Python int alone would be
# passed as a 32-bit int, and -1 or a flag above 2**31 would be cut.
_long = ctypes.c_long
libc.syscall.restype = _long

MACHINE = os.uname().machine


def check(result: int, path: str = "") -> int:
    """*result*, or the OSError that errno names when it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)
    return result


def syscall(number: int, *arguments: int | bytes | None, path: str = "") -> int:
    """Call the kernel directly, for calls that older C libraries do not wrap.

    Pointers are given as ``bytes``, as an address (``ctypes.addressof``) or as None.
    """
    converted = [_long(a) if isinstance(a, int) else a for a in arguments]
    return check(libc.syscall(_long(number), *converted), path)


# Numbers above 423 are the same on every architecture Linux 5.1 and later runs on.
NR_PIDFD_SEND_SIGNAL = 424
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_FSPICK = 433
NR_CLOSE_RANGE = 436
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442

_NUMBERS = {  # name: (x86_64, aarch64 and riscv64)
    "keyctl": (250, 219),
    "seccomp": (317, 277),
    "pivot_root": (155, 41),
    "setns": (308, 268),
    "capget": (125, 90),
    "capset": (126, 91),
    "ioprio_set": (251, 30),
    "sched_setattr": (314, 274),
    "renameat2": (316, 276),
    "bpf": (321, 280),
    "execveat": (322, 281),
}


def number_of(name: str) -> int:
    """The number of system call *name* on this machine."""
    return _NUMBERS[name][0 if MACHINE == "x86_64" else 1]
