"""rl save: images into an archive or a directory."""

from __future__ import annotations

import os
import stat

from rl.engine import events
from rl.engine.tag import target_name
from rl.errors import RlError, UsageError
from rl.image import save as writing
from rl.image import store
from rl.image.content import adding
from rl.image.form import Form

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.context import Engine


def save(
    engine: Engine,
    names: list[str],
    output: str | int,
    *,
    format: str = writing.DOCKER_ARCHIVE,
    multi: bool = False,
    compress: bool = False,
    uncompressed: bool = False,
) -> None:
    """Write images to *output*: a path, or a descriptor (standard output).

    Without *multi* the first of *names* is the image and the others are further names for it; with it
    each is an image. *compress* (docker-dir): plain layers get gzip; *uncompressed* (OCI formats): they
    stay plain. An archive that is not complete is removed. Raises UsageError, NoSuchImageError, RlError,
    ConflictError, VerificationError, CorruptRecordError.
    """
    _check(names, output, format, multi, compress, uncompressed)
    # The lock of those who add keeps the garbage collector from what we read.
    with adding(engine.paths):
        images = _images(engine, names, multi)
        write(engine, images, output, format, Form(compression="gzip" if _gzip(format, compress, uncompressed) else ""))
    for record, _ in images:
        events.emit(engine.paths, "image", "save", record["id"], record["name"])


def write(engine: Engine, images: list[writing.Named], output: str | int, format: str, form: Form) -> str:
    """*images* in *format* to a directory, a file or a descriptor; the digest of the last one's manifest.

    The caller holds ``adding``. A docker-archive gives "". Raises as :func:`save`.
    """
    if format in (writing.OCI_DIR, writing.DOCKER_DIR):
        assert isinstance(output, str)
        return writing.save_directory(engine.paths, images, output, format, form)
    if isinstance(output, int):
        return writing.save_archive(engine.paths, images, output, format, form)
    return _to_file(engine, images, output, format, form)


def _gzip(format: str, compress: bool, uncompressed: bool) -> bool:
    """Whether plain layers get gzip."""
    return compress if format == writing.DOCKER_DIR else not uncompressed


def _check(
    names: list[str], output: str | int, format: str, multi: bool, compress: bool, uncompressed: bool
) -> None:
    if format not in writing.FORMATS:
        raise UsageError(f"save: unknown format {format!r}", f"use one of {', '.join(writing.FORMATS)}")
    if not names:
        raise UsageError("save: no image named", "rl save -o FILE IMAGE")
    if compress and format != writing.DOCKER_DIR:
        raise UsageError("save: --compress can only be set when --format is docker-dir", "leave --compress out")
    if uncompressed and format not in (writing.OCI_ARCHIVE, writing.OCI_DIR):
        raise UsageError(
            "save: --uncompressed can only be set with an OCI --format", "docker-archive is never compressed"
        )
    if format in (writing.OCI_DIR, writing.DOCKER_DIR) and isinstance(output, int):
        raise UsageError(f"save: {format} is a directory and cannot go to standard output", "add --output DIRECTORY")
    if multi and format == writing.DOCKER_DIR and len(names) > 1:
        raise UsageError("save: a docker-dir holds one image", "use docker-archive, oci-archive or oci-dir")


def _images(engine: Engine, names: list[str], multi: bool) -> list[writing.Named]:
    if not multi:
        found = store.find(engine.paths, names[0])
        own = [found["name"]] if store.is_name_of(names[0], found) else []
        return [(found, list(dict.fromkeys([*own, *(target_name(name) for name in names[1:])])))]
    images: dict[str, writing.Named] = {}
    for name in names:
        found = store.find(engine.paths, name)
        tags = images.setdefault(found["id"], (found, []))[1]
        if store.is_name_of(name, found) and found["name"] not in tags:
            tags.append(found["name"])
    return list(images.values())


def _to_file(engine: Engine, images: list[writing.Named], path: str, format: str, form: Form) -> str:
    """To a temporary name beside *path*, then to it: who finds the file finds all of it."""
    staged = f"{path}.{os.getpid()}.partial"
    try:
        special = not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        special = False
    target = path if special else staged
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RlError(f"save to {path}: {error.strerror}", "choose a place you may write to") from None
    try:
        try:
            digest = writing.save_archive(engine.paths, images, fd, format, form)
        finally:
            os.close(fd)
        if not special:
            os.rename(staged, path)
        return digest
    except BaseException:
        if not special:
            try:
                os.unlink(staged)
            except OSError:
                pass
        raise
