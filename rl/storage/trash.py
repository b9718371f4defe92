"""Deletion: into the trash by one rename, away from there when there is time.

What the trash holds may belong to subordinate ids and may refuse its own owner (mode 000), so it
is removed inside the shared user namespace. Any number of processes may empty it at once; what a
killed one left is removed by the next. Called by the engine (rm, rmi, volume rm) and the monitor.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def discard(paths: Paths, path: str) -> str:
    """Rename *path* into the trash and return its name there, "" if it was gone already.

    *path* must be on the data directory's file system. Raises RlError.
    """
    for _ in range(8):
        target = f"{paths.trash}/{os.path.basename(path)[:200]}.{os.urandom(6).hex()}"
        try:
            _rename(paths, path, target)
            return target
        except FileNotFoundError:
            if not os.path.lexists(path):
                return ""
            os.makedirs(paths.trash, 0o700, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise RlError(f"move {path} to the trash: {error.strerror}") from None
    raise RlError(f"move {path} to the trash {paths.trash}: no free name")


def _rename(paths: Paths, path: str, target: str) -> None:
    try:
        os.rename(path, target)
    except PermissionError:
        # A directory of a subordinate id: moving it rewrites its "..", which only its owner may.
        userns.call(paths.run, os.rename, path, target)


def empty(paths: Paths) -> None:
    """Remove everything in the trash. Costs one directory read when there is nothing. Raises RlError."""
    try:
        if not os.listdir(paths.trash):
            return
    except FileNotFoundError:
        return
    userns.call(paths.run, remove_contents, paths.trash)


def remove_contents(directory: str) -> None:
    """Remove what *directory* holds, not itself."""
    failed: OSError | None = None
    for name in os.listdir(directory):
        try:
            remove_tree(f"{directory}/{name}")
        except OSError as error:
            failed = error
    if failed:
        raise RlError(f"empty {directory}: remove {failed.filename or 'an entry'}: {failed.strerror}")


def remove_tree(path: str) -> None:
    """Remove *path*, whatever it is; gone already is fine. Never follows links, never crosses mounts.

    Iterative, with two open directories at most: containers make trees deeper than any path or fd
    limit. Directories that refuse their owner are opened up first. Raises OSError.
    """
    while True:
        try:
            _remove_once(path)
            return
        except FileNotFoundError:  # somebody else is removing it too, and took the ground from under us
            if not os.path.lexists(path):
                return


def _remove_once(path: str) -> None:
    try:
        fd = _open_directory(path, None)
    except NotADirectoryError:
        _unlink(path, None)
        return
    device = os.fstat(fd).st_dev
    names: list[str | bytes] = []  # from the top down to the directory that is open
    try:
        while True:
            child = _clear(fd)
            if child is not None:
                below = _open_directory(child, fd)
                if os.fstat(below).st_dev != device:
                    os.close(below)
                    raise OSError(errno.EBUSY, "something is mounted there", _text(path, [*names, child]))
                names.append(child)
                os.close(fd)
                fd = below
            elif names:
                above = os.open("..", _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                _rmdir(names.pop(), fd)
            else:
                break
    finally:
        os.close(fd)
    _rmdir(path, None)


def _text(path: str, names: list[str | bytes]) -> str:
    return "/".join([path, *(os.fsdecode(name) for name in names)])[:4096]


def _clear(fd: int) -> str | bytes | None:
    """Unlink the files of a directory, rmdir its empty directories; the first that is not empty, or None."""
    again = True
    while again:
        again = False  # file systems may skip entries while others are removed: read until none is left
        with os.scandir(fd) as entries:
            for entry in entries:
                again = True
                if entry.is_dir(follow_symlinks=False):
                    try:
                        os.rmdir(entry.name, dir_fd=fd)
                    except FileNotFoundError:
                        pass
                    except OSError as error:
                        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.EACCES):
                            return entry.name
                        raise
                else:
                    _unlink(entry.name, fd)
    return None


def _open_directory(name: str | bytes, dirfd: int | None) -> int:
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=dirfd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=dirfd)
        return os.open(name, _DIRECTORY, dir_fd=dirfd)
    if os.geteuid() != 0 and os.fstat(fd).st_mode & 0o700 != 0o700:
        os.fchmod(fd, 0o700)
    return fd


def _unlink(name: str | bytes, dirfd: int | None) -> None:
    try:
        os.unlink(name, dir_fd=dirfd)
    except FileNotFoundError:
        pass


def _rmdir(name: str | bytes, dirfd: int | None) -> None:
    try:
        os.rmdir(name, dir_fd=dirfd)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Somebody else's addition between our last look and now.
        remove_tree_at(name, dirfd)


def remove_tree_at(name: str | bytes, dirfd: int | None) -> None:
    """:func:`remove_tree` of *name* in the directory *dirfd*."""
    if dirfd is None:
        remove_tree(os.fsdecode(name))
    else:
        remove_tree(f"/proc/self/fd/{dirfd}/{os.fsdecode(name)}")


def disk_usage(path: str) -> int:
    """Bytes on disk of everything under *path*; a hard-linked file counts once, what cannot be read not at all.

    Trees of subordinate ids are only readable inside the user namespace (``userns.call``).
    """
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [path]
    while stack:
        directory = stack.pop()
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                        if (status.st_dev, status.st_ino) in seen:
                            continue
                        seen.add((status.st_dev, status.st_ino))
                    total += status.st_blocks * 512
                    if stat.S_ISDIR(status.st_mode):
                        stack.append(entry.path)
        except NotADirectoryError:
            total += os.lstat(directory).st_blocks * 512
        except OSError:
            continue
    return total
