"""mount(2) and the file-descriptor based mount interface (fsopen(2), open_tree(2), mount_setattr(2))."""

from __future__ import annotations

import ctypes
import os

from rl.kernel import libc as k

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_EMPTY_PATH = 0x8

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

AT_FDCWD = -100


def _encode(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def mount(source: str | None, target: str, fstype: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2). Raises OSError naming *target*."""
    k.check(
        k.libc.mount(_encode(source), _encode(target), _encode(fstype), ctypes.c_ulong(flags), _encode(data)),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    k.check(k.libc.umount2(_encode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); ``pivot_root(".", ".")`` stacks the old root under the new one."""
    k.syscall(k.number_of("pivot_root"), _encode(new_root), _encode(put_old), path=new_root)


def fsopen(fstype: str) -> int:
    """A file-system configuration context, close-on-exec (fsopen(2), Linux 5.2)."""
    return k.syscall(k.NR_FSOPEN, fstype.encode(), 1, path=fstype)


def fsconfig_string(fd: int, key: str, value: str) -> None:
    """Set option *key*; the kernel takes at most 255 bytes of *value*."""
    try:
        k.syscall(k.NR_FSCONFIG, fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0, path=f"{key}={value}")
    except OSError as error:
        raise _with_log(fd, error) from None


def fsconfig_flag(fd: int, key: str) -> None:
    """Set the valueless option *key*."""
    try:
        k.syscall(k.NR_FSCONFIG, fd, FSCONFIG_SET_FLAG, key.encode(), None, 0, path=key)
    except OSError as error:
        raise _with_log(fd, error) from None


def fsconfig_create(fd: int) -> None:
    """Make the file system that the context describes."""
    try:
        k.syscall(k.NR_FSCONFIG, fd, FSCONFIG_CMD_CREATE, None, None, 0)
    except OSError as error:
        raise _with_log(fd, error) from None


def fspick(mount: int) -> int:
    """A context to change the file system that descriptor *mount* is the root of (fspick(2)), close-on-exec."""
    return k.syscall(k.NR_FSPICK, mount, b"", 1 | FSPICK_EMPTY_PATH)


def fsconfig_reconfigure(fd: int) -> None:
    """Apply the options set in a context of :func:`fspick`."""
    try:
        k.syscall(k.NR_FSCONFIG, fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    except OSError as error:
        raise _with_log(fd, error) from None


def _with_log(fd: int, error: OSError) -> OSError:
    """*error* with what the kernel wrote into the context's message log, the only place it explains."""
    messages = []
    while True:
        try:
            line = os.read(fd, 4096)
        except OSError:
            break
        if not line:
            break
        messages.append(line.decode(errors="replace").strip())
    text = "; ".join(messages)
    return OSError(error.errno, f"{error.strerror} ({text})" if text else error.strerror, error.filename)


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of the file system, close-on-exec; attach it with :func:`move_mount`."""
    return k.syscall(k.NR_FSMOUNT, fd, 1, attributes)


def open_tree(path: str, flags: int, dirfd: int = AT_FDCWD) -> int:
    """open_tree(2); with OPEN_TREE_CLONE a detached copy of the mount, close-on-exec."""
    return k.syscall(k.NR_OPEN_TREE, dirfd, os.fsencode(path), flags | os.O_CLOEXEC, path=path)


def move_mount(fd: int, target: str, target_dirfd: int = AT_FDCWD) -> None:
    """Attach detached mount *fd* at *target*; an empty *target* means *target_dirfd* itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    k.syscall(k.NR_MOVE_MOUNT, fd, b"", target_dirfd, os.fsencode(target), flags, path=target)


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(
    dirfd: int, path: str, set_: int = 0, clear: int = 0, *,
    propagation: int = 0, userns_fd: int = 0, recursive: bool = False,
) -> None:
    """mount_setattr(2), Linux 5.12; an empty *path* means *dirfd* itself."""
    attr = _MountAttr(set_, clear, propagation, userns_fd)
    flags = (0 if path else AT_EMPTY_PATH) | (AT_RECURSIVE if recursive else 0)
    address, size = ctypes.addressof(attr), ctypes.sizeof(attr)
    k.syscall(k.NR_MOUNT_SETATTR, dirfd, os.fsencode(path), flags, address, size, path=path)
