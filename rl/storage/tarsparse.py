"""Tar archives that keep the holes of files: for volumes, where disk images and databases are. Called by the engine.

Layers are written without (rl.storage.tarwrite), for not every engine reads it. Source: GNU tar manual, "Storing Sparse
Files", PAX format, version 1.0: the map of the data stands before the data, as decimal lines.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.storage.tarwrite import TarWriter, attributes_of, block, record

_BLOCK = 512
_SMALLEST = 64 << 10  # holes that are smaller in all are written as zeros


class SparseWriter(TarWriter):
    """As :class:`TarWriter`."""

    __slots__ = ()

    def _file(self, directory: int, name: str, target: bytes, status: os.stat_result) -> None:
        if status.st_size - status.st_blocks * 512 < _SMALLEST:
            super()._file(directory, name, target, status)
            return
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            super()._file(directory, name, target, status)  # knows what may be left out
            return
        try:
            status = os.fstat(fd)
            spans = _spans(fd, status.st_size) if stat.S_ISREG(status.st_mode) else None
            if spans is None:
                super()._file(directory, name, target, status)
            elif not self._linked(target, status):
                self._sparse(fd, target, status, spans)
        finally:
            os.close(fd)

    def _sparse(self, fd: int, target: bytes, status: os.stat_result, spans: list[tuple[int, int]]) -> None:
        numbers = [len(spans), *(number for span in spans for number in span)]
        text = b"".join(b"%d\n" % number for number in numbers)
        text += bytes(-len(text) % _BLOCK)
        size = len(text) + sum(length for _, length in spans)
        attributes = attributes_of(fd)
        uid, gid = self._ids(status, attributes)
        mtime = status.st_mtime_ns // 10**9
        pax = record("GNU.sparse.major", b"1") + record("GNU.sparse.minor", b"0")
        pax += record("GNU.sparse.name", target) + record("GNU.sparse.realsize", b"%d" % status.st_size)
        for key, number, most in (("size", size, 8 << 30), ("uid", uid, 1 << 21), ("gid", gid, 1 << 21),
                                  ("mtime", mtime, 8 << 30)):
            if not 0 <= number < most:
                pax += record(key, b"%d" % number)
        for key, value in sorted(attributes.items()):
            pax += record(f"SCHILY.xattr.{key}", value)
        last = target.rpartition(b"/")[2][:80]
        self.entries += 1
        self._put(block(b"PaxHeaders/" + last, b"x", len(pax), 0o644) + pax + bytes(-len(pax) % _BLOCK))
        ids = (uid % (1 << 21), gid % (1 << 21))
        mtime = mtime if 0 <= mtime < 8 << 30 else 0
        self._put(block(b"GNUSparseFile.0/" + last, b"0", size % (8 << 30), stat.S_IMODE(status.st_mode), *ids, mtime))
        self._put(text)
        for offset, length in spans:
            os.lseek(fd, offset, os.SEEK_SET)
            self._bytes(fd, length)
        self._put(bytes(-size % _BLOCK))


def _spans(fd: int, size: int) -> list[tuple[int, int]] | None:
    """(offset, length) of the data of a file with holes; None where the file system does not tell."""
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
        spans.append((size, 0))  # GNU tar's mark of a hole at the end
    return spans
