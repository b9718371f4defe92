"""The content store: blobs by digest, in the shape of an OCI image layout ($DATA/content).

``blobs/sha256/<hex>`` appears by one rename, after its digest and size were verified; what is being
written stands in ``partial/``, locked with flock(2) by its writer. Called by the registry client,
the archives, ``import`` and, for reading, by whoever needs a manifest or a config.

Two locks order the rest (both flock, freed by the kernel when their holder dies):

- ``content/lock``, the long one: whoever adds an image holds it shared from its first blob to its
  record (:func:`adding`); the garbage collector holds it exclusively and never waits for it: where it
  is taken, ``content/garbage`` remembers that a collection is due, and the last adder catches up.
- ``images/.lock``, the short one (:func:`records_lock`): exclusive around every change of records,
  shared from finding an image until the container that uses it is on disk, and exclusive in the
  garbage collector while it looks at who uses what. Taken after the long one, never before it.

Source: OCI image specification, "Image Layout" and "Descriptors".
"""

from __future__ import annotations

import fcntl
import os

from rl.errors import NotFoundError, RlError, VerificationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from rl.config.paths import Paths

_HEX = frozenset("0123456789abcdef")
_CHUNK = 1 << 20


def hex_of(digest: str) -> str:
    """The 64 digits of ``sha256:…``; VerificationError for anything else: it becomes a file name."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not _HEX.issuperset(value):
        raise VerificationError(
            f"{digest!r} is not a sha256 digest", "rl stores content by sha256 only; ask who made the image to use it"
        )
    return value


class Lock:
    """flock(2) on a file, held until closed; a context manager. The file is created where it is missing."""

    __slots__ = ("fd",)

    def __init__(self, path: str, exclusive: bool, wait: bool = True) -> None:
        """Raises BlockingIOError when the lock is taken and *wait* is false."""
        try:
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        if self.fd >= 0:
            # A child forked meanwhile has the descriptor too: closing ours alone would not free the lock.
            fcntl.flock(self.fd, fcntl.LOCK_UN)
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def adding(paths: Paths) -> Lock:
    """Keeps the garbage collector away while blobs and layers exist that no record names yet."""
    return Lock(f"{paths.content}/lock", exclusive=False)


def records_lock(paths: Paths, exclusive: bool) -> Lock:
    """Orders changes of image records, and the making of containers from them; held for milliseconds."""
    return Lock(f"{paths.images}/.lock", exclusive)


class ContentStore:
    """Blobs by digest (``sha256:<hex>``)."""

    __slots__ = ("_partial", "paths")

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self._partial = f"{paths.content}/partial"

    def path(self, digest: str) -> str:
        """Where the blob is, or would be. Raises VerificationError for a digest that is not sha256."""
        return f"{self.paths.blobs}/{hex_of(digest)}"

    def has(self, digest: str, size: int = -1) -> bool:
        """Whether the blob is there (with *size* bytes, where the caller knows them)."""
        try:
            found = os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            return False
        return size < 0 or found == size

    def size(self, digest: str) -> int:
        """Its size in bytes. Raises NotFoundError."""
        try:
            return os.stat(self.path(digest)).st_size
        except FileNotFoundError:
            raise _missing(digest) from None

    def open(self, digest: str) -> int:
        """A descriptor to read the blob. Raises NotFoundError."""
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _missing(digest) from None

    def read(self, digest: str, limit: int = 16 << 20) -> bytes:
        """The whole blob, for documents; VerificationError above *limit* bytes. Raises NotFoundError."""
        fd = self.open(digest)
        try:
            if os.fstat(fd).st_size > limit:
                raise VerificationError(f"blob {digest} is too large for a document: more than {limit} bytes")
            chunks = []
            while chunk := os.read(fd, _CHUNK):
                chunks.append(chunk)
        finally:
            os.close(fd)
        return b"".join(chunks)

    def put_bytes(self, data: bytes, digest: str = "") -> str:
        """Store *data* and return its digest; VerificationError when *digest* is given and differs."""
        with self.writer(digest, len(data) if digest else -1) as writer:
            if not writer.done:
                writer.restart()
                writer.write(data)
            return writer.commit()

    def writer(self, digest: str = "", size: int = -1) -> Writer:
        """A writer of the blob *digest*, of *size* bytes (-1: unknown); see :class:`Writer`.

        Without a digest the content names itself at commit. Waits where another process writes the
        same blob.
        """
        self._prepare()
        if digest:
            return Writer(self, f"{self._partial}/{hex_of(digest)}", digest, size)
        return Writer(self, f"{self._partial}/.{os.getpid()}.{os.urandom(6).hex()}", "", size)

    def remove(self, digest: str) -> int:
        """Delete the blob; the bytes freed, 0 when it was not there."""
        path = self.path(digest)
        try:
            freed = os.stat(path).st_blocks * 512
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return freed

    def digests(self) -> list[str]:
        """Every blob, in no order."""
        try:
            names = os.listdir(self.paths.blobs)
        except FileNotFoundError:
            return []
        return [f"sha256:{name}" for name in names if len(name) == 64]

    def sweep_partial(self, older_than: float) -> int:
        """Delete abandoned downloads: unnamed ones at once, resumable ones untouched since *older_than*
        (seconds since 1970). The bytes freed. The caller holds ``content/lock`` exclusively."""
        freed = 0
        try:
            names = os.listdir(self._partial)
        except FileNotFoundError:
            return 0
        for name in names:
            path = f"{self._partial}/{name}"
            status = os.stat(path)
            if name.startswith(".") or status.st_mtime < older_than or os.path.exists(f"{self.paths.blobs}/{name}"):
                os.unlink(path)
                freed += status.st_blocks * 512
        return freed

    def _prepare(self) -> None:
        """Make the directories and the mark of an image layout, once."""
        mark = f"{self.paths.content}/oci-layout"
        if os.path.exists(mark) and os.path.isdir(self._partial):
            return
        os.makedirs(self._partial, 0o700, exist_ok=True)
        os.makedirs(self.paths.blobs, 0o700, exist_ok=True)
        from rl.config.jsonio import write_json

        write_json(mark, {"imageLayoutVersion": "1.0.0"}, sync=False)


class Writer:
    """One blob being written; a context manager that keeps what was written, to be resumed later.

    ``done``: the blob is in the store already (another process finished it while we waited).
    ``offset``: bytes that are there, from an earlier attempt too: where to continue a download.
    Call :meth:`write` with what follows them, then :meth:`commit`.
    """

    __slots__ = ("_fd", "_hash", "_path", "_store", "digest", "done", "offset", "size")

    def __init__(self, store: ContentStore, path: str, digest: str, size: int) -> None:
        self._store = store
        self._path = path
        self.digest = digest
        self.size = size
        self.offset = 0
        self.done = False
        self._fd = -1
        self._lock()
        if self.done:
            return
        try:
            self._start_hash()
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        while True:
            if self.digest and self._store.has(self.digest):
                self.done = True
                self.offset = self._store.size(self.digest)
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                same = os.stat(self._path).st_ino == os.fstat(fd).st_ino
            except FileNotFoundError:
                same = False  # its writer finished (or gave up) while we waited
            except BaseException:
                os.close(fd)
                raise
            # Finished between our look and our open: then the name we made is a new, empty file.
            if same and not (self.digest and self._store.has(self.digest)):
                self._fd = fd
                return
            if same:
                os.unlink(self._path)
            os.close(fd)

    def _start_hash(self) -> None:
        from hashlib import sha256

        self._hash = sha256()
        self.offset = 0
        if 0 <= self.size < os.fstat(self._fd).st_size:
            os.ftruncate(self._fd, 0)
        while chunk := os.read(self._fd, _CHUNK):
            self._hash.update(chunk)
            self.offset += len(chunk)

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*. Raises VerificationError past the expected size, RlError for a full disk."""
        if 0 <= self.size < self.offset + len(data):
            self._discard()
            raise VerificationError(
                f"blob {self.digest or '(new)'} is larger than the {self.size} bytes its manifest announces",
                "the source is broken or hostile: nothing of it was stored",
            )
        self._hash.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise RlError(
                f"write blob {self.digest or '(new)'} to {self._path}: {error.strerror}",
                "free some space (`rl rmi`, `rl image prune`) or move the state with --root",
            ) from None
        self.offset += len(data)

    def restart(self) -> None:
        """Forget what was there: the server does not continue downloads."""
        from hashlib import sha256

        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = sha256()
        self.offset = 0

    def commit(self) -> str:
        """Verify, make durable, and take the name; the digest. Raises VerificationError (and forgets the data)."""
        if self.done:
            return self.digest
        actual = f"sha256:{self._hash.hexdigest()}"
        if 0 <= self.size != self.offset:
            # A short blob may be continued by the next attempt: it stays.
            if self.offset > self.size or self.offset == 0 or not self.digest:
                self._discard()
            raise VerificationError(
                f"blob {self.digest or actual} has {self.offset} bytes instead of {self.size}", "try again"
            )
        if self.digest and actual != self.digest:
            self._discard()
            raise VerificationError(
                f"blob {self.digest} has other content: its digest is {actual}",
                "the source is broken or hostile: nothing of it was stored; try again or use another source",
            )
        try:
            os.fsync(self._fd)
            os.rename(self._path, self._store.path(actual))
        except OSError as error:
            raise RlError(f"store blob {actual}: {error.strerror}", "free some space with `rl rmi`") from None
        self.digest = actual
        self.done = True
        self.close()
        return actual

    def _discard(self) -> None:
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass
        self.close()

    def close(self) -> None:
        """Stop writing. What is there stays for a resumed download, unless nothing names it."""
        if self._fd >= 0:
            if not self.done and (not self.digest or self.offset == 0):
                try:
                    os.unlink(self._path)
                except FileNotFoundError:
                    pass
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # for children too, see Lock.close
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _missing(digest: str) -> NotFoundError:
    return NotFoundError(f"blob {digest} is not in the content store", "pull the image again")
