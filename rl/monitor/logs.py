"""Log files as the monitor writes them: records, size limit, rotation without loss.

Called by `rl.monitor.loop` for every chunk that the container wrote. One file per driver keeps what is in
memory small: this one is k8s-file and the rotation, `rl.monitor.logs_json` is json-file, `rl.monitor.logs_journald`
is journald; `none` and `passthrough` keep nothing. `rl.monitor.logread` is the reader.

k8s-file is CRI's format (`<RFC 3339 with nanoseconds, local offset> stdout|stderr F|P <text>`): P marks a line whose
end is yet to come, so that a prompt shows up in `logs -f` at once and nothing is held back in memory.

Rotation renames: ``ctr.log`` becomes ``ctr.log.1``, that ``ctr.log.2``, up to ``max_file`` files in all. A reader that
holds a file open goes on in it and finds the next one by its inode, so it misses nothing.

A full disk never blocks nor ends the container: what cannot be written is counted in ``lost`` and
the file is cut back to its last complete record.
"""

from __future__ import annotations

import posix
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import LogConfig
    from rl.monitor.logs_journald import Journal

DRIVERS = ("k8s-file", "json-file", "journald", "none", "passthrough")
NAMES = {1: b" stdout ", 2: b" stderr "}


def open_log(config: LogConfig) -> LogFile | Journal | None:
    """The writer that *config* asks for, None for drivers that keep nothing."""
    driver = config.get("driver", "k8s-file")
    if driver == "journald":
        from rl.monitor.logs_journald import Journal

        return Journal(config)
    if driver not in ("k8s-file", "json-file") or not config.get("path"):
        return None
    if driver == "json-file":
        from rl.monitor.logs_json import JsonFile

        return JsonFile(config)
    return LogFile(config)


class LogFile:
    """A k8s-file log, and the rotating file under every driver."""

    __slots__ = ("_fd", "_limit", "_path", "_second", "_size", "_stamp", "_zone", "files", "lost")

    def __init__(self, config: LogConfig) -> None:
        self._path = config["path"]
        self._limit = max(0, config.get("max_size", 0))
        self.files = max(1, config.get("max_file", 1))
        self.lost = 0  # bytes of records that could not be written
        self._second = -1
        self._stamp = self._zone = b""
        self._size = 0
        self._fd = -1
        self._open()

    def write(self, stream: int, data: bytes) -> None:
        """Append what the container wrote to *stream* (1 or 2)."""
        stamp = self.now() + NAMES[stream]
        prefix = stamp + b"F "
        whole = data.rfind(b"\n") + 1
        parts = [prefix, data[: whole - 1].replace(b"\n", b"\n" + prefix), b"\n"] if whole else []
        if whole < len(data):
            parts += [stamp, b"P ", data[whole:], b"\n"]
        size = sum(map(len, parts))
        if self._limit and self._size + size > self._limit:
            self.append(b"".join(parts))
        else:
            self._put(parts, size)  # as they are: joined they would be copied once more

    def carry(self) -> tuple[bytes, bytes]:
        """What is held back of either stream, to go on with after the monitor replaced itself."""
        return b"", b""

    def take(self, carried: tuple[bytes, bytes]) -> None:
        """Go on with what :meth:`carry` gave."""

    def close(self) -> None:
        """Write what was held back, if anything was."""
        if self._fd >= 0:
            posix.close(self._fd)
            self._fd = -1

    def now(self) -> bytes:
        """RFC 3339 with nanoseconds and local offset, as conmon writes it."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            local = time.localtime(second)
            sign, offset = ("+", local.tm_gmtoff) if local.tm_gmtoff >= 0 else ("-", -local.tm_gmtoff)
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S.", local).encode()
            self._zone = f"{sign}{offset // 3600:02d}:{offset // 60 % 60:02d}".encode()
            self._second = second
        return self._stamp + b"%09d" % nanoseconds + self._zone

    def append(self, records: bytes) -> None:
        """Write complete records; begin a new file before the one in use grows over its limit."""
        while self._limit and self._size + len(records) > self._limit:
            cut = records.rfind(b"\n", 0, max(0, self._limit - self._size)) + 1
            if not cut and not self._size:  # one record longer than a file may be: it gets one of its own
                cut = records.index(b"\n") + 1
            if cut:
                self._put([records[:cut]], cut)
                records = records[cut:]
            if not records:
                return
            if self._size:
                self._rotate()
                if self._size:  # the directory cannot be changed now: better too long than lost
                    break
        self._put([records], len(records))

    def _put(self, parts: list[bytes], size: int) -> None:
        """Write records, given in *parts* of *size* bytes in all."""
        if self._fd < 0:
            self._open()
        done = 0
        try:
            done = posix.writev(self._fd, parts)
            if done < size:  # the disk is nearly full, or there are more than 2 GB
                records = b"".join(parts)
                while done < size:
                    done += posix.write(self._fd, records[done:])
        except OSError:  # ENOSPC, EDQUOT, EIO, EFBIG; EBADF when the file could not be opened
            kept = b"".join(parts).rfind(b"\n", 0, done) + 1
            self.lost += size - kept
            try:
                posix.ftruncate(self._fd, self._size + kept)
            except OSError:
                pass
            done = kept
        self._size += done

    def _open(self) -> None:
        flags = posix.O_RDWR | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOCTTY
        try:
            self._fd = posix.open(self._path, flags, 0o600)
            self._size = posix.fstat(self._fd).st_size
            if self._size and posix.pread(self._fd, 1, self._size - 1) != b"\n":
                self._size += posix.write(self._fd, b"\n")  # a crash tore the last record: keep the next one whole
        except OSError:
            pass  # tried again with the next record

    def _rotate(self) -> None:
        path = self._path
        try:
            if self.files == 1:
                posix.unlink(path)
            for number in range(self.files - 1, 0, -1):
                try:
                    posix.rename(f"{path}.{number - 1}" if number > 1 else path, f"{path}.{number}")
                except FileNotFoundError:
                    continue
        except OSError:
            return
        posix.close(self._fd)
        self._fd = -1
        self._size = 0
        self._open()
