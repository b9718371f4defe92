"""A tar archive as a stream of entries: ustar, GNU, PAX, star and old sparse files.

Reads a pipe once, front to back, with one buffer of a mebibyte, and trusts nothing: every number is
bounded, every header's checksum verified. The standard library's tarfile takes four times as long.
Called by rl.storage.apply; knows nothing about files on disk.

Source: POSIX pax(1) "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Tar
Internals" and "Storing Sparse Files"; star(5).
"""

from __future__ import annotations

import os

from rl.errors import VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512
_BUFFER = 1 << 20
_ZERO = b"\0" * BLOCK
#: Long names and extended headers beyond this are hostile (Go's archive/tar has the same limit).
MAX_HEADER = 1 << 20
_MAX_SPARSE = 1 << 20
_MAX_SIZE = 1 << 62

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEVICE, DIRECTORY, FIFO = b"0123456"
_HEADER_ONLY = frozenset(b"123456")
_AS_REGULAR = frozenset((0, ord("7"), ord("S")))
_PAX = frozenset(b"xX")
_GNU_LONG = frozenset(b"LK")
_SKIPPED = frozenset(b"VM")  # volume label, continuation: not members


class Entry:
    """One member. ``size`` is the file's, ``stored`` what the archive holds of it; times in nanoseconds."""

    __slots__ = ("gid", "kind", "link", "mode", "mtime", "name", "size", "sparse", "stored", "uid", "xattrs")

    name: bytes
    link: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    stored: int
    sparse: list[tuple[int, int]] | None
    xattrs: dict[str, bytes] | None


class TarStream:
    """Iterate with :meth:`next`; between two calls take the member's data with :meth:`write_data`, or not."""

    __slots__ = ("_buffer", "_end", "_fd", "_globals", "_left", "_position", "_tick", "_view")

    def __init__(self, fd: int, tick: Callable[[], None] | None = None) -> None:
        self._fd = fd
        self._tick = tick  # called about once per mebibyte
        self._buffer = bytearray(_BUFFER)
        self._view = memoryview(self._buffer)
        self._position = 0
        self._end = 0
        self._left = 0  # of the current member's data and padding
        self._globals: dict[str, bytes] = {}

    # ------------------------------------------------------------------ bytes

    def _fill(self, wanted: int) -> bool:
        """Have *wanted* bytes (at most a buffer) at the position; False at a clean end of the stream."""
        while self._end - self._position < wanted:
            rest = self._end - self._position
            if self._position + wanted > _BUFFER:
                self._buffer[:rest] = bytes(self._view[self._position : self._end])
                self._position, self._end = 0, rest
            elif not rest:
                self._position = self._end = 0
            count = os.readv(self._fd, [self._view[self._end :]])
            if not count:
                if rest:
                    raise truncated()
                return False
            self._end += count
            if self._tick:
                self._tick()
        return True

    def _skip(self, count: int) -> None:
        while count:
            if self._position == self._end and not self._fill(1):
                raise truncated()
            step = min(count, self._end - self._position)
            self._position += step
            count -= step

    def _take(self, count: int) -> bytes:
        """*count* bytes of the current member's data."""
        if count > self._left:
            raise VerificationError("a header of the archive is longer than its data")
        parts = []
        left = count
        while left:
            if self._position == self._end and not self._fill(1):
                raise truncated()
            step = min(left, self._end - self._position)
            parts.append(bytes(self._view[self._position : self._position + step]))
            self._position += step
            left -= step
        self._left -= count
        return b"".join(parts)

    def write_data(self, fd: int, size: int) -> None:
        """Write the next *size* bytes of the member's data to *fd* at its position."""
        if size > self._left:
            raise VerificationError("a sparse file's map is longer than its data")
        self._left -= size
        while size:
            if self._position == self._end and not self._fill(1):
                raise truncated()
            step = min(size, self._end - self._position)
            done = os.write(fd, self._view[self._position : self._position + step])
            self._position += done
            size -= done

    def read_data(self, size: int) -> bytes:
        """The next *size* bytes of the member's data; the caller bounds *size*."""
        return self._take(size)

    # ------------------------------------------------------------------ members

    def next(self) -> Entry | None:
        """The next member, None at the end of the archive. Raises VerificationError."""
        pax: dict[str, bytes] | None = None
        sparse_records: list[tuple[int, int]] = []
        long: dict[int, bytes] = {}
        while True:
            if self._left:
                self._skip(self._left)
                self._left = 0
            if not self._fill(BLOCK):
                return None
            start = self._position
            block = bytes(self._view[start : start + BLOCK])
            self._position = start + BLOCK
            if block == _ZERO:
                return None
            _verify(block)
            kind = block[156]
            size = _number(block[124:136])
            if not 0 <= size < _MAX_SIZE:
                raise VerificationError(f"a member of the archive claims a size of {size}")
            if kind in _PAX:
                pax, sparse_records = _records(self._header_data(size))
            elif kind in _GNU_LONG:
                long[kind] = self._header_data(size).rstrip(b"\0")
            elif kind == 103:  # g
                self._globals.update(_records(self._header_data(size))[0])
            elif kind in _SKIPPED:
                self._left = size + -size % BLOCK
            else:
                return self._entry(block, kind, size, pax, sparse_records, long)

    def _header_data(self, size: int) -> bytes:
        if size > MAX_HEADER:
            raise VerificationError(f"an extended header of {size} bytes, more than {MAX_HEADER}")
        self._left = size + -size % BLOCK
        return self._take(size)

    def _entry(
        self, block: bytes, kind: int, size: int, pax: dict[str, bytes] | None,
        sparse_records: list[tuple[int, int]], long: dict[int, bytes],
    ) -> Entry:
        entry = Entry()
        entry.name = long.get(76) or _ustar_name(block)
        entry.link = long.get(75) or block[157:257].split(b"\0", 1)[0] if kind in b"12" else b""
        entry.mode = _number(block[100:108]) & 0o7777
        entry.uid = _number(block[108:116])
        entry.gid = _number(block[116:124])
        entry.mtime = _number(block[136:148]) * 1_000_000_000
        entry.xattrs = None
        entry.sparse = None
        entry.size = size
        if self._globals:
            pax = {**self._globals, **(pax or {})}
        if pax:
            _apply_pax(entry, pax)
        entry.stored = entry.size
        if kind in _HEADER_ONLY:
            entry.size = entry.stored = 0
        self._left = entry.stored + -entry.stored % BLOCK
        if kind == 83:
            self._gnu_sparse(entry, block)
        elif pax and kind not in _HEADER_ONLY:
            self._pax_sparse(entry, pax, sparse_records)
        if kind in _AS_REGULAR:
            kind = REGULAR
        if kind == REGULAR and entry.name.endswith(b"/"):
            kind = DIRECTORY  # before POSIX had a type for it
        entry.kind = kind
        return entry

    # ------------------------------------------------------------------ sparse files

    def _gnu_sparse(self, entry: Entry, block: bytes) -> None:
        """GNU's old format: the map in the header and in blocks that follow it, outside the stored size."""
        entry.size = _number(block[483:495])
        spans = _spans(block, 386, 4)
        more = block[482]
        while more:
            if len(spans) > _MAX_SPARSE or not self._fill(BLOCK):
                raise VerificationError(f"{entry.name!r}: its sparse map has no end")
            extra = bytes(self._view[self._position : self._position + BLOCK])
            self._position += BLOCK
            spans += _spans(extra, 0, 21)
            more = extra[504]
        entry.sparse = _checked(entry, spans, entry.stored)

    def _pax_sparse(self, entry: Entry, pax: dict[str, bytes], records: list[tuple[int, int]]) -> None:
        major = pax.get("GNU.sparse.major")
        if major is None and "GNU.sparse.map" not in pax and not records:
            return
        if "GNU.sparse.name" in pax:
            entry.name = pax["GNU.sparse.name"]
        size = pax.get("GNU.sparse.realsize") or pax.get("GNU.sparse.size")
        entry.size = _decimal(size or b"", "GNU.sparse.size")
        stored = entry.stored
        if major is not None:
            if (major, pax.get("GNU.sparse.minor")) != (b"1", b"0"):
                raise VerificationError(f"{entry.name!r}: unknown sparse format {major!r}")
            records, used = self._sparse_map(entry)
            stored -= used
        elif "GNU.sparse.map" in pax:
            numbers = [_decimal(text, "GNU.sparse.map") for text in pax["GNU.sparse.map"].split(b",")]
            if len(numbers) % 2:
                raise VerificationError(f"{entry.name!r}: its sparse map is cut")
            records = list(zip(numbers[::2], numbers[1::2], strict=True))
        entry.sparse = _checked(entry, records, stored)

    def _sparse_map(self, entry: Entry) -> tuple[list[tuple[int, int]], int]:
        """Format 1.0: decimal lines before the data, padded to a block; (spans, bytes used)."""
        numbers: list[int] = []
        text = b""
        used = 0
        wanted = 1
        while len(numbers) < wanted:
            line, newline, rest = text.partition(b"\n")
            if newline:
                text = rest
                numbers.append(_decimal(line, "sparse map"))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
                    if numbers[0] > _MAX_SPARSE:
                        raise VerificationError(f"{entry.name!r}: a sparse map of {numbers[0]} spans")
            else:
                if len(text) > 64:
                    raise VerificationError(f"{entry.name!r}: its sparse map is damaged")
                text += self._take(BLOCK)
                used += BLOCK
        return list(zip(numbers[1::2], numbers[2::2], strict=True)), used


# ---------------------------------------------------------------------- fields


def truncated() -> VerificationError:
    """The stream ends inside a member."""
    return VerificationError("the layer's archive is truncated", "pull the image again")


def _verify(block: bytes) -> None:
    """The header's checksum, as unsigned bytes (POSIX) or signed (old Sun tar)."""
    field = block[148:156]
    try:
        stated = int(field.replace(b"\0", b" ").strip() or b"0", 8)
    except ValueError:
        raise VerificationError("the layer is not a tar archive, or a header of it is damaged") from None
    actual = sum(block) - sum(field) + 256
    if actual != stated:
        rest = block[:148] + block[156:]
        if actual - 256 * sum(1 for byte in rest if byte > 127) != stated:
            raise VerificationError("the layer is not a tar archive, or a header of it is damaged")


def _number(field: bytes) -> int:
    """Octal text, or GNU's base 256 where the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big")
        if field[0] & 0x40:
            return value - (1 << 8 * len(field))
        return value & ~(0x80 << 8 * (len(field) - 1))
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise VerificationError(f"a header of the archive has {field!r} where a number belongs") from None


def _ustar_name(block: bytes) -> bytes:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and block[345]:
        width = 131 if block[508:512] == b"tar\0" else 155
        return block[345 : 345 + width].split(b"\0", 1)[0] + b"/" + name
    return name


def _records(data: bytes) -> tuple[dict[str, bytes], list[tuple[int, int]]]:
    """Extended header records (``LEN KEY=VALUE\\n``), and the spans of sparse format 0.0, which repeats keys."""
    records: dict[str, bytes] = {}
    spans: list[tuple[int, int]] = []
    offset = 0
    position = 0
    while position < len(data):
        blank = data.find(b" ", position, position + 20)
        length = _decimal(data[position:blank], "extended header") if blank > 0 else 0
        record = data[blank + 1 : position + length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or position + length > len(data):
            raise VerificationError("an extended header of the archive is damaged")
        position += length
        value = value[:-1]
        name = key.decode(errors="surrogateescape")
        if name == "GNU.sparse.offset":
            offset = _decimal(value, name)
        elif name == "GNU.sparse.numbytes":
            spans.append((offset, _decimal(value, name)))
        else:
            records[name] = value
    return records, spans


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 20:
        raise VerificationError(f"the archive has {text[:40]!r} where {what} wants a number")
    return int(text)


def _pax_time(text: bytes) -> int:
    """Nanoseconds of a decimal number of seconds."""
    whole, _, fraction = text.partition(b".")
    digits = whole.lstrip(b"-")
    if not digits.isdigit() or len(digits) > 20 or (fraction and not fraction.isdigit()):
        raise VerificationError(f"the archive has {text[:40]!r} where a time belongs")
    nanoseconds = int(digits) * 10**9 + int((fraction + b"000000000")[:9])
    return -nanoseconds if whole.startswith(b"-") else nanoseconds


def _set_path(entry: Entry, value: bytes) -> None:
    entry.name = value


def _set_link(entry: Entry, value: bytes) -> None:
    entry.link = value


def _set_size(entry: Entry, value: bytes) -> None:
    entry.size = _decimal(value, "size")
    if entry.size >= _MAX_SIZE:
        raise VerificationError(f"{entry.name!r} claims a size of {entry.size}")


def _set_uid(entry: Entry, value: bytes) -> None:
    entry.uid = _decimal(value, "uid")


def _set_gid(entry: Entry, value: bytes) -> None:
    entry.gid = _decimal(value, "gid")


def _set_mtime(entry: Entry, value: bytes) -> None:
    entry.mtime = _pax_time(value)


_PAX_FIELDS: dict[str, Callable[[Entry, bytes], None]] = {
    "path": _set_path,
    "linkpath": _set_link,
    "size": _set_size,
    "uid": _set_uid,
    "gid": _set_gid,
    "mtime": _set_mtime,
}


def _apply_pax(entry: Entry, pax: dict[str, bytes]) -> None:
    for key, value in pax.items():
        setter = _PAX_FIELDS.get(key)
        if setter:
            if value:  # an empty value takes a global header back
                setter(entry, value)
        elif key.startswith("SCHILY.xattr."):
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs[key[13:]] = value
        elif key.startswith("LIBARCHIVE.xattr."):
            name, decoded = _libarchive(key[17:], value)
            if entry.xattrs is None:
                entry.xattrs = {}
            entry.xattrs.setdefault(name, decoded)


def _libarchive(name: str, value: bytes) -> tuple[str, bytes]:
    """libarchive writes names in URL encoding and values in base64, often without padding."""
    import binascii
    from urllib.parse import unquote

    try:
        return unquote(name, errors="surrogateescape"), binascii.a2b_base64(value + b"=" * (-len(value) % 4))
    except ValueError:
        raise VerificationError(f"the archive's extended attribute {name!r} is not base64") from None


def _spans(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    found = []
    for position in range(start, start + 24 * count, 24):
        if not block[position]:
            break
        found.append((_number(block[position : position + 12]), _number(block[position + 12 : position + 24])))
    return found


def _checked(entry: Entry, spans: list[tuple[int, int]], stored: int) -> list[tuple[int, int]]:
    """*spans* if they ascend, lie inside the file and add up to what is *stored*."""
    position = total = 0
    for offset, length in spans:
        if offset < position or length < 0:
            raise VerificationError(f"{entry.name!r}: its sparse map is not in order")
        position = offset + length
        total += length
    if not 0 <= entry.size < _MAX_SIZE or position > entry.size or total != stored:
        raise VerificationError(f"{entry.name!r}: its sparse map does not fit its size")
    return spans
