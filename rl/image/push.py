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
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from hashlib import sha256
from typing import Any

from rl.config.jsonio import dumps, read_json, write_atomic
from rl.errors import RlError
from rl.image import documents as d
from rl.image import store
from rl.image.compress import compressed
from rl.image.connect import Registries
from rl.image.content import ContentStore
from rl.image.form import written_as
from rl.image.registries_conf import load
from rl.image.streams import MAGIC_SIZE, Source, decompressed, kind_of
from rl.image.upload import Uploads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.image.connect import Options
    from rl.image.form import Form
    from rl.image.progress import Progress
    from rl.image.reference import Reference

class _Layer:
    """A layer on its way.

    ``stored``: the digest of its blob here. ``written`` (digest, size, annotations) and ``compression``: what the
    registry gets, once that is known. ``done``: bytes sent, -1 while nothing is.
    """

    __slots__ = ("compression", "diff_id", "done", "shown", "stored", "written")

    def __init__(self, stored: str, diff_id: str) -> None:
        self.compression = ""
        self.diff_id = diff_id
        self.done = -1
        self.shown = False
        self.stored = stored
        self.written: dict[str, Any] = {}


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
        """Push the image to the full name *target*, which has a tag; the digest of its manifest there.

        The caller holds :func:`rl.image.content.adding`, which keeps the garbage collector from the blobs. Raises
        AuthenticationError, RegistryError, VerificationError, CorruptRecordError, UsageError.
        """
        uploads, sources = self._open(target)
        data, media_type = self._image(uploads, sources, record["manifest"], record["layers"])
        self._progress.say("Writing manifest to image destination")
        digest = uploads.manifest(data, media_type, target.tag)
        self._flush()
        return digest

    def push_index(self, document: dict[str, Any], images: list[str], target: Reference) -> str:
        """Push an index to *target*, first the *images* in it (digests of manifests that are here); its digest.

        Where compressing changes an image, the index says so. As :meth:`push`.
        """
        uploads, sources = self._open(target)
        entries = {entry["digest"]: entry for entry in document["manifests"]}
        for image in images:
            manifest = d.parse_manifest(self._content.read(image), f"manifest {image}")
            what = f"config {manifest['config']['digest']}"
            config = d.parse_config(self._content.read(manifest["config"]["digest"]), what, len(manifest["layers"]))
            data, media_type = self._image(uploads, sources, image, config["rootfs"]["diff_ids"])
            digest = f"sha256:{sha256(data).hexdigest()}"
            uploads.manifest(data, media_type, digest)
            entries[image].update(digest=digest, size=len(data), mediaType=media_type)
        self._progress.say("Writing manifest list to image destination")
        digest = uploads.manifest(dumps(document).encode(), document["mediaType"], target.tag)
        self._flush()
        return digest

    def push_artifact(self, digest: str, target: Reference) -> str:
        """Push the manifest *digest* and its blobs as they are to *target*; the digest. As :meth:`push`."""
        uploads, sources = self._open(target)
        stored = self._content.read(digest)
        manifest = d.parse_manifest(stored, f"manifest {digest}")
        for descriptor in {one["digest"]: one for one in (manifest["config"], *manifest["layers"])}.values():
            layer = _Layer(descriptor["digest"], "")
            fd = self._content.open(layer.stored)
            try:
                layer.written = {"digest": layer.stored, "size": os.fstat(fd).st_size}
                self._ended(layer, self._transfer(uploads, layer, fd, sources))
            finally:
                os.close(fd)
        self._progress.say("Writing manifest to image destination")
        found = uploads.manifest(stored, d.media_type(manifest), target.tag)
        self._flush()
        return found

    def _open(self, target: Reference) -> tuple[Uploads, _Sources]:
        endpoint = self._conf.endpoints(target)[-1]  # the registry itself: mirrors are for reading
        uploads = Uploads(self._registries.repository(endpoint))
        return uploads, _Sources(self._paths, target.registry, endpoint.repository)

    def _image(self, uploads: Uploads, sources: _Sources, digest: str, diff_ids: list[str]) -> tuple[bytes, str]:
        """Bring the blobs of an image there; its manifest as the registry gets it, and what that is."""
        stored = self._content.read(digest)
        manifest = d.parse_manifest(stored, f"manifest {digest}")
        format = self._form.format_of(manifest)
        self._progress.say("Getting image source signatures")
        layers = self._layers(uploads, diff_ids, manifest["layers"], sources)
        self._config(uploads, manifest["config"])
        written = [(layer.written, layer.compression) for layer in layers]
        return written_as(stored, manifest, written, format)

    def _config(self, uploads: Uploads, config: dict[str, Any]) -> None:
        digest, size = config["digest"], config["size"]
        if uploads.exists(digest):
            return
        data = self._content.read(digest)
        self._progress.begin(digest, size, "config")
        uploads.blob(digest, size, lambda count, offset: data[offset : offset + count], [], lambda done: None)
        self._progress.downloaded(digest)

    # layers

    def _layers(
        self, uploads: Uploads, diff_ids: list[str], descriptors: list[dict[str, Any]], sources: _Sources
    ) -> list[_Layer]:
        """Bring all of them there, several at once; in the manifest's order."""
        layers: dict[str, _Layer] = {}
        for descriptor, diff_id in zip(descriptors, diff_ids, strict=True):
            layers[descriptor["digest"]] = _Layer(descriptor["digest"], diff_id)
        pool = ThreadPoolExecutor(min(self._options.jobs, len(layers)) or 1)
        try:
            running = {pool.submit(self._bring, uploads, layer, sources): layer for layer in layers.values()}
            while running:
                finished, _ = wait(running, 0.1, FIRST_COMPLETED)
                self._show(running.values())
                for future in finished:
                    self._ended(running.pop(future), future.result())
        except BaseException:
            uploads.repository.registry.transport.abort()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        return [layers[descriptor["digest"]] for descriptor in descriptors]

    def _show(self, layers: Iterable[_Layer]) -> None:
        self._flush()
        for layer in layers:
            if layer.done >= 0:
                self._begin(layer)
                self._progress.advance(layer.written["digest"], layer.done)
        self._progress.tick()

    def _begin(self, layer: _Layer) -> None:
        if not layer.shown:
            layer.shown = True
            self._progress.begin(layer.written["digest"], layer.written["size"])

    def _ended(self, layer: _Layer, sent: bool) -> None:
        if not sent:
            self._progress.skip(layer.written["digest"])
            return
        self._begin(layer)
        self._progress.downloaded(layer.written["digest"])

    def _flush(self) -> None:
        while self._notes:
            self._progress.say(self._notes.popleft())

    def _bring(self, uploads: Uploads, layer: _Layer, sources: _Sources) -> bool:
        """One layer, on a thread; whether bytes had to be sent."""
        fd = self._content.open(layer.stored)
        try:
            kind = kind_of(os.pread(fd, MAGIC_SIZE, 0))
            layer.compression = wanted = self._form.wanted(kind)
            if kind == wanted:
                layer.written = {"digest": layer.stored, "size": os.fstat(fd).st_size}
                return self._transfer(uploads, layer, fd, sources)
            known = self._known(layer.stored)
            if known and uploads.exists(known["digest"]):
                layer.written = known
                return False
            what = f"layer {layer.stored}"
            read, _ = decompressed(Source.of_fd(fd, what), what)
            made, layer.written = compressed(self._paths.content, read, wanted, self._form.level, plain=layer.diff_id)
            try:
                self._remember(layer.stored, layer.written)
                return self._transfer(uploads, layer, made, sources)
            finally:
                os.close(made)
        finally:
            os.close(fd)

    def _transfer(self, uploads: Uploads, layer: _Layer, fd: int, sources: _Sources) -> bool:
        digest, size = layer.written["digest"], layer.written["size"]
        if uploads.exists(digest):
            return False

        def tell(done: int) -> None:
            layer.done = done

        return uploads.blob(digest, size, lambda count, offset: os.pread(fd, count, offset), sources.of(digest), tell)

    # what compressing came to

    def _note(self, digest: str) -> str:
        return f"{self._paths.cache}/compressed/{digest[7:]}.{self._form.compression}.{self._form.level or 0}"

    def _known(self, digest: str) -> dict[str, Any] | None:
        try:
            found = read_json(self._note(digest))
            good = str(found["digest"]).startswith("sha256:") and isinstance(found["size"], int)
            annotations = {str(key): str(value) for key, value in found.get("annotations", {}).items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if not good:
            return None
        written = {"digest": found["digest"], "size": found["size"]}
        return {**written, "annotations": annotations} if annotations else written

    def _remember(self, digest: str, written: dict[str, Any]) -> None:
        try:
            os.makedirs(f"{self._paths.cache}/compressed", exist_ok=True)
            write_atomic(self._note(digest), dumps(written).encode())
        except OSError:
            pass  # a cache: the next push compresses again


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
            except (RlError, OSError):  # a broken image is no source; the push is not about it
                continue
            for layer in document["layers"]:
                self._known.setdefault(layer["digest"], []).extend(sorted(repositories))

    def of(self, digest: str) -> list[str]:
        return list(dict.fromkeys(self._known.get(digest, [])))
