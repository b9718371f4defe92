"""inotify(7): being told of changes in a directory instead of looking again and again."""

from __future__ import annotations

import ctypes
import os

from rl.kernel import libc as k

IN_MODIFY = 0x2
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800

_IN_NONBLOCK = os.O_NONBLOCK
_IN_CLOEXEC = os.O_CLOEXEC


def watch(path: str, mask: int) -> int:
    """A non-blocking descriptor that becomes readable when something of *mask* happens to *path*.

    Raises OSError; EMFILE and ENOSPC mean the user's limits of /proc/sys/fs/inotify are reached.
    """
    fd = k.check(k.libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC))
    try:
        k.check(k.libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask)), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def drain(fd: int) -> bool:
    """Forget the events that are waiting; whether there were any."""
    found = False
    while True:
        try:
            if not os.read(fd, 65536):
                return found
        except BlockingIOError:
            return found
        found = True
