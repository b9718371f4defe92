"""A layer blob as its uncompressed stream: a child process that inflates and hashes into a pipe.

A process of its own, so that inflating and hashing run beside the writing of files on the other
core, without a fight for the interpreter lock. Memory is constant: output comes in bounded pieces
whatever the compression ratio.

Called by rl.storage.apply. Compression is told by the first bytes, as every engine does; media
types in the wild are wrong.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select

from rl.config.jsonio import dumps, loads
from rl.errors import RlError, UnsupportedError, VerificationError, from_wire, to_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

_F_SETPIPE_SZ = 1031
_READ = 256 << 10
_PIECE = 512 << 10

#: A stream beyond both is a bomb: this many bytes, and this many times its compressed size. Deflate
#: cannot pass 1032; zstd can, and does honestly for sparse disk images, but not at such a size.
BOMB_BYTES = 64 << 30
BOMB_RATIO = 5000


class Inflater:
    """The running child; read the stream from ``fd``, then call :meth:`finish`."""

    __slots__ = ("_pid", "_report", "_source", "blob", "fd")

    def __init__(self, blob: str, algorithm: str, close_in_child: tuple[int, ...] = ()) -> None:
        self.blob = blob
        source = self._source = os.open(blob, os.O_RDONLY | os.O_CLOEXEC)
        self.fd = -1
        try:
            data_r, data_w = os.pipe2(os.O_CLOEXEC)
            report_r, report_w = os.pipe2(os.O_CLOEXEC)
            try:
                fcntl.fcntl(data_w, _F_SETPIPE_SZ, 1 << 20)
            except OSError:
                pass  # the user's share of pipe memory is used up: slower, not wrong
            self._pid = os.fork()
            if self._pid == 0:
                for fd in (data_r, report_r, *close_in_child):
                    os.close(fd)
                _child(source, data_w, report_w, algorithm)
        except OSError:
            os.close(source)
            raise
        os.close(data_w)
        os.close(report_w)
        self.fd = data_r
        self._report = report_r

    def finish(self) -> tuple[str, int]:
        """(hex digest, size) of the whole stream, after draining what the reader left.

        Raises what the child met: VerificationError for damaged data, OSError's text as RlError.
        """
        try:
            while os.read(self.fd, _PIECE):
                pass
            with open(self._report, "rb", closefd=False) as file:
                text = file.read()
        finally:
            self.close()
        if not text:
            raise RlError(f"read {self.blob}: the decompressing process was killed", "is there enough memory?")
        report = loads(text.decode())
        if "error" in report:
            raise from_wire(report["error"])
        return report["digest"], report["size"]

    def position(self) -> tuple[int, int]:
        """(bytes of the blob read so far, its size); the child shares our file offset."""
        return os.lseek(self._source, 0, os.SEEK_CUR), os.fstat(self._source).st_size

    def check(self) -> None:
        """Raise what the child has met so far, if anything."""
        if select.select([self._report], [], [], 0)[0]:
            report = loads(os.read(self._report, 1 << 16).decode() or "{}")
            if "error" in report:
                raise from_wire(report["error"])

    def close(self) -> None:
        """End the child, whatever it is doing (EPIPE ends it). May be called twice."""
        if self.fd < 0:
            return
        for fd in (self.fd, self._report, self._source):
            os.close(fd)
        self.fd = -1
        os.waitpid(self._pid, 0)


def _child(source: int, data: int, report: int, algorithm: str) -> None:
    answer: dict[str, Any]
    try:
        try:
            hasher = hashlib.new(algorithm, usedforsecurity=True)
            size = _pump(source, data, hasher.update)
            answer = {"digest": hasher.hexdigest(), "size": size}
        except BrokenPipeError:
            os._exit(0)  # the reader gave up
        except BaseException as error:
            answer = {"error": to_wire(error)}
        os.write(report, dumps(answer).encode())
    finally:
        os._exit(0)


def _pump(source: int, data: int, update: Callable[[bytes], object]) -> int:
    total = 0
    allowed = max(BOMB_BYTES, os.fstat(source).st_size * BOMB_RATIO)
    for piece in pieces(source):
        total += len(piece)
        if total > allowed:
            raise VerificationError(f"the layer inflates to more than {allowed >> 30} GiB: refused as a bomb")
        update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(data, view) :]
    return total


def pieces(source: int) -> Iterator[bytes]:
    """The uncompressed content of file *source*, in pieces of bounded size. Raises VerificationError."""
    magic = os.pread(source, 6, 0)
    if magic[:2] == b"\x1f\x8b":
        return _members(source, _gzip_factory(), "gzip")
    if magic[:4] == b"\x28\xb5\x2f\xfd" or (magic[1:4] == b"\x2a\x4d\x18" and magic[0] & 0xF0 == 0x50):
        return _zstd(source)
    if magic[:3] == b"BZh":
        import bz2

        return _members(source, bz2.BZ2Decompressor, "bzip2")
    if magic == b"\xfd7zXZ\0":
        import lzma

        return _members(source, lambda: lzma.LZMADecompressor(memlimit=128 << 20), "xz")
    return _plain(source)


def _plain(source: int) -> Iterator[bytes]:
    while chunk := os.read(source, _PIECE):
        yield chunk


class _Zlib:
    """zlib with the interface of bz2.BZ2Decompressor, which igzip shares."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(31)
        self.unused_data = b""

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.unused_data = self._inner.unused_data
        return out


def _gzip_factory() -> Callable[[], Any]:
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib
    return lambda: igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)


def _members(source: int, factory: Callable[[], Any], kind: str) -> Iterator[bytes]:
    """Inflate a file of one or more concatenated members, as RFC 1952 allows and pigz produces."""
    inflater = factory()
    pending = b""
    started = False
    while True:
        chunk = pending or (os.read(source, _READ) if inflater.needs_input else b"")
        if not chunk and inflater.needs_input:
            if started or not inflater.eof:
                raise VerificationError(f"the layer's {kind} data is truncated", "pull the image again")
            return
        pending = b""
        started = True
        try:
            out = inflater.decompress(chunk, _PIECE)
        except Exception as error:  # each library has an error class of its own
            if isinstance(error, MemoryError):
                raise
            raise VerificationError(f"the layer's {kind} data is damaged: {error}", "pull the image again") from None
        if out:
            yield out
        if inflater.eof:
            pending = inflater.unused_data or os.read(source, _READ)
            while pending and not pending.strip(b"\0"):  # padding of tapes and block devices
                pending = os.read(source, _READ)
            if not pending:
                return
            inflater = factory()


def _zstd(source: int) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise UnsupportedError(
            "the layer is compressed with zstd, and Python's zstandard is not installed",
            "pip install zstandard, or install the package python3-zstandard",
        ) from None
    inflater = zstandard.ZstdDecompressor()
    try:
        with (
            open(source, "rb", buffering=0, closefd=False) as file,
            inflater.stream_reader(file, read_size=_READ, read_across_frames=True) as stream,
        ):
            while chunk := stream.read(_PIECE):
                yield chunk
    except zstandard.ZstdError as error:
        raise VerificationError(f"the layer's zstd data is damaged: {error}", "pull the image again") from None
