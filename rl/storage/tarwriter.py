"""A directory tree as a tar stream: the counterpart of rl.storage.tarstream, for `rl volume export`.

POSIX pax format as GNU tar and Go write it: what does not fit a ustar header (long names, big numbers, times below a
second, attributes) goes into an extended header of its member. Hard links are kept, sockets left out (as by GNU tar).
Everything is opened relative to descriptors, never through symbolic links: a container may change the tree meanwhile.

Source: POSIX pax(1), "ustar Interchange Format", "pax Extended Header".
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512
_CHUNK = 1 << 20
_BUFFER = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SMALLEST_MAP = 64 << 10  # below this a hole is written as zeros


class TarWriter:
    """Writes to descriptor *fd*; :meth:`finish` ends the archive. Raises OSError."""

    __slots__ = ("_fd", "_inodes", "_out", "members", "select")

    def __init__(self, fd: int, select: Callable[[str], bool] | None = None) -> None:
        self._fd = fd
        self._out = bytearray()
        self._inodes: dict[tuple[int, int], bytes] = {}
        self.members = 0
        self.select = select  # of names relative to the root: those it refuses are left out, with what is below

    def tree(self, root: int, prefix: bytes = b"") -> None:
        """Everything below directory *root* (a descriptor), sorted, under names that begin with *prefix*."""
        stack = [(os.open(".", _DIRECTORY, dir_fd=root), prefix, iter(sorted(os.listdir(root))))]
        try:
            while stack:
                directory, path, entries = stack[-1]
                name = next(entries, None)
                if name is None:
                    os.close(directory)
                    stack.pop()
                    continue
                full = path + os.fsencode(name)
                if self.select is not None and not self.select(os.fsdecode(full)):
                    continue
                try:
                    below = self._entry(directory, name, full)
                except FileNotFoundError:
                    continue  # removed meanwhile
                if below >= 0:
                    stack.append((below, full + b"/", iter(sorted(os.listdir(below)))))
        finally:
            for directory, _, _ in stack:
                os.close(directory)

    def _entry(self, directory: int, name: str, full: bytes) -> int:
        """Write one entry; the descriptor of a directory, whose content comes next, else -1."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFSOCK:
            return -1
        if kind == stat.S_IFDIR:
            fd = os.open(name, _DIRECTORY, dir_fd=directory)
            self._header(full + b"/", status, b"5", xattrs=_xattrs(fd))
            return fd
        if status.st_nlink > 1:
            first = self._inodes.setdefault((status.st_dev, status.st_ino), full)
            if first is not full:
                self._header(full, status, b"1", link=first)
                return -1
        if kind == stat.S_IFREG:
            fd = os.open(name, _FILE, dir_fd=directory)
            try:
                self._file(fd, full)
            finally:
                os.close(fd)
        elif kind == stat.S_IFLNK:
            self._header(full, status, b"2", link=os.fsencode(os.readlink(name, dir_fd=directory)))
        elif kind == stat.S_IFIFO:
            self._header(full, status, b"6")
        else:
            self._header(full, status, b"3" if kind == stat.S_IFCHR else b"4")
        return -1

    # ------------------------------------------------------------------ files

    def _file(self, fd: int, full: bytes) -> None:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return  # it became something else between the two looks
        xattrs = _xattrs(fd)
        size = status.st_size
        spans = _spans(fd, size) if size > _SMALLEST_MAP and status.st_blocks * 512 < size - _SMALLEST_MAP else None
        if spans is None:
            self._header(full, status, b"0", size=size, xattrs=xattrs)
            self._data(fd, 0, size)
            self._pad(size)
            return
        # GNU's sparse format 1.0: the map stands before the data, as decimal lines
        text = "".join(f"{number}\n" for number in (len(spans), *(n for span in spans for n in span))).encode()
        text += bytes(-len(text) % BLOCK)
        stored = len(text) + sum(length for _, length in spans)
        pax = {"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": full,
               "GNU.sparse.realsize": str(size).encode()}
        above, slash, last = full.rpartition(b"/")
        self._header(above + slash + b"GNUSparseFile.0/" + last, status, b"0", size=stored, xattrs=xattrs, pax=pax)
        self._write(text)
        for offset, length in spans:
            self._data(fd, offset, length)
        self._pad(stored)

    def _data(self, fd: int, offset: int, length: int) -> None:
        """*length* bytes of the file from *offset* on; zeros where it has become shorter."""
        while length:
            if length >= _CHUNK:
                self._flush()
                sent = _send(self._fd, fd, offset, min(length, 1 << 30))
                if sent:
                    offset, length = offset + sent, length - sent
                    continue
            data = os.pread(fd, min(length, _CHUNK), offset) or bytes(min(length, _CHUNK))
            self._write(data)
            offset, length = offset + len(data), length - len(data)

    # ------------------------------------------------------------------ headers

    def _header(
        self, name: bytes, status: os.stat_result, kind: bytes, *, link: bytes = b"", size: int = 0,
        xattrs: dict[str, bytes] | None = None, pax: dict[str, bytes] | None = None,
    ) -> None:
        self.members += 1
        extra: dict[str, bytes] = dict(pax or {})
        short, above = name, b""
        if len(name) > 100:
            above, short = _split(name)
            if not short:
                extra["path"], short, above = name, name[-100:].lstrip(b"/"), b""
        if len(link) > 100:
            extra["linkpath"] = link
        uid, gid, mtime = status.st_uid, status.st_gid, status.st_mtime_ns
        if not name.isascii() and "path" not in extra and "GNU.sparse.name" not in extra:
            extra["path"] = name
        if not link.isascii():
            extra["linkpath"] = link
        if mtime % 10**9 or not 0 <= mtime < 8**11 * 10**9:
            extra["mtime"] = _time(mtime)
        for key, number, limit in (("uid", uid, 8**7), ("gid", gid, 8**7), ("size", size, 8**11)):
            if number >= limit:
                extra[key] = str(number).encode()
        for key, value in (xattrs or {}).items():
            extra[f"SCHILY.xattr.{key}"] = value
        if extra:
            records = b"".join(_record(key.encode(errors="surrogateescape"), value) for key, value in extra.items())
            base = short.rstrip(b"/").rpartition(b"/")[2][:80]
            self._write(_block(b"PaxHeaders.0/" + base, 0o644, 0, 0, len(records), 0, b"x"))
            self._write(records)
            self._pad(len(records))
        major, minor = (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in b"34" else (0, 0)
        seconds = mtime // 10**9
        block = _block(short, stat.S_IMODE(status.st_mode), uid % 8**7, gid % 8**7, size % 8**11,
                       seconds if 0 <= seconds < 8**11 else 0, kind, link[:100], above, major, minor)  # fmt: skip
        self._write(block)

    def _pad(self, size: int) -> None:
        if size % BLOCK:
            self._write(bytes(-size % BLOCK))

    # ------------------------------------------------------------------ output

    def _write(self, data: bytes) -> None:
        self._out += data
        if len(self._out) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        with memoryview(self._out) as view:
            at = 0
            while at < len(view):
                at += os.write(self._fd, view[at:])
        self._out.clear()

    def finish(self) -> None:
        """The end of the archive."""
        self._write(bytes(2 * BLOCK))
        self._flush()


def _send(out: int, source: int, offset: int, length: int) -> int:
    """Bytes copied inside the kernel; 0 where it cannot (or the file has ended)."""
    try:
        return os.sendfile(out, source, offset, length)
    except OSError as error:
        import errno

        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOVERFLOW):
            return 0  # a file opened for appending, say
        raise


def _spans(fd: int, size: int) -> list[tuple[int, int]] | None:
    """(offset, length) of the data of a file with holes; None where the file system does not tell."""
    import errno

    spans: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole to the end
                break
            return None
        if start >= size:
            break
        spans.append((start, min(end, size) - start))
        position = end
    if not spans or spans[-1][0] + spans[-1][1] < size:
        spans.append((size, 0))  # GNU tar's mark for a hole at the end
    return spans


_KEPT = ("user.", "security.capability", "system.posix_acl_")
#: Marks of storage drivers mean nothing elsewhere.
_INTERNAL = ("user.overlay.", "user.fuseoverlayfs.", "user.containers.", "user.rl.")


def _xattrs(fd: int) -> dict[str, bytes] | None:
    try:
        names = os.listxattr(fd)
    except OSError:
        return None
    if not names:
        return None
    found = {}
    for name in names:
        if name.startswith(_KEPT) and not name.startswith(_INTERNAL):
            try:
                found[name] = os.getxattr(fd, name)
            except OSError:
                continue
    return found


def _split(name: bytes) -> tuple[bytes, bytes]:
    """(prefix, name) of ustar for a long name; b"" for both where it does not fit."""
    at = name.find(b"/", len(name) - 101)
    if 0 < at <= 155 and len(name) - at - 1 <= 100 and name[at + 1 :]:
        return name[:at], name[at + 1 :]
    return b"", b""


def _time(ns: int) -> bytes:
    """Nanoseconds as a decimal number of seconds."""
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    text = f"{sign}{ns // 10**9}.{ns % 10**9:09d}"
    return text.rstrip("0").rstrip(".").encode()


def _record(key: bytes, value: bytes) -> bytes:
    """``LEN KEY=VALUE\\n``, LEN counting itself."""
    length = len(key) + len(value) + 3
    digits = len(str(length))
    if len(str(length + digits)) > digits:
        digits += 1
    return str(length + digits).encode() + b" " + key + b"=" + value + b"\n"


def _block(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes = b"",
    prefix: bytes = b"", major: int = 0, minor: int = 0,
) -> bytes:
    block = b"".join((
        name.ljust(100, b"\0"), b"%07o\0%07o\0%07o\0%011o\0%011o\0        " % (mode, uid, gid, size, mtime), kind,
        link.ljust(100, b"\0"), b"ustar\x0000", bytes(64), b"%07o\0%07o\0" % (major, minor),
        prefix.ljust(155, b"\0"), bytes(12),
    ))  # fmt: skip
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
