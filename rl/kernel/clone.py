"""clone(2), clone3(2): fork and create namespaces in one step, without moving the caller.

``unshare(CLONE_NEWPID)`` would change where all later children of the caller go; the monitor must not
do that to itself. Called by the runtime only, from single-threaded processes.
"""

from __future__ import annotations

import ctypes
import errno
import os

from rl.kernel import libc as k

CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000

_NR_CLONE = 56 if k.MACHINE == "x86_64" else 220
_NR_CLONE3 = 435
_CLONE_INTO_CGROUP = 0x200000000
_SIGCHLD = 17

# PyDLL keeps the interpreter lock across the call: the child wakes up holding it, as after os.fork().
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _CloneArgs(ctypes.Structure):
    """struct clone_args up to `cgroup` (Linux 5.7)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


def clone(flags: int, cgroup_fd: int = -1) -> tuple[int, int]:
    """Fork with the CLONE_* *flags*: (pid, pidfd) in the caller, (0, -1) in the child.

    With CLONE_PARENT the new process is a child of the caller's parent. With *cgroup_fd* (a cgroup v2 directory) it
    begins its life in there, by clone3(2), Linux 5.7: moving it later waits for an RCU grace period, 10 to 20 ms.
    The kernel call is made directly, between the same interpreter hooks that os.fork() runs. Raises OSError.
    """
    pidfd = ctypes.c_int(-1)
    word = ctypes.c_long
    arguments: tuple[object, ...]
    if cgroup_fd >= 0:
        into = _CloneArgs(flags | CLONE_PIDFD | _CLONE_INTO_CGROUP, ctypes.addressof(pidfd))
        into.exit_signal, into.cgroup = _SIGCHLD, cgroup_fd
        arguments = (word(_NR_CLONE3), ctypes.byref(into), word(ctypes.sizeof(into)))
    else:
        clone_flags = word(flags | CLONE_PIDFD | _SIGCHLD)
        arguments = (word(_NR_CLONE), clone_flags, word(0), ctypes.byref(pidfd), word(0), word(0))
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _libc.syscall(*arguments)
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        hint = "too many processes or namespaces" if number in (errno.EAGAIN, errno.ENOSPC) else ""
        raise OSError(number, f"clone: {os.strerror(number)}" + (f" ({hint})" if hint else ""))
    return pid, pidfd.value
