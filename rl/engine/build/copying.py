"""COPY: the files of a plan into a root file system, with owners and modes as the instruction says.

Runs in a worker, inside the user namespace. Destinations are resolved in the root only. Called by
rl.engine.build.worker. Source: Dockerfile reference, "COPY".
"""

from __future__ import annotations

import os
import posixpath
import re
import stat

from rl.errors import RlError, UsageError, disk_hint
from rl.runtime import rootpath, userns, users
from rl.storage.apply import OWNER_XATTR
from rl.storage.trash import remove_tree_at
from rl.storage.treecopy import Copier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.build.gathering import Entry, Item, Plan

    Ids = tuple[int, int]

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def owner_of(root: int, text: str) -> Ids:
    """The ids that ``--chown`` means, by the root's own /etc/passwd and /etc/group. Raises UsageError."""
    try:
        uid, gid, _, _ = users.lookup(root, text)
    except RlError as error:
        raise UsageError(f"--chown={text}: {error.message}", error.hint) from None
    return uid, gid


def make_workdir(root: str, path: str, user: str) -> None:
    """The working directory, which belongs to the user of the instructions after USER, as with Buildah."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = rootpath.resolve_or_none(fd, path, os.O_PATH | os.O_DIRECTORY)
        if found is None:
            try:
                uid, gid, _, _ = users.lookup(fd, user)
            except RlError:
                uid, gid = 0, 0  # nobody runs as that user yet
            found = Writer(fd, (uid, gid), None).directory(path)
        os.close(found)
    except OSError as error:
        raise RlError(f"make the working directory {path}: {error.strerror}", disk_hint(error)) from None
    finally:
        os.close(fd)


class Mode:
    """``--chmod``: octal digits, or symbolic as chmod(1) (``u=rwX,go=rX``). Raises UsageError."""

    __slots__ = ("_clauses", "_number")

    def __init__(self, text: str) -> None:
        self._number = -1
        self._clauses: list[tuple[str, str, str]] = []
        if re.fullmatch(r"[0-7]{1,4}", text):
            self._number = int(text, 8)
            return
        for clause in text.split(","):
            match = re.fullmatch(r"([ugoa]*)([-+=])([rwxXst]*|[ugo])", clause)
            if not match:
                raise UsageError(f"--chmod={text}: not a mode", "write it as 644, or as u=rw,go=r")
            self._clauses.append((match[1] or "a", match[2], match[3]))

    def applied(self, mode: int) -> int:
        """The permission bits of a file that has *mode* (with its kind)."""
        if self._number >= 0:
            return self._number
        bits = stat.S_IMODE(mode)
        for who, operator, what in self._clauses:
            bits = _clause(bits, mode, who.replace("a", "ugo"), operator, what)
        return bits


_SHIFT = {"u": 6, "g": 3, "o": 0}


def _clause(bits: int, mode: int, who: str, operator: str, what: str) -> int:
    value, special = 0, 0
    if what in ("u", "g", "o"):
        value = bits >> _SHIFT[what] & 7
    else:
        for letter in what:
            if letter == "X":
                value |= 1 if stat.S_ISDIR(mode) or bits & 0o111 else 0
            elif letter == "s":
                special |= (0o4000 if "u" in who else 0) | (0o2000 if "g" in who else 0)
            elif letter == "t":
                special |= 0o1000
            else:
                value |= {"r": 4, "w": 2, "x": 1}[letter]
    mask = sum(7 << _SHIFT[one] for one in set(who))
    wanted = sum(value << _SHIFT[one] for one in set(who)) | special
    if operator == "+":
        return bits | wanted
    if operator == "-":
        return bits & ~wanted
    return bits & ~mask | wanted


class Writer:
    """Puts files into *root*. ``owner``: of what is written, None: as at the source; ``mode``: None, or to be set."""

    def __init__(self, root: int, owner: Ids | None, mode: Mode | None) -> None:
        self._root = root
        self._owner = owner
        self._mode = mode
        self._single = userns.current_mode() == "single"
        self._copier = Copier(self._disk_owner, foreign=True)
        self._links: dict[tuple[int, int], str] = {}
        self._times: list[tuple[str, int]] = []

    def copy(self, plan: Plan, destination: str) -> None:
        """*destination*: an absolute path; with a slash at its end it is a directory. Raises RlError, UsageError."""
        into = destination.endswith("/") or len(plan.items) > 1 or plan.parents
        umask = os.umask(0)
        try:
            for item in plan.items:
                self._links.clear()
                if item.is_directory or plan.parents:
                    self._directory_item(plan, item, destination)
                else:
                    self._file_item(plan, item, destination, into)
            self._set_times()
        except OSError as error:
            name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
            what = f"copy to {destination}: {error.strerror}" + (f" ({name})" if name else "")
            raise RlError(what, disk_hint(error)) from None
        finally:
            os.umask(umask)

    # items

    def _file_item(self, plan: Plan, item: Item, destination: str, into: bool) -> None:
        directory, name = destination.rstrip("/") or "/", item.name
        if not into and not self.is_directory(destination):
            directory, name = posixpath.split(directory)
        fd = self.directory(directory or "/")
        try:
            self._put(plan, item, item.entries[0], fd, name)
        finally:
            os.close(fd)

    def _directory_item(self, plan: Plan, item: Item, destination: str) -> None:
        base = destination.rstrip("/") or "/"
        if plan.parents:
            kept = item.path[item.pivot:]
            above = posixpath.dirname(kept)
            if not item.is_directory:
                fd = self._parents(plan, item, base, above)
                try:
                    self._put(plan, item, item.entries[0], fd, item.name)
                finally:
                    os.close(fd)
                return
            os.close(self._parents(plan, item, base, above))
            base = posixpath.join(base, kept)
            os.close(self.directory(base))
            self._adopt(base, item.entries[0].status)
        else:  # the contents alone: the destination is no copy of the source
            if not self.is_directory(base):
                self._not_a_file(base)
            os.close(self.directory(base))
        self._entries(plan, item, base)

    def _entries(self, plan: Plan, item: Item, base: str) -> None:
        last, fd = "", self.directory(base)
        root = os.dup(fd)
        try:
            for entry in item.entries[1:]:
                above, name = posixpath.split(entry.path)
                if above != last:
                    os.close(fd)
                    fd = rootpath.resolve(root, above or ".", _DIRECTORY)
                    last = above
                if stat.S_ISDIR(entry.status.st_mode):
                    self._subdirectory(fd, name, entry.status)
                    self._times.append((posixpath.join(base, entry.path), entry.status.st_mtime_ns))
                else:
                    self._put(plan, item, entry, fd, name, posixpath.join(base, entry.path))
        finally:
            os.close(fd)
            os.close(root)

    def _parents(self, plan: Plan, item: Item, base: str, above: str) -> int:
        """The directories that --parents keeps, with what they are at the source."""
        path, source = base, item.path[: item.pivot].rstrip("/")
        os.close(self.directory(base))
        for name in above.split("/") if above else []:
            path, source = posixpath.join(path, name), posixpath.join(source, name)
            new = not self.is_directory(path)
            os.close(self.directory(path))
            found = rootpath.resolve(plan.tree.fd, source, os.O_PATH)
            try:
                if new:
                    self._adopt(path, os.fstat(found))
            finally:
                os.close(found)
        return self.directory(path)

    # destinations

    def is_directory(self, path: str) -> bool:
        """Whether the root has that directory."""
        fd = rootpath.resolve_or_none(self._root, path)
        if fd is None:
            return False
        try:
            return stat.S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def _not_a_file(self, path: str) -> None:
        fd = rootpath.resolve_or_none(self._root, path)
        if fd is not None:
            os.close(fd)
            raise UsageError(f"copy to {path}: it is a file, and a directory is to be copied", "name a directory")

    def directory(self, path: str) -> int:
        """A descriptor of directory *path* of the root; what is missing is made, and belongs to the owner."""
        found = rootpath.resolve_or_none(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        if found is not None:
            return found
        above = posixpath.dirname(path.rstrip("/")) or "/"
        os.close(self.directory(above))
        os.close(rootpath.make(self._root, path, True, 0o755))
        fd = rootpath.resolve(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        self._own(fd, self._owner or (0, 0), 0o755)
        return fd

    def _adopt(self, path: str, status: os.stat_result) -> None:
        """A directory that was made for one of the source gets what that has."""
        fd = rootpath.resolve(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._describe(fd, status)
            self._times.append((path, status.st_mtime_ns))
        finally:
            os.close(fd)

    def _subdirectory(self, above: int, name: str, status: os.stat_result) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            existing = os.stat(name, dir_fd=above, follow_symlinks=False)
            if not stat.S_ISDIR(existing.st_mode):
                remove_tree_at(name, above)
                os.mkdir(name, 0o700, dir_fd=above)
        fd = os.open(name, _DIRECTORY, dir_fd=above)
        try:
            self._describe(fd, status)
        finally:
            os.close(fd)

    # files

    def _put(self, plan: Plan, item: Item, entry: Entry, directory: int, name: str, where: str = "") -> None:
        """The file of *entry* as *name* in *directory*; *where* is that in the root, for hard links within a tree."""
        status, kind = entry.status, stat.S_IFMT(entry.status.st_mode)
        try:
            existing = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(existing.st_mode) and not entry.path:
                raise UsageError(f"copy {item.path}: {name} is a directory there", "name the file to be written")
            remove_tree_at(name, directory)
        if status.st_nlink > 1 and kind == stat.S_IFREG and where and self._linked(status, directory, name, where):
            return
        if kind == stat.S_IFREG:
            self._regular(plan, item, entry, directory, name)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.link, name, dir_fd=directory)
            os.chown(name, *self._disk_owner(status.st_uid, status.st_gid), dir_fd=directory, follow_symlinks=False)
            os.utime(name, ns=(status.st_mtime_ns,) * 2, dir_fd=directory, follow_symlinks=False)
        elif kind == stat.S_IFIFO:
            os.mkfifo(name, 0o600, dir_fd=directory)
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            try:
                self._describe(fd, status)
            finally:
                os.close(fd)
        elif kind != stat.S_IFSOCK:
            raise UsageError(
                f"{posixpath.join(item.path, entry.path)} of {plan.tree.label} is a device, and images have none",
                "leave it out, by .dockerignore for example",
            )

    def _regular(self, plan: Plan, item: Item, entry: Entry, directory: int, name: str) -> None:
        source = plan.tree.open(item, entry)
        try:
            target = os.open(name, _NEW, 0o600, dir_fd=directory)
            try:
                self._copier.file(source, target, entry.status)
                self._mark(target, entry.status)
                if self._mode:
                    os.fchmod(target, self._mode.applied(entry.status.st_mode))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def data(self, destination: str, data: bytes, mode: int, mtime: int) -> None:
        """A file with *data*: heredocs. *mtime* in seconds."""
        fd = os.memfd_create("data", os.MFD_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view):]
            self.stream(destination, fd, mode, mtime)
        finally:
            os.close(fd)

    def stream(self, destination: str, source: int, mode: int, mtime: int) -> None:
        """A file with all that the descriptor *source* holds."""
        above, name = posixpath.split(destination)
        umask = os.umask(0)
        try:
            directory = self.directory(above or "/")
            try:
                remove_tree_at(name, directory)
                fd = os.open(name, _NEW, 0o600, dir_fd=directory)
                try:
                    self._copier.data(source, fd, os.fstat(source))
                    wanted = self._mode.applied(stat.S_IFREG | mode) if self._mode else mode
                    self._own(fd, self._owner or (0, 0), wanted)
                    os.utime(fd, (mtime, mtime))
                finally:
                    os.close(fd)
            finally:
                os.close(directory)
        except OSError as error:
            raise RlError(f"write {destination}: {error.strerror}", disk_hint(error)) from None
        finally:
            os.umask(umask)

    def of_archive(self, uid: int, gid: int) -> Ids:
        """Whose the members of an archive are that ADD unpacks: as it says, whatever --chown says (as with Buildah)."""
        return uid, gid

    def _linked(self, status: os.stat_result, directory: int, name: str, where: str) -> bool:
        """Whether the file was copied under another name of the tree, and is linked to that now."""
        first = self._links.setdefault((status.st_dev, status.st_ino), where)
        if first == where:
            return False
        above, other = posixpath.split(first)
        source = rootpath.resolve(self._root, above, _DIRECTORY)
        try:
            os.link(other, name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)
        return True

    # owners, modes, times

    def _disk_owner(self, uid: int, gid: int) -> Ids:
        """Where a single id is mapped, all files belong to it, and :meth:`_mark` writes down who should have them."""
        if self._single:
            return 0, 0
        return self._owner if self._owner is not None else (uid, gid)

    def _describe(self, fd: int, status: os.stat_result) -> None:
        mode = self._mode.applied(status.st_mode) if self._mode else stat.S_IMODE(status.st_mode)
        self._own(fd, self._owner or (status.st_uid, status.st_gid), mode)

    def _own(self, fd: int, owner: Ids, mode: int) -> None:
        if self._single:
            _record(fd, owner, mode)
        else:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)

    def _mark(self, fd: int, status: os.stat_result) -> None:
        if self._single:
            _record(fd, self._owner or (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode))

    def _set_times(self) -> None:
        """Of directories, after what is in them."""
        for path, mtime in reversed(self._times):
            fd = rootpath.resolve_or_none(self._root, path, os.O_RDONLY | os.O_DIRECTORY)
            if fd is not None:
                os.utime(fd, ns=(mtime, mtime))
                os.close(fd)
        self._times.clear()


def _record(fd: int, owner: Ids, mode: int) -> None:
    if owner != (0, 0):
        os.setxattr(fd, OWNER_XATTR, b"%d:%d:%o" % (*owner, mode))
