"""Paths inside a container's root, resolved by the kernel so that no symbolic link leads out of it.

Every target is opened with openat2(RESOLVE_IN_ROOT) and used by its descriptor, never by name: whoever
prepared the image, or shares a volume, cannot redirect a mount to the host. Called by the runtime's
steps and by :mod:`rl.runtime.users`. Source: openat2(2), CVE-2019-16884, CVE-2021-30465.
"""

from __future__ import annotations

import errno
import os

from rl.kernel import fs

_RESOLVE = fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS
_DEPTH = 40  # as many symbolic links as the kernel follows


def resolve(root: int, path: str, flags: int = os.O_PATH, extra: int = 0) -> int:
    """Open *path* as a process with root directory *root* would; magic links are refused (ELOOP)."""
    return fs.openat2(root, path, flags, 0, _RESOLVE | extra)


def resolve_or_none(root: int, path: str, flags: int = os.O_PATH) -> int | None:
    """:func:`resolve`, or None where nothing is there."""
    try:
        return resolve(root, path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None


def ensure_directory(root: int, path: str, mode: int = 0o755, depth: int = 0) -> int:
    """An O_PATH descriptor of directory *path*, made with its parents where missing."""
    return _ensure(root, path, True, mode, depth)


def ensure_file(root: int, path: str, mode: int = 0o644) -> int:
    """An O_PATH descriptor of *path*, an empty file and its parent directories made where missing."""
    return _ensure(root, path, False, mode, 0)


def ensure_nofollow(root: int, path: str, directory: bool) -> int:
    """As the above, but a symbolic link at the end of *path* is the target itself (dest-nofollow)."""
    parent_path, name = os.path.split(path.rstrip("/"))
    parent = ensure_directory(root, parent_path or "/")
    try:
        try:
            return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileNotFoundError:
            return _ensure(root, path, directory, 0o755 if directory else 0o644, 0)
    finally:
        os.close(parent)


def link_text(parent: int, name: str) -> str:
    """What symbolic link *name* in directory *parent* says; "" for anything else."""
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:
        return ""


def _ensure(root: int, path: str, directory: bool, mode: int, depth: int) -> int:
    flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    try:
        return resolve(root, path, flags)
    except FileNotFoundError:
        if depth > _DEPTH:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
    return make(root, path, directory, mode, depth)


def make(root: int, path: str, directory: bool, mode: int, depth: int = 0) -> int:
    """:func:`ensure_directory` or :func:`ensure_file` of what is known not to be there."""
    flags = os.O_PATH | (os.O_DIRECTORY if directory else 0)
    parent_path, name = os.path.split(path.rstrip("/"))
    parent = ensure_directory(root, parent_path or "/", 0o755, depth + 1)
    try:
        try:
            if directory:
                os.mkdir(name, mode, dir_fd=parent)
            else:
                create = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(name, create, mode, dir_fd=parent))
        except FileExistsError:
            # A dangling link: make what it points to, inside the root.
            target = os.readlink(name, dir_fd=parent)
            base = "" if target.startswith("/") else parent_path
            return _ensure(root, f"{base}/{target}", directory, mode, depth + 1)
        except OSError as error:
            raise OSError(error.errno, f"create: {error.strerror}", path) from None
    finally:
        os.close(parent)
    return resolve(root, path, flags)


def read_limited(root: int, path: str, limit: int) -> bytes:
    """The first *limit* bytes of regular file *path*; b"" where there is none.

    Raises OSError for what is no regular file: a fifo put there must not block us.
    """
    import stat

    fd = resolve_or_none(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if fd is None:
        return b""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        chunks, left = [], limit
        while left > 0 and (chunk := os.read(fd, min(left, 1 << 16))):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)
    finally:
        os.close(fd)
