"""Writing trees as tar archives: ustar headers, pax records where those do not reach; in constant memory.

Names are sorted and times are whole seconds, so that equal trees give equal archives, as other engines do for layers.
Files are read through descriptors below the root, links never followed, so a container may change the tree meanwhile:
what vanishes is left out, what shrinks is filled up with zeros. Called by the engine: export, cp, commit.

Source: POSIX pax(1); OCI image specification, layer.md; star's SCHILY.xattr records.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.kernel import fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Owner = Callable[[int, int], tuple[int, int]]  # (uid, gid) as the kernel shows them to those of the archive

_BLOCK = 512
_BUFFER = 1 << 20
_SENDFILE = 1 << 18  # from this size on the kernel copies
_RESOLVE = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS | fs.RESOLVE_NO_XDEV
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MARKS = ("user.overlay.", "user.fuseoverlayfs.", "user.rl.", "user.containers.")
_OWNER = "user.rl.owner"  # see rl.storage.apply
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.EXDEV)

#: Marks of overlayfs and what stands for them in a layer (layer.md, "Whiteouts").
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
#: What fuse-overlayfs puts into an opaque directory, beside the attribute.
OPAQUE_FILES = (".wh..wh..opq", ".wh..opq")


class TarWriter:
    """One archive. :meth:`tree` and :meth:`entry` add to it, :meth:`finish` ends it.

    *write* takes the archive piece by piece; *fd*, if given, is where it writes to: large files are then copied by the
    kernel. *single*: one id only is mapped, and wanted owners are in an attribute. *newest*: the latest time that a
    file may have, in seconds.
    """

    __slots__ = ("_buffer", "_fd", "_links", "_newest", "_owner", "_single", "_skip_unreadable", "_write", "entries")

    def __init__(
        self, write: Callable[[bytes | bytearray | memoryview], object], *, fd: int = -1, owner: Owner | None = None,
        single: bool = False, skip_unreadable: bool = False, newest: int | None = None,
    ) -> None:
        self._write = write
        self._fd = fd
        self._owner = owner
        self._single = single
        self._skip_unreadable = skip_unreadable
        self._newest = newest
        self._buffer = bytearray()
        self._links: dict[tuple[int, int], bytes] = {}
        self.entries = 0

    # ------------------------------------------------------------------ trees

    def tree(self, root: int, prefix: bytes = b"", *, keep: Callable[[str, os.stat_result], bool] | None = None,
             marks: bool = False) -> None:
        """All that directory *root* holds, not itself, nor what is mounted in it, below *prefix*.

        *keep* decides on each (path below the root, status). *marks*: the tree is a layer of overlayfs, whose
        whiteouts and opaque directories become the archive's.
        """
        stack = [""]
        while stack:
            path = stack.pop()
            try:
                directory = fs.openat2(root, path or ".", _DIRECTORY, 0, _RESOLVE)
            except OSError as error:
                if error.errno in _GONE or self._may_skip(error):
                    continue
                raise
            try:
                below = []
                for name in sorted(os.listdir(directory)):
                    here = f"{path}/{name}" if path else name
                    status = _status(name, directory)
                    if status is None or (keep and not keep(here, status)) or (marks and name in OPAQUE_FILES):
                        continue
                    self.entry(directory, name, prefix + os.fsencode(here), status, marks=marks)
                    if stat.S_ISDIR(status.st_mode):
                        below.append(here)
                stack += reversed(below)
            finally:
                os.close(directory)

    def entry(self, directory: int, name: str, target: bytes, status: os.stat_result, *, marks: bool = False) -> None:
        """*name* in *directory*, which has *status*, as the member *target*; what a directory holds is not added."""
        mode = status.st_mode
        if stat.S_ISREG(mode):
            self._file(directory, name, target, status)
        elif stat.S_ISDIR(mode):
            self._directory(directory, name, target, status, marks)
        elif marks and stat.S_ISCHR(mode) and not status.st_rdev:
            self.whiteout(target)
        elif not stat.S_ISSOCK(mode):  # which no archive can hold
            self._special(directory, name, target, status)

    def whiteout(self, target: bytes) -> None:
        """The mark that *target* is deleted."""
        above, slash, last = target.rpartition(b"/")
        self._header(above + slash + WHITEOUT + last, b"0", 0, 0o600, 0, 0, 0)

    def opaque(self, target: bytes) -> None:
        """The mark that lower layers' contents of directory *target* are deleted."""
        self._header(target + b"/" + OPAQUE, b"0", 0, 0o600, 0, 0, 0)

    def root(self, target: bytes, status: os.stat_result) -> None:
        """An entry for a directory that has no name of its own here."""
        self._plain(target + b"/", b"5", status, {})

    def finish(self) -> None:
        """Two empty blocks, and all that is still in memory."""
        self._buffer += bytes(2 * _BLOCK)
        self._flush()

    # ------------------------------------------------------------------ kinds

    def _file(self, directory: int, name: str, target: bytes, status: os.stat_result) -> None:
        if self._linked(target, status):
            return
        try:
            fd = os.open(name, _FILE, dir_fd=directory)
        except OSError as error:
            if error.errno in _GONE or self._may_skip(error):
                self._links.pop((status.st_dev, status.st_ino), None)
                return
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return  # another file has its name by now
            self._plain(target, b"0", status, attributes_of(fd))
            if status.st_size:
                self._data(fd, status.st_size)
        finally:
            os.close(fd)

    def _directory(self, directory: int, name: str, target: bytes, status: os.stat_result, marks: bool) -> None:
        attributes: dict[str, bytes] = {}
        opaque = False
        try:
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            if error.errno not in _GONE and not self._may_skip(error):
                raise
        else:
            try:
                attributes = attributes_of(fd)
                opaque = marks and is_opaque(fd)
            finally:
                os.close(fd)
        self._plain(target + b"/", b"5", status, attributes)
        if opaque:
            self.opaque(target)

    def _special(self, directory: int, name: str, target: bytes, status: os.stat_result) -> None:
        if self._linked(target, status):
            return
        mode = status.st_mode
        if stat.S_ISLNK(mode):
            try:
                link = os.fsencode(os.readlink(name, dir_fd=directory))
            except OSError:
                return
            self._plain(target, b"2", status, {}, link)
        else:
            kind = b"6" if stat.S_ISFIFO(mode) else b"3" if stat.S_ISCHR(mode) else b"4"
            self._plain(target, kind, status, {})

    def _linked(self, target: bytes, status: os.stat_result) -> bool:
        """Whether the file went into the archive under another name before."""
        if status.st_nlink < 2:
            return False
        inode = (status.st_dev, status.st_ino)
        first = self._links.setdefault(inode, target)
        if first == target:
            return False
        self._plain(target, b"1", status, {}, first)
        return True

    def _may_skip(self, error: OSError) -> bool:
        return self._skip_unreadable and error.errno in (errno.EACCES, errno.EPERM, errno.ENXIO)

    # ------------------------------------------------------------------ bytes

    def _plain(
        self, target: bytes, kind: bytes, status: os.stat_result, attributes: dict[str, bytes], link: bytes = b""
    ) -> None:
        uid, gid = self._ids(status, attributes)
        size = status.st_size if kind == b"0" else 0
        device = status.st_rdev if kind in b"34" else 0
        mtime = status.st_mtime_ns // 10**9
        if self._newest is not None:
            mtime = min(mtime, self._newest)
        self._header(target, kind, size, stat.S_IMODE(status.st_mode), uid, gid, mtime, link, device, attributes)

    def _ids(self, status: os.stat_result, attributes: dict[str, bytes]) -> tuple[int, int]:
        """(uid, gid) for the archive; what is only for us is taken out of *attributes*."""
        uid, gid = status.st_uid, status.st_gid
        recorded = attributes.pop(_OWNER, b"")
        for name in [name for name in attributes if name.startswith(_MARKS)]:
            del attributes[name]
        if self._single and recorded:
            uid, gid = (int(number) for number in recorded.split(b":")[:2])
        elif self._owner:
            uid, gid = self._owner(uid, gid)
        return uid, gid

    def _header(
        self, name: bytes, kind: bytes, size: int, mode: int, uid: int, gid: int, mtime: int, link: bytes = b"",
        device: int = 0, attributes: dict[str, bytes] | None = None,
    ) -> None:
        self.entries += 1
        pax = b""
        for key, text in (("path", name), ("linkpath", link)):
            if len(text) > 100 or not text.isascii():
                pax += record(key, text)
        for key, number, most in (("size", size, 8 << 30), ("uid", uid, 1 << 21), ("gid", gid, 1 << 21)):
            if number >= most:
                pax += record(key, b"%d" % number)
        if not 0 <= mtime < 8 << 30:
            pax += record("mtime", b"%d" % mtime)
        for key, value in sorted((attributes or {}).items()):
            pax += record(f"SCHILY.xattr.{key}", value)
        if pax:
            self._buffer += block(b"PaxHeaders/" + name.rstrip(b"/").rpartition(b"/")[2][:80], b"x", len(pax), 0o644)
            self._buffer += pax + bytes(-len(pax) % _BLOCK)
        self._buffer += block(name[:100], kind, size if size < 8 << 30 else 0, mode, uid if uid < 1 << 21 else 0,
                              gid if gid < 1 << 21 else 0, mtime if 0 <= mtime < 8 << 30 else 0, link[:100], device)
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _data(self, fd: int, size: int) -> None:
        self._bytes(fd, size)
        self._buffer += bytes(-size % _BLOCK)

    def _bytes(self, fd: int, size: int) -> None:
        """The next *size* bytes of the file; zeros for what it does not have any more."""
        left = size
        if self._fd >= 0 and size >= _SENDFILE:
            self._flush()
            left -= self._sendfile(fd, size)
        while left:
            piece = os.read(fd, min(left, _BUFFER))
            if not piece:
                break
            left -= len(piece)
            self._put(piece)
        while left:  # it shrank
            step = min(left, _BUFFER)
            self._put(bytes(step))
            left -= step

    def _sendfile(self, fd: int, size: int) -> int:
        """Bytes the kernel copied; the rest, if any, is for read(2) and write(2)."""
        done = 0
        while done < size:
            try:
                count = os.sendfile(self._fd, fd, None, min(size - done, 1 << 30))
            except BlockingIOError:
                _writable(self._fd)
                continue
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):  # opened to append, a terminal, …
                    raise
                break
            if not count:
                break
            done += count
        return done

    def _put(self, piece: bytes) -> None:
        if len(piece) >= 1 << 16:
            self._flush()
            self._write(piece)
            return
        self._buffer += piece
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self._buffer:
            self._write(self._buffer)
            self._buffer = bytearray()


def to_fd(fd: int) -> Callable[[bytes | bytearray | memoryview], None]:
    """A *write* for :class:`TarWriter` that takes all, to a descriptor that may be non-blocking."""
    def write(data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                _writable(fd)

    return write


def _writable(fd: int) -> None:
    import select

    select.select([], [fd], [])


def record(key: str, value: bytes) -> bytes:
    """One pax record: its own length, which counts itself, key and value."""
    body = b" " + key.encode(errors="surrogateescape") + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return b"%d%b" % (length, body)


def block(
    name: bytes, kind: bytes, size: int, mode: int, uid: int = 0, gid: int = 0, mtime: int = 0, link: bytes = b"",
    device: int = 0,
) -> bytes:
    """A ustar header of values that fit."""
    head = name.ljust(100, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, mtime)
    tail = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64)
    whole = (head + b" " * 8 + tail + b"%07o\0%07o\0" % (os.major(device), os.minor(device))).ljust(_BLOCK, b"\0")
    return whole[:148] + b"%06o\0 " % sum(whole) + whole[156:]


def is_opaque(fd: int) -> bool:
    """Whether directory *fd* of a layer hides what lower ones have there (the kernel's mark, or fuse-overlayfs's)."""
    for name in ("user.overlay.opaque", "user.fuseoverlayfs.opaque"):
        try:
            if os.getxattr(fd, name) == b"y":
                return True
        except OSError:
            continue
    return _status(OPAQUE_FILES[0], fd) is not None


def _status(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def attributes_of(fd: int) -> dict[str, bytes]:
    """Extended attributes that mean something elsewhere: user.*, and file capabilities as those of any root (v2)."""
    found = {}
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    for name in names:
        if name.startswith("user.") or name == "security.capability":
            try:
                value = os.getxattr(fd, name)
            except OSError:
                continue
            found[name] = _capability(value) if name == "security.capability" else value
    return found


def _capability(value: bytes) -> bytes:
    """File capabilities of a certain user namespace (v3: 24 bytes) as those of whatever namespace they get to (v2)."""
    if len(value) != 24:
        return value
    first = int.from_bytes(value[:4], "little")
    return (0x02000000 | (first & 0x00FFFFFF)).to_bytes(4, "little") + value[4:20]
