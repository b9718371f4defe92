"""A push: an image of the store to a registry.

Layers are brought there on threads (compressing and hashing run without the interpreter's lock), the configuration
after them, the manifest last: a name in the registry appears when all of its image is there. A layer that is stored
compressed is sent as it is, byte for byte what was pulled; a plain one is compressed, and what came of it is
remembered, so that the next push asks the registry before it compresses again.

Called by rl.engine.push.
"""

from __future__ import annotations

import collections
import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from hashlib import sha256
from typing import Any, BinaryIO

from rl.config.jsonio import dumps, read_json, write_atomic
from rl.errors import UsageError
from rl.image import documents as d
from rl.image import store
from rl.image.compress import check_level, compressed
from rl.image.connect import Registries
from rl.image.content import ContentStore
from rl.image.registries_conf import load
from rl.image.streams import CHUNK, MAGIC_SIZE, kind_of
from rl.image.upload import Uploads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.image.connect import Options
    from rl.image.progress import Progress
    from rl.image.reference import Reference

#: What --format says, and the media types of manifest, configuration and layers.
FORMATS = {
    "oci": (d.OCI_MANIFEST, d.OCI_CONFIG, d.OCI_LAYER, "+"),
    "v2s2": (d.DOCKER_MANIFEST, d.DOCKER_CONFIG, d.DOCKER_LAYER, "."),
}


class Form:
    """How the image is to be written.

    ``format``: "" as it is, oci or v2s2. ``compression`` of plain layers (``force``: of all that have another): gzip or
    zstd, at ``level`` (None: a good one). Raises UsageError for a level that there is not.
    """

    __slots__ = ("compression", "force", "format", "level")

    def __init__(self, format: str = "", compression: str = "", level: int | None = None, force: bool = False) -> None:
        self.compression = compression or "gzip"
        self.force = force
        self.format = format
        self.level = level
        check_level(self.compression, level)


class _Layer:
    """A layer on its way: its descriptor as stored, and (``written``) as the registry gets it."""

    __slots__ = ("descriptor", "done", "progress", "size", "written")

    def __init__(self, descriptor: dict[str, Any]) -> None:
        self.descriptor = descriptor
        self.written: dict[str, Any] = {}
        self.done = -1  # bytes sent; -1: nothing is being sent
        self.size = 0


class Pusher:
    """Pushes images under one set of options."""

    def __init__(self, paths: Paths, options: Options, form: Form, progress: Progress) -> None:
        self._paths = paths
        self._options = options
        self._form = form
        self._progress = progress
        self._content = ContentStore(paths)
        self._notes: collections.deque[str] = collections.deque()
        self._registries = Registries(paths, options, self._notes.append)
        self._conf = load(paths)

    def close(self) -> None:
        """End the connections."""
        self._registries.close()

    def push(self, record: ImageRecord, target: Reference) -> str:
        """Push the image to the full name *target*; the digest of its manifest there.

        The caller holds :func:`rl.image.content.adding`, which keeps the garbage collector from the blobs. Raises
        AuthenticationError, RegistryError, VerificationError, CorruptRecordError, UsageError.
        """
        target = target.with_default_tag()
        endpoint = self._conf.endpoints(target)[-1]  # the registry itself: mirrors are for reading
        uploads = Uploads(self._registries.repository(endpoint))
        manifest = d.parse_manifest(self._content.read(record["manifest"]), f"manifest {record['manifest']}")
        format = self._format(manifest)
        sources = _Sources(self._paths, target.registry, endpoint.repository)
        self._progress.say("Getting image source signatures")
        layers = self._layers(uploads, manifest["layers"], sources)
        config = manifest["config"]
        if not uploads.exists(config["digest"]):
            self._progress.begin(config["digest"], config["size"], "config")
            uploads.blob(config["digest"], config["size"], self._opener(config["digest"]), [], lambda done: None)
            self._progress.downloaded(config["digest"])
        data, media_type = self._document(record, manifest, layers, format)
        self._progress.say("Writing manifest to image destination")
        digest = uploads.manifest(data, media_type, target.tag or f"sha256:{sha256(data).hexdigest()}")
        self._flush()
        return digest

    def _format(self, manifest: dict[str, Any]) -> str:
        own = "v2s2" if d.media_type(manifest) == d.DOCKER_MANIFEST else "oci"
        kinds = [str(item.get("mediaType")) for item in manifest["layers"]]
        zstd = self._form.compression == "zstd" or any("zstd" in kind for kind in kinds)
        if zstd and self._form.format == "v2s2" and not (self._form.force and self._form.compression == "gzip"):
            raise UsageError("push: Docker's format (v2s2) has no zstd layers", "use --format oci, or gzip by force")
        if self._form.format:
            return self._form.format
        return "oci" if zstd else own

    def _document(
        self, record: ImageRecord, manifest: dict[str, Any], layers: list[_Layer], format: str
    ) -> tuple[bytes, str]:
        """The manifest as the registry gets it: untouched where nothing is to be changed."""
        kind, config, layer_kind, joint = FORMATS[format]
        written = []
        for layer in layers:
            compression = layer.written.pop("compression")
            suffix = f"{joint}{compression}" if compression else ""
            written.append({**layer.descriptor, **layer.written, "mediaType": layer_kind + suffix})
        if written == manifest["layers"] and d.media_type(manifest) == kind:
            return self._content.read(record["manifest"]), kind
        config_descriptor = {**manifest["config"], "mediaType": config}
        changed = {**manifest, "schemaVersion": 2, "mediaType": kind, "config": config_descriptor, "layers": written}
        return dumps(changed).encode(), kind

    # layers

    def _layers(self, uploads: Uploads, descriptors: list[dict[str, Any]], sources: _Sources) -> list[_Layer]:
        """Bring all of them there, several at once; in the manifest's order."""
        layers = [_Layer(descriptor) for descriptor in descriptors]
        unique: dict[str, _Layer] = {layer.descriptor["digest"]: layer for layer in layers}
        pool = ThreadPoolExecutor(min(self._options.jobs, len(unique)) or 1)
        try:
            running: dict[Future[bool], _Layer] = {
                pool.submit(self._bring, uploads, layer, sources): layer for layer in unique.values()
            }
            shown: set[str] = set()
            while running:
                finished, _ = wait(running, 0.1, FIRST_COMPLETED)
                self._show(unique.values(), shown)
                for future in finished:
                    sent, layer = future.result(), running.pop(future)
                    self._ended(layer, sent, shown)
        except BaseException:
            uploads.repository.registry.transport.abort()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        for layer in layers:
            layer.written = dict(unique[layer.descriptor["digest"]].written)
        return layers

    def _show(self, layers: Any, shown: set[str]) -> None:
        self._flush()
        for layer in layers:
            if layer.done < 0 or not layer.written:
                continue
            digest = layer.written["digest"]
            if digest not in shown:
                shown.add(digest)
                self._progress.begin(digest, layer.size)
            self._progress.advance(digest, layer.done)
        self._progress.tick()

    def _ended(self, layer: _Layer, sent: bool, shown: set[str]) -> None:
        digest = layer.written["digest"]
        if not sent:
            self._progress.skip(digest)
            return
        if digest not in shown:
            shown.add(digest)
            self._progress.begin(digest, layer.size)
        self._progress.downloaded(digest)

    def _flush(self) -> None:
        while self._notes:
            self._progress.say(self._notes.popleft())

    def _bring(self, uploads: Uploads, layer: _Layer, sources: _Sources) -> bool:
        """One layer, on a thread; whether bytes had to be sent."""
        stored = layer.descriptor["digest"]
        fd = self._content.open(stored)
        try:
            kind = kind_of(os.pread(fd, MAGIC_SIZE, 0))
            wanted = self._form.compression
            if kind == wanted or (kind and not self._form.force):
                layer.written = {"digest": stored, "size": os.fstat(fd).st_size, "compression": kind}
                return self._transfer(uploads, layer, fd, sources)
            known = self._known(stored)
            if known and uploads.exists(known["digest"]):
                layer.written = known
                return False
            made = self._compress(fd, stored, kind)
            try:
                size = os.fstat(made).st_size
                layer.written = {"digest": _digest(made), "size": size, "compression": wanted}
                self._remember(stored, layer.written)
                return self._transfer(uploads, layer, made, sources)
            finally:
                os.close(made)
        finally:
            os.close(fd)

    def _compress(self, fd: int, digest: str, kind: str) -> int:
        """The layer as asked for, in a nameless file. One with another compression is inflated first."""
        if not kind:
            return compressed(self._paths.content, fd, self._form.compression, self._form.level, digest)
        from rl.image.streams import Source, decompressed

        plain = os.open(self._paths.content, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            read, _ = decompressed(Source.of_fd(fd, f"layer {digest}"), f"layer {digest}")
            while piece := read(CHUNK):
                os.write(plain, piece)
            os.lseek(plain, 0, os.SEEK_SET)
            return compressed(self._paths.content, plain, self._form.compression, self._form.level)
        finally:
            os.close(plain)

    def _transfer(self, uploads: Uploads, layer: _Layer, fd: int, sources: _Sources) -> bool:
        digest, size = layer.written["digest"], layer.written["size"]
        if uploads.exists(digest):
            return False

        def opened(offset: int) -> BinaryIO:
            return _Part(fd, offset)  # type: ignore[return-value]

        def tell(done: int) -> None:
            layer.done = done

        layer.size = size
        return uploads.blob(digest, size, opened, sources.of(digest), tell)

    def _opener(self, digest: str) -> Callable[[int], BinaryIO]:
        def opened(offset: int) -> BinaryIO:
            file = open(self._content.open(digest), "rb")
            file.seek(offset)
            return file

        return opened

    # what compressing came to

    def _note(self, digest: str) -> str:
        return f"{self._paths.cache}/compressed/{digest[7:]}.{self._form.compression}.{self._form.level or 0}"

    def _known(self, digest: str) -> dict[str, Any] | None:
        try:
            found = read_json(self._note(digest))
            good = str(found["digest"]).startswith("sha256:") and isinstance(found["size"], int)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return {**found, "compression": self._form.compression} if good else None

    def _remember(self, digest: str, written: dict[str, Any]) -> None:
        try:
            os.makedirs(f"{self._paths.cache}/compressed", exist_ok=True)
            write_atomic(self._note(digest), dumps({"digest": written["digest"], "size": written["size"]}).encode())
        except OSError:
            pass  # a cache: the next push compresses again


class _Part:
    """A file read from a position of its own: several readers may share the descriptor."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd, self._at = fd, offset

    def read(self, size: int = -1) -> bytes:
        data = os.pread(self._fd, CHUNK if size < 0 else size, self._at)
        self._at += len(data)
        return data

    def close(self) -> None:
        pass  # the descriptor is the layer's


class _Sources:
    """Repositories of one registry that have a blob, as far as the images here tell."""

    def __init__(self, paths: Paths, registry: str, own: str) -> None:
        self._known: dict[str, list[str]] = {}
        content = ContentStore(paths)
        prefix = registry + "/"
        for record in store.list_images(paths)[0]:
            names = {name.partition("@")[0] for name in record.get("digests", []) if name.startswith(prefix)}
            repositories = {name[len(prefix):] for name in names} - {own}
            if not repositories:
                continue
            try:
                document = d.parse_manifest(content.read(record["manifest"]), record["manifest"])
            except Exception:  # a broken image is no source; the push is not about it
                continue
            for layer in document["layers"]:
                self._known.setdefault(layer["digest"], []).extend(sorted(repositories))

    def of(self, digest: str) -> list[str]:
        return list(dict.fromkeys(self._known.get(digest, [])))


def _digest(fd: int) -> str:
    found = sha256()
    offset = 0
    while piece := os.pread(fd, CHUNK, offset):
        found.update(piece)
        offset += len(piece)
    return f"sha256:{found.hexdigest()}"
