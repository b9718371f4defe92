"""From a staging directory into place: what makes a layer appear whole or not at all.

A staging directory has a lock file beside it that its owner holds; one whose lock is free belongs to a
killed process and is removed by the next unpack. Called by rl.storage.unpack and rl.storage.idmap.
"""

from __future__ import annotations

import errno
import fcntl
import os

from rl.config.jsonio import write_json
from rl.errors import RlError
from rl.kernel import fs
from rl.runtime import userns
from rl.storage.layers import has, layer_dir, layer_path
from rl.storage.trash import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from rl.config.paths import Paths

_PREFIX = ".staging-"


class Staging:
    """A directory in ``layers/`` that lives as long as this object; :meth:`close` removes what is left."""

    def __init__(self, paths: Paths) -> None:
        while True:
            self.path = f"{paths.layers}/{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.mkdir(self.path, 0o700)
                if os.fstat(self._lock).st_nlink:
                    return
                os.rmdir(self.path)
            except BlockingIOError:
                pass  # a cleaner took it for a leftover, in the instant before our lock
            os.close(self._lock)

    def close(self) -> None:
        """Remove what is there. Only inside the user namespace."""
        remove_tree(self.path)
        self.release()

    def release(self) -> None:
        """Give up an emptied staging directory; from anywhere."""
        try:
            os.rmdir(self.path)
        except OSError:
            pass
        try:
            os.unlink(f"{self.path}.lock")
        except OSError:
            pass
        os.close(self._lock)


def remove_stale(paths: Paths) -> None:
    """Remove what killed unpacks left behind. Inside the user namespace."""
    for name in os.listdir(paths.layers):
        if not name.startswith(_PREFIX):
            continue
        base = f"{paths.layers}/{name.removesuffix('.lock')}"
        try:
            lock = os.open(f"{base}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            remove_tree(base)  # the lock is made before the directory and goes after it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(base)
            os.unlink(f"{base}.lock")
        except (BlockingIOError, FileNotFoundError):
            pass  # at work, or gone
        finally:
            os.close(lock)


def put(paths: Paths, staged: str, layer: Mapping[str, object], diff_id: str, id_key: str) -> None:
    """Rename the verified, durable tree *staged*/fs into place; who comes second leaves the first one's."""
    target = layer_dir(paths, diff_id)
    for _ in range(3):
        try:
            os.rename(staged, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise RlError(f"put {target} in place: {error.strerror}") from None
        if has(paths, diff_id, id_key):
            return
        # The layer is there under another id mapping, or something of it was lost.
        final = layer_path(paths, diff_id, id_key)
        try:
            write_json(f"{target}/layer.json", layer)
            userns.call(paths.run, os.rename, f"{staged}/{os.path.basename(final)}", final)
            return
        except (OSError, RlError):
            continue
    raise RlError(f"put {target} in place: it keeps changing")


def make_durable(paths: Paths) -> None:
    """One syncfs(2): all that was unpacked so far survives a power loss."""
    fd = os.open(paths.layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fs.syncfs(fd)
    finally:
        os.close(fd)
