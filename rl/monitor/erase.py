"""Removing a container's files for good: a tree of any depth, without following anything out of it.

Called by `rl.monitor.ending` for --rm.
"""

from __future__ import annotations

import posix


def erase_tree(path: str) -> None:
    """Remove *path* and everything below it; what cannot be removed stays for the next attempt.

    Descends by descriptors and never through symbolic links, so a tree that somebody still changes leads nowhere else.
    """
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        root = posix.open(path, flags)
    except OSError:
        try:
            posix.unlink(path)
        except OSError:
            pass
        return
    # (descriptor, its name in the parent); an explicit stack: image trees may be deeper than Python recurses.
    stack: list[tuple[int, str, list[str]]] = [(root, path, _empty(root))]
    while stack:
        fd, name, directories = stack[-1]
        if directories:
            child = directories.pop()
            try:
                try:
                    below = posix.open(child, flags, dir_fd=fd)
                except PermissionError:  # single-id mode has no CAP_DAC_OVERRIDE over it
                    posix.chmod(child, 0o700, dir_fd=fd)
                    below = posix.open(child, flags, dir_fd=fd)
                stack.append((below, child, _empty(below)))
            except OSError:
                pass
            continue
        stack.pop()
        posix.close(fd)
        try:
            if stack:
                posix.rmdir(name, dir_fd=stack[-1][0])
            else:
                posix.rmdir(path)
        except OSError:
            pass


def _empty(fd: int) -> list[str]:
    """Unlink the files in directory *fd*; the names of its directories."""
    directories = []
    try:
        posix.fchmod(fd, 0o700)  # without CAP_DAC_OVERRIDE (single-id mode) a read-only directory cannot be emptied
    except OSError:
        pass
    with posix.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if is_directory:
            directories.append(name)
            continue
        try:
            posix.unlink(name, dir_fd=fd)
        except OSError:
            pass
    return directories
