"""Is an unpacked layer still what its archive says? Entry by entry, contents too. For `rl system check`.

Runs inside the user namespace. The archive is read once, as for unpacking; of an entry that the archive has more than
once the last counts. Called by rl.engine.check.
"""

from __future__ import annotations

import os
import stat

from rl.errors import RlError
from rl.kernel import fs
from rl.runtime import userns
from rl.storage import tarstream as tar
from rl.storage.apply import split
from rl.storage.inflate import Inflater
from rl.storage.tarstream import TarStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.storage.tarstream import Entry

_PIECE = 1 << 20
_MOST = 20  # differences that are told of one layer
_RESOLVE = fs.RESOLVE_IN_ROOT | fs.RESOLVE_NO_MAGICLINKS
_KINDS = {tar.REGULAR: stat.S_IFREG, tar.SYMLINK: stat.S_IFLNK, tar.DIRECTORY: stat.S_IFDIR, tar.FIFO: stat.S_IFIFO}
_DEVICES = (tar.CHARACTER, tar.BLOCKDEVICE)


def differences(path: str, blob: str, diff_id: str) -> list[str]:
    """What in the tree *path* is not as in the archive *blob*: one line each, at most 20; [] for a good layer.

    Raises VerificationError, RlError where the blob itself cannot be read.
    """
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    algorithm, _, expected = diff_id.partition(":")
    check = _Check(root)
    inflater = Inflater(blob, algorithm)
    try:
        stream = TarStream(inflater.fd)
        while (entry := stream.next()) is not None:
            check.entry(stream, entry)
        digest, _ = inflater.finish()
    finally:
        inflater.close()
        os.close(root)
    if digest != expected:
        raise RlError(f"the blob unpacks to {algorithm}:{digest[:12]}, not to {diff_id[:19]}")
    check.extra(path)
    return list(check.found.values())[:_MOST]


class _Check:
    """``found``: path → what is wrong with it."""

    __slots__ = ("_known", "_parents", "_root", "_single", "found")

    def __init__(self, root: int) -> None:
        self._root = root
        self._single = userns.current_mode() == "single"
        self._known: set[bytes] = set()
        self._parents: dict[bytes, int] = {}
        self.found: dict[bytes, str] = {}

    def entry(self, stream: TarStream, entry: Entry) -> None:
        directory, name = split(entry.name)
        full = directory + b"/" + name if directory else name
        if name.startswith(b".wh.") or b".wh..wh." in directory:
            hidden = name[4:]
            self._know(directory, hidden if not hidden.startswith(b".wh.") else b"")
            return
        self._know(directory, name)
        self.found.pop(full, None)
        problem = "" if entry.kind in _DEVICES else self._compare(stream, entry, directory, name)
        if problem:
            self.found[full] = f"/{full.decode(errors='backslashreplace')}: {problem}"

    def _know(self, directory: bytes, name: bytes) -> None:
        path = directory
        while path and path not in self._known:
            self._known.add(path)
            path = path.rpartition(b"/")[0]
        self._known.add(directory + b"/" + name if directory else name)

    def _compare(self, stream: TarStream, entry: Entry, directory: bytes, name: bytes) -> str:
        try:
            above = fs.openat2(self._root, os.fsdecode(directory) or ".", os.O_PATH | os.O_DIRECTORY, 0, _RESOLVE)
        except OSError as error:
            return f"its directory: {error.strerror}"
        try:
            status = os.stat(name or b".", dir_fd=above, follow_symlinks=False)
            if entry.kind == tar.HARDLINK:
                return "" if status.st_nlink > 1 else "it is no hard link any more"
            if stat.S_IFMT(status.st_mode) != _KINDS.get(entry.kind):
                return "it is of another kind"
            if entry.kind == tar.SYMLINK:
                return "" if os.readlink(name, dir_fd=above) == entry.link else "it points elsewhere"
            problem = self._metadata(entry, status)
            if not problem and entry.kind == tar.REGULAR:
                problem = self._content(stream, entry, above, name, status)
            return problem
        except FileNotFoundError:
            return "it is missing"
        except OSError as error:
            return str(error.strerror)
        finally:
            os.close(above)

    def _metadata(self, entry: Entry, status: os.stat_result) -> str:
        if self._single:
            return ""  # what the archive wanted is recorded, not done
        if (status.st_uid, status.st_gid) != (entry.uid, entry.gid):
            return f"it belongs to {status.st_uid}:{status.st_gid} instead of {entry.uid}:{entry.gid}"
        if stat.S_IMODE(status.st_mode) != entry.mode:
            return f"its mode is {stat.S_IMODE(status.st_mode):04o} instead of {entry.mode:04o}"
        return ""

    def _content(self, stream: TarStream, entry: Entry, above: int, name: bytes, status: os.stat_result) -> str:
        if status.st_size != entry.size:
            return f"it has {status.st_size} bytes instead of {entry.size}"
        spans = entry.sparse if entry.sparse is not None else [(0, entry.size)] if entry.size else []
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            for offset, length in spans:
                while length:
                    wanted = stream.read_data(min(length, _PIECE))
                    if os.pread(fd, len(wanted), offset) != wanted:
                        return "its content differs"
                    offset, length = offset + len(wanted), length - len(wanted)
        finally:
            os.close(fd)
        return ""

    def extra(self, path: str) -> None:
        """What the archive does not have."""
        waiting = [(path, b"")]
        while waiting:
            directory, prefix = waiting.pop()
            with os.scandir(directory) as entries:
                for entry in entries:
                    full = prefix + os.fsencode(entry.name)
                    mark = prefix + os.fsencode(entry.name.removeprefix(".wh."))
                    if full not in self._known and mark not in self._known and entry.name != ".wh..wh..opq":
                        self.found[full] = f"/{full.decode(errors='backslashreplace')}: it is not in the archive"
                    elif entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, full + b"/"))
