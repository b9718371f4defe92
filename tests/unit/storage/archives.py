"""Archives for the tests: raw members that no honest tool would write, and the ways to look at the result."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
from typing import Any

from rl.config.paths import Paths
from rl.runtime import userns

END = b"\0" * 1024


def octal(number: int, width: int) -> bytes:
    if number < 0 or number >= 8 ** (width - 1):
        return (number & ((1 << 8 * width) - 1) | (0x80 << 8 * (width - 1))).to_bytes(width, "big")
    return b"%0*o\0" % (width - 1, number)


def member(
    name: bytes | str, data: bytes = b"", *, kind: bytes = b"0", mode: int = 0o644, uid: int = 0, gid: int = 0,
    mtime: int = 1_000_000_000, link: bytes | str = b"", size: int | None = None, pax: dict[str, bytes] | None = None,
    magic: bytes = b"ustar\x0000", device: tuple[int, int] = (0, 0), tail: bytes = b"", prefix: bytes = b"",
) -> bytes:
    """One member: header, data, padding; with *pax* an extended header before it."""
    name, link = (text.encode() if isinstance(text, str) else text for text in (name, link))
    block = bytearray(512)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108] = octal(mode, 8)
    block[108:116] = octal(uid, 8)
    block[116:124] = octal(gid, 8)
    block[124:136] = octal(len(data) if size is None else size, 12)
    block[136:148] = octal(mtime, 12)
    block[156:157] = kind
    block[157:257] = link[:100].ljust(100, b"\0")
    block[257:265] = magic
    block[329:337] = octal(device[0], 8)
    block[337:345] = octal(device[1], 8)
    block[345 : 345 + len(prefix)] = prefix
    block[345 : 345 + len(tail)] = tail or block[345 : 345 + len(tail)]
    whole = checksummed(bytes(block)) + pad(data)
    return whole if pax is None else extended(pax) + whole


def checksummed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:]) + 8 * 32
    return block[:148] + b"%06o\0 " % total + block[156:]


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 512)


def records(pairs: list[tuple[str, bytes]]) -> bytes:
    out = b""
    for key, value in pairs:
        body = b" " + key.encode() + b"=" + value + b"\n"
        length = len(body) + len(str(len(body)))
        if len(str(length)) > len(str(len(body))):
            length += 1
        out += str(length).encode() + body
    return out


def extended(pax: dict[str, bytes] | list[tuple[str, bytes]], kind: bytes = b"x") -> bytes:
    return member("PaxHeaders/x", records(list(pax.items()) if isinstance(pax, dict) else pax), kind=kind)


def directory(name: str, mode: int = 0o755, **more: Any) -> bytes:
    return member(name, kind=b"5", mode=mode, **more)


def symlink(name: str, target: bytes | str, **more: Any) -> bytes:
    return member(name, kind=b"2", mode=0o777, link=target, **more)


def hardlink(name: str, target: bytes | str, **more: Any) -> bytes:
    return member(name, kind=b"1", link=target, **more)


class Store:
    """A data directory of its own, and the verbs of the tests."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.paths = Paths(f"{base}/data", f"{base}/run", f"{base}/config", f"{base}/cache")
        self.paths.ensure()
        self._count = 0

    def blob(self, content: bytes, compress: str = "gzip") -> tuple[str, str]:
        """(path, diff id) of an archive written as a blob."""
        self._count += 1
        path = f"{self.base}/blob{self._count}"
        diff_id = "sha256:" + hashlib.sha256(content).hexdigest()
        with open(path, "wb") as file:
            file.write(gzip.compress(content, 1) if compress == "gzip" else content)
        return path, diff_id

    def inside(self, function: Any, *arguments: Any) -> Any:
        return userns.call(self.paths.run, function, *arguments)

    def unpack(self, content: bytes, end: bytes = END, compress: str = "gzip", **options: Any) -> str:
        """Unpack an archive; the diff id."""
        from rl.storage.unpack import unpack_layer

        path, diff_id = self.blob(content + end, compress)
        self.inside(lambda: unpack_layer(self.paths, path, diff_id, **options))
        return diff_id

    def tree(self, diff_id: str, id_key: str = "") -> str:
        from rl.storage.driver import default_key
        from rl.storage.layers import layer_path

        return layer_path(self.paths, diff_id, id_key or default_key(self.paths))

    def listing(self, diff_id: str, id_key: str = "") -> dict[str, dict[str, Any]]:
        """Everything in a layer, as the namespace sees it."""
        found: dict[str, dict[str, Any]] = self.inside(look, self.tree(diff_id, id_key))
        return found

    def leftovers(self) -> list[str]:
        """What failed unpacks left in layers/."""
        return sorted(os.listdir(self.paths.layers))


def look(root: str) -> dict[str, dict[str, Any]]:
    """path: kind, mode, uid, gid, size, target, mtime, links, xattrs, content (of small files)."""
    found: dict[str, dict[str, Any]] = {".": describe(root)}
    for base, directories, files in os.walk(root):
        for name in directories + files:
            path = f"{base}/{name}"
            found[os.path.relpath(path, root)] = describe(path)
    return found


def describe(path: str) -> dict[str, Any]:
    status = os.lstat(path)
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
             stat.S_IFCHR: "char", stat.S_IFSOCK: "socket"}
    entry: dict[str, Any] = {
        "kind": kinds[stat.S_IFMT(status.st_mode)], "mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid,
        "gid": status.st_gid, "size": status.st_size, "mtime": status.st_mtime_ns, "links": status.st_nlink,
        "inode": status.st_ino, "blocks": status.st_blocks,
    }
    if entry["kind"] == "char" and status.st_rdev == 0:
        entry["kind"] = "whiteout"
    if entry["kind"] == "link":
        entry["target"] = os.readlink(path)
    if entry["kind"] in ("file", "dir"):
        entry["xattrs"] = {name: os.getxattr(path, name).decode("latin-1") for name in os.listxattr(path)}
    if entry["kind"] == "file" and status.st_size < 4096:
        with open(path, "rb") as file:
            entry["content"] = file.read().decode("latin-1")
    return entry
