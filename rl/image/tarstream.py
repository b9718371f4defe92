"""Tar as a stream: members one after the other, never more than a block in memory; and their headers.

For archives *of* images (load, save, import). Nothing is ever extracted by name from them, so this
reader knows only what such archives hold: files, links and directories. Unpacking layers is the
business of rl.storage.

Source: POSIX pax interchange format; GNU tar's 'L' and 'K' members, base-256 numbers.
"""

from __future__ import annotations

import os

from rl.errors import VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK = 512
CHUNK = 1 << 18
#: What no archive of images reaches; a hostile one would like to.
MAX_MEMBERS = 100_000
MAX_EXTENSION = 1 << 20

_HINT = "the archive is damaged or hostile: get it again from its source"


class Member:
    """``kind``: file, directory, symlink or hardlink; ``target``: where a link points, as written."""

    __slots__ = ("kind", "name", "size", "target")

    def __init__(self, name: str, kind: str, size: int, target: str) -> None:
        self.name = name
        self.kind = kind
        self.size = size
        self.target = target


_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"5": "directory", b"2": "symlink", b"1": "hardlink"}


class TarReader:
    """Iterate for the members; :meth:`data` gives the content of the current one, once."""

    __slots__ = ("_count", "_left", "_read", "what")

    def __init__(self, read: Callable[[int], bytes], what: str) -> None:
        """*read* returns up to n bytes, b"" at the end; *what* names the archive in errors."""
        self._read = read
        self._left = 0  # bytes of the current member, padding included, not read yet
        self._count = 0
        self.what = what

    def __iter__(self) -> Iterator[Member]:
        """Raises VerificationError for what is not tar, is cut off, or has names that lead outside."""
        extended: dict[str, str] = {}
        while True:
            self._skip()
            header = self._exactly(BLOCK, end_allowed=True)
            if not header or header == bytes(BLOCK):
                self._drain()
                return
            self._count += 1
            if self._count > MAX_MEMBERS:
                raise self._error(f"has more than {MAX_MEMBERS} members")
            self._check(header)
            size = self._number(header[124:136])
            flag = header[156:157]
            if flag in (b"x", b"g", b"L", b"K"):
                payload = self._extension(size)
                if flag != b"g":
                    extended.update(self._records(payload) if flag == b"x" else _gnu(flag, payload))
                continue
            yield self._member(header, flag, size, extended)
            extended = {}

    def data(self, member: Member) -> Iterator[bytes]:
        """The content of *member*, which must be the current one, in pieces."""
        left = member.size
        while left:
            piece = self._read(min(left, CHUNK))
            if not piece:
                raise self._error(f"ends in the middle of {member.name}")
            left -= len(piece)
            self._left -= len(piece)
            yield piece

    def _member(self, header: bytes, flag: bytes, size: int, extended: dict[str, str]) -> Member:
        name = _text(header[0:100])
        if header[257:263] == b"ustar\0" and header[345:500].strip(b"\0"):
            name = f"{_text(header[345:500])}/{name}"
        name = extended.get("path", name)
        target = extended.get("linkpath", _text(header[157:257]))
        if "size" in extended:
            if not extended["size"].isdigit():
                raise self._error(f"has a bad size for {name!r}")
            size = int(extended["size"])
        kind = _KINDS.get(flag)
        if kind is None or any(key.startswith("GNU.sparse") for key in extended):
            raise self._error(f"holds {name!r}, which is neither a plain file, a link nor a directory")
        if kind != "file":
            size = 0
        clean = _clean(name)
        if clean is None:
            raise self._error(f"holds a name that leads outside of it: {name!r}")
        self._left = (size + BLOCK - 1) // BLOCK * BLOCK
        return Member(clean, kind, size, target)

    def _exactly(self, size: int, end_allowed: bool = False) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._read(size - len(data))
            if not piece:
                if end_allowed and not data:
                    return b""
                raise self._error("ends in the middle of a header")
            data += piece
        return data

    def _skip(self) -> None:
        while self._left:
            piece = self._read(min(self._left, CHUNK))
            if not piece:
                raise self._error("ends in the middle of a member")
            self._left -= len(piece)

    def _drain(self) -> None:
        """Read what follows the end, so that a checksum is verified and a writer is not cut off."""
        while self._read(CHUNK):
            pass

    def _extension(self, size: int) -> bytes:
        if size > MAX_EXTENSION:
            raise self._error("has a header larger than 1 MiB")
        payload = self._exactly(size)
        self._left = -size % BLOCK
        return payload

    def _records(self, payload: bytes) -> dict[str, str]:
        """pax: ``"%d %s=%s\\n"`` with the length of the whole record in front."""
        found = {}
        position = 0
        while position < len(payload) and payload[position] != 0:
            space = payload.find(b" ", position, position + 20)
            digits = payload[position:space] if space > 0 else b""
            if not digits.isdigit():
                raise self._error("has a broken pax header")
            end = position + int(digits)
            key, equals, value = payload[space + 1 : end - 1].partition(b"=")
            if not equals or end > len(payload) or end <= position:
                raise self._error("has a broken pax header")
            found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
            position = end
        return found

    def _check(self, header: bytes) -> None:
        stated = header[148:156].strip(b" \0")
        if sum(header) - sum(header[148:156]) + 256 != (int(stated, 8) if _octal(stated) else -1):
            if self._count == 1:
                raise VerificationError(f"{self.what} is not a tar archive", "check that it is the file you mean")
            raise self._error("has a member whose header checksum is wrong")

    def _number(self, field: bytes) -> int:
        if field[0] == 0x80:
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0")
        if not _octal(digits or b"0"):
            raise self._error("has a member without a valid size")
        return int(digits or b"0", 8)

    def _error(self, why: str) -> VerificationError:
        return VerificationError(f"{self.what} {why}", _HINT)


def _octal(digits: bytes) -> bool:
    return bool(digits) and not digits.strip(b"01234567")


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _gnu(flag: bytes, payload: bytes) -> dict[str, str]:
    return {"path" if flag == b"L" else "linkpath": _text(payload)}


def _clean(name: str) -> str | None:
    """*name* without ``./`` and double slashes; None where it is absolute or climbs out."""
    if name.startswith("/"):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/".join(parts)


def resolve_link(name: str, kind: str, target: str) -> str | None:
    """The member a link means: symlinks count from their own directory; None where that is outside."""
    if target.startswith("/"):
        return None
    parts = name.split("/")[:-1] if kind == "symlink" else []
    for part in target.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


# writing

def header(name: str, size: int, directory: bool = False) -> bytes:
    """The header block of a file or directory: owner root, time 0, so that equal images give equal archives."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise ValueError(f"member name too long: {name}")  # ours never are
    # Eleven octal digits end at 8 GiB; from there on the size is written in GNU's base 256, which all readers know.
    field = b"%011o\0" % size if size < 8 << 30 else b"\x80" + size.to_bytes(11, "big")
    mode, flag = (b"0000755\0", b"5") if directory else (b"0000444\0", b"0")
    block = (
        encoded.ljust(100, b"\0") + mode + b"0000000\0" * 2 + field + b"00000000000\0"
        + b" " * 8 + flag + b"\0" * 100 + b"ustar\x0000" + b"\0" * 64 + b"0000000\0" * 2
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    """What fills the last block of a member of *size* bytes."""
    return bytes(-size % BLOCK)


#: Two empty blocks end an archive.
END = bytes(2 * BLOCK)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """All of *data* to *fd*. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
