"""rl import: an image of one layer from the tar archive of a root file system."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any

from rl.config.jsonio import dumps
from rl.engine import events
from rl.engine.collect import collect_pending, discard_later
from rl.engine.containers import now
from rl.engine.context import Engine
from rl.engine.load import unpack
from rl.engine.tag import target_name
from rl.errors import NotFoundError, RlError, VerificationError
from rl.image import documents as d
from rl.image.archive import Layer, this_platform
from rl.image.changes import apply
from rl.image.content import ContentStore, adding
from rl.image.store import add
from rl.image.streams import CHUNK, MAGIC_SIZE, Source, decompressed, kind_of

_TIMEOUT = 60  # seconds without a byte from the server


def import_(
    engine: Engine,
    source: str,
    reference: str = "",
    *,
    changes: list[str] | None = None,
    message: str = "",
    os_: str = "",
    arch: str = "",
    variant: str = "",
) -> str:
    """Make an image of *source*: a tar archive (a path, ``-`` for standard input, an http or https URL).

    The archive may be compressed (gzip, zstd, xz, bzip2). *reference* names the image; *changes* are
    Dockerfile instructions; *message* is its comment. The id of the new image. Raises UsageError,
    NotFoundError, VerificationError, RlError.
    """
    name = target_name(reference) if reference else ""
    config: dict[str, Any] = {}
    apply(config, changes or [])
    platform = _platform(os_, arch, variant)
    try:
        with adding(engine.paths):
            discard_later(engine.paths)
            layer = _store_layer(ContentStore(engine.paths), source)
            unpack(engine, [layer])
            manifest = _documents(ContentStore(engine.paths), layer, config, message, platform)
            image_id = add(engine.paths, name, manifest)["id"]
            events.emit(engine.paths, "image", "import", image_id, name)
            return image_id
    finally:
        collect_pending(engine)


def _platform(os_: str, arch: str, variant: str) -> dict[str, str]:
    own = this_platform()
    platform = {"os": os_ or own[0], "architecture": arch or own[1]}
    variant = variant or (own[2] if not arch else "")
    return {**platform, "variant": variant} if variant else platform


def _store_layer(content: ContentStore, source: str) -> Layer:
    stream, close = _open(source)
    try:
        what = "standard input" if source == "-" else source
        if not stream.peek(1):
            raise VerificationError(f"import {what}: it is empty", "give it a tar archive of a root file system")
        kind = kind_of(stream.peek(MAGIC_SIZE))
        if kind in ("", "gzip", "zstd"):
            return _keep(content, stream, kind, what)
        # xz and bzip2 are no compression of layers: other engines could not read the image.
        plain, _ = decompressed(stream, what)
        return _keep(content, Source(plain), "", what)
    finally:
        close()


def _keep(content: ContentStore, stream: Source, kind: str, what: str) -> Layer:
    """Store the blob as it is, and find the digest of what it holds; both in one pass."""
    diff = sha256()
    with content.writer() as writer:
        def tee(size: int) -> bytes:
            piece = stream.read(size)
            writer.write(piece)
            return piece

        plain, _ = decompressed(Source(tee), what)
        start = Source(plain)
        block = start.peek(512)
        if len(block) < 512 or (block != bytes(512) and not _is_tar(block)):
            raise VerificationError(
                f"import {what}: it is not a tar archive", "rl import reads tar archives, compressed or not"
            )
        while piece := start.read(CHUNK):
            diff.update(piece)
        digest = writer.commit()
    return Layer(digest, d.OCI_LAYER + (f"+{kind}" if kind else ""), f"sha256:{diff.hexdigest()}")


def _is_tar(block: bytes) -> bool:
    stated = block[148:156].strip(b" \0")
    if not stated or stated.strip(b"01234567"):
        return False
    return sum(block) - sum(block[148:156]) + 256 == int(stated, 8)


def _open(source: str) -> tuple[Source, Any]:
    if source == "-":
        return Source.of_fd(0, "standard input"), lambda: None
    if source.startswith(("http://", "https://")):
        return _open_url(source)
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"import {source}: no such file", "check the path; `-` is standard input") from None
    except OSError as error:
        raise RlError(f"import {source}: {error.strerror}") from None
    return Source.of_fd(fd, source), lambda: os.close(fd)


def _open_url(url: str) -> tuple[Source, Any]:
    import http.client
    import urllib.error
    import urllib.request

    try:
        response = urllib.request.urlopen(url, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise NotFoundError(f"import {url}: the server answers {error.code} {error.reason}", "check the URL") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise RlError(f"import {url}: {reason}", "check the URL, the network and the proxy settings") from None

    def read(size: int) -> bytes:
        try:
            data: bytes = response.read(size)
        except (OSError, http.client.HTTPException) as error:
            raise RlError(f"import {url}: the download broke off: {error}", "try again") from None
        # http.client gives b"" too when the connection ends before Content-Length is reached.
        if not data and response.length:
            raise RlError(f"import {url}: the download broke off, {response.length} bytes are missing", "try again")
        return data

    return Source(read), response.close


def _documents(
    content: ContentStore, layer: Layer, config: dict[str, Any], message: str, platform: dict[str, str]
) -> str:
    """Write the image's configuration and manifest; the manifest's digest."""
    created = now()
    history = {"created": created, "created_by": f"/bin/sh -c #(nop) ADD file:{layer.diff_id[7:]} in /"}
    if message:
        history["comment"] = message
    document = {
        "created": created, **platform, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [history],
    }
    data = dumps(document).encode()
    config_digest = content.put_bytes(data)
    manifest = {
        "schemaVersion": 2,
        "mediaType": d.OCI_MANIFEST,
        "config": {"mediaType": d.OCI_CONFIG, "digest": config_digest, "size": len(data)},
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": content.size(layer.digest)}],
    }
    return content.put_bytes(dumps(manifest).encode())
