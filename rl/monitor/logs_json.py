"""The json-file log driver: one JSON object per line, as Docker writes it.

``{"log":"text\\n","stream":"stdout","time":"2024-01-31T12:00:00.000000001Z"}``; a line that is not complete yet has no
``\\n`` in its ``log``. Bytes that are not UTF-8 become lone surrogates (``\\udc80`` … ``\\udcff``), which Python reads
back to the same bytes and other readers show as U+FFFD, as Docker stores them. A character cut in two by a read is
held back until its rest comes.
"""

from __future__ import annotations

import time

from rl.monitor.logs import LogFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import LogConfig

_NAMES = {1: '","stream":"stdout","time":"', 2: '","stream":"stderr","time":"'}


def _quoter() -> Callable[[str], str]:
    try:
        from _json import encode_basestring_ascii
    except ImportError:
        from json.encoder import py_encode_basestring_ascii as encode_basestring_ascii
    return encode_basestring_ascii


class JsonFile(LogFile):
    """Writes Docker's json-file format."""

    __slots__ = ("_held", "_quote")

    def __init__(self, config: LogConfig) -> None:
        super().__init__(config)
        self._held = {1: b"", 2: b""}
        self._quote = _quoter()

    def write(self, stream: int, data: bytes) -> None:
        """Append what the container wrote to *stream* (1 or 2)."""
        data = self._held[stream] + data
        whole = len(data) - incomplete(data)
        self._held[stream] = data[whole:]
        self._records(stream, data[:whole])

    def _records(self, stream: int, data: bytes) -> None:
        if not data:
            return
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{nanoseconds:09d}Z"
        end = _NAMES[stream] + stamp + '"}\n'
        lines = data.decode("utf-8", "surrogateescape").split("\n")
        last = lines.pop()
        # The quoter adds the quotes: its closing one goes, `end` brings its own.
        records = ['{"log":' + self._quote(line + "\n")[:-1] + end for line in lines]
        if last:
            records.append('{"log":' + self._quote(last)[:-1] + end)
        self.append("".join(records).encode())

    def carry(self) -> tuple[bytes, bytes]:
        return self._held[1], self._held[2]

    def take(self, carried: tuple[bytes, bytes]) -> None:
        self._held = {1: carried[0], 2: carried[1]}

    def close(self) -> None:
        for stream, held in self._held.items():
            self._records(stream, held)
        super().close()


def incomplete(data: bytes) -> int:
    """How many bytes at the end of *data* begin a UTF-8 character that is not complete (0 to 3)."""
    for back in range(1, min(4, len(data) + 1)):
        byte = data[-back]
        if byte >= 0xC0:
            need = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2
            return back if need > back else 0
        if byte < 0x80:
            return 0
    return 0
