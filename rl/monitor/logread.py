"""Reading the log files that `rl.monitor.logs` writes, while it writes and rotates them.

Called by the engine's logs. A record is (stream, time as text, bytes with the line's end if it has one).
"""

from __future__ import annotations

import os

from rl.config.jsonio import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    #: stream ("stdout" | "stderr"), RFC 3339 time, data: ends with a newline unless the line goes on in another record
    Record = tuple[str, str, bytes]

_BLOCK = 1 << 18
#: What stands between the time and the text of a k8s-file record: its stream, and how its text ends.
_TAGS = {b" std%s %s " % (name, kind): ("std" + name.decode(), end)
         for name in (b"out", b"err") for kind, end in ((b"F", b"\n"), (b"P", b""))}


def parse_k8s(line: bytes) -> Record | None:
    """A record of a k8s-file log; None for a damaged line."""
    parts = line.split(b" ", 3)
    if len(parts) != 4 or parts[2][:1] not in (b"F", b"P"):
        return None
    text = parts[3] if parts[2][:1] == b"P" else parts[3] + b"\n"
    return parts[1].decode(errors="replace"), parts[0].decode(errors="replace"), text


def parse_json(line: bytes) -> Record | None:
    """A record of a json-file log; None for a damaged line."""
    try:
        record = loads(line.decode())
        return record["stream"], record["time"], record["log"].encode("utf-8", "surrogateescape")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def texts_of(records: Iterable[Record | None]) -> Iterator[tuple[str, bytes]]:
    """(stream, data) of *records*, those of one stream that follow each other in one."""
    stream = ""
    parts: list[bytes] = []
    for record in records:
        if record is None:
            continue
        if record[0] != stream:
            if parts:
                yield stream, b"".join(parts)
            stream, parts = record[0], []
        parts.append(record[2])
    if parts:
        yield stream, b"".join(parts)


def _texts_json(lines: list[bytes]) -> Iterator[tuple[str, bytes]]:
    return texts_of(map(parse_json, lines))


def _texts_k8s(lines: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Nearly always, all times have one length; then all tags stand in one place, and two list comprehensions do."""
    at = lines[0].find(b" std")
    end = at + 10
    tags = [line[at:end] for line in lines]
    kinds = set(tags)
    if at < 0 or not kinds <= _TAGS.keys():
        yield from texts_of(map(parse_k8s, lines))
        return
    if len(kinds) == 1:
        stream, newline = _TAGS[tags[0]]
        yield stream, newline.join([line[end:] for line in lines]) + newline
        return
    begin = 0
    for index in range(1, len(lines) + 1):
        if index == len(lines) or tags[index] != tags[begin]:
            stream, newline = _TAGS[tags[begin]]
            yield stream, newline.join([line[end:] for line in lines[begin:index]]) + newline
            begin = index


def _ends_line_k8s(line: bytes) -> bool:
    return line.split(b" ", 3)[2:3] != [b"P"]


def _ends_line_json(line: bytes) -> bool:
    return b'\\n","stream":' in line


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


class _File:
    """One file of the log, read from ``position`` on."""

    __slots__ = ("fd", "identity", "position", "rest")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        status = os.fstat(fd)
        self.identity = (status.st_dev, status.st_ino)
        self.position = 0
        self.rest = b""

    def lines(self) -> Iterator[list[bytes]]:
        """The complete lines up to the present end, many at a time; a torn one waits for its rest."""
        while block := os.pread(self.fd, _BLOCK, self.position):
            self.position += len(block)
            *whole, self.rest = (self.rest + block).split(b"\n")
            if whole:
                yield whole


class LogReader:
    """The log of one container across its rotated files, oldest first; can be read on as it grows."""

    def __init__(self, path: str, driver: str = "k8s-file") -> None:
        self._path = path
        json = driver == "json-file"
        self._parse: Callable[[bytes], Record | None] = parse_json if json else parse_k8s
        self._ends_line: Callable[[bytes], bool] = _ends_line_json if json else _ends_line_k8s
        self._texts: Callable[[list[bytes]], Iterator[tuple[str, bytes]]] = _texts_json if json else _texts_k8s
        self._files = self._open_all()

    def _open_all(self) -> list[_File]:
        """All files, oldest first, none missed or taken twice by a rotation meanwhile.

        A rotation renames from the oldest file on, so at any moment at most one number is missing; a look during which
        a name changed its file is repeated.
        """
        while True:
            found: list[tuple[str, _File]] = []
            number = missing = 0
            while missing < 2:
                path = f"{self._path}.{number}" if number else self._path
                try:
                    found.insert(0, (path, _File(os.open(path, os.O_RDONLY | os.O_CLOEXEC))))
                    missing = 0
                except FileNotFoundError:
                    missing += 1
                number += 1
            if all(_identity(path) == file.identity for path, file in found):
                return [file for _, file in found]
            for _, file in found:
                os.close(file.fd)

    def tail(self, count: int) -> None:
        """Begin with the last *count* lines; reads no more of the files than those need."""
        wanted = count
        for index in range(len(self._files) - 1, -1, -1):
            file = self._files[index]
            begin, wanted = self._begin_of_tail(file, wanted, index == len(self._files) - 1)
            file.position = begin
            if begin or not wanted:
                for older in self._files[:index]:
                    os.close(older.fd)
                del self._files[:index]
                return

    def _begin_of_tail(self, file: _File, wanted: int, newest: bool) -> tuple[int, int]:
        """(offset where the last *wanted* lines of *file* begin, how many are still wanted from older files)."""
        end = os.fstat(file.fd).st_size
        rest = b""
        unfinished = newest  # a last record that does not end its line is a line too
        while end > 0:
            start = max(0, end - _BLOCK)
            block = os.pread(file.fd, end - start, start) + rest
            lines = block.split(b"\n")
            rest = lines[0] if start else b""
            offset = start + len(block)
            for line in reversed(lines[1:] if start else lines):
                if line and (unfinished or self._ends_line(line)):
                    if not wanted:
                        return min(offset + 1, start + len(block)), 0
                    wanted -= 1
                if line:
                    unfinished = False
                offset -= len(line) + 1
            end = start
        return 0, wanted

    def read(self) -> Iterator[Record]:
        """Every record up to the present end; call again for what came since."""
        for lines in self._lines():
            for line in lines:
                record = self._parse(line)
                if record is not None:
                    yield record

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """As :meth:`read`, but only (stream, data), and of one stream as much at a time as there is: the fast way."""
        for lines in self._lines():
            yield from self._texts(lines)

    def _lines(self) -> Iterator[list[bytes]]:
        while self._files:
            yield from self._files[0].lines()
            if len(self._files) == 1 and not self._rotated():
                return
            # After the rename nothing is written to it: what is there now is all there will be.
            yield from self._files[0].lines()
            os.close(self._files.pop(0).fd)
        self._files = self._open_all()
        if self._files:
            yield from self._lines()

    def _rotated(self) -> bool:
        """Whether newer files than the one being read exist; they are queued."""
        current = self._files[0]
        if _identity(self._path) in (current.identity, None):
            return False
        found = self._open_all()
        keep = len(found)
        for index, file in enumerate(found):
            if file.identity == current.identity:
                keep = index + 1
        if keep == len(found) and all(file.identity != current.identity for file in found):
            keep = 0  # the one being read was deleted: go on with the oldest there is
        for file in found[:keep]:
            os.close(file.fd)
        self._files += found[keep:]
        return len(self._files) > 1

    def close(self) -> None:
        """Close what is open."""
        for file in self._files:
            os.close(file.fd)
        self._files = []
