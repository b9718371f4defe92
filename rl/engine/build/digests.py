"""Digests of files, remembered by what stat(2) tells, so that an unchanged context costs no reading.

One file per root directory below ``$XDG_CACHE_HOME/rl/digests``. A file is known by device, inode, size, time of change
and of status change; one that changed in the last two seconds is not remembered, for it may change again within the
clock's grain. May be deleted at any time. Called by rl.engine.build.copying.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256

from rl.config.jsonio import dumps, read_json, write_atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths

_GRAIN = 2 * 10**9  # nanoseconds
_PIECE = 1 << 20


def of_descriptor(fd: int) -> str:
    """The sha256 of all that *fd* gives, in hexadecimal digits."""
    found = sha256()
    while piece := os.read(fd, _PIECE):
        found.update(piece)
    return found.hexdigest()


class Memory:
    """The remembered digests of the files below one directory."""

    def __init__(self, paths: Paths, directory: str) -> None:
        name = sha256(os.fsencode(os.path.abspath(directory))).hexdigest()[:32]
        self._path = f"{paths.cache}/digests/{name}"
        self._known: dict[str, str] = {}
        self._used: dict[str, str] = {}
        self._new = False
        try:
            found = read_json(self._path)
            if isinstance(found, dict):
                self._known = found
        except (OSError, ValueError):
            pass

    def find(self, status: os.stat_result) -> str:
        """The digest of the file with *status*; "" where it is not known."""
        key = _key(status)
        digest = self._known.get(key, "")
        if digest:
            self._used[key] = digest
        return digest

    def remember(self, status: os.stat_result, digest: str) -> None:
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _GRAIN:
            key = _key(status)
            self._used[key] = self._known[key] = digest
            self._new = True

    def save(self) -> None:
        """Write what was asked for this time; a full disk costs the memory, nothing else."""
        if not self._new:
            return
        try:
            os.makedirs(os.path.dirname(self._path), 0o700, exist_ok=True)
            write_atomic(self._path, dumps(self._used).encode(), sync=False)
            self._new = False
        except OSError:
            pass


def _key(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"
