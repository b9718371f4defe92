"""What a process may set about itself: prctl(2), capabilities(7), keyrings(7), pidfds, close_range(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from rl.kernel import libc as k

# Where ctypes is loaded anyway one module will do.
from rl.kernel.proc import boot_id as boot_id
from rl.kernel.proc import id_map as id_map
from rl.kernel.proc import is_zombie as is_zombie
from rl.kernel.proc import pidfd_send_signal as pidfd_send_signal
from rl.kernel.proc import start_time as start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class HasProcess(Protocol):
        """What a runtime makes: pid and pidfd of a child, its terminal's master; 0 and -1 where there is none."""

        pid: int
        pidfd: int
        master: int

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def prctl(option: int, a2: int = 0, a3: int = 0, a4: int = 0, a5: int = 0) -> int:
    """prctl(2)."""
    word = ctypes.c_ulong
    return k.check(k.libc.prctl(option, word(a2), word(a3), word(a4), word(a5)))


def capget() -> tuple[int, int, int]:
    """This process's (effective, permitted, inheritable) capability sets as bit masks."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    k.syscall(k.number_of("capget"), header, ctypes.addressof(data))
    e0, p0, i0, e1, p1, i1 = struct.unpack("=6I", data.raw)
    return e0 | e1 << 32, p0 | p1 << 32, i0 | i1 << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this process's capability sets from bit masks."""
    low = 0xFFFFFFFF
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    data = struct.pack(
        "=6I", effective & low, permitted & low, inheritable & low,
        effective >> 32, permitted >> 32, inheritable >> 32,
    )
    k.syscall(k.number_of("capset"), header, data)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """Close file descriptors *first* to *last* in one call; flags 4 marks them close-on-exec instead."""
    k.syscall(k.NR_CLOSE_RANGE, first, last, flags)


def join_new_keyring(name: str = "") -> None:
    """A fresh session keyring, so that the caller's keys do not leak (keyctl(2), JOIN_SESSION_KEYRING)."""
    k.syscall(k.number_of("keyctl"), 1, name.encode() if name else None)


def knows_seccomp_flags(flags: int) -> bool:
    """Whether the kernel knows all *flags* of seccomp(2): it looks at them before it misses the program."""
    try:
        k.syscall(k.number_of("seccomp"), 1, flags, None)
    except OSError as error:
        return error.errno == errno.EFAULT
    return False  # not reached: there is no filter at address 0


def set_seccomp_filter(program: bytes, flags: int = 0) -> int:
    """Add a seccomp filter to this thread: seccomp(2), SECCOMP_SET_MODE_FILTER; *program* is struct sock_filter[].

    Returns the listener with SECCOMP_FILTER_FLAG_NEW_LISTENER, else 0.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    try:
        return k.syscall(k.number_of("seccomp"), 1, flags, fprog)
    except OSError as error:
        if error.errno != errno.ENOSYS or flags:
            raise
    # seccomp(2) itself is forbidden where an outer filter is older than it: prctl is the same.
    holder = ctypes.create_string_buffer(fprog, len(fprog))
    return prctl(PR_SET_SECCOMP, 2, ctypes.addressof(holder))


def set_rlimit(resource: int, soft: int, hard: int, pid: int = 0) -> None:
    """Set limit number *resource* of process *pid*, 0 is this one (prlimit(2)); 2**64 - 1 is unlimited."""
    value = struct.pack("=QQ", soft, hard)
    k.check(k.libc.prlimit64(pid, resource, value, None))


def get_rlimit(resource: int, pid: int = 0) -> tuple[int, int]:
    """(soft, hard) of limit number *resource* of process *pid*, 0 is this one."""
    buffer = ctypes.create_string_buffer(16)
    k.check(k.libc.prlimit64(pid, resource, None, buffer))
    soft, hard = struct.unpack("=QQ", buffer.raw)
    return soft, hard


def sched_setattr(
    policy: int, flags: int, nice: int = 0, priority: int = 0, runtime: int = 0, deadline: int = 0, period: int = 0
) -> None:
    """Scheduling of this thread: sched_setattr(2), the times in nanoseconds."""
    attributes = struct.pack("=IIQiIQQQ", 48, policy, flags, nice, priority, runtime, deadline, period)
    k.syscall(k.number_of("sched_setattr"), 0, attributes, 0)


def ioprio_set(io_class: int, priority: int) -> None:
    """I/O priority of this thread: ioprio_set(2)."""
    k.syscall(k.number_of("ioprio_set"), 1, 0, io_class << 13 | priority)


def personality(persona: int) -> None:
    """The execution domain of this thread: personality(2)."""
    k.check(k.libc.personality(ctypes.c_ulong(persona)))


def end(created: HasProcess) -> None:
    """Kill and reap the process of *created*, and close its descriptors."""
    if created.pidfd >= 0:
        try:
            pidfd_send_signal(created.pidfd, 9)
        except OSError:
            pass
    if created.pid:
        try:
            os.waitpid(created.pid, 0)
        except ChildProcessError:
            pass
        created.pid = 0
    for fd in (created.pidfd, created.master):
        if fd >= 0:
            os.close(fd)
    created.pidfd = created.master = -1
