"""clone(2): fork and create namespaces in one step, without moving the caller.

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
_SIGCHLD = 17

# PyDLL keeps the interpreter lock across the call: the child wakes up holding it, as after os.fork().
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def clone(flags: int) -> tuple[int, int]:
    """Fork with the CLONE_* *flags*: (pid, pidfd) in the caller, (0, -1) in the child.

    With CLONE_PARENT the new process is a child of the caller's parent. The kernel call is made directly,
    between the same interpreter hooks that os.fork() runs. Raises OSError.
    """
    pidfd = ctypes.c_int(-1)
    word = ctypes.c_long
    arguments = (word(_NR_CLONE), word(flags | CLONE_PIDFD | _SIGCHLD), word(0), ctypes.byref(pidfd), word(0), word(0))
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
