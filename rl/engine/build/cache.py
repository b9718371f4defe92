"""The state of builds between them: cache entries and snapshots, below ``$DATA/build``.

- ``cache/<key>``: what a step came to: when, and which snapshot it made, if any. A key is a hash of the parent's
  result, the expanded instruction and the digests of what it reads: never of times, never of secrets.
- ``snapshots/<id>/``: ``fs``, what a step wrote (the overlay's upper directory); ``layer.json`` instead of it once it
  is a layer of an image; ``durable``, once it is on the disk for good: without that it counts until the next boot
  only; ``full``, where the storage driver has copied all that lies below.
- ``caches/<hash>/``: RUN --mount=type=cache. ``work/<name>/``: of a worker that lives, which holds the lock beside it.

Entries and snapshots appear by rename(2), so builds side by side need no lock: who comes second has made it in vain.
Whatever no entry names is garbage (:func:`sweep`).
"""

from __future__ import annotations

import fcntl
import os
import time
from hashlib import sha256

from rl.config.jsonio import dumps, read_json, write_atomic
from rl.errors import RlError, disk_hint
from rl.kernel import fs, process
from rl.runtime import userns
from rl.storage import layers, trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypedDict

    from rl.config.paths import Paths

    class Entry(TypedDict, total=False):
        created: str  # RFC 3339
        snapshot: str  # "" where the step wrote no file
        label: str  # for the history, where the files themselves tell it
        boot: str

    class Layer(TypedDict, total=False):
        diff_id: str
        digest: str  # of the blob: the same, unless it is compressed
        size: int
        compression: str  # gzip, zstd; absent or "": plain


PARTS = ("cache", "snapshots", "caches", "work")
_HEX = frozenset("0123456789abcdef")
_KEPT = 90 * 86400  # seconds that an entry without files stays unused: it takes no space, but there may be many


def key_of(*parts: Any) -> str:
    """A key of what JSON can hold."""
    return sha256(dumps(list(parts)).encode(errors="surrogateescape")).hexdigest()


class Cache:
    """The cache of one user."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self.directory = f"{paths.data}/build"
        for part in PARTS:
            os.makedirs(f"{self.directory}/{part}", 0o700, exist_ok=True)

    # entries

    def find(self, key: str) -> Entry | None:
        """What the step with *key* came to, if that is there, whole."""
        try:
            entry: Entry = read_json(f"{self.directory}/cache/{key}")
            snapshot = entry["snapshot"]
            if not isinstance(entry["created"], str):
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if snapshot and not self._is_whole(snapshot, entry.get("boot", "")):
            return None
        return entry

    def put(self, key: str, created: str, snapshot: str, label: str = "") -> None:
        """Remember a step."""
        entry: Entry = {"created": created, "snapshot": snapshot, "boot": process.boot_id()}
        if label:
            entry["label"] = label
        try:
            write_atomic(f"{self.directory}/cache/{key}", dumps(entry).encode(), sync=False)
        except OSError as error:
            raise RlError(f"write the build cache: {error.strerror}", disk_hint(error)) from None

    def touch(self, key: str) -> None:
        """The entry was of use: rl gc takes the others first."""
        try:
            os.utime(f"{self.directory}/cache/{key}")
        except OSError:
            pass

    # snapshots

    def snapshot(self, name: str) -> str:
        """The directory of a snapshot."""
        return f"{self.directory}/snapshots/{name}"

    def layer(self, name: str) -> Layer | None:
        """The layer that the snapshot has become, if it is unpacked here."""
        try:
            found: Layer = read_json(f"{self.snapshot(name)}/layer.json")
            return found if isinstance(found["diff_id"], str) and isinstance(found["size"], int) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def files(self, name: str, key: str = "") -> str:
        """The directory with the files of a snapshot; *key*: the id key of layers."""
        layer = None if self.is_full(name) else self.layer(name)
        return layers.layer_path(self._paths, layer["diff_id"], key) if layer else f"{self.snapshot(name)}/fs"

    def is_full(self, name: str) -> bool:
        """Whether the snapshot has all files, not just those that its step wrote."""
        return os.path.exists(f"{self.snapshot(name)}/full")

    def _is_whole(self, name: str, boot: str) -> bool:
        if not _HEX.issuperset(name):
            return False
        if boot != process.boot_id() and not os.path.exists(f"{self.snapshot(name)}/durable"):
            return False
        layer = None if self.is_full(name) else self.layer(name)
        if layer is None:
            return os.path.isdir(f"{self.snapshot(name)}/fs")
        return any(
            entry.startswith("fs") for entry in _names(layers.layer_dir(self._paths, layer["diff_id"]))
        ) and os.path.exists(f"{self._paths.blobs}/{layer['digest'][7:]}")

    def make_durable(self, names: list[str]) -> None:
        """After this, *names* survive a power cut. In the user namespace."""
        if not names:
            return
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fs.syncfs(fd)
        finally:
            os.close(fd)
        for name in names:
            try:
                os.close(os.open(f"{self.snapshot(name)}/durable", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError:
                continue  # removed meanwhile


class Work:
    """A directory of a worker, locked while it lives; what a killed one left is swept. In the user namespace."""

    def __init__(self, cache: Cache) -> None:
        self.path = f"{cache.directory}/work/{os.getpid()}-{os.urandom(4).hex()}"
        self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.mkdir(self.path, 0o700)

    def close(self) -> None:
        trash.remove_tree(self.path)
        os.unlink(f"{self.path}.lock")
        os.close(self._lock)


def sweep_work(paths: Paths) -> None:
    """Remove what killed workers left. From anywhere."""
    directory = f"{paths.data}/build/work"
    dead = []
    for name in _names(directory):
        base = f"{directory}/{name.removesuffix('.lock')}"
        try:
            fd = os.open(f"{base}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            dead.append(base)
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead.append(base)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)
    if dead:
        userns.call(paths.run, _remove, dead)


def _remove(paths: list[str]) -> None:
    for path in paths:
        trash.remove_tree(path)
        try:
            os.unlink(f"{path}.lock")
        except FileNotFoundError:
            pass


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


# --------------------------------------------------------------------------- garbage


def used(paths: Paths) -> tuple[set[str], set[str]]:
    """(diff ids of the layers, digests of the blobs) that snapshots have become: they are not garbage."""
    diff_ids: set[str] = set()
    blobs: set[str] = set()
    base = f"{paths.data}/build/snapshots"
    for name in _names(base):
        try:
            layer = read_json(f"{base}/{name}/layer.json")
            diff_ids.add(layer["diff_id"])
            blobs.add(layer["digest"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return diff_ids, blobs


def sweep(paths: Paths) -> None:
    """Remove snapshots that no entry names. The caller holds ``content/lock`` exclusively: no build is at work."""
    base = f"{paths.data}/build"
    named = set()
    for key in _names(f"{base}/cache"):
        path = f"{base}/cache/{key}"
        try:
            snapshot = read_json(path)["snapshot"]
            if not snapshot and os.stat(path).st_mtime < time.time() - _KEPT:
                _unlink(path)
            named.add(snapshot)
        except (OSError, ValueError, KeyError, TypeError):
            _unlink(path)
    for name in _names(f"{base}/snapshots"):
        if name not in named:
            trash.discard(paths, f"{base}/snapshots/{name}")


def prune(paths: Paths, *, caches: bool = True) -> None:
    """Forget all builds: entries, snapshots, and (*caches*) what RUN --mount=type=cache keeps. As :func:`sweep`."""
    base = f"{paths.data}/build"
    for key in _names(f"{base}/cache"):
        _unlink(f"{base}/cache/{key}")
    sweep(paths)
    if caches:
        for name in _names(f"{base}/caches"):
            trash.discard(paths, f"{base}/caches/{name}")


def sizes(paths: Paths) -> dict[str, int]:
    """Bytes on the disk of each snapshot that is no layer, and of each cache, by their names."""
    base = f"{paths.data}/build"
    directories = [f"{base}/snapshots/{name}" for name in _names(f"{base}/snapshots")]
    directories += [f"{base}/caches/{name}" for name in _names(f"{base}/caches")]
    found: list[int] = userns.call(paths.run, _measure, directories) if directories else []
    return dict(zip([os.path.basename(path) for path in directories], found, strict=True))


def _measure(directories: list[str]) -> list[int]:
    from rl.storage.trash import disk_usage

    return [disk_usage(path) for path in directories]


def oldest(paths: Paths) -> list[tuple[str, int, Callable[[], object]]]:
    """(what it is, bytes, how to remove it) of everything that builds keep, least recently used first.

    Whoever removes holds ``content/lock`` exclusively. A snapshot goes with the last entry that names it.
    """
    base, measured = f"{paths.data}/build", sizes(paths)
    found: list[tuple[float, str, int, Callable[[], object]]] = []
    names: dict[str, list[str]] = {}
    used_at: dict[str, float] = {}
    for key in _names(f"{base}/cache"):
        try:
            snapshot = str(read_json(f"{base}/cache/{key}")["snapshot"])
            used_at[snapshot] = max(used_at.get(snapshot, 0.0), os.stat(f"{base}/cache/{key}").st_mtime)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        names.setdefault(snapshot, []).append(key)
    for snapshot, keys in names.items():
        if snapshot:
            remove = _remover(paths, snapshot, keys)
            found.append((used_at[snapshot], f"build step {snapshot[:12]}", measured.get(snapshot, 0), remove))
    for name in _names(f"{base}/caches"):
        place = f"{base}/caches/{name}"
        try:
            when = os.stat(f"{place}/lock").st_mtime
        except OSError:
            when = 0.0
        found.append((when, f"cache {name[:12]} of RUN --mount", measured.get(name, 0), _discarder(paths, place)))
    found.sort(key=lambda item: item[0])
    return [(what, size, remove) for _, what, size, remove in found]


def _remover(paths: Paths, snapshot: str, keys: list[str]) -> Callable[[], object]:
    def remove() -> None:
        for key in keys:
            _unlink(f"{paths.data}/build/cache/{key}")
        trash.discard(paths, f"{paths.data}/build/snapshots/{snapshot}")

    return remove


def _discarder(paths: Paths, path: str) -> Callable[[], object]:
    return lambda: trash.discard(paths, path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
