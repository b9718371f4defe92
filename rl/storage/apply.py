"""One layer archive into one empty directory, by the rules of the OCI image specification (layer.md).

Whiteouts become overlayfs' own marks. Owners, modes, times, extended attributes, hard links and
holes are kept; device nodes cannot be made in a user namespace and are counted, as Podman does.
Runs inside the shared user namespace, in a process whose umask is 0. Called by rl.storage.unpack.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError, VerificationError
from rl.kernel import process
from rl.storage import tarstream as tar
from rl.storage.tree import Tree, is_whiteout, kind, make_opaque, make_whiteout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.storage.tarstream import Entry, TarStream

MAX_ENTRIES = 10_000_000
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FLUSH_BYTES = 4 << 20
_MAX_ID = 0xFFFFFFFE  # -1 means "leave it" to chown(2)

#: Where single-id mode records what the archive wanted: "uid:gid:mode", mode in octal.
OWNER_XATTR = "user.rl.owner"
# Attributes that mean something to a driver or to rl: an archive must not forge them.
_RESERVED = ("user.overlay.", "user.fuseoverlayfs.", "user.containers.", "user.rl.")
_KEPT = ("user.", "security.capability", "system.posix_acl_")


class Applier:
    """Applies entries one by one; :meth:`finish` sets what must come last."""

    __slots__ = ("_chown_all", "_directory_times", "_handlers", "_opaque", "_skipped_names", "_tree", "_whiteouts",
                 "entries", "max_entries", "single", "size", "skipped")

    def __init__(self, path: str, single: bool, max_entries: int = MAX_ENTRIES, *, whiteouts: bool = True) -> None:
        self._tree = Tree(path)
        self._whiteouts = whiteouts  # without: names that begin with .wh. are names like any other
        self.single = single
        self.max_entries = max_entries
        self.entries = 0
        self.size = 0
        self.skipped = 0
        self._chown_all = False  # a set-group-id directory hands its group down
        self._directory_times: dict[bytes, int] = {}
        self._opaque: set[bytes] = set()  # made in place of an own whiteout: see _directory
        self._skipped_names: set[bytes] = set()
        self._handlers: dict[int, Callable[[TarStream, Entry, bytes, bytes], None]] = {
            tar.REGULAR: self._regular,
            tar.HARDLINK: self._hardlink,
            tar.SYMLINK: self._symlink,
            tar.DIRECTORY: self._directory,
            tar.FIFO: self._fifo,
            tar.CHARACTER: self._device,
            tar.BLOCKDEVICE: self._device,
        }

    def close(self) -> None:
        """Release the descriptors."""
        self._tree.close()

    def apply(self, stream: TarStream, entry: Entry) -> None:
        """Write *entry*. Raises VerificationError for a hostile one, RlError where the disk fails."""
        self.entries += 1
        if self.entries > self.max_entries:
            raise VerificationError(f"the layer has more than {self.max_entries} entries: refused as a bomb")
        try:
            directory, name = split(entry.name)
            if self._is_mark(directory, name):
                self._whiteout(directory, name)
                return
            handler = self._handlers.get(entry.kind)
            if handler is None:
                raise VerificationError(f"entry {text(entry.name)} has the unknown type {chr(entry.kind)!r}")
            if not name:
                if entry.kind != tar.DIRECTORY:
                    raise VerificationError(f"entry {text(entry.name)} would replace the root directory")
                self._root(entry)
                return
            handler(stream, entry, directory, name)
        except OSError as error:
            raise explain(entry, error) from None

    def _is_mark(self, directory: bytes, name: bytes) -> bool:
        """Whether the entry says something about layers below (layer.md, "Whiteouts")."""
        return self._whiteouts and (name.startswith(b".wh.") or b".wh..wh." in directory)

    # ------------------------------------------------------------------ kinds of entries

    def _regular(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> None:
        dirfd = self._tree.parent(directory)
        mode = entry.mode
        try:
            fd = os.open(name, _NEW_FILE, mode & 0o1777, dir_fd=dirfd)
        except FileExistsError:
            fd = os.open(name, _NEW_FILE, mode & 0o1777, dir_fd=self._clear(directory, name))
        try:
            if entry.sparse is not None:
                self._write_sparse(stream, entry, fd)
            elif entry.size:
                stream.write_data(fd, entry.size)
                if entry.size >= _FLUSH_BYTES:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # starts the write-back now, not in syncfs
            self.size += entry.stored
            self._own(fd, entry)
            if mode & 0o6000:
                os.fchmod(fd, mode)  # after chown, which clears these bits
            if entry.xattrs:
                set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        except OverflowError:
            os.utime(fd, ns=(0, 0))
        finally:
            os.close(fd)

    def _write_sparse(self, stream: TarStream, entry: Entry, fd: int) -> None:
        for offset, length in entry.sparse or ():
            os.lseek(fd, offset, os.SEEK_SET)
            stream.write_data(fd, length)
        os.ftruncate(fd, entry.size)

    def _own(self, fd: int, entry: Entry) -> None:
        uid, gid = entry.uid, entry.gid
        if self.single:
            if uid or gid:
                record_owner(fd, entry)
        elif uid or gid or self._chown_all:
            os.fchown(fd, checked_id(uid), checked_id(gid))

    def _directory(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> None:
        dirfd = self._tree.parent(directory)
        try:
            os.mkdir(name, entry.mode & 0o1777, dir_fd=dirfd)
        except FileExistsError:
            status = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                dirfd = self._clear(directory, name)
                os.mkdir(name, 0o700, dir_fd=dirfd)
                if is_whiteout(status):
                    make_opaque(name, dirfd)  # "deleted, then made": what is below must not shine through
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
        try:
            self._directory_metadata(fd, entry)
        finally:
            os.close(fd)
        self._directory_times[directory + b"/" + name if directory else name] = entry.mtime

    def _directory_metadata(self, fd: int, entry: Entry) -> None:
        if self.single:
            if entry.uid or entry.gid:
                record_owner(fd, entry)
        elif entry.uid or entry.gid or self._chown_all or os.fstat(fd).st_uid:
            os.fchown(fd, checked_id(entry.uid), checked_id(entry.gid))
        os.fchmod(fd, entry.mode)
        if entry.mode & 0o2000:
            self._chown_all = True
        if entry.xattrs:
            set_xattrs(fd, entry.xattrs)

    def _root(self, entry: Entry) -> None:
        self._directory_metadata(self._tree.root, entry)
        self._directory_times[b""] = entry.mtime

    def _symlink(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> None:
        target = entry.link
        if not target or len(target) > 4095 or b"\0" in target:
            raise VerificationError(f"entry {text(entry.name)} is a symbolic link with an impossible target")
        dirfd = self._tree.parent(directory)
        try:
            os.symlink(target, name, dir_fd=dirfd)
        except FileExistsError:
            dirfd = self._clear(directory, name)
            os.symlink(target, name, dir_fd=dirfd)
        self._special(entry, name, dirfd)

    def _fifo(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> None:
        dirfd = self._tree.parent(directory)
        try:
            os.mkfifo(name, entry.mode & 0o777, dir_fd=dirfd)
        except FileExistsError:
            dirfd = self._clear(directory, name)
            os.mkfifo(name, entry.mode & 0o777, dir_fd=dirfd)
        self._special(entry, name, dirfd)

    def _special(self, entry: Entry, name: bytes, dirfd: int) -> None:
        """Owner and time of what cannot be opened."""
        if not self.single and (entry.uid or entry.gid or self._chown_all):
            os.chown(name, checked_id(entry.uid), checked_id(entry.gid), dir_fd=dirfd, follow_symlinks=False)
        set_time(name, entry.mtime, dirfd)

    def _hardlink(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> None:
        target_directory, target = split(entry.link)
        if not target:
            raise VerificationError(f"entry {text(entry.name)} is a hard link to a directory")
        if entry.link.lstrip(b"./") in self._skipped_names:
            self.skipped += 1
            return
        if (target_directory, target) == (directory, name):
            raise VerificationError(f"entry {text(entry.name)} is a hard link to itself")
        dirfd = self._tree.parent(directory)
        if kind(name, dirfd):
            dirfd = self._clear(directory, name)
        dirfd = os.dup(dirfd)  # finding the target may close kept parents
        try:
            source = self._tree.find(target_directory)
            status = os.stat(target, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) or stat.S_ISCHR(status.st_mode):
                raise VerificationError(f"entry {text(entry.name)} is a hard link to a directory or a whiteout")
            os.link(target, name, src_dir_fd=source, dst_dir_fd=dirfd, follow_symlinks=False)
        except FileNotFoundError:
            raise VerificationError(
                f"entry {text(entry.name)} is a hard link to {text(entry.link)}, which the layer does not have"
            ) from None
        finally:
            os.close(dirfd)

    def _device(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> None:
        self.skipped += 1
        if len(self._skipped_names) < 100_000:
            self._skipped_names.add(directory + b"/" + name if directory else name)

    def _whiteout(self, directory: bytes, name: bytes) -> None:
        if name == b".wh..wh..opq":
            above, _, last = directory.rpartition(b"/")
            if last:
                self._tree.parent(directory)  # makes it if need be
                make_opaque(last, self._tree.parent(above))
            else:
                make_opaque(b".", self._tree.root)
        elif name.startswith(b".wh..wh.") or b".wh..wh." in directory:
            return  # aufs' own bookkeeping, meaningless here
        else:
            hidden = name[4:]
            if hidden in (b"", b".", b".."):
                raise VerificationError(f"whiteout {text(name)} names no file")
            dirfd = self._tree.parent(directory)
            try:
                make_whiteout(hidden, dirfd)
            except FileExistsError:
                # It hides only what is below (layer.md): a directory of this layer stays, as opaque.
                if kind(hidden, dirfd) == stat.S_IFDIR:
                    make_opaque(hidden, dirfd)

    def _clear(self, directory: bytes, name: bytes) -> int:
        full = directory + b"/" + name if directory else name
        if full in self._directory_times:
            prefix = full + b"/"
            for known in [path for path in self._directory_times if path == full or path.startswith(prefix)]:
                del self._directory_times[known]
        return self._tree.clear(directory, name)

    def finish(self) -> None:
        """The times of directories, which writing into them has changed."""
        for path, mtime in self._directory_times.items():
            directory, _, name = path.rpartition(b"/")
            try:
                set_time(name or b".", mtime, self._tree.find(directory) if name else self._tree.root)
            except OSError:
                continue  # a link that led there was replaced


def split(name: bytes) -> tuple[bytes, bytes]:
    """(directory, last component) of an entry's name, "" and "" for the root. Raises VerificationError.

    Absolute names are taken relative to the root, as Podman does; ``..`` is refused.
    """
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise VerificationError(f"entry {text(name)} of the layer points outside")
    if len(name) > 255 and (len(name) > 4096 or max(map(len, parts)) > 255):
        raise VerificationError(f"entry {text(name)} of the layer has a name that is too long")
    if b"\0" in name:
        raise VerificationError(f"entry {text(name)} of the layer has a NUL in its name")
    if not parts:
        return b"", b""
    last = parts.pop()
    return b"/".join(parts), last


def text(name: bytes) -> str:
    """*name* for a message: printable, short."""
    shown = name.decode(errors="backslashreplace")
    return repr(shown if len(shown) < 200 else shown[:200] + "…")


def checked_id(number: int) -> int:
    """*number* if chown(2) takes it for an id; OverflowError does not escape."""
    if not 0 <= number <= _MAX_ID:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return number


def record_owner(fd: int, entry: Entry) -> None:
    """Single-id mode: write down what cannot be done."""
    try:
        os.setxattr(fd, OWNER_XATTR, b"%d:%d:%o" % (entry.uid, entry.gid, entry.mode))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOSPC):
            raise


def set_xattrs(fd: int, xattrs: dict[str, bytes]) -> None:
    """Those attributes that mean something inside a user namespace; a file system without them is no error."""
    for name, value in xattrs.items():
        if not name.startswith(_KEPT) or name.startswith(_RESERVED):
            continue
        try:
            os.setxattr(fd, name.encode(errors="surrogateescape"), value)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL):
                raise


def set_time(name: bytes, mtime: int, dirfd: int) -> None:
    """Both times of *name* itself, in nanoseconds; those the file system cannot hold become 1970."""
    try:
        os.utime(name, ns=(mtime, mtime), dir_fd=dirfd, follow_symlinks=False)
    except OverflowError:
        os.utime(name, ns=(0, 0), dir_fd=dirfd, follow_symlinks=False)


def explain(entry: Entry, error: OSError) -> RlError:
    """What went wrong with *entry*, in terms of what can be done about it."""
    what = f"unpack {text(entry.name)}: {error.strerror}"
    if error.errno == errno.EINVAL and (entry.uid or entry.gid):
        last = max(inside + count for inside, _, count in process.id_map("uid")) - 1
        if entry.uid > last or entry.gid > last or min(entry.uid, entry.gid) < 0:
            return VerificationError(
                f"unpack {text(entry.name)}: it belongs to {entry.uid}:{entry.gid}, but only ids up to {last} "
                f"are mapped (a range of {last} ids in /etc/subuid and /etc/subgid)",
                f"widen your range in /etc/subuid and /etc/subgid to {max(entry.uid, entry.gid)} or more ids: "
                "sudo usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST $USER",
            )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RlError(what, "free disk space, or put the data elsewhere with --root")
    if error.errno in (errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP, errno.ENOTDIR, errno.EINVAL):
        return VerificationError(what)
    return RlError(what)
