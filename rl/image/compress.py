"""Compressing layers, for archives and registries: gzip (RFC 1952), zstd (RFC 8878) and zstd:chunked, the same bytes
every time.

Called by rl.image.save and rl.image.push.
"""

from __future__ import annotations

import os
from hashlib import sha256

from rl.errors import RlError, UsageError, VerificationError, disk_hint
from rl.image.streams import CHUNK
from rl.image.tarstream import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.image.streams import Read

#: The highest level of each, as their programs have it.
_HIGHEST = {"gzip": 9, "zstd": 22}


def check_level(kind: str, level: int | None) -> None:
    """Raises UsageError where *kind* has no such level."""
    highest = _HIGHEST[family(kind)]
    if level is not None and not 1 <= level <= highest:
        raise UsageError(f"compression level {level}: {kind} has 1 to {highest}", "leave it out for a good one")


def family(kind: str) -> str:
    """What *kind* is to those who do not know it, and by its media type: zstd:chunked is zstd."""
    return kind.partition(":")[0]


def _compressor(kind: str, level: int | None) -> Any:
    """An object with compress() and flush(). ISA-L has gzip levels 1 to 3 only; it takes a third of zlib's time."""
    if kind == "zstd:chunked":
        from rl.image.chunked import Compressor

        return Compressor(level or 3)
    if kind == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=level or 3).compressobj()
    if level is None or level <= 3:
        try:
            from isal import isal_zlib

            return isal_zlib.compressobj(level=level or 3, wbits=31)
        except ImportError:
            pass
    import zlib

    return zlib.compressobj(level or 6, wbits=31)


def compressed(
    directory: str, read: Read, kind: str, level: int | None = None, *, plain: str
) -> tuple[int, dict[str, Any]]:
    """A nameless file in *directory* with all that *read* gives, compressed, at its start; and what its descriptor
    says: digest, size, and annotations, if any.

    *plain*: the digest that what is read must have. Any number of threads may be at it: the work is done without the
    interpreter's lock. Raises RlError on a full disk, VerificationError, UsageError for a level.
    """
    check_level(kind, level)
    compressor = _compressor(kind, level)
    target = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    before, after = sha256(), sha256()

    def put(data: bytes) -> None:
        after.update(data)
        write_all(target, data)

    try:
        while piece := read(CHUNK):
            before.update(piece)
            put(compressor.compress(piece))
        put(compressor.flush())
        if f"sha256:{before.hexdigest()}" != plain:
            raise VerificationError(
                f"layer {plain} is damaged in the content store", "`rl system check --repair` fetches it again"
            )
        os.lseek(target, 0, os.SEEK_SET)
    except OSError as error:
        os.close(target)
        raise RlError(f"compress a layer in {directory}: {error.strerror}", disk_hint(error)) from None
    except BaseException:
        os.close(target)
        raise
    written: dict[str, Any] = {"digest": f"sha256:{after.hexdigest()}", "size": os.fstat(target).st_size}
    annotations = getattr(compressor, "annotations", None)
    return target, {**written, "annotations": annotations} if annotations else written
