"""Writing trees as tar archives: ustar headers, pax records where those do not reach; in constant memory.

Names are sorted and times are whole seconds, so that equal trees give equal archives, as other engines do for layers;
*precise* keeps what a layer leaves out: parts of seconds, access lists, holes (GNU's sparse format 1.0).
Files are read through descriptors below the root, links never followed, so a container may change the tree meanwhile:
what vanishes is left out, what shrinks is filled up with zeros. Called by export, cp, commit and volume export.

Source: POSIX pax(1); OCI image specification, layer.md; star's SCHILY.xattr records; GNU tar, "Sparse Formats".
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
_HOLES = 64 << 10  # less is written as zeros
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
    kernel. *single*: one id only is mapped, and wanted owners are in an attribute. *precise*: see the module.
    """

    __slots__ = (
        "_buffer", "_fd", "_links", "_owner", "_precise", "_single", "_skip_unreadable", "_write", "entries",
    )  # fmt: skip

    def __init__(
        self, write: Callable[[bytes | bytearray | memoryview], object], *, fd: int = -1, owner: Owner | None = None,
        single: bool = False, skip_unreadable: bool = False, precise: bool = False,
    ) -> None:
        self._write = write
        self._fd = fd
        self._owner = owner
        self._precise = precise
        self._single = single
        self._skip_unreadable = skip_unreadable
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
            attributes = _attributes(fd, self._precise)
            spans = _spans(fd, status) if self._precise else None
            if spans:
                self._sparse(fd, target, status, attributes, spans)
            else:
                self._plain(target, b"0", status, attributes, size=status.st_size)
                self._data(fd, 0, status.st_size)
                self._pad(status.st_size)
        finally:
            os.close(fd)

    def _sparse(
        self, fd: int, target: bytes, status: os.stat_result, attributes: dict[str, bytes], spans: list[tuple[int, int]]
    ) -> None:
        """A file with holes: the map of its data stands before them, as decimal lines."""
        numbers = (len(spans), *(number for span in spans for number in span))
        text = b"".join(b"%d\n" % number for number in numbers)
        text += bytes(-len(text) % _BLOCK)
        stored = len(text) + sum(length for _, length in spans)
        more = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": target,
                "GNU.sparse.realsize": b"%d" % status.st_size}  # fmt: skip
        above, slash, last = target.rpartition(b"/")
        self._plain(above + slash + b"GNUSparseFile.0/" + last, b"0", status, attributes, size=stored, more=more)
        self._put(text)
        for offset, length in spans:
            self._data(fd, offset, length)
        self._pad(stored)

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
                attributes = _attributes(fd, self._precise)
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
        self, target: bytes, kind: bytes, status: os.stat_result, attributes: dict[str, bytes], link: bytes = b"", *,
        size: int = 0, more: dict[str, bytes] | None = None,
    ) -> None:
        uid, gid = status.st_uid, status.st_gid
        recorded = attributes.pop(_OWNER, b"")
        if self._single and recorded:
            uid, gid = (int(number) for number in recorded.split(b":")[:2])
        elif self._owner:
            uid, gid = self._owner(uid, gid)
        device = status.st_rdev if kind in b"34" else 0
        seconds, rest = divmod(status.st_mtime_ns, 10**9)
        pax = dict(more or {})
        if rest and self._precise:
            pax["mtime"] = _decimal(status.st_mtime_ns)
        kept = sorted(item for item in attributes.items() if not item[0].startswith(_MARKS))
        pax.update({f"SCHILY.xattr.{name}": value for name, value in kept})
        self._header(target, kind, size, stat.S_IMODE(status.st_mode), uid, gid, seconds, link, device, pax)

    def _header(
        self, name: bytes, kind: bytes, size: int, mode: int, uid: int, gid: int, mtime: int, link: bytes = b"",
        device: int = 0, more: dict[str, bytes] | None = None,
    ) -> None:
        """The header of one member; *more*: pax records of it, which come first, with those of what does not fit."""
        self.entries += 1
        texts = (("path", name), ("linkpath", link))
        pax = {key: text for key, text in texts if len(text) > 100 or not text.isascii()}
        for key, number, most in (("size", size, 8 << 30), ("uid", uid, 1 << 21), ("gid", gid, 1 << 21)):
            if number >= most:
                pax[key] = b"%d" % number
        if not 0 <= mtime < 8 << 30:
            pax["mtime"] = b"%d" % mtime
        pax.update(more or {})
        if pax:
            records = b"".join(record(key, value) for key, value in pax.items())
            last = name.rstrip(b"/").rpartition(b"/")[2][:80]
            self._buffer += block(b"PaxHeaders/" + last, b"x", len(records), 0o644)
            self._buffer += records
            self._pad(len(records))
        self._buffer += block(name[:100], kind, size if size < 8 << 30 else 0, mode, uid if uid < 1 << 21 else 0,
                              gid if gid < 1 << 21 else 0, mtime if 0 <= mtime < 8 << 30 else 0, link[:100], device)
        if len(self._buffer) >= _BUFFER:
            self._flush()

    def _data(self, fd: int, offset: int, size: int) -> None:
        """*size* bytes of a file from *offset* on; zeros where it has become shorter."""
        end = offset + size
        if self._fd >= 0 and size >= _SENDFILE:
            self._flush()
            offset += self._sendfile(fd, offset, size)
        while offset < end:
            step = min(end - offset, _BUFFER)
            piece = os.pread(fd, step, offset) or bytes(step)
            offset += len(piece)
            self._put(piece)

    def _sendfile(self, fd: int, offset: int, size: int) -> int:
        """Bytes the kernel copied; the rest, if any, is for read(2) and write(2)."""
        done = 0
        while done < size:
            try:
                count = os.sendfile(self._fd, fd, offset + done, min(size - done, 1 << 30))
            except BlockingIOError:
                _writable(self._fd)
                continue
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW):  # opened to append, a terminal, …
                    raise
                break
            if not count:
                break
            done += count
        return done

    def _pad(self, size: int) -> None:
        self._buffer += bytes(-size % _BLOCK)

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


def _attributes(fd: int, acls: bool) -> dict[str, bytes]:
    """Extended attributes that mean something elsewhere: user.*, file capabilities for any root (v2), *acls*."""
    found = {}
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}
    for name in names:
        if name.startswith("user.") or name == "security.capability" or (acls and name.startswith("system.posix_acl_")):
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


def _spans(fd: int, status: os.stat_result) -> list[tuple[int, int]] | None:
    """(offset, length) of the data of a file whose holes are worth it; None for any other."""
    size = status.st_size
    if size <= _HOLES or status.st_blocks * 512 >= size - _HOLES:
        return None
    spans: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                break
            return None  # the file system does not tell
        if start >= size:
            break
        spans.append((start, min(end, size) - start))
        position = end
    if not spans or sum(spans[-1]) < size:
        spans.append((size, 0))  # GNU tar's mark for a hole at the end
    return spans


def _decimal(ns: int) -> bytes:
    """Nanoseconds as a decimal number of seconds."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    return f"{sign}{ns // 10**9}.{ns % 10**9:09d}".rstrip("0").encode()
