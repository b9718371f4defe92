"""Copies of file trees that lose nothing: owners, modes, times, attributes, hard links, holes.

Extents are shared (reflink) where the file system can, else copied inside the kernel. Runs inside the
user namespace. Called by the copy driver, by rl.storage.idmap for layers with other owners, and by the
engine for what an image has at a new volume's place (:func:`copy_tree`).
"""

from __future__ import annotations

import errno
import os
import stat

from rl.kernel import fs
from rl.storage.trash import remove_tree_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Owner = Callable[[int, int], tuple[int, int]]  # (uid, gid) of the source to those of the copy
    Select = Callable[[os.stat_result], bool]

_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_RESOLVE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS
_STEP = 1 << 30
_OPAQUE = "user.overlay.opaque"
_OPAQUE_FILE = ".wh..wh..opq"
_NO_REFLINK = frozenset((errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM))
_IGNORED_XATTR = frozenset((errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA, errno.EINVAL))
_OWN_XATTR = ("user.overlay.", "user.fuseoverlayfs.", "user.rl.", "user.containers.")
_GONE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE))
_UNREADABLE = frozenset((errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV))


def copy_tree(source: str | int, target: str | int) -> None:
    """Copy what is in directory *source*, and its own owner, mode and times, to directory *target*.

    Either may be a descriptor (of a directory that openat2 found below an untrusted root). What exists
    in *target* is replaced, directories are merged. Raises OSError.
    """
    copier = Copier()
    copier.layer(source, target)


class Copier:
    """Copies one or more trees over each other into one target.

    *owner* changes owners; *apply_whiteouts* makes marks of overlayfs take effect instead of copying them;
    *select* limits the copy to entries it accepts, with the directories that lead there.

    For what people copy (`rl cp`): *foreign* leaves out marks of storage drivers, devices, sockets and what is mounted
    below; *keep_kinds* refuses to put a directory in the place of another file, and the reverse; *lenient* leaves out
    what vanishes or cannot be read.
    """

    __slots__ = ("_links", "_reflink", "_times", "apply_whiteouts", "files", "foreign", "keep_kinds", "lenient",
                 "namespace_root", "owner", "progress", "select")

    def __init__(
        self, owner: Owner | None = None, *, apply_whiteouts: bool = False, select: Select | None = None,
        namespace_root: int = 0, progress: Callable[[int], None] | None = None, foreign: bool = False,
        keep_kinds: bool = False, lenient: bool = False,
    ) -> None:
        self.owner = owner
        self.foreign = foreign
        self.keep_kinds = keep_kinds
        self.lenient = lenient
        self.apply_whiteouts = apply_whiteouts
        self.select = select
        self.namespace_root = namespace_root  # whose root file capabilities are for
        self.progress = progress
        self.files = 0
        self._reflink = True
        self._links: dict[tuple[int, int], str] = {}
        self._times: list[tuple[str, int, int]] = []

    def layer(self, source: str | int, target: str | int, *, itself: bool = True) -> None:
        """Copy tree *source* over *target*, which is made if need be; *itself*: its own owner, mode and times too.

        Raises OSError.
        """
        self._links.clear()
        self._times.clear()
        if isinstance(target, str):
            try:
                os.mkdir(target, 0o700)
            except FileExistsError:
                pass
        umask = os.umask(0)
        source_root, target_root = _open_root(source), _open_root(target)
        try:
            self._walk(source_root, target_root, itself)
        finally:
            os.umask(umask)
            os.close(source_root)
            os.close(target_root)

    def _walk(self, source_root: int, target_root: int, itself: bool) -> None:
        status = os.fstat(source_root)
        if itself:
            self._directory(source_root, target_root, status, "")
        stack = [""]
        while stack:
            path = stack.pop()
            try:
                source = _open_at(source_root, path, fs.RESOLVE_NO_XDEV if self.foreign else 0)
            except OSError as error:
                if self._may_skip(error) or (self.foreign and error.errno == errno.EXDEV):
                    continue
                raise
            try:
                target = -1 if self.select else _open_at(target_root, path)
                try:
                    with os.scandir(source) as entries:
                        # Marks first: they speak of lower layers, not of what stands beside them.
                        ordered = sorted(entries, key=_after_marks) if self.apply_whiteouts else entries
                        for entry in ordered:
                            below = self._entry(entry, source, target, source_root, target_root, path)
                            if below:
                                stack.append(below)
                finally:
                    if target >= 0:
                        os.close(target)
            finally:
                os.close(source)
        for path, atime, mtime in reversed(self._times):
            fd = _open_at(target_root, path)
            try:
                os.utime(fd, ns=(atime, mtime))
            finally:
                os.close(fd)

    def _entry(
        self, entry: os.DirEntry[str], source: int, target: int, source_root: int, target_root: int, path: str
    ) -> str:
        """Copy one entry; the path of a directory whose contents come next, else ""."""
        name = entry.name
        here = f"{path}/{name}" if path else name
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            if self.lenient:
                return ""
            raise
        is_directory = stat.S_ISDIR(status.st_mode)
        if self.select:
            if not self.select(status):
                return here if is_directory else ""
            target = self._lead(source_root, target_root, path)
        try:
            if self.apply_whiteouts and self._mark(name, status, target):
                return ""
            if is_directory:
                self._make_directory(name, source, target, status, here)
                return here
            self._make_other(name, source, target, status, here, target_root)
        finally:
            if self.select:
                os.close(target)
        self.files += 1
        if self.progress and not self.files & 255:
            self.progress(self.files)
        return ""

    # ------------------------------------------------------------------ directories

    def _lead(self, source_root: int, target_root: int, path: str) -> int:
        """The target's directory *path*, made with its parents as they are in the source."""
        try:
            return _open_at(target_root, path)
        except FileNotFoundError:
            above, _, name = path.rpartition("/")
        target = self._lead(source_root, target_root, above)
        try:
            source = _open_at(source_root, above)
            try:
                status = os.stat(name, dir_fd=source, follow_symlinks=False)
                self._make_directory(name, source, target, status, path)
            finally:
                os.close(source)
        finally:
            os.close(target)
        return _open_at(target_root, path)

    def _make_directory(self, name: str, source: int, target: int, status: os.stat_result, path: str) -> None:
        opaque = self.apply_whiteouts and _is_opaque(name, source)
        try:
            os.mkdir(name, 0o700, dir_fd=target)
        except FileExistsError:
            existing = os.stat(name, dir_fd=target, follow_symlinks=False)
            if self.keep_kinds and not stat.S_ISDIR(existing.st_mode):
                raise OSError(errno.ENOTDIR, "a directory cannot take the place of another file", path) from None
            if opaque or not stat.S_ISDIR(existing.st_mode):
                remove_tree_at(name, target)
                os.mkdir(name, 0o700, dir_fd=target)
        source_fd = os.open(name, _READ_DIRECTORY, dir_fd=source)
        try:
            target_fd = os.open(name, _READ_DIRECTORY, dir_fd=target)
            try:
                self._directory(source_fd, target_fd, status, path)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def _directory(self, source: int, target: int, status: os.stat_result, path: str) -> None:
        self._metadata(source, target, status)
        self._times.append((path, status.st_atime_ns, status.st_mtime_ns))

    def _mark(self, name: str, status: os.stat_result, target: int) -> bool:
        """Whether *name* is a whiteout in either notation; what it hides is removed."""
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            remove_tree_at(name, target)
            return True
        if name == _OPAQUE_FILE:
            return True
        if name.startswith(".wh."):
            remove_tree_at(name[4:], target)
            return True
        return False

    # ------------------------------------------------------------------ the rest

    def _make_other(
        self, name: str, source: int, target: int, status: os.stat_result, path: str, target_root: int
    ) -> None:
        inode = (status.st_dev, status.st_ino)
        if status.st_nlink > 1:
            first = self._links.get(inode)
            if first is not None:
                self._replacing(lambda: os.link(first, name, src_dir_fd=target_root, dst_dir_fd=target,
                                                follow_symlinks=False), name, target)
                return
            self._links[inode] = path
        if stat.S_ISREG(status.st_mode):
            self._file(name, source, target, status)
            return
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(name, dir_fd=source)
            self._replacing(lambda: os.symlink(link, name, dir_fd=target), name, target)
        elif self.foreign and not stat.S_ISFIFO(status.st_mode):
            self._links.pop(inode, None)
            return
        else:  # FIFO, socket, whiteout: what a user namespace can make
            self._replacing(lambda: os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target), name, target)
        uid, gid = self._owner(status)
        os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _file(self, name: str, source: int, target: int, status: os.stat_result) -> None:
        try:
            source_fd = os.open(name, _OLD_FILE, dir_fd=source)
        except OSError as error:
            if self._may_skip(error):
                self._links.pop((status.st_dev, status.st_ino), None)
                return
            raise
        try:
            if not stat.S_ISREG(os.fstat(source_fd).st_mode):
                return  # a container has put another file there, which might never end
            target_fd = self._replacing(lambda: os.open(name, _NEW_FILE, 0o600, dir_fd=target), name, target)
            try:
                self.file(source_fd, target_fd, status)
            finally:
                os.close(target_fd)
        finally:
            os.close(source_fd)

    def file(self, source: int, target: int, status: os.stat_result) -> None:
        """Data and metadata of one regular file, by descriptors, to one that is empty."""
        self.data(source, target, status)
        self._metadata(source, target, status)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _may_skip(self, error: OSError) -> bool:
        return self.lenient and (error.errno in _GONE or error.errno in _UNREADABLE)

    def _replacing(self, make: Callable[[], object], name: str, target: int) -> int:
        """The result of *make*, after removing what stands in its way."""
        try:
            return make()  # type: ignore[return-value]
        except FileExistsError:
            if self.keep_kinds:
                try:
                    os.unlink(name, dir_fd=target)
                except IsADirectoryError:
                    what = "a file cannot take the place of a directory"
                    raise OSError(errno.EISDIR, what, name) from None
            else:
                remove_tree_at(name, target)
            return make()  # type: ignore[return-value]

    def data(self, source: int, target: int, status: os.stat_result) -> None:
        """The contents of a regular file, holes and all, to an empty one."""
        size = status.st_size
        if not size:
            if self.lenient:  # files of procfs and sysfs say nothing of their size
                while piece := os.read(source, 1 << 16):
                    os.write(target, piece)
            return
        if self._reflink:
            try:
                fs.reflink(source, target)
                return
            except OSError as error:
                if error.errno not in _NO_REFLINK:
                    raise
                self._reflink = False
        if status.st_blocks * 512 >= size:
            copy_range(source, target, 0, size)
            return
        position = 0
        while position < size:
            try:
                start = os.lseek(source, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # a hole to the end
                    break
                raise
            position = os.lseek(source, start, os.SEEK_HOLE)
            copy_range(source, target, start, position - start)
        os.ftruncate(target, size)

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        if self.owner is None:
            return status.st_uid, status.st_gid
        return self.owner(status.st_uid, status.st_gid)

    def _metadata(self, source: int, target: int, status: os.stat_result) -> None:
        """Owner, then mode (chown clears set-id bits), then attributes (chown clears capabilities)."""
        uid, gid = self._owner(status)
        os.fchown(target, uid, gid)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        for name in os.listxattr(source):
            if name == "security.selinux" or (
                name.startswith("user.overlay.") and (self.apply_whiteouts or self.select)
            ) or (self.foreign and name.startswith(_OWN_XATTR)):
                continue
            copy_attribute(source, name, target, self.namespace_root)


def copy_attribute(source: int | str, name: str, target: int, namespace_root: int, follow: bool = True) -> None:
    """Extended attribute *name* of *source* (a descriptor, or a path) for *target*, if it can have it.

    File capabilities become those of the user namespace whose root is *namespace_root*.
    """
    if name == "security.selinux":
        return
    try:
        # A descriptor is no link: there `follow_symlinks` may not be given at all.
        value = os.getxattr(source, name, follow_symlinks=follow or isinstance(source, int))
        if name == "security.capability" and namespace_root:
            value = _capability_of(value, namespace_root)
        os.setxattr(target, name, value)
    except OSError as error:
        if error.errno not in _IGNORED_XATTR:
            raise


def _capability_of(value: bytes, root: int) -> bytes:
    """File capabilities (v2) as those of the user namespace whose root is *root* here (v3, capabilities(7))."""
    if len(value) != 20:
        return value
    first = int.from_bytes(value[:4], "little")
    return (0x03000000 | (first & 0x00FFFFFF)).to_bytes(4, "little") + value[4:] + root.to_bytes(4, "little")


def _after_marks(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".wh.")


def _open_root(where: str | int) -> int:
    if isinstance(where, int):
        return os.open(".", _READ_DIRECTORY, dir_fd=where)
    return os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _open_at(root: int, path: str, resolve: int = 0) -> int:
    return fs.openat2(root, path or ".", os.O_RDONLY | os.O_DIRECTORY, 0, _RESOLVE | resolve)


def _is_opaque(name: str, source: int) -> bool:
    fd = os.open(name, _READ_DIRECTORY, dir_fd=source)
    try:
        try:
            if os.getxattr(fd, _OPAQUE) == b"y":
                return True
        except OSError:
            pass
        try:
            os.stat(_OPAQUE_FILE, dir_fd=fd, follow_symlinks=False)
            return True
        except OSError:
            return False
    finally:
        os.close(fd)


def copy_range(source: int, target: int, start: int, length: int) -> None:
    """Copy bytes inside the kernel, or through us where it cannot."""
    end = start + length
    while start < end:
        try:
            count = os.copy_file_range(source, target, min(end - start, _STEP), start, start)
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
            data = os.pread(source, min(end - start, 1 << 20), start)
            count = os.pwrite(target, data, start) if data else 0
        if not count:
            return  # it shrank
        start += count
