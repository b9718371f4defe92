"""Namespaces: unshare(2), setns(2), their files and id maps (user_namespaces(7))."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from rl.kernel import fs
from rl.kernel import libc as k

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

NS_GET_USERNS = 0xB701
NS_GET_OWNER_UID = 0xB704


def unshare(flags: int) -> None:
    """unshare(2). A process with threads cannot leave its user namespace (EINVAL)."""
    k.check(k.libc.unshare(flags))


def setns(fd: int, flags: int = 0) -> None:
    """setns(2); *fd* is a namespace file (flags 0 or its kind) or a pidfd (flags: the kinds to join)."""
    k.check(k.libc.setns(fd, flags))


def open_namespace(pid: int | str, kind: str) -> int:
    """Process *pid*'s namespace file of *kind* (``user``, ``mnt``, ``net``, …), close-on-exec."""
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)


def owner_uid(fd: int) -> int:
    """The uid, in our user namespace, of who created user namespace *fd* (ioctl_ns(2))."""
    buffer = fcntl.ioctl(fd, NS_GET_OWNER_UID, b"\0" * 4)
    return int(struct.unpack("=I", buffer)[0])


def is_initial_user_namespace() -> bool:
    """Whether this process is in the user namespace the machine booted with (its inode is fixed in proc_ns.h)."""
    return os.stat("/proc/self/ns/user").st_ino == 0xEFFFFFFD


def write_proc(path: str, text: str) -> None:
    """Write *text* to a /proc file in one write(2), as id maps demand. Raises OSError naming *path*.

    A path in /proc is opened so that it can be nothing but that file of procfs: no bind mount over it, no magic link
    (CVE-2019-16884, CVE-2025-52881: a write meant for an LSM label or a sysctl was led to another file).
    """
    fd = open_proc(path, os.O_WRONLY) if path.startswith("/proc/") else os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def open_proc(path: str, flags: int = os.O_RDONLY) -> int:
    """Open *path*, which begins with /proc/, and make sure that it is a file of the procfs mounted on /proc.

    Below /proc/sys a mounted directory is let pass (LXC mounts /proc/sys/net so), a mounted file never is.
    Raises OSError naming *path*; EXDEV where something is mounted over it.
    """
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_proc(proc, "/proc")
        if os.fstat(proc).st_ino != 1:  # PROC_ROOT_INO: a directory of some procfs would pass otherwise
            raise OSError(errno.EXDEV, "not the root of a procfs", "/proc")
        try:
            return _open_strictly(proc, path[6:], flags, path)
        except OSError as error:
            if error.errno != errno.EXDEV or not path.startswith("/proc/sys/"):
                raise
        parent, _, name = path[6:].rpartition("/")
        directory = fs.openat2(proc, parent, os.O_PATH | os.O_DIRECTORY, 0, fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS)
        try:
            _check_proc(directory, path)
            return _open_strictly(directory, name, flags, path)
        finally:
            os.close(directory)
    finally:
        os.close(proc)


def _open_strictly(directory: int, name: str, flags: int, path: str) -> int:
    try:
        fd = fs.openat2(
            directory, name, flags, 0, fs.RESOLVE_BENEATH | fs.RESOLVE_NO_XDEV | fs.RESOLVE_NO_MAGICLINKS
        )
    except OSError as error:
        reason = "something is mounted over it" if error.errno == errno.EXDEV else error.strerror
        raise OSError(error.errno, reason, path) from None
    try:
        _check_proc(fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_proc(fd: int, path: str) -> None:
    if fs.fs_type(fd) != fs.PROC_SUPER_MAGIC:
        raise OSError(errno.EXDEV, "not on a procfs", path)


def sethostname(name: str) -> None:
    """sethostname(2), at most 64 bytes."""
    data = name.encode()
    k.check(k.libc.sethostname(data, len(data)))


def setdomainname(name: str) -> None:
    """setdomainname(2), at most 64 bytes."""
    data = name.encode()
    k.check(k.libc.setdomainname(data, len(data)))


def loopback_up() -> None:
    """Bring ``lo`` up in the current network namespace (netdevice(7))."""
    import _socket

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = fcntl.ioctl(sock.fileno(), 0x8913, struct.pack("16sH22x", b"lo", 0))  # SIOCGIFFLAGS
        flags = struct.unpack_from("H", request, 16)[0] | 0x1 | 0x40  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(sock.fileno(), 0x8914, struct.pack("16sH22x", b"lo", flags))  # SIOCSIFFLAGS
    finally:
        sock.close()
