"""Giving whole trees to another owner, while a container may rename things in them: the option U, and `rl own`.

Everything goes by descriptors: a directory is opened from its parent's, never through a symbolic link, and not across
a mount unless that is asked for; a link is changed itself, never what it points to (CVE-2021-30465 is of this kind).
Runs inside the shared user namespace; ids are those of it. Any depth of tree works with a bounded number of
descriptors.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.kernel import fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: path below the root of the walk, and what stat says of it → new (uid, gid), or None to leave it as it is
    Choose = Callable[[str, os.stat_result], tuple[int, int] | None]
    #: what could not be changed, and why; raising ends the walk
    Failed = Callable[[str, OSError], None]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_KEPT_OPEN = 100


class _Level:
    """A directory on the way: its descriptor (or -1: to be reopened from below), identity, and what is left of it."""

    __slots__ = ("fd", "identity", "names", "path")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self.names = os.listdir(fd)


class Walk:
    """Changes owners below one path. ``skip`` holds (device, inode) of directories that are left alone."""

    def __init__(
        self, choose: Choose, failed: Failed, *, cross_mounts: bool = False,
        skip: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.choose = choose
        self.failed = failed
        self.skip = skip
        self.resolve = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS | (0 if cross_mounts else fs.RESOLVE_NO_XDEV)

    def tree(self, start: int) -> None:
        """Change what descriptor *start* (O_PATH will do) is, and if it is a directory all that is in it.

        A directory is changed before its content: so that a second walk finds what a first one, which was
        killed, has not reached.
        """
        if not self._change(start, "", "") or not stat.S_ISDIR(os.fstat(start).st_mode):
            return
        levels = [_Level(os.open(".", _DIRECTORY | os.O_CLOEXEC, dir_fd=start), "")]
        try:
            while levels:
                level = levels[-1]
                if level.names:
                    self._entry(level, level.names.pop(), levels)
                else:
                    self._leave(levels)
        finally:
            for level in levels:
                if level.fd >= 0:
                    os.close(level.fd)

    def _entry(self, level: _Level, name: str, levels: list[_Level]) -> None:
        path = f"{level.path}/{name}" if level.path else name
        if not self._change(level.fd, name, path):
            return
        try:
            fd = fs.openat2(level.fd, name, _DIRECTORY, 0, self.resolve)
        except OSError as error:
            # No directory, a link, gone, or where something else is mounted.
            if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.EXDEV):
                self.failed(path, error)
            return
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) in self.skip:
            os.close(fd)
            return
        try:
            levels.append(_Level(fd, path))
        except OSError as error:
            os.close(fd)
            self.failed(path, error)
            return
        if len(levels) > _KEPT_OPEN and levels[-_KEPT_OPEN].fd >= 0:
            os.close(levels[-_KEPT_OPEN].fd)
            levels[-_KEPT_OPEN].fd = -1

    def _leave(self, levels: list[_Level]) -> None:
        done = levels.pop()
        try:
            if levels and levels[-1].fd < 0:
                above = levels[-1]
                above.fd = os.open("..", _DIRECTORY | os.O_CLOEXEC, dir_fd=done.fd)
                status = os.fstat(above.fd)
                if (status.st_dev, status.st_ino) != above.identity:
                    above.names = []  # it was moved while we were in it: what it is in now is not ours to change
                    self.failed(done.path, OSError(errno.EAGAIN, "the directory was moved meanwhile"))
                    for level in levels:
                        level.names = []
        finally:
            os.close(done.fd)

    def _change(self, directory: int, name: str, path: str) -> bool:
        """Change one entry; *name* "" is the descriptor itself. Whether what is below it is to be changed, too."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False) if name else os.fstat(directory)
            if name and (status.st_dev, status.st_ino) in self.skip:
                return False
            owner = self.choose(path, status)
            if owner is None:
                return True
            if name:
                os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)
            else:
                fs.chown_descriptor(directory, *owner)
        except FileNotFoundError:
            return False  # removed meanwhile
        except OSError as error:
            self.failed(path, error)
            return False
        return True


def give(path: str, uid: int, gid: int) -> None:
    """Give *path* (a link there is followed: its target is what gets mounted) and all below to (uid, gid).

    Raises OSError naming the entry that could not be changed.
    """
    def failed(entry: str, error: OSError) -> None:
        raise OSError(error.errno, error.strerror, f"{path}/{entry}" if entry else path) from None

    def choose(entry: str, status: os.stat_result) -> tuple[int, int] | None:
        return None if (status.st_uid, status.st_gid) == (uid, gid) else (uid, gid)

    start = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        Walk(choose, failed).tree(start)
    finally:
        os.close(start)
