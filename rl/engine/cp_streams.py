"""The tar streams of `rl cp`: ``-`` as source and as destination. Runs inside the user namespace."""

from __future__ import annotations

import errno
import os
import stat
import threading

from rl.errors import RlError, UsageError, VerificationError
from rl.image.streams import Source, decompressed
from rl.runtime import userns
from rl.storage.apply import Applier
from rl.storage.tarstream import DIRECTORY, TarStream
from rl.storage.tarwrite import TarWriter, to_fd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.storage.tarstream import Entry

    Owner = Callable[[int, int], tuple[int, int]]

_PIECE = 1 << 18


def write(
    directory: int, name: str, base: str, status: os.stat_result, owner: Owner, *, contents: bool,
    skip_unreadable: bool,
) -> None:
    """To standard output: *name* of *directory* as *base* with all below it, or only what it holds."""
    single = userns.current_mode() == "single"
    writer = TarWriter(to_fd(1), fd=1, owner=owner, single=single, skip_unreadable=skip_unreadable)
    if not stat.S_ISDIR(status.st_mode):
        writer.entry(directory, name, os.fsencode(base), status)
    else:
        root = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            if not contents:
                writer.root(os.fsencode(base), status)
            writer.tree(root, b"" if contents else os.fsencode(base) + b"/")
        finally:
            os.close(root)
    writer.finish()


class _Extractor(Applier):
    """Entries as they are, in a directory that is not empty: no whiteouts, nothing replaced by another kind unasked."""

    __slots__ = ("_directory_now", "overwrite")

    def __init__(self, path: str, overwrite: bool) -> None:
        super().__init__(path, single=userns.current_mode() == "single")
        self.overwrite = overwrite
        self._chown_all = True
        self._directory_now = False

    def apply(self, stream: TarStream, entry: Entry) -> None:
        self._directory_now = entry.kind == DIRECTORY
        super().apply(stream, entry)

    def _is_mark(self, directory: bytes, name: bytes) -> bool:
        return False

    def _root(self, entry: Entry) -> None:
        """The directory itself stays as it is."""

    def _clear(self, directory: bytes, name: bytes) -> int:
        if not self.overwrite:
            status = os.stat(name, dir_fd=self._tree.parent(directory), follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise OSError(errno.EISDIR, "a file cannot take the place of a directory without --overwrite")
            if self._directory_now:
                raise OSError(errno.ENOTDIR, "a directory cannot take the place of a file without --overwrite")
        return super()._clear(directory, name)


def extract(target: int, owner: Owner, overwrite: bool) -> list[str]:
    """From standard input, compressed or not, into directory *target*; warnings."""
    what = "standard input"
    plain = archive(Source.of_fd(0, what), what)
    if plain is None:
        raise UsageError(
            "source must be a (compressed) tar archive when copying from stdin",
            "for example: tar c FILE | rl cp - C:DIR",
        )
    return unpack(plain, target, owner, overwrite)


def archive(source: Source, what: str) -> Source | None:
    """*source* without its compression, if that is a tar archive; else None, with some of it read."""
    try:
        read, _ = decompressed(source, what)
        plain = Source(read)
        block = plain.peek(512)
    except VerificationError:
        return None
    return plain if len(block) == 512 and (block == bytes(512) or _is_header(block)) else None


def unpack(plain: Source, target: int, owner: Owner, overwrite: bool) -> list[str]:
    """A tar archive into directory *target*; warnings. Raises VerificationError, RlError."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pump = _Pump(plain, write_end)
    extractor = _Extractor(f"/proc/self/fd/{target}", overwrite)
    umask = os.umask(0)
    try:
        stream = TarStream(read_end)
        try:
            while (entry := stream.next()) is not None:
                entry.uid, entry.gid = owner(entry.uid, entry.gid)
                extractor.apply(stream, entry)
        except VerificationError:
            pump.check()  # damaged compression explains a damaged archive better than its consequences
            raise
        extractor.finish()
        pump.drain = True  # what wrote the archive should end by itself, not by a broken pipe
    finally:
        os.umask(umask)
        extractor.close()
        os.close(read_end)
    pump.thread.join()
    pump.check()
    return [f"{extractor.skipped} devices of the archive were left out"] if extractor.skipped else []


def _is_header(block: bytes) -> bool:
    stated = block[148:156].strip(b" \0")
    if not stated or stated.strip(b"01234567"):
        return False
    return sum(block) - sum(block[148:156]) + 256 == int(stated, 8)


class _Pump:
    """A thread that feeds a pipe, as the tar reader wants a descriptor."""

    def __init__(self, source: Source, fd: int) -> None:
        self.error: RlError | None = None
        self.drain = False
        self._source = source
        self._fd = fd
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while piece := self._source.read(_PIECE):
                view = memoryview(piece)
                while view:
                    view = view[os.write(self._fd, view) :]
            return
        except BrokenPipeError:
            pass
        except RlError as error:
            self.error = error
            return
        finally:
            os.close(self._fd)
        if self.drain:
            self._drain()

    def _drain(self) -> None:
        try:
            while self._source.read(_PIECE):
                pass
        except RlError:
            pass

    def check(self) -> None:
        """Raises what went wrong with reading."""
        if self.error:
            raise self.error
