"""tmpcopyup: a tmpfs that begins with what the image has at its mount point.

Imported only for such a mount. Everything goes by directory descriptors and never follows a symbolic link.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK = 1 << 20


def copy_tree(source: int, target: int, keep_owner: bool = True, keep_mode: bool = True) -> None:
    """Copy the content of directory *source* into directory *target*, and its owner and mode if asked.

    Raises OSError (ENOSPC when the tmpfs is too small).
    """
    info = os.fstat(source)
    # fsmount(2) gives an O_PATH descriptor; one to work with is opened through it.
    out = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=target)
    try:
        _copy_entries(source, out)
        if keep_owner:
            _try(os.fchown, out, info.st_uid, info.st_gid)
        if keep_mode:
            os.fchmod(out, stat.S_IMODE(info.st_mode))
    finally:
        os.close(out)


def _copy_entries(source: int, target: int) -> None:
    for name in os.listdir(source):
        info = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            inner_source = os.open(name, flags, dir_fd=source)
            inner_target = os.open(name, flags, dir_fd=target)
            try:
                _copy_entries(inner_source, inner_target)
                _finish(inner_target, info)
            finally:
                os.close(inner_source)
                os.close(inner_target)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            _try(os.chown, name, info.st_uid, info.st_gid, dir_fd=target, follow_symlinks=False)
        elif stat.S_ISREG(info.st_mode):
            _copy_file(source, target, name, info)
        elif stat.S_ISFIFO(info.st_mode):
            os.mkfifo(name, stat.S_IMODE(info.st_mode), dir_fd=target)
        # sockets are dead without their process, device nodes cannot be made here


def _copy_file(source: int, target: int, name: str, info: os.stat_result) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        writer = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, _CHUNK):
                pass
            _finish(writer, info)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _finish(fd: int, info: os.stat_result) -> None:
    _try(os.fchown, fd, info.st_uid, info.st_gid)
    os.fchmod(fd, stat.S_IMODE(info.st_mode))
    os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))


def _try(change: Callable[..., None], *arguments: object, **named: object) -> None:
    """An owner without a counterpart in this user namespace stays ours."""
    try:
        change(*arguments, **named)
    except OSError:
        pass
