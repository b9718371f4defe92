"""Writing an untrusted archive's entries below one directory, and nowhere else.

Every name is split by ourselves; the parent directory is opened by openat2(2) with RESOLVE_IN_ROOT,
so a symbolic link that an earlier entry planted leads inside the tree, as it would in the container
(CVE-2021-30465, CVE-2019-14271 and their kin came of resolving such paths as strings). Parents are kept
open, least recently used first to go: most entries cost no path resolution at all.

Called by rl.storage.apply.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import VerificationError
from rl.kernel import fs
from rl.storage.trash import remove_tree_at

_KEPT_OPEN = 64
_LINK_DEPTH = 40  # as the kernel's own limit
_RESOLVE = fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS
_DIRECTORY = os.O_PATH | os.O_DIRECTORY

OPAQUE = "user.overlay.opaque"


class Tree:
    """One directory being filled. ``root`` is its descriptor."""

    __slots__ = ("_parents", "root")

    def __init__(self, path: str) -> None:
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._parents: dict[bytes, int] = {}

    def close(self) -> None:
        """Close every descriptor."""
        self.forget()
        os.close(self.root)

    def forget(self) -> None:
        """Close the parents kept open: names may lead elsewhere now."""
        for fd in self._parents.values():
            os.close(fd)
        self._parents.clear()

    def parent(self, directory: bytes) -> int:
        """A descriptor (O_PATH) of *directory*, made with its missing parents (root, 0755) if need be."""
        if not directory:
            return self.root
        kept = self._parents
        fd = kept.pop(directory, -1)
        if fd < 0:
            if len(kept) >= _KEPT_OPEN:
                os.close(kept.pop(next(iter(kept))))
            fd = self._open(directory)
        kept[directory] = fd  # the youngest is last
        return fd

    def find(self, directory: bytes) -> int:
        """As :meth:`parent`, for reading: FileNotFoundError instead of making anything."""
        if not directory:
            return self.root
        fd = self._parents.get(directory, -1)
        if fd < 0:
            fd = fs.openat2(self.root, os.fsdecode(directory), _DIRECTORY, 0, _RESOLVE)
            if len(self._parents) >= _KEPT_OPEN:
                os.close(self._parents.pop(next(iter(self._parents))))
            self._parents[directory] = fd
        return fd

    def _open(self, directory: bytes) -> int:
        for _ in range(_LINK_DEPTH):
            try:
                return fs.openat2(self.root, os.fsdecode(directory), _DIRECTORY, 0, _RESOLVE)
            except FileNotFoundError:
                self._make(directory, 0)
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    text = directory.decode(errors="backslashreplace")
                    raise VerificationError(f"an entry lies below {text!r}, which is not a directory") from None
                raise
        raise VerificationError(f"{directory.decode(errors='backslashreplace')!r} changes while it is made")

    def _make(self, directory: bytes, depth: int) -> None:
        """Make *directory* and its parents; a dangling link on the way gets its target made, in the tree."""
        if depth > _LINK_DEPTH:
            raise VerificationError("a chain of symbolic links without an end")
        done = b""
        for name in directory.split(b"/"):
            above = fs.openat2(self.root, os.fsdecode(done) or ".", _DIRECTORY, 0, _RESOLVE)
            try:
                try:
                    os.mkdir(name, 0o755, dir_fd=above)
                except FileExistsError:
                    self._make_target(done, name, above, depth)
            finally:
                os.close(above)
            done = done + b"/" + name if done else name

    def _make_target(self, done: bytes, name: bytes, above: int, depth: int) -> None:
        try:
            target = os.readlink(name, dir_fd=above)
        except OSError:
            return  # not a link
        base = [] if target.startswith(b"/") else done.split(b"/")
        for part in target.split(b"/"):
            if part == b"..":
                base = base[:-1]
            elif part not in (b"", b"."):
                base = [*base, part]
        clean = b"/".join(part for part in base if part)
        if clean:
            self._make(clean, depth + 1)

    def clear(self, directory: bytes, name: bytes) -> int:
        """Make way for a new entry: remove *name*, a whole tree if it is one; the parent, opened anew.

        Directories kept open may have lain behind it: all are forgotten.
        """
        dirfd = self.parent(directory)
        try:
            os.unlink(name, dir_fd=dirfd)
        except IsADirectoryError:
            remove_tree_at(name, dirfd)
        self.forget()
        return self.parent(directory)


def make_whiteout(name: bytes, dirfd: int) -> None:
    """Mark *name* as deleted. Raises FileExistsError where this layer has *name* itself.

    Where the file system or a seccomp filter refuses device 0:0, the mark is an empty file ``.wh.NAME``:
    fuse-overlayfs and the copy driver understand it; the kernel's overlay cannot work there anyway.
    """
    try:
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=dirfd)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        if kind(name, dirfd):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
        os.close(os.open(b".wh." + name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444, dir_fd=dirfd))


def make_opaque(name: bytes, dirfd: int) -> None:
    """Hide what lower layers have in directory *name*. Without xattrs the mark is a file, as above."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        os.setxattr(fd, OPAQUE, b"y")
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise
        os.close(os.open(b".wh..wh..opq", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o444, dir_fd=fd))
    finally:
        os.close(fd)


def kind(name: bytes, dirfd: int) -> int:
    """What *name* is: S_IFMT of its mode, 0 when there is nothing."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=dirfd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


def is_whiteout(status: os.stat_result) -> bool:
    """Whether this is overlayfs' mark for a name that is deleted: character device 0:0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
