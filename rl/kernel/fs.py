"""File system calls that the standard library lacks: openat2(2), renameat2(2), reflinks, syncfs(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from rl.kernel import libc as k

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

FICLONE = 0x40049409
PROC_SUPER_MAGIC = 0x9FA0
CGROUP2_SUPER_MAGIC = 0x63677270

_ATTEMPTS = 5000
_fstatfs = k.libc.fstatfs  # looked up once, not in each container's child


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2), Linux 5.6, close-on-exec. Raises OSError naming *path*.

    A scoped lookup through ".." fails with EAGAIN whenever anything was renamed or mounted meanwhile, anywhere on the
    machine: then once more, but not for ever, as somebody may do that on purpose.
    """
    how = struct.pack("=QQQ", (flags | os.O_CLOEXEC) & 0xFFFFFFFF, mode, resolve)
    for _ in range(_ATTEMPTS):
        try:
            return k.syscall(k.NR_OPENAT2, dirfd, os.fsencode(path), how, len(how), path=path)
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, "files are renamed or mounted without end while it is looked up", path)


def renameat2(source: str, target: str, flags: int) -> None:
    """renameat2(2) from the working directory; RENAME_NOREPLACE makes taking a name atomic."""
    k.syscall(k.number_of("renameat2"), -100, os.fsencode(source), -100, os.fsencode(target), flags, path=target)


def chown_descriptor(fd: int, uid: int, gid: int) -> None:
    """fchownat(2) with AT_EMPTY_PATH: of an O_PATH descriptor, too, even one of a symbolic link."""
    k.check(k.libc.fchownat(fd, b"", uid, gid, 0x1000))


def syncfs(fd: int) -> None:
    """Make everything written to *fd*'s file system durable."""
    k.check(k.libc.syncfs(fd))


def reflink(source_fd: int, target_fd: int) -> None:
    """Share *source_fd*'s extents with *target_fd* (ioctl_ficlone(2)); EOPNOTSUPP where the file system cannot."""
    fcntl.ioctl(target_fd, FICLONE, source_fd)


def fs_type(fd: int) -> int:
    """The magic number of *fd*'s file system (statfs(2)); 0 where it cannot be asked."""
    import ctypes

    buffer = ctypes.create_string_buffer(256)
    k.check(_fstatfs(fd, buffer))
    return int(struct.unpack_from("@l", buffer.raw)[0])
