"""zstd:chunked: a layer of which every file is a zstd frame of its own, with a table of contents behind them.

Who knows the format fetches only the files that are new; for all others it is a zstd stream (RFC 8878) that gives the
same tar, for the tables stand in skippable frames. Behind the files come the table of contents, the archive without
its files (tar-split), and a footer that says where both are; so do the annotations of the layer.

What the table cannot say (names that are no UTF-8, sparse files, global pax headers) makes the layer a plain one: no
table, no annotations. Files are not cut into chunks. Called by rl.image.compress.

Source: containers/storage, "zstd:chunked file format"; tar-split's JSON lines.
"""

from __future__ import annotations

import io
import tarfile
from base64 import b64encode
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from struct import pack

from rl.config.jsonio import dumps
from rl.image.documents import BYTE_ANNOTATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PREFIX = BYTE_ANNOTATIONS[0]
_BLOCK = 512
_MAGIC = b"GNUlInUx"
_SKIPPABLE = 0x184D2A50
_TYPES = {
    tarfile.REGTYPE: "reg", tarfile.AREGTYPE: "reg", tarfile.CONTTYPE: "reg", tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}  # fmt: skip
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
#: Larger extension headers than any tar has.
_LARGEST = 1 << 20
#: More zeros behind the last member than any tar has.
_LONGEST_END = 16 << 20
_XATTR = "SCHILY.xattr."
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ONES = (1 << 64) - 1


class Compressor:
    """Takes a tar in pieces of any size, as zlib's and zstandard's objects do; ``annotations`` are there at the end."""

    def __init__(self, level: int) -> None:
        import zstandard

        self._zstd = zstandard.ZstdCompressor(level=level)
        self._buffer = bytearray()
        self._headers = bytearray()  # headers and padding since the last file
        self._entry = 0  # where the headers of the next member begin in them
        self._padding = 0
        self._over = False  # past the end of the members, or nothing the table can say
        self._file: _File | None = None
        self._out: list[bytes] = []
        self._offset = 0  # bytes given out
        self._table: list[dict[str, Any]] | None = []
        self._split = _Split(self._zstd)
        self.annotations: dict[str, str] = {}

    def compress(self, data: bytes) -> bytes:
        self._buffer += data
        while self._step():
            pass
        return self._take()

    def flush(self) -> bytes:
        self._headers += self._buffer
        self._split.segment(self._headers)
        if self._file or (self._buffer and not self._over):
            self._table = None  # the tar is cut off
        if self._file:
            self._put(self._file.compressor.flush())
        self._frame(bytes(self._headers))
        if self._table is not None:
            self._finish(self._table)
        return self._take()

    def _take(self) -> bytes:
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _put(self, data: bytes) -> None:
        self._offset += len(data)
        self._out.append(data)

    def _frame(self, data: bytes) -> None:
        if data:
            self._put(self._zstd.compress(data))

    # the tar

    def _step(self) -> bool:
        """Go on with what the buffer holds; whether there may be more in it."""
        if self._file:
            return self._data(self._file)
        if self._over:
            self._headers += self._buffer
            self._buffer.clear()
            if self._table is None or len(self._headers) > _LONGEST_END:
                self._table = None
                self._frame(bytes(self._headers))
                self._headers.clear()
            return False
        if self._padding:
            count = min(self._padding, len(self._buffer))
            self._move(count)
            self._padding -= count
            self._entry = len(self._headers)
            return bool(count)
        return self._header()

    def _move(self, count: int) -> None:
        self._headers += self._buffer[:count]
        del self._buffer[:count]

    def _header(self) -> bool:
        """The next header, if it is there whole, with the extension it may have."""
        if len(self._buffer) < _BLOCK:
            return False
        kind = bytes(self._buffer[156:157])
        if not any(self._buffer[:_BLOCK]):
            self._over = True
            return True
        if kind in _EXTENSIONS:
            size = _number(self._buffer[124:136])
            if not 0 <= size <= _LARGEST:
                return self._give_up()
            whole = _BLOCK + size + -size % _BLOCK
            if len(self._buffer) < whole:
                return False
            self._move(whole)
            return True
        self._move(_BLOCK)
        try:
            entry, size = _metadata(bytes(self._headers[self._entry :]))
        except (tarfile.TarError, ValueError, OverflowError, RecursionError):
            return self._give_up()
        assert self._table is not None
        self._table.append(entry)
        self._split.segment(self._headers)
        if size:
            self._frame(bytes(self._headers))
            self._headers.clear()
            self._file = _File(entry, size, self._offset, self._zstd.compressobj())
        else:
            self._split.file(entry["name"], 0, None)
        self._split.begin(len(self._headers))
        self._entry = len(self._headers)
        return True

    def _give_up(self) -> bool:
        self._table, self._over = None, True
        return True

    def _data(self, file: _File) -> bool:
        piece = bytes(self._buffer[: file.left])
        if not piece:
            return False
        del self._buffer[: len(piece)]
        self._put(file.take(piece))
        if file.left:
            return False
        self._put(file.compressor.flush())
        file.entry["digest"] = f"sha256:{file.digest.hexdigest()}"
        file.entry["offset"], file.entry["endOffset"] = file.offset, self._offset
        self._split.file(file.entry["name"], file.size, file.crc)
        self._padding = -file.size % _BLOCK
        self._file = None
        return True

    # the tables

    def _finish(self, entries: list[dict[str, Any]]) -> None:
        split, split_size = self._split.end()
        digest = f"sha256:{sha256(split).hexdigest()}"
        table = dumps({"version": 1, "entries": entries, "tarSplitDigest": digest}).encode()
        packed = self._zstd.compress(table)
        at = self._offset + 8  # behind the head of its frame
        split_at = at + len(packed) + 8
        self.annotations = {
            f"{_PREFIX}manifest-checksum": f"sha256:{sha256(packed).hexdigest()}",
            f"{_PREFIX}manifest-position": f"{at}:{len(packed)}:{len(table)}:1",
            f"{_PREFIX}tarsplit-position": f"{split_at}:{len(split)}:{split_size}",
        }
        places = pack("<7Q", at, len(packed), len(table), 1, split_at, len(split), split_size)
        for data in (packed, split, places + _MAGIC):
            self._put(pack("<II", _SKIPPABLE, len(data)) + data)


class _File:
    """A file on its way: ``left`` of its ``size`` bytes are to come."""

    __slots__ = ("compressor", "crc", "digest", "entry", "left", "offset", "size")

    def __init__(self, entry: dict[str, Any], size: int, offset: int, compressor: Any) -> None:
        self.entry = entry
        self.size = self.left = size
        self.offset = offset
        self.compressor = compressor
        self.crc = 0
        self.digest = sha256()

    def take(self, piece: bytes) -> bytes:
        self.left -= len(piece)
        self.digest.update(piece)
        self.crc = crc64(piece, self.crc)
        packed: bytes = self.compressor.compress(piece)
        return packed


class _Split:
    """The archive without its files, as tar-split has it: a JSON object a line, compressed as they come."""

    def __init__(self, zstd: Any) -> None:
        import zstandard

        # A context of its own: that of the files is busy in between.
        self._compressor = zstandard.ZstdCompressor(level=3).compressobj()
        self._packed: list[bytes] = []
        self._size = 0
        self._position = 0
        self._begun = 0  # how much of the headers is written already

    def segment(self, headers: bytearray) -> None:
        """What of *headers* was not written yet."""
        data = bytes(headers[self._begun :])
        self._begun = 0
        if data:
            self._line({"type": 2, "payload": b64encode(data).decode()})

    def begin(self, at: int) -> None:
        """The next segment begins at *at* of the headers."""
        self._begun = at

    def file(self, name: str, size: int, crc: int | None) -> None:
        line: dict[str, Any] = {"type": 1, "name": name}
        if size:
            line["size"] = size
        self._line({**line, "payload": None if crc is None else b64encode(crc.to_bytes(8, "big")).decode()})

    def end(self) -> tuple[bytes, int]:
        """All of it, and its size without the compression."""
        self._packed.append(self._compressor.flush())
        return b"".join(self._packed), self._size

    def _line(self, line: dict[str, Any]) -> None:
        data = dumps({**line, "position": self._position}).encode() + b"\n"
        self._position += 1
        self._size += len(data)
        self._packed.append(self._compressor.compress(data))


def _metadata(raw: bytes) -> tuple[dict[str, Any], int]:
    """The entry of a member in the table, and the bytes that follow; *raw*: its header and those that extend it.

    Raises ValueError and tarfile's errors for what the table cannot say.
    """
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        info = tar.next()
    if info is None or info.type not in _TYPES or info.sparse is not None or info.offset_data != len(raw):
        raise ValueError("no entry")
    kind, pax = _TYPES[info.type], info.pax_headers
    directory = kind == "dir" and not info.name.endswith("/")  # which tarfile takes off
    size = info.size if kind == "reg" else 0
    entry: dict[str, Any] = {"type": kind, "name": info.name + ("/" if directory else "")}
    if kind in ("symlink", "hardlink"):
        entry["linkName"] = info.linkname
    numbers = {"mode": info.mode, "size": size, "uid": info.uid, "gid": info.gid}
    entry.update({key: value for key, value in numbers.items() if value})
    for key, name in (("modtime", "mtime"), ("accesstime", "atime"), ("changetime", "ctime")):
        if name in pax or name == "mtime":
            entry[key] = _time(pax.get(name, str(int(info.mtime))))
    if kind in ("char", "block"):
        entry.update({"devMajor": info.devmajor, "devMinor": info.devminor})
    xattrs = {
        key[len(_XATTR):]: b64encode(value.encode("utf-8", "surrogateescape")).decode()
        for key, value in pax.items() if key.startswith(_XATTR)
    }  # fmt: skip
    if xattrs:
        entry["xattrs"] = xattrs
    "".join((info.name, info.linkname, *xattrs)).encode()  # a UnicodeEncodeError is a ValueError
    return entry, size


def _time(text: str) -> str:
    """Seconds since 1970, with a fraction that may be there, as RFC 3339 has it."""
    whole, _, fraction = text.partition(".")
    seconds, nanoseconds = int(whole), int((fraction + "0" * 9)[:9])
    if whole.startswith("-") and nanoseconds:
        seconds, nanoseconds = seconds - 1, 10**9 - nanoseconds
    shown = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S").zfill(19)
    return shown + (f".{nanoseconds:09d}".rstrip("0") if nanoseconds else "") + "Z"


def _number(field: bytes | bytearray) -> int:
    try:
        return tarfile.nti(bytes(field))  # type: ignore[attr-defined,no-any-return]
    except tarfile.TarError:
        return -1


def crc64(data: bytes, before: int = 0) -> int:
    """CRC-64/GO-ISO of *data*, which follows data whose sum is *before*.

    Whole pieces at once, as polynomials over GF(2) that are integers with the highest power in bit 0: with
    P = x^64 + x^4 + x^3 + x + 1, squaring gives x^(64n) = x^(4n) + x^(3n) + x^n + 1 modulo P for each power of two n,
    so that four shifts halve what is left.

    Source: ISO 3309; the names of the parameters are those of the catalogue of parametrised CRC algorithms.
    """
    value = int.from_bytes(data, "little") ^ before ^ _ONES
    bits = len(data) * 8 + 64
    while bits > 64:
        n = 1 << max((bits // 128).bit_length() - 1, 0)
        high = bits - 64 * n  # how many bits are of powers that are replaced
        left = max(64 * n, high + 4 * n)
        first = value & ((1 << high) - 1)
        value = (value >> high) << (left - 64 * n)
        for power in (4 * n, 3 * n, n, 0):
            value ^= first << (left - high - power)
        bits = left
    return value ^ _ONES
