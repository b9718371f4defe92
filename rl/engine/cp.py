"""rl cp: files between containers and the host, and as tar streams.

All of it runs in one child in the user namespace (:func:`rl.engine.rootaccess.inside`), which is root over the files of
the containers and has the caller's rights on the host. Paths of a container are resolved inside its root by the kernel
and used by descriptor, so that a container which swaps directories for links leads nowhere (CVE-2018-15664). What is
mounted below a directory that is copied stays out, as with Podman: no /proc, no volumes; named itself, it is copied.

What ends up where: podman-cp(1), "DESCRIPTION"; tests/system/test_cp.py has its table.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import ExitStack

from rl.engine import containers, cp_streams
from rl.engine.rootaccess import Root, inside, open_root, to_container, to_shared
from rl.errors import NoSuchContainerError, RlError, StateError, UnsupportedError, UsageError, disk_hint
from rl.runtime import rootpath, userns, users
from rl.storage.treecopy import Copier

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine

    Ids = tuple[int, int]

STREAM = "-"
_LINKS = 40  # as many as the kernel follows
_PATH = os.O_PATH | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_IN_PLACE = frozenset((errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV))


def cp(
    engine: Engine, source: str, destination: str, *, archive: bool = True, overwrite: bool = False,
    pause: bool = False,
) -> None:
    """Copy *source* to *destination*, each ``PATH``, ``CONTAINER:PATH`` or ``-`` (a tar stream on stdin or stdout).

    *archive*: what gets into a container belongs to its user; else owners stay, as numbers of the container.
    *overwrite*: a directory may take the place of another file, and the reverse. *pause*: the containers stand still.
    Raises UsageError, NoSuchContainerError, RlError.
    """
    sides = [split(source), split(destination)]
    ids = [_find(engine.paths, name) for name, _ in sides]
    if not all(path for _, path in sides):
        raise UsageError(
            f'invalid arguments "{source}", "{destination}": you must specify paths',
            "all of a container is CONTAINER:/",
        )
    if not any(ids):
        raise UsageError(
            f'neither "{source}" nor "{destination}" is in a container', "write CONTAINER:PATH for one of them, or both"
        )
    with ExitStack() as stack:
        if pause:
            from rl.engine.commit import frozen

            for container_id in {*ids} - {""}:
                stack.enter_context(frozen(engine, container_id))
        places = [(ids[i], sides[i][0], sides[i][1]) for i in (0, 1)]
        for warning in inside(engine.paths, _copy, engine.paths, *places, archive, overwrite):
            engine.warn(warning)


def _find(paths: Paths, name: str) -> str:
    try:
        return containers.find(paths, name) if name else ""
    except NoSuchContainerError:
        raise NoSuchContainerError(f'container "{name}" does not exist', "`rl ps -a` lists all containers") from None


def split(argument: str) -> tuple[str, str]:
    """(container, path); no container for what begins with / or . or has no colon."""
    if argument[:1] not in ("/", ".") and ":" in argument:
        name, _, path = argument.partition(":")
        return name, path
    return "", argument


# --------------------------------------------------------------------------- the two sides


class Side:
    """The host, seen with the caller's rights, or (``root``) a container. Paths are as they were typed."""

    __slots__ = ("name", "path", "root")

    def __init__(self, root: Root | None, name: str, path: str) -> None:
        self.root = root
        self.name = name
        # podman-cp(1) says relative to the root directory; Podman takes the working directory, as `rl exec` does.
        self.path = os.path.join(root.config["workdir"] or "/", path) if root else path

    @property
    def lenient(self) -> bool:
        return bool(self.root and self.root.running)

    def open(self, path: str, flags: int) -> int:
        if self.root:
            return rootpath.resolve(self.root.fd, path, flags)
        return os.open(path, flags | os.O_CLOEXEC)

    def missing(self, typed: str, reason: str = "no such file or directory") -> RlError:
        where = f"on container {self.name}" if self.root else "on the host"
        hint = f"rl exec {self.name} ls {os.path.dirname(typed) or '/'}" if self.lenient else ""
        return UsageError(f'"{typed}" could not be found {where}: {reason}', hint)

    def find(self, path: str, typed: str) -> tuple[int, str]:
        """(the directory *path* is in, its name there), symbolic links followed to the end; nothing need be there."""
        for _ in range(_LINKS):
            above, name = os.path.split(path.rstrip("/") or "/")
            if name in ("", ".", ".."):
                return self._parent(path, typed), "."
            directory = self._parent(above or ".", typed)
            link = rootpath.link_text(directory, name)
            if not link:
                return directory, name
            os.close(directory)
            path = link if link.startswith("/") else f"{above}/{link}" if above else link
        raise self.missing(typed, "too many levels of symbolic links")

    def _parent(self, path: str, typed: str) -> int:
        try:
            return self.open(path, _DIRECTORY)
        except PermissionError:
            return self.open(path, os.O_PATH | os.O_DIRECTORY)  # it may be searched, that is enough
        except OSError as error:
            raise self.missing(typed, _reason(error)) from None

    def status(self, path: str) -> os.stat_result | None:
        """What *path* leads to; None where nothing is there. Raises OSError for a path that cannot be looked at."""
        try:
            fd = self.open(path, os.O_PATH)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)


def _reason(error: OSError) -> str:
    return "no such file or directory" if error.errno == errno.ENOENT else (error.strerror or "").lower()


def _copy(
    paths: Paths, source: tuple[str, str, str], destination: tuple[str, str, str], archive: bool, overwrite: bool
) -> list[str]:
    """In the user namespace: open both roots and copy. Warnings for the caller."""
    with ExitStack() as stack:
        roots: dict[str, Root | None] = {"": None}
        # Within one container both are the same root, and the same lock. Sorted: two copies between two containers,
        # there and back, would else wait for each other.
        for container_id in sorted({source[0], destination[0]} - {""}):
            roots[container_id] = stack.enter_context(open_root(paths, container_id))
        start, end = (Side(roots[i], name, path) for i, name, path in (source, destination))
        typed = source[2], destination[2]
        try:
            return _between(start, end, typed, archive, overwrite)
        except OSError as error:
            if error.errno == errno.ESRCH:
                raise StateError("the container ended while it was copied from") from None
            what = f"copy {_shown(*source[1:])} to {_shown(*destination[1:])}: {error.strerror}"
            name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
            hint = disk_hint(error)
            if error.errno == errno.EROFS and end.root:
                hint = "the file system is mounted read-only there (--read-only, or a volume with :ro)"
            elif error.errno in (errno.ENOTDIR, errno.EISDIR) and not overwrite and name:
                hint = "--overwrite allows it"
            raise RlError(what + (f" ({name})" if name and not name.startswith("/proc/self") else ""), hint) from None


def _shown(name: str, path: str) -> str:
    return f"{name}:{path}" if name else path


def _between(start: Side, end: Side, typed: tuple[str, str], archive: bool, overwrite: bool) -> list[str]:
    owner = _Owners(start.root, end.root, archive)
    if start.root is None and start.path == STREAM:
        target = _directory_for_stream(end)
        try:
            return cp_streams.extract(target, owner.of_archive, overwrite)
        finally:
            os.close(target)
    source = _Source(start, typed[0])
    try:
        if end.root is None and end.path == STREAM:
            cp_streams.write(source.directory, source.name, source.base, source.status, owner.to_archive,
                             contents=source.contents, skip_unreadable=start.lenient)
        elif source.is_directory:
            copier = Copier(owner.of_file, foreign=True, keep_kinds=not overwrite, lenient=start.lenient)
            _copy_directory(source, end, typed[1], copier)
        else:
            copier = Copier(owner.of_file, foreign=True, lenient=start.lenient)
            _copy_file(source, end, typed[1], copier, overwrite)
    finally:
        source.close()
    return []


class _Owners:
    """From owners at the source to those at the destination, in the shared namespace, where id 0 is the caller."""

    __slots__ = ("end", "start", "user")

    def __init__(self, start: Root | None, end: Root | None, archive: bool) -> None:
        self.start = start
        self.end = end
        self.user: Ids | None = None if end else (0, 0)
        if end and archive:
            uid, gid, _, _ = users.lookup(end.fd, end.config["user"])
            self.user = self._place(uid, gid)

    def _place(self, uid: int, gid: int) -> Ids:
        """The container's ids at the destination; where a single id is all there is, all files belong to it."""
        assert self.end is not None
        if userns.current_mode() == "single":
            return 0, 0
        return to_shared(self.end.config["uid_map"], uid), to_shared(self.end.config["gid_map"], gid)

    def of_file(self, uid: int, gid: int) -> Ids:
        return self.user if self.user is not None else self._place(*self.to_archive(uid, gid))

    def of_archive(self, uid: int, gid: int) -> Ids:
        return self.user if self.user is not None else self._place(uid, gid)

    def to_archive(self, uid: int, gid: int) -> Ids:
        """Owners as the source itself numbers them."""
        if self.start is None:
            return uid, gid
        return to_container(self.start.config["uid_map"], uid), to_container(self.start.config["gid_map"], gid)


class _Source:
    """What is copied: ``name`` in ``directory``, and ``base``, the name it gets in a directory.

    ``contents``: only what the directory holds (a path that ends in /. or is the root).
    """

    __slots__ = ("base", "contents", "directory", "is_directory", "name", "status")

    def __init__(self, side: Side, typed: str) -> None:
        try:
            status = side.status(side.path)
        except OSError as error:
            raise side.missing(typed, _reason(error)) from None
        if status is None:
            raise side.missing(typed)
        self.status = status
        self.is_directory = stat.S_ISDIR(status.st_mode)
        if not self.is_directory and not stat.S_ISREG(status.st_mode) and not stat.S_ISFIFO(status.st_mode):
            raise UnsupportedError(
                f'"{typed}" is a device or a socket, which cannot be copied', "read it: rl exec CONTAINER cat FILE"
            )
        self.base = os.path.basename(typed.rstrip("/"))
        self.contents = self.is_directory and self.base in ("", ".")
        self.directory, self.name = side.find(side.path, typed)
        if self.base == "..":
            whole = os.path.normpath(side.path) if side.root else os.path.realpath(side.path)
            self.base = os.path.basename(whole)
            self.contents = not self.base

    def close(self) -> None:
        os.close(self.directory)

    def open(self) -> int:
        flags = _DIRECTORY if self.is_directory else os.O_RDONLY
        extra = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(self.name, flags | extra, dir_fd=self.directory)


# --------------------------------------------------------------------------- onto what


def _directory_for_stream(end: Side) -> int:
    try:
        return end.open(end.path, _DIRECTORY)
    except OSError:
        raise UsageError(
            "destination must be a directory when copying from stdin", "make it first, or name its parent"
        ) from None


def _look(end: Side, typed: str) -> os.stat_result | None:
    """What is at the destination, which must be a directory, a regular file or nothing."""
    try:
        status = end.status(end.path)
    except OSError as error:
        raise end.missing(typed, _reason(error)) from None
    if status and not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise UsageError(f'invalid destination: "{typed}" must be a directory or a regular file')
    return status


def _copy_directory(source: _Source, end: Side, typed: str, copier: Copier) -> None:
    status = _look(end, typed)
    if status and not stat.S_ISDIR(status.st_mode):
        raise UsageError("destination must be a directory when copying a directory")
    inner = source.open()
    try:
        if status is None:
            parent, name = end.find(end.path, typed)
        else:
            parent, name = end.open(end.path, _DIRECTORY), "." if source.contents else source.base
        try:
            _not_into_itself(inner, parent)
            target = os.dup(parent) if name == "." else _make_directory(parent, name, copier)
            try:
                copier.layer(inner, target, itself=name != ".")
            finally:
                os.close(target)
        finally:
            os.close(parent)
    finally:
        os.close(inner)


def _make_directory(parent: int, name: str, copier: Copier) -> int:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        existing = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(existing.st_mode):
            if copier.keep_kinds:
                raise OSError(errno.ENOTDIR, "a directory cannot take the place of another file", name) from None
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _not_into_itself(source: int, target: int) -> None:
    """Else it would go on for ever, copying what it has just made."""
    wanted = os.fstat(source)
    fd = os.dup(target)
    try:
        before: os.stat_result | None = None
        while True:
            status = os.fstat(fd)
            if os.path.samestat(status, wanted):
                raise UsageError("cannot copy a directory into itself")
            if before and os.path.samestat(status, before):
                return
            before = status
            above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = above
    finally:
        os.close(fd)


def _copy_file(source: _Source, end: Side, typed: str, copier: Copier, overwrite: bool) -> None:
    status = _look(end, typed)
    if status is None and typed.endswith(("/", "/.")):
        raise end.missing(typed)
    if status and stat.S_ISDIR(status.st_mode):
        parent, name = end.open(end.path, _DIRECTORY), source.base
    else:
        parent, name = end.find(end.path, typed)
    try:
        try:
            existing = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            existing = None
        if existing and stat.S_ISDIR(existing.st_mode):
            if not overwrite:
                raise OSError(errno.EISDIR, "a file cannot take the place of a directory", name)
            from rl.storage.trash import remove_tree_at

            remove_tree_at(name, parent)
            existing = None
        if stat.S_ISFIFO(source.status.st_mode):
            _make_fifo(source.status, parent, name, copier, existing is not None)
        else:
            _put_file(source, parent, name, copier, existing)
    finally:
        os.close(parent)


def _make_fifo(status: os.stat_result, parent: int, name: str, copier: Copier, exists: bool) -> None:
    if exists:
        os.unlink(name, dir_fd=parent)
    os.mkfifo(name, stat.S_IMODE(status.st_mode), dir_fd=parent)
    owner = copier.owner(status.st_uid, status.st_gid) if copier.owner else (0, 0)
    os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)


def _put_file(source: _Source, parent: int, name: str, copier: Copier, existing: os.stat_result | None) -> None:
    """All or nothing: written beside its place and renamed. What cannot be renamed over is written in place."""
    reader = source.open()
    try:
        status = os.fstat(reader)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.ESTALE, "it was replaced while it was opened", source.base)
        staged = f".{name[:200]}.{os.urandom(4).hex()}"
        new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            writer = os.open(staged, new, 0o600, dir_fd=parent)
        except OSError as error:
            if existing is None or error.errno not in _IN_PLACE:
                raise
            _write_over(reader, parent, name, copier, status)
            return
        try:
            try:
                copier.file(reader, writer, status)
            finally:
                os.close(writer)
            try:
                os.rename(staged, name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError as error:
                if existing is None or error.errno not in _IN_PLACE:
                    raise
                os.unlink(staged, dir_fd=parent)
                os.lseek(reader, 0, os.SEEK_SET)
                _write_over(reader, parent, name, copier, status)
        except BaseException:
            try:
                os.unlink(staged, dir_fd=parent)
            except FileNotFoundError:
                pass
            raise
    finally:
        os.close(reader)


def _write_over(reader: int, parent: int, name: str, copier: Copier, status: os.stat_result) -> None:
    """A mount point (/etc/hosts), or a file in a directory that may not be written: its contents alone change."""
    writer = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    try:
        copier.data(reader, writer, status)
    finally:
        os.close(writer)


def refuse_terminal(destination: str) -> None:
    """A tar stream is not for eyes. Raises UsageError."""
    if destination == STREAM and sys.stdout.isatty():
        raise UsageError("refusing to write a tar archive to the terminal", "redirect it: rl cp C:PATH - > FILE.tar")
