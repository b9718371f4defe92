"""An image with other owners, without its data: what ``--userns=keep-id``, ``nomap`` and ``auto`` start from.

The kernel shifts no owners for an overlay in a user namespace, but since Linux 6.16 it lets one have *data-only*
layers (overlayfs.rst, "Data-only lower layers"). So a tree is made whose files have the wanted owners, modes, times
and attributes, but no content: each names, by two extended attributes, the path of its content in the layers as they
were unpacked. It takes an inode per file and no data, whatever the size of the image. Only the lowest layer of an
overlay may hold such files, so all layers of the image are merged into one tree::

    mapped/<image id>/<id key>/      the tree; or a link to another key's, where the two would not differ
    mapped/<image id>/owners.json    the uids and gids that files of the image have

A container cannot forge the attributes: layers are read-only, what archives bring is dropped when they are unpacked,
and through an overlay ``user.overlay.*`` is out of reach. A tree appears by rename when it is complete; its metadata
is journalled in order, so one that is there after a power loss is whole, on file systems with a journal. On others
it is synced first. Called inside the user namespace, by :mod:`rl.engine.rootfs`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from rl.config.jsonio import read_json, write_json
from rl.errors import RlError, disk_hint
from rl.kernel import fs
from rl.storage.layers import PATCH_SEPARATOR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.paths import Paths

    Owner = Callable[[int, int], tuple[int, int]]  # (uid, gid) in the layer to those in the tree
    Progress = Callable[[int], None]  # entries made so far
    Directory = tuple[str, list[int]]  # path, the layers that show in it (top first)

_METACOPY, _REDIRECT, _OPAQUE = "user.overlay.metacopy", "user.overlay.redirect", "user.overlay.opaque"
_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RESOLVE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS
_TOO_LONG = frozenset((errno.ENOSPC, errno.E2BIG, errno.ERANGE))
#: Their metadata survives in the order it was made: ext4, XFS, btrfs, f2fs, bcachefs.
_JOURNALLED = frozenset((0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0xCA451A4E))


#: A tree is shared among processes when so many entries are made and so many directories are still to be filled.
_SPLIT_ENTRIES, _SPLIT_DIRECTORIES = 2000, 100


def path_of(paths: Paths, image_id: str, id_key: str) -> str:
    """Where the tree of an image under *id_key* is, whether it exists or not."""
    return f"{paths.data}/mapped/{image_id}/{id_key}"


def exists(path: str) -> bool:
    """Whether the tree at *path* is there; the path of every start with another map."""
    return os.path.isdir(path)


def image_ids(paths: Paths) -> list[str]:
    """The images that have such trees."""
    try:
        return os.listdir(f"{paths.data}/mapped")
    except FileNotFoundError:
        return []


def ensure(
    paths: Paths, image_id: str, layers: list[str], id_key: str, owner: Owner, root: int,
    progress: Progress | None = None,
) -> str:
    """The path of the tree for *id_key*, made now if it is missing, one process at a time.

    *layers* are directories, top first; *root* is the id that the container's root has. Raises RlError;
    UnsupportedError, from *owner*, for an id that the map lacks.
    """
    path = path_of(paths, image_id, id_key)
    if os.path.isdir(path):
        return path
    directory = os.path.dirname(path)
    os.makedirs(directory, 0o700, exist_ok=True)
    lock = os.open(directory, _READ_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(path):
            _make(paths, path, layers, id_key, owner, root, progress)
    except OSError as error:
        raise RlError(f"make a tree of the image with other owners: {error.strerror}", disk_hint(error)) from None
    finally:
        os.close(lock)
    return path


def _make(
    paths: Paths, path: str, layers: list[str], id_key: str, owner: Owner, root: int, progress: Progress | None
) -> None:
    from rl.storage.staging import Staging, make_durable, remove_stale

    base = id_key.partition(PATCH_SEPARATOR)[0]
    if base != id_key and _same_as_base(path, base, id_key):
        os.symlink(base, path)
        return
    remove_stale(paths)
    staging = Staging(paths)
    try:
        maker = Maker(layers, owner, root, progress)
        maker.make(f"{staging.path}/tree")
        write_json(f"{os.path.dirname(path)}/owners.json", {"uids": sorted(maker.uids), "gids": sorted(maker.gids)},
                   sync=False)
        if _needs_sync(paths):
            make_durable(paths)
        if base != id_key and _same_as_base(path, "", id_key):  # nothing belongs to that user: it is the plain one
            os.rename(f"{staging.path}/tree", f"{os.path.dirname(path)}/{base}")
            os.symlink(base, path)
        else:
            os.rename(f"{staging.path}/tree", path)
    finally:
        staging.close()


def _same_as_base(path: str, base: str, id_key: str) -> bool:
    """Whether the tree of *base* (if it is there) serves for ``<base>+keep<U>.<G>`` too: U and G own nothing."""
    directory = os.path.dirname(path)
    try:
        owners = read_json(f"{directory}/owners.json")
        uid, _, gid = id_key.partition(PATCH_SEPARATOR)[2].removeprefix("keep").partition(".")
        free = int(uid) not in owners["uids"] and int(gid) not in owners["gids"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return free and (not base or os.path.isdir(f"{directory}/{base}"))


def _needs_sync(paths: Paths) -> bool:
    fd = os.open(paths.layers, _READ_DIRECTORY)
    try:
        return fs.fs_type(fd) not in _JOURNALLED
    except OSError:
        return True
    finally:
        os.close(fd)


def make(layers: list[str], path: str, owner: Owner, root: int) -> None:
    """The tree of *layers* at *path*, which must not exist. Raises OSError."""
    Maker(layers, owner, root, None).make(path)


class Maker:
    """Merges *layers* (top first) as overlayfs does: each name once, from the topmost layer that has it."""

    def __init__(self, layers: list[str], owner: Owner, root: int, progress: Progress | None) -> None:
        self.layers = layers
        self.owner = owner
        self.root = root
        self.progress = progress
        self.entries = 0
        self.uids: set[int] = set()
        self.gids: set[int] = set()
        self.later: list[tuple[str, int]] | None = None  # (path, layer) of files with several names, while it is shared
        self._links: dict[tuple[int, int], str] = {}  # of files with several names: inode → path in the tree

    def make(self, path: str) -> None:
        """Make the tree at *path*. Raises OSError, and what *owner* raises."""
        os.mkdir(path, 0o700)
        umask = os.umask(0)
        roots: list[int] = []
        target = -1
        try:
            target = os.open(path, _READ_DIRECTORY)
            for layer in self.layers:
                roots.append(os.open(layer, _READ_DIRECTORY))  # noqa: PERF401 - one by one, to be closed if one fails
            queue = [("", self._until_opaque(roots, list(range(len(roots))), ""))]
            while queue and (self.entries < _SPLIT_ENTRIES or len(queue) < _SPLIT_DIRECTORIES):
                directory, indices = queue.pop(0)
                queue += self._directory(roots, target, directory, indices)
            if queue:
                self._share(roots, target, queue)
        finally:
            os.umask(umask)
            for fd in roots:
                os.close(fd)
            if target >= 0:
                os.close(target)

    def _share(self, roots: list[int], target: int, queue: list[Directory]) -> None:
        """The rest of a big tree, by as many processes as there are CPUs: each takes one directory of *queue* after
        the other. Files with several names, which may lie in the directories of two, come last, from here alone.
        """
        from rl.storage import metatree_workers

        self.later = []
        metatree_workers.share(self, roots, target, queue)
        later, self.later = self.later, None
        for path, index in sorted(later):
            self._linked(roots, target, path, index)

    def below(self, roots: list[int], target: int, directory: Directory) -> None:
        """*directory* and all in it."""
        stack = [directory]
        while stack:
            path, indices = stack.pop()
            stack += self._directory(roots, target, path, indices)

    def _linked(self, roots: list[int], root: int, path: str, index: int) -> None:
        """A file with several names in a directory that is finished: its times are set again."""
        above, _, name = path.rpartition("/")
        source, target = _open_at(roots[index], above), _open_at(root, above)
        try:
            times = os.fstat(target)
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            self._name(name, status, source, target, root, path)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
        finally:
            os.close(source)
            os.close(target)

    def _until_opaque(self, roots: list[int], indices: list[int], path: str) -> list[int]:
        """Those of *indices* whose *path* is to be seen: none below the first that is opaque."""
        for position, index in enumerate(indices[:-1]):
            fd = _open_at(roots[index], path)
            try:
                if os.getxattr(fd, _OPAQUE) == b"y":
                    return indices[: position + 1]
            except OSError:
                continue
            finally:
                os.close(fd)
        return indices

    def _directory(self, roots: list[int], root: int, path: str, indices: list[int]) -> list[Directory]:
        """Fill directory *path*; its own directories, with the layers that show in each."""
        seen: set[str] = set()
        below: dict[str, list[int]] = {}
        closed: set[str] = set()  # directories that lower layers add nothing to
        target = _open_at(root, path)
        first = -1
        try:
            for index in indices:
                source = _open_at(roots[index], path)
                try:
                    with os.scandir(source) as entries:
                        for entry in entries:
                            name = entry.name
                            if name in seen:
                                if name in below and name not in closed:
                                    if entry.is_dir(follow_symlinks=False):
                                        below[name].append(index)
                                    else:
                                        closed.add(name)
                                continue
                            seen.add(name)
                            self._entry(entry, source, target, root, path, index, below)
                finally:
                    if first < 0:
                        first = source
                    else:
                        os.close(source)
            self._finish_directory(first, target)
        finally:
            os.close(target)
            if first >= 0:
                os.close(first)
        prefix = f"{path}/" if path else ""
        return [(prefix + name, self._until_opaque(roots, found, prefix + name)) for name, found in below.items()]

    def _entry(
        self, entry: os.DirEntry[str], source: int, target: int, root: int, path: str, index: int,
        below: dict[str, list[int]],
    ) -> None:
        name, status = entry.name, entry.stat(follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFCHR:
            return  # a whiteout: the name is taken, there is nothing
        self.entries += 1
        if self.progress and not self.entries & 255:
            self.progress(self.entries)
        if kind == stat.S_IFDIR:
            os.mkdir(name, 0o700, dir_fd=target)
            below[name] = [index]
            return
        here = f"{path}/{name}" if path else name
        if status.st_nlink > 1 and self.later is not None:
            self.later.append((here, index))
            return
        self._name(name, status, source, target, root, here)

    def _name(
        self, name: str, status: os.stat_result, source: int, target: int, root: int, here: str
    ) -> None:
        """Anything but a directory, or a further name for it."""
        kind = stat.S_IFMT(status.st_mode)
        if status.st_nlink > 1:
            inode = (status.st_dev, status.st_ino)
            first = self._links.get(inode)
            if first is not None:
                os.link(first, name, src_dir_fd=root, dst_dir_fd=target, follow_symlinks=False)
                return
            self._links[inode] = here
        if kind == stat.S_IFREG:
            self._file(name, source, target, status, here)
            return
        if kind == stat.S_IFLNK:
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, status.st_mode, 0, dir_fd=target)
        uid, gid = self._owner(status)
        os.chown(name, uid, gid, dir_fd=target, follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)

    def _owner(self, status: os.stat_result) -> tuple[int, int]:
        self.uids.add(status.st_uid)
        self.gids.add(status.st_gid)
        return self.owner(status.st_uid, status.st_gid)

    def _file(self, name: str, source: int, target: int, status: os.stat_result, here: str) -> None:
        mode = status.st_mode & 0o7777
        fd = os.open(name, _NEW_FILE, mode & 0o1777, dir_fd=target)
        try:
            if status.st_size:
                try:
                    os.setxattr(fd, _REDIRECT, b"/" + os.fsencode(here))
                    os.setxattr(fd, _METACOPY, b"")
                    os.ftruncate(fd, status.st_size)
                except OSError as error:
                    if error.errno not in _TOO_LONG or len(here) < 1024:
                        raise
                    _copy_data(name, source, fd, status.st_size)  # a path that fits no extended attribute
            uid, gid = self._owner(status)
            os.fchown(fd, uid, gid)
            if mode & 0o6000:
                os.fchmod(fd, mode)  # after chown, which clears these bits
            self._attributes(f"/proc/self/fd/{source}/{name}", fd)
            os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(fd)

    def _finish_directory(self, source: int, target: int) -> None:
        """Owner, mode, attributes and times of a directory: last, for making its entries changes them."""
        status = os.fstat(source)
        uid, gid = self._owner(status)
        os.fchown(target, uid, gid)
        os.fchmod(target, status.st_mode & 0o7777)
        self._attributes(f"/proc/self/fd/{source}", target, follow=True)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _attributes(self, source: str, target: int, follow: bool = False) -> None:
        names = os.listxattr(source, follow_symlinks=follow)
        if not names:
            return
        from rl.storage.treecopy import copy_attribute

        for name in names:
            if not name.startswith("user.overlay."):
                copy_attribute(source, name, target, self.root, follow)


def _open_at(root: int, path: str) -> int:
    if not path:
        return os.open(".", _READ_DIRECTORY, dir_fd=root)
    return fs.openat2(root, path, os.O_RDONLY | os.O_DIRECTORY, 0, _RESOLVE)


def _copy_data(name: str, source: int, target: int, size: int) -> None:
    from rl.storage.treecopy import copy_range

    for attribute in (_REDIRECT, _METACOPY):
        try:
            os.removexattr(target, attribute)
        except OSError:
            continue
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        copy_range(fd, target, 0, size)
    finally:
        os.close(fd)
