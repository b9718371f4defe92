"""Executing a file that has no name: memfd_create(2) with seals, execveat(2)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os

from rl.kernel import libc as k

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS = 1033
_SEALS = 1 | 2 | 4 | 8  # F_SEAL_SEAL, SHRINK, GROW, WRITE
_AT_EMPTY_PATH = 0x1000


def sealed_program(name: str, data: bytes) -> int:
    """A descriptor (close-on-exec) of an executable file of *data* that nobody can ever change. Raises OSError.

    Execute permission only: who may not override permissions cannot read it, so the kernel makes the process that
    runs it not dumpable.
    """
    flags = _MFD_CLOEXEC | _MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create(name, flags)  # before Linux 6.3, where every memfd is executable
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        os.fchmod(fd, 0o111)
        fcntl.fcntl(fd, _F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def execveat(fd: int, arguments: list[bytes], environment: list[bytes]) -> None:
    """Become the program behind *fd*; returns only by raising OSError.

    The call itself, not fexecve(3), which falls back to a name below /proc: that may be anybody's here.
    """
    argv = (ctypes.c_char_p * (len(arguments) + 1))(*arguments, None)
    envp = (ctypes.c_char_p * (len(environment) + 1))(*environment, None)
    k.syscall(
        k.number_of("execveat"), fd, b"", ctypes.addressof(argv), ctypes.addressof(envp), _AT_EMPTY_PATH
    )
