"""Reading saved images: docker-archive, oci-archive, OCI layout and dir: directories.

Called by ``rl load``. Every file of an archive is streamed into the content store while it is hashed
(an archive may come from a pipe, its manifest last); then the manifests are read and tell which of
them are images. Names in archives are keys, never paths: nothing is written by them.

Source: OCI image specification ("Image Layout"); Docker's image specification v1.2, "Combined Image JSON
+ Filesystem Changeset Format"; containers-transports(5) for ``dir:``.
"""

from __future__ import annotations

import os
import stat
from typing import Any

from rl.config.jsonio import dumps, loads
from rl.config.paths import Paths
from rl.errors import NoSuchImageError, NotFoundError, RlError, UsageError, VerificationError
from rl.image import documents as d
from rl.image import reference
from rl.image.content import ContentStore
from rl.image.streams import CHUNK, MAGIC_SIZE, Source, decompressed, kind_of
from rl.image.tarstream import TarReader, resolve_link

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"

#: Documents beside the blobs; anything else in an archive is a blob.
_DOCUMENTS = ("manifest.json", "index.json", "oci-layout", "repositories", "version")
#: Leftovers of Docker's format before 1.10, of no use to anyone today.
_LEGACY = ("json", "VERSION")
_DOCUMENT_LIMIT = 16 << 20
_HINT = "rl reads what `docker save`, `podman save` and `skopeo copy` write: docker-archive, oci-archive, oci:, dir:"


class LoadedImage:
    """An image whose blobs are in the content store now, not unpacked and without a record yet."""

    __slots__ = ("image_id", "index", "layers", "manifest", "names")

    def __init__(self, names: list[str], manifest: str, index: str, image_id: str, layers: list[Layer]) -> None:
        self.names = names  # full, with tag; [] for an image without a name
        self.manifest = manifest  # digest
        self.index = index  # digest of the list it was chosen from, or ""
        self.image_id = image_id
        self.layers = layers


class Layer:
    """One layer of a loaded image: the blob, its media type, and the digest of what it holds."""

    __slots__ = ("diff_id", "digest", "media_type")

    def __init__(self, digest: str, media_type: str, diff_id: str) -> None:
        self.digest = digest
        self.media_type = media_type
        self.diff_id = diff_id


def read(
    paths: Paths, source: str | int, platform: tuple[str, str, str] | None = None, which: str = ""
) -> list[LoadedImage]:
    """The images in *source*: a file, a directory, or a descriptor to read an archive from.

    *platform* is (os, architecture, variant) to choose from an index; default: this machine's. *which*: only the one
    of that name or tag, or the one at ``@N``, counted from 0 (containers-transports(5)). The caller holds
    :func:`rl.image.content.adding`. Raises VerificationError for archives that are damaged, hostile or none at all,
    NotFoundError, NoSuchImageError, UsageError, RlError.
    """
    if isinstance(source, int):
        return _read_stream(paths, source, "standard input", platform, which)
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"load {source}: no such file or directory", "check the path after --input") from None
    except OSError as error:
        raise RlError(f"load {source}: {error.strerror}") from None
    try:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            return _Directory(paths, source, platform, which).images()
        return _read_stream(paths, fd, source, platform, which)
    finally:
        os.close(fd)


def _read_stream(
    paths: Paths, fd: int, what: str, platform: tuple[str, str, str] | None, which: str
) -> list[LoadedImage]:
    source = Source.of_fd(fd, what)
    if not source.peek(1):
        raise VerificationError(f"{what} is empty", _HINT)
    read_on, _ = decompressed(source, what)
    return _Archive(paths, what, platform, which, TarReader(read_on, what)).images()


class _Which:
    """One image of several: by name or tag, or ``@N``; "" takes all. Raises UsageError."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.number = -1
        if text.startswith("@"):
            if not text[1:].isdecimal():
                raise UsageError(f"{text}: no number of an image", "@0 is the first image of an archive")
            self.number = int(text[1:])

    def names(self, number: int, names: list[str], tag: str = "") -> list[str] | None:
        """Which of its *names* the image at *number* gets; None: it is not meant. *tag*: how a layout calls it."""
        if not self._text or self.number >= 0:
            return names if self.number in (-1, number) else None
        if tag == self._text:
            return names
        return [name for name in names if self._is(name)] or None

    def _is(self, full: str) -> bool:
        if full.rpartition(":")[2] == self._text:
            return True
        try:
            known = [reference.normalize(self._text, each) for each in (reference.DOCKER, reference.LOCALHOST)]
        except UsageError:
            return False
        return full in known

    def missing(self, what: str, names: list[str]) -> NoSuchImageError:
        """The error where no image of *what*, which has *names*, is the one."""
        asked = "number " + self._text[1:] if self.number >= 0 else f"that is called {self._text}"
        hint = f"it holds {', '.join(names)}" if names else "its images have no names: @0 is the first"
        return NoSuchImageError(f"{what} holds no image {asked}", hint)


class _Saved:
    """What both shapes have in common: documents by name, blobs by digest, and how they make images."""

    def __init__(self, paths: Paths, what: str, platform: tuple[str, str, str] | None, which: str) -> None:
        self.which = _Which(which)
        self.content = ContentStore(paths)
        self.what = what
        self.platform = platform or this_platform()

    def document(self, name: str) -> bytes | None:
        """A file beside the blobs; None where there is none."""
        raise NotImplementedError

    def fetch(self, digest: str, size: int) -> bool:
        """See to it that the blob is in the content store; whether it is."""
        raise NotImplementedError

    def default_name(self, tag: str) -> list[str]:
        """The names of an image that an OCI layout calls *tag*, or nothing at all ("")."""
        raise NotImplementedError

    def images(self) -> list[LoadedImage]:
        """Which kind it is, and the images in it."""
        raise NotImplementedError

    # OCI

    def oci_images(self, index: bytes) -> list[LoadedImage]:
        """The images of an OCI layout: its descriptors by name, each name for the best platform."""
        document = d.parse_index(index, f"{self.what}: index.json")
        named: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        every: list[str] = []
        for number, descriptor in enumerate(document["manifests"]):
            own = self._names(descriptor)
            every += own
            tag = str((descriptor.get("annotations") or {}).get(REF_NAME, ""))
            names = self.which.names(number, own, tag)
            if names is None:
                continue
            if self.which.number >= 0:  # the very one, whatever machine it is for
                descriptor = {key: value for key, value in descriptor.items() if key != "platform"}
            # Nameless ones are one image for several platforms if they tell platforms, else each is one.
            key = tuple(names) or (("",) if descriptor.get("platform") else ("", str(number)))
            named.setdefault(key, []).append(descriptor)
        found = []
        if not named:
            raise self.which.missing(self.what, every)
        for key, descriptors in named.items():
            image = self._choose(descriptors, list(key) if key[0] else [], "", 0)
            if image:
                found.append(image)
        if not found:
            raise VerificationError(f"{self.what} holds no image for {'/'.join(filter(None, self.platform))}", _HINT)
        return found

    def _names(self, descriptor: dict[str, Any]) -> list[str]:
        annotations = descriptor.get("annotations") or {}
        if not isinstance(annotations, dict):
            raise VerificationError(f"{self.what}: annotations are not an object", _HINT)
        full, name = annotations.get(CONTAINERD_NAME), annotations.get(REF_NAME)
        if isinstance(full, str) and full:
            return [self.normalized(full, reference.DOCKER)]
        if not isinstance(name, str):
            name = ""
        if "/" in name or ":" in name:
            return [self.normalized(name, reference.LOCALHOST)]
        return self.default_name(name)

    def normalized(self, name: str, registry: str) -> str:
        try:
            full = reference.normalize(name, registry)
        except UsageError as error:
            raise VerificationError(f"{self.what} names an image wrongly: {error.message}", error.hint) from None
        return full.partition("@")[0]

    def _choose(
        self, descriptors: list[dict[str, Any]], names: list[str], index: str, depth: int
    ) -> LoadedImage | None:
        """The first that is there, best platform first; an index among them is entered."""
        if depth > 4:
            raise VerificationError(f"{self.what}: indexes are nested more than 4 deep", _HINT)
        wanted = sorted(
            (score, number) for number, item in enumerate(descriptors)
            if (score := platform_score(item.get("platform"), self.platform)) is not None
        )
        for _, number in wanted:
            descriptor = descriptors[number]
            digest = descriptor["digest"]
            if not self.fetch(digest, descriptor["size"]):
                if len(descriptors) == 1:
                    raise self._lacks(f"manifest {digest}")
                continue  # an index may list platforms that were not saved
            data = self.content.read(digest)
            document = d.parse_document(data, f"{self.what}: {digest}")
            if d.media_type(document) in d.INDEXES:
                inner = d.parse_index(data, f"{self.what}: index {digest}")["manifests"]
                image = self._choose(inner, names, index or digest, depth + 1)
                if image:
                    return image
                continue
            return self.manifest_image(digest, names, index)
        return None

    def manifest_image(self, digest: str, names: list[str], index: str) -> LoadedImage:
        """The image of a manifest that is in the content store."""
        manifest = d.parse_manifest(self.content.read(digest), f"{self.what}: manifest {digest}")
        for descriptor in (manifest["config"], *manifest["layers"]):
            if not self.fetch(descriptor["digest"], descriptor["size"]):
                raise self._lacks(f"blob {descriptor['digest']}")
        config = self.read_config(manifest["config"]["digest"], len(manifest["layers"]))
        layers = [
            Layer(layer["digest"], layer.get("mediaType") or "", diff_id)
            for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True)
        ]
        return LoadedImage(names, digest, index, manifest["config"]["digest"][7:], layers)

    def read_config(self, digest: str, layers: int) -> dict[str, Any]:
        return d.parse_config(self.content.read(digest), f"{self.what}: image config {digest}", layers)

    def _lacks(self, what: str) -> VerificationError:
        return VerificationError(f"{self.what} lacks {what}", "the archive is incomplete: save the image again")


class _Archive(_Saved):
    """A tar archive: all of it goes into the content store first."""

    def __init__(
        self, paths: Paths, what: str, platform: tuple[str, str, str] | None, which: str, tar: TarReader
    ) -> None:
        super().__init__(paths, what, platform, which)
        self._documents: dict[str, bytes] = {}
        self._files: dict[str, str] = {}  # member name -> digest
        self._links: dict[str, str] = {}
        for member in tar:
            if member.kind == "file":
                self._take(tar, member)
            elif member.kind != "directory":
                target = resolve_link(member.name, member.kind, member.target)
                if target is None:
                    raise VerificationError(f"{what} holds a link that leads outside of it: {member.name}", _HINT)
                self._links[member.name] = target

    def _take(self, tar: TarReader, member: Any) -> None:
        name = member.name
        if name in _DOCUMENTS:
            if member.size > _DOCUMENT_LIMIT:
                raise VerificationError(f"{self.what}: {name} is larger than {_DOCUMENT_LIMIT >> 20} MiB", _HINT)
            self._documents[name] = b"".join(tar.data(member))
            return
        if name.rpartition("/")[2] in _LEGACY and "/" in name:
            return
        digest = f"sha256:{name[13:]}" if name.startswith("blobs/sha256/") else ""
        with self.content.writer(digest, member.size) as writer:
            if writer.done:
                self._files[name] = digest
                self._compare(tar, member, digest)
                return
            writer.restart()
            for piece in tar.data(member):
                writer.write(piece)
            self._files[name] = writer.commit()

    def _compare(self, tar: TarReader, member: Any, digest: str) -> None:
        """A blob we have already: what claims to be it must still be it."""
        from hashlib import sha256

        found = sha256()
        for piece in tar.data(member):
            found.update(piece)
        if f"sha256:{found.hexdigest()}" != digest:
            raise VerificationError(f"{self.what}: {member.name} has other content than its name says", _HINT)

    def document(self, name: str) -> bytes | None:
        return self._documents.get(name)

    def fetch(self, digest: str, size: int) -> bool:
        return self.content.has(digest, size)

    def default_name(self, tag: str) -> list[str]:
        return [self.normalized(tag, reference.LOCALHOST)] if tag else []

    def images(self) -> list[LoadedImage]:
        manifest = self._documents.get("manifest.json")
        if manifest is not None:
            return self._docker_images(manifest)
        index = self._documents.get("index.json")
        if index is not None:
            return self.oci_images(index)
        if "repositories" in self._documents:
            raise VerificationError(
                f"{self.what} was saved by a Docker older than 1.10 (2016)",
                "load and save it with a current Docker first",
            )
        raise VerificationError(
            f"{self.what} is not an archive of images: it has neither manifest.json nor index.json",
            "`rl import` makes an image of a root file system; " + _HINT,
        )

    def _docker_images(self, data: bytes) -> list[LoadedImage]:
        what = f"{self.what}: manifest.json"
        try:
            entries = loads(data.decode())
        except (ValueError, RecursionError) as error:
            raise VerificationError(f"{what} is not JSON: {error}", _HINT) from None
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise VerificationError(f"{what} is not a list of images", _HINT)
        found, every = [], []
        for number, entry in enumerate(entries):
            tags = entry.get("RepoTags") or []
            if not _strings(tags):
                raise VerificationError(f"{self.what}: manifest.json does not describe an image", _HINT)
            tagged = list(dict.fromkeys(self.normalized(tag, reference.DOCKER) for tag in tags))
            every += tagged
            names = self.which.names(number, tagged)
            if names is not None:
                found.append(self._docker_image(entry, names))
        if not found:
            raise self.which.missing(self.what, every)
        return found

    def _docker_image(self, entry: dict[str, Any], names: list[str]) -> LoadedImage:
        layers = entry.get("Layers") or []
        if not _strings(layers) or not isinstance(entry.get("Config"), str):
            raise VerificationError(f"{self.what}: manifest.json does not describe an image", _HINT)
        config_digest = self._member(entry["Config"])
        config = self.read_config(config_digest, len(layers))
        found, descriptors = [], []
        for name, diff_id in zip(layers, config["rootfs"]["diff_ids"], strict=True):
            digest = self._member(name)
            kind = self._media_type(digest)
            found.append(Layer(digest, kind, diff_id))
            descriptors.append({"mediaType": kind, "size": self.content.size(digest), "digest": digest})
        manifest = {
            "schemaVersion": 2,
            "mediaType": d.DOCKER_MANIFEST,
            "config": {"mediaType": d.DOCKER_CONFIG, "size": self.content.size(config_digest), "digest": config_digest},
            "layers": descriptors,
        }
        digest = self.content.put_bytes(dumps(manifest).encode())
        return LoadedImage(names, digest, "", config_digest[7:], found)

    def _member(self, name: str) -> str:
        """The digest of a file of the archive, through links."""
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
        wanted = name
        for _ in range(8):
            if name in self._files:
                return self._files[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise self._lacks(f"{wanted}, which its manifest.json names")

    def _media_type(self, digest: str) -> str:
        fd = self.content.open(digest)
        try:
            kind = kind_of(os.read(fd, MAGIC_SIZE))
        finally:
            os.close(fd)
        if kind in ("xz", "bzip2"):
            raise VerificationError(f"{self.what}: a layer is compressed with {kind}, which images do not use", _HINT)
        return f"{d.DOCKER_LAYER}.{kind}" if kind else d.DOCKER_LAYER


class _Directory(_Saved):
    """An OCI layout or a ``dir:`` directory: blobs are copied when a manifest asks for them."""

    def __init__(self, paths: Paths, path: str, platform: tuple[str, str, str] | None, which: str = "") -> None:
        super().__init__(paths, path, platform, which)
        self._path = path
        self._oci = os.path.exists(f"{path}/index.json")

    def document(self, name: str) -> bytes | None:
        try:
            fd = os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RlError(f"load {self._path}/{name}: {error.strerror}") from None
        with open(fd, "rb") as file:
            data = file.read(_DOCUMENT_LIMIT + 1)
        if len(data) > _DOCUMENT_LIMIT:
            raise VerificationError(f"{self._path}/{name} is larger than {_DOCUMENT_LIMIT >> 20} MiB", _HINT)
        return data

    def fetch(self, digest: str, size: int) -> bool:
        if self.content.has(digest, size):
            return True
        path = f"{self._path}/blobs/sha256/{digest[7:]}" if self._oci else f"{self._path}/{digest[7:]}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise RlError(f"load {path}: {error.strerror}") from None
        try:
            with self.content.writer(digest, size) as writer:
                if not writer.done:
                    writer.restart()
                    while piece := os.read(fd, CHUNK):
                        writer.write(piece)
                    writer.commit()
        finally:
            os.close(fd)
        return True

    def default_name(self, tag: str) -> list[str]:
        # As Podman, a layout is named after its directory where it does not say otherwise.
        name = os.path.basename(os.path.abspath(self._path)).lower()
        try:
            return [reference.normalize(f"{name}:{tag}" if tag else name)]
        except UsageError:
            return []

    def images(self) -> list[LoadedImage]:
        index = self.document("index.json")
        if index is not None:
            return self.oci_images(index)
        manifest = self.document("manifest.json")
        if manifest is None:
            raise VerificationError(f"{self._path} is not a saved image: no index.json, no manifest.json", _HINT)
        document = d.parse_document(manifest, f"{self._path}/manifest.json")
        digest = self.content.put_bytes(manifest)
        if d.media_type(document) in d.INDEXES:
            inner = d.parse_index(manifest, f"{self._path}/manifest.json")["manifests"]
            image = self._choose(inner, [], digest, 0)
            if image is None:
                raise self._lacks(f"an image for {'/'.join(filter(None, self.platform))}")
            return [image]
        return [self.manifest_image(digest, [], "")]


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# platforms

_MACHINES = {
    "x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7"), "armv6l": ("arm", "v6"),
    "i386": ("386", ""), "i686": ("386", ""), "loongarch64": ("loong64", ""),
    "mips64": ("mips64le", ""),  # the others have Go's name already: ppc64le, s390x, riscv64
}


def this_platform() -> tuple[str, str, str]:
    """(os, architecture, variant) of this machine, in Go's words."""
    machine = os.uname().machine
    return ("linux", *_MACHINES.get(machine, (machine, "")))


def platform_score(platform: Any, wanted: tuple[str, str, str]) -> int | None:
    """How well a descriptor's platform fits, 0 best; None where it does not. No platform stated: 2."""
    if not isinstance(platform, dict):
        return 2
    if (platform.get("os"), platform.get("architecture")) != wanted[:2]:
        return None
    variant = platform.get("variant") or ""
    if variant == wanted[2] or not wanted[2]:
        return 0 if variant == wanted[2] else 1
    if not variant:
        return 1
    # An older variant runs on a newer machine: v6 on v7; never the other way round.
    return 3 + int(wanted[2][1:]) - int(variant[1:]) if _older(variant, wanted[2]) else None


def _older(variant: str, wanted: str) -> bool:
    return variant[1:].isdigit() and wanted[1:].isdigit() and int(variant[1:]) < int(wanted[1:])
