"""A pull: from a name to an image with all its blobs stored and all its layers in place.

The order of things, and why: policy before anything is fetched; manifest and configuration on the caller's
thread; then the unpacking processes are forked, then the download threads are started (fork after threads is
unsafe); each blob goes to the unpackers as soon as it is verified, while others still arrive; the record comes
last, so an image exists only when it is whole.

The content store keeps every blob, compressed as it came: a blob that is missing is fetched even where its
layer is unpacked already, so that save and push always have exactly what was pulled.

Called by rl.engine.pull, which brings the unpackers along: this layer does not know the storage.
"""

from __future__ import annotations

import collections
import errno
import os
from contextlib import nullcontext

from rl.errors import NoSuchImageError, RegistryError, RlError, UnsupportedError, VerificationError
from rl.image import documents, platforms, policy, registries_conf, store
from rl.image.connect import Options, Registries
from rl.image.content import ContentStore, Lock, adding, hex_of
from rl.image.download import Download, Downloads, fetch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any, Protocol

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.image.policy import Requirement
    from rl.image.progress import Progress
    from rl.image.reference import Reference
    from rl.image.registries_conf import RegistriesConf
    from rl.image.registry import Repository

    class Unpacker(Protocol):
        """What rl.storage.unpack.Unpacker offers."""

        def submit(self, blob_path: str, diff_id: str, media_type: str = "") -> None: ...
        def pump(self, timeout: float | None = 0.0) -> None: ...
        def results(self) -> object: ...

    class Layers(Protocol):
        """The storage, as far as a pull is concerned."""

        def missing(self, diff_ids: list[str]) -> list[str]: ...
        def unpacker(self, on_progress: Callable[[str, int, int], None]) -> AbstractContextManager[Unpacker]: ...


_LARGEST_CONFIG = 8 << 20
_IMAGE_CONFIGS = (documents.OCI_CONFIG, documents.DOCKER_CONFIG)


class _Found:
    """An image, resolved: manifest and index with their bytes, and who has the blobs."""

    __slots__ = ("digest", "index", "listed", "manifest", "repository")

    def __init__(self, repository: Repository, manifest: bytes, digest: str, index: bytes, listed: str) -> None:
        self.repository = repository
        self.manifest = manifest
        self.digest = digest
        self.index = index  # b"" when the name leads to a manifest at once
        self.listed = listed  # the index's digest


class Puller:
    """Pulls images under one set of options; connections and tokens are kept between them."""

    def __init__(
        self, paths: Paths, layers: Layers, options: Options, progress: Progress, warn: Callable[[str], None]
    ) -> None:
        self.conf: RegistriesConf = registries_conf.load(paths)
        self._paths = paths
        self._layers = layers
        self._options = options
        self._progress = progress
        self._warn = warn
        self._content = ContentStore(paths)
        self._notes: collections.deque[str] = collections.deque()
        self._registries = Registries(paths, options, self._notes.append)
        self._fetching: list[str] = []  # digests

    def close(self) -> None:
        """End the connections."""
        self._registries.close()

    # what a name leads to

    def _first(self, name: Reference, ask: Callable[[Repository, str], Any]) -> tuple[Repository, Any]:
        """The first endpoint that answers *ask*; the error of the last (the registry itself) if none does."""
        endpoints = self.conf.endpoints(name)
        for endpoint in endpoints[:-1]:
            try:
                repository = self._registries.repository(endpoint)
                return repository, ask(repository, endpoint.which)
            except (NoSuchImageError, RegistryError) as error:
                self._flush()
                self._warn(f"mirror {endpoint.host} is passed over: {error.message}")
        repository = self._registries.repository(endpoints[-1])
        return repository, ask(repository, endpoints[-1].which)

    def _find(self, name: Reference) -> _Found:
        what = str(name)
        repository, (data, digest) = self._first(name, lambda place, which: place.manifest(which))
        document = documents.parse_document(data, f"the manifest of {what}")
        index, listed = b"", ""
        for _ in range(4):
            if documents.media_type(document) not in documents.INDEXES:
                return _Found(repository, data, digest, index, listed)
            if not index:
                index, listed = data, digest
            chosen = platforms.choose(
                documents.parse_index(data, f"the index of {what}")["manifests"], self._options.platform, what
            )
            data, digest = repository.manifest(chosen["digest"], chosen["size"])
            document = documents.parse_document(data, f"the manifest of {what}")
        raise VerificationError(f"{what}: its indexes are nested more than 3 deep", "ask who made the image")

    def document(self, name: Reference) -> tuple[bytes, str]:
        """The manifest or index that a full name leads to, as it is, and its digest."""
        policy.check_reference(self._paths, name)
        found: tuple[bytes, str] = self._first(name, lambda place, which: place.manifest(which))[1]
        return found

    def tags(self, name: Reference) -> list[str]:
        """All tags of a repository (a full name)."""
        policy.check_reference(self._paths, name)
        tags: list[str] = self._first(name, lambda place, _: place.tags())[1]
        if not tags:
            raise NoSuchImageError(f"{name.name} has no tags")
        return tags

    def refetch(self, name: Reference, descriptor: dict[str, Any]) -> None:
        """Get one blob of the image *name* (full) again, which is not in the content store; a manifest has no size.

        The caller holds :func:`rl.image.content.adding`. Raises NoSuchImageError, RegistryError, VerificationError.
        """
        policy.check_reference(self._paths, name)

        def ask(repository: Repository, which: str) -> None:
            if "size" in descriptor:
                fetch(repository, self._content, Download(descriptor))
            else:
                data, _ = repository.manifest(descriptor["digest"])
                self._content.put_bytes(data, descriptor["digest"])

        self._first(name, ask)

    # the pull

    def pull(self, name: Reference, known: ImageRecord | None = None) -> ImageRecord:
        """Pull the full name *name*. With *known*, that record is returned where the registry has the same image.

        Raises RlError; what was fetched stays for the next attempt (not on a full disk), but there is no record of it.
        """
        name = name.with_default_tag()
        wanted = policy.check_reference(self._paths, name)
        self._progress.say(f"Trying to pull {name}...")
        try:
            with adding(self._paths):
                found = self._find(name)
                if known and not wanted and {found.digest, found.listed} & set(store.all_digests(known)):
                    return known
                return self._install(name, found, wanted)
        except RlError as error:
            if is_disk_full(error):
                self._drop_partial()
                error.hint = error.hint or "free some space (`rl rmi`) or move the state with --root"
            raise
        finally:
            self._flush()
            self._progress.close()

    def _install(self, name: Reference, found: _Found, wanted: list[Requirement]) -> ImageRecord:
        what = str(name)
        manifest = documents.parse_manifest(found.manifest, f"the manifest of {what}")
        _refuse_artifacts(manifest, what)
        self._progress.say("Getting image source signatures")
        if wanted:
            from rl.image import signatures

            for requirement in wanted:
                signatures.check(self._paths, requirement, name, found.digest, found.repository)
        config = self._config(found, manifest, what)
        warning = "" if found.index else platforms.check_single(config, self._options.platform, what)
        if warning:
            self._warn(warning)
        diff_ids: list[str] = config["rootfs"]["diff_ids"]
        before = {layer["digest"] for layer in manifest["layers"] if self._content.has(layer["digest"])}
        try:
            self._blobs(found.repository, manifest["layers"], diff_ids)
        except VerificationError:
            # Blobs that were here before may have been damaged on the disk since: get those again, once.
            if not self._remove_damaged(before):
                raise
            self._warn(f"{what}: stored blobs were damaged; they are fetched again")
            self._blobs(found.repository, manifest["layers"], diff_ids)
        self._progress.say("Writing manifest to image destination")
        if found.index:
            self._content.put_bytes(found.index, found.listed)
        self._content.put_bytes(found.manifest, found.digest)
        stored = str(name.without_tag() if name.digest else name)
        return store.add(self._paths, stored, found.digest, found.listed)

    def _config(self, found: _Found, manifest: dict[str, Any], what: str) -> dict[str, Any]:
        descriptor = manifest["config"]
        if descriptor["size"] > _LARGEST_CONFIG:
            raise VerificationError(
                f"{what}: its configuration is larger than {_LARGEST_CONFIG >> 20} MiB", "ask who made it"
            )
        if not self._content.has(descriptor["digest"], descriptor["size"]):
            self._progress.begin(descriptor["digest"], descriptor["size"], "config")
            fetch(found.repository, self._content, Download(descriptor))
            self._progress.downloaded(descriptor["digest"])
        data = self._content.read(descriptor["digest"])
        return documents.parse_config(data, f"the configuration of {what}", len(manifest["layers"]))

    def _blobs(self, repository: Repository, layers: list[dict[str, Any]], diff_ids: list[str]) -> None:
        """Fetch and unpack what is missing, both at once."""
        wanted: dict[str, str] = {}  # layers to unpack: diff id → digest of the blob
        for diff_id in self._layers.missing(diff_ids):
            wanted[diff_id] = layers[diff_ids.index(diff_id)]["digest"]
        kinds = {layer["digest"]: layer.get("mediaType") or "" for layer in layers}
        todo: dict[str, Download] = {}
        for layer in layers:
            digest = layer["digest"]
            if digest in todo:
                continue
            if self._content.has(digest, layer["size"]):
                self._progress.skip(digest)
            else:
                todo[digest] = Download(layer)
                self._progress.begin(digest, layer["size"])

        self._fetching = list(todo)

        def on_progress(diff_id: str, done: int, total: int) -> None:
            self._progress.unpacking(wanted[diff_id], done, total)
            self._progress.tick()

        def hand_over(unpacker: Unpacker, digest: str) -> None:
            for diff_id, blob in wanted.items():
                if blob == digest:
                    unpacker.submit(self._content.path(digest), diff_id, kinds[digest])

        with self._layers.unpacker(on_progress) if wanted else nullcontext() as unpacker:
            if unpacker is not None:
                for digest in dict.fromkeys(wanted.values()):
                    if digest not in todo:
                        hand_over(unpacker, digest)
            with Downloads(repository, self._content, list(todo.values()), self._options.jobs) as downloads:
                while downloads.pending:
                    item = downloads.next(0.1)
                    self._show(todo, item)
                    if unpacker is not None:
                        if item is not None:
                            hand_over(unpacker, item.digest)
                        unpacker.pump(0)
            if unpacker is not None:
                unpacker.results()

    def _show(self, todo: dict[str, Download], finished: Download | None) -> None:
        self._flush()
        if finished is not None:
            self._progress.downloaded(todo.pop(finished.digest).digest)
        for item in todo.values():
            self._progress.advance(item.digest, item.done)
        self._progress.tick()

    def _flush(self) -> None:
        """Say what the threads noted."""
        while self._notes:
            self._progress.say(self._notes.popleft())

    def _drop_partial(self) -> None:
        """Give the space of broken downloads back, unless another process is at it."""
        for digest in self._fetching:
            path = f"{self._paths.content}/partial/{hex_of(digest)}"
            try:
                if os.path.exists(path):
                    with Lock(path, exclusive=True, wait=False):
                        os.unlink(path)
            except OSError:
                continue

    def _remove_damaged(self, digests: set[str]) -> bool:
        from hashlib import sha256

        damaged = False
        buffer = bytearray(1 << 20)
        view = memoryview(buffer)
        for digest in digests:
            found = sha256()
            with open(self._content.open(digest), "rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    found.update(view[:count])
            if f"sha256:{found.hexdigest()}" != digest:
                self._content.remove(digest)
                damaged = True
        return damaged


def is_disk_full(error: RlError) -> bool:
    """Whether *error* tells of a full disk or an exhausted quota; it may come from another process, as text."""
    return any(os.strerror(number) in error.message for number in (errno.ENOSPC, errno.EDQUOT))


def _refuse_artifacts(manifest: dict[str, Any], what: str) -> None:
    """Registries hold other things than images (charts, signatures), and encrypted images."""
    kind = manifest["config"].get("mediaType") or ""
    if kind not in _IMAGE_CONFIGS:
        raise UnsupportedError(
            f"{what} is not a container image but {kind or 'something without a type'}",
            f"check the name; of an artifact: rl artifact pull {what}",
        )
    for layer in manifest["layers"]:
        if "+encrypted" in (layer.get("mediaType") or ""):
            raise UnsupportedError(f"{what} is encrypted (ocicrypt)", "decrypt it with skopeo copy --decryption-key …")
