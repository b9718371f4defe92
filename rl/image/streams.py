"""Reading whatever compression a file or a pipe has, in constant memory.

Called by the archives and by import. The kind is told by the first bytes, never by a name.
Truncated or broken data is a VerificationError, and so is data that grows beyond belief.
"""

from __future__ import annotations

import os

from rl.errors import RlError, UnsupportedError, VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Read = Callable[[int], bytes]

CHUNK = 1 << 18
MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
)
MAGIC_SIZE = 6

#: Past this many bytes, data that was compressed better than BOMB_RATIO is not believed any more.
#: (A long run of zeros, a legitimate sparse file, gives gzip 1030.)
BOMB_SIZE = 64 << 30
BOMB_RATIO = 2000


def kind_of(start: bytes) -> str:
    """gzip, zstd, xz, bzip2, or "" for what is not compressed (as far as its first bytes tell)."""
    for magic, kind in MAGIC:
        if start.startswith(magic):
            return kind
    # A zstd stream may begin with a skippable frame: 0x184D2A5? in little endian (RFC 8878, 3.1.2).
    if len(start) >= 4 and start[1:4] == b"\x2a\x4d\x18" and start[0] & 0xF0 == 0x50:
        return "zstd"
    return ""


class Source:
    """A descriptor whose first bytes can be looked at before they are read. Owns nothing."""

    __slots__ = ("_ahead", "_read", "count")

    def __init__(self, read: Read) -> None:
        self._read = read
        self._ahead = b""
        self.count = 0

    @classmethod
    def of_fd(cls, fd: int, what: str) -> Source:
        def read(size: int) -> bytes:
            try:
                return os.read(fd, size)
            except OSError as error:
                raise RlError(f"read {what}: {error.strerror}") from None

        return cls(read)

    def peek(self, size: int) -> bytes:
        while len(self._ahead) < size:
            more = self._read(size - len(self._ahead))
            if not more:
                break
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._read(size)
        self.count += len(data)
        return data


def decompressed(source: Source, what: str) -> tuple[Read, str]:
    """A function that reads *source* without its compression, and the kind that was found."""
    kind = kind_of(source.peek(MAGIC_SIZE))
    if not kind:
        return source.read, ""
    return Inflater(source, _decoder(kind, what), kind, what).read, kind


class Inflater:
    """Decompress stream after stream: any number of gzip members, zstd frames, … may follow each other."""

    __slots__ = ("_decoder", "_make", "_out", "_rest", "_source", "kind", "total", "what")

    def __init__(self, source: Source, make: Callable[[], Any], kind: str, what: str) -> None:
        self._source = source
        self._make = make
        self._decoder: Any = make()
        self._rest = b""  # compressed bytes that belong to the next stream
        self._out = b""
        self.total = 0
        self.kind = kind
        self.what = what

    def read(self, size: int) -> bytes:
        """Up to *size* bytes, b"" at the end. Raises VerificationError."""
        while not self._out:
            if self._decoder.eof:
                self._rest = self._decoder.unused_data or b""
                if not self._next_stream():
                    return b""
            data = self._rest
            self._rest = b""
            if not data and self._decoder.needs_input:
                data = self._source.read(CHUNK)
                if not data:
                    raise VerificationError(f"{self.what} ends in the middle of its {self.kind} data", _HINT)
            try:
                self._out = self._decoder.decompress(data, CHUNK)
            except Exception as error:  # each library has its own class; none means anything else
                raise VerificationError(f"{self.what}: broken {self.kind} data: {error}", _HINT) from None
            self.total += len(self._out)
            if self.total > BOMB_SIZE and self.total > BOMB_RATIO * self._source.count:
                raise VerificationError(f"{self.what} grows more than {BOMB_RATIO}-fold when decompressed", _HINT)
        data, self._out = self._out[:size], self._out[size:]
        return data

    def _next_stream(self) -> bool:
        """Whether another stream follows; zero padding (tapes, xz's stream padding) is skipped."""
        self._rest = self._rest.lstrip(b"\0")
        while len(self._rest) < MAGIC_SIZE:
            more = self._source.read(CHUNK)
            if not more:
                break
            self._rest = (self._rest + more).lstrip(b"\0")
        if not self._rest:
            return False
        if kind_of(self._rest) != self.kind:
            raise VerificationError(f"{self.what} has other data after its {self.kind} data", _HINT)
        self._decoder = self._make()
        return True


_HINT = "the file is damaged: get it again from its source"


class _Zlib:
    """zlib's gzip decoder with the interface of bz2's, lzma's and ISA-L's."""

    __slots__ = ("_object", "eof", "needs_input", "unused_data")

    def __init__(self) -> None:
        import zlib

        self._object = zlib.decompressobj(31)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, size: int) -> bytes:
        out = self._object.decompress(self._object.unconsumed_tail + data, size)
        self.eof = self._object.eof
        self.unused_data = self._object.unused_data
        self.needs_input = not self._object.unconsumed_tail and len(out) < size
        return out


class _Zstd:
    """zstandard's decoder with the same interface."""

    __slots__ = ("_data", "_object", "_position", "eof", "needs_input", "unused_data")

    #: decompressobj has no output limit: pieces of input keep one answer small (the smallest zstd block
    #: takes 4 bytes and stands for 128 KiB, so a bomb gives 32 MiB at a time, honest data some KiB).
    PIECE = 1024

    def __init__(self) -> None:
        import zstandard

        # Windows above 128 MiB (--ultra --long=31) would have to be held in memory; zstd itself stops there too.
        self._object = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
        self.eof = False
        self.needs_input = True
        self.unused_data = b""
        self._data = memoryview(b"")
        self._position = 0

    def decompress(self, data: bytes, size: int) -> bytes:
        if data:
            self._data = memoryview(data)  # only ever given when all of the last was used
            self._position = 0
        end = self._position + self.PIECE
        out: bytes = self._object.decompress(self._data[self._position : end])
        self._position = min(end, len(self._data))
        self.eof = bool(self._object.eof)
        if self.eof:
            self.unused_data = bytes(self._object.unused_data) + bytes(self._data[self._position :])
        self.needs_input = self._position == len(self._data)
        return out


def _decoder(kind: str, what: str) -> Callable[[], Any]:
    if kind == "gzip":
        try:
            from isal import igzip_lib
        except ImportError:
            return _Zlib
        return lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor
    if kind == "xz":
        import lzma

        return lambda: lzma.LZMADecompressor(memlimit=512 << 20)
    try:
        import zstandard  # noqa: F401
    except ImportError:
        raise UnsupportedError(
            f"{what} is compressed with zstd, which needs the Python package zstandard", "pip install zstandard"
        ) from None
    return _Zstd
