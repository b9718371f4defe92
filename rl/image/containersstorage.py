"""Images out of a store of Podman, Buildah or CRI-O (containers/storage), so that moving to rl needs no download.

A layer there is unpacked; how its archive was put together stands beside it (tar-split), and with the files' contents
that gives the very bytes back. They are verified against the layer's diff id, so the image has the id that it has
there. Nothing of the store is changed, no lock of its is taken; what is removed meanwhile is an error.

:func:`read` runs inside the user namespace, where the files of subordinate ids can be read. Called by rl.engine.load.

Source: containers-transports(5), "containers-storage"; containers/storage (store.go, layers.go, images.go);
vbatts/tar-split, storage/entry.go.
"""

from __future__ import annotations

import base64
import gzip
import os
from typing import Any

from rl.config.jsonio import dumps, loads, read_json
from rl.errors import (
    NoSuchImageError,
    NotFoundError,
    RlError,
    UnsupportedError,
    UsageError,
    VerificationError,
    disk_hint,
)
from rl.image import documents as d
from rl.image import reference
from rl.image.archive import Layer, LoadedImage
from rl.image.content import ContentStore
from rl.kernel import fs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rl.config.paths import Paths

PREFIX = "containers-storage:"
_DRIVERS = ("overlay", "vfs")
_PIECE = 1 << 20
_FILE, _SEGMENT = 1, 2  # tar-split's types of entries
_BELOW = fs.RESOLVE_BENEATH | fs.RESOLVE_NO_SYMLINKS | fs.RESOLVE_NO_MAGICLINKS


class Place:
    """``containers-storage:[DRIVER@ROOT+RUNROOT:OPTIONS]NAME`` or ``@ID``; without brackets the caller's own store."""

    __slots__ = ("driver", "name", "root")

    def __init__(self, text: str, home: str) -> None:
        """Raises UsageError."""
        rest = text.removeprefix(PREFIX)
        self.driver, self.root = "", ""
        if rest.startswith("["):
            inside, bracket, rest = rest[1:].partition("]")
            if not bracket:
                raise UsageError(f"{text}: [ is not closed", f"{PREFIX}[overlay@/ROOT]NAME")
            inside = inside.partition(":")[0]
            driver, at, root = inside.rpartition("@")
            self.driver, self.root = driver, root.partition("+")[0] if at else inside.partition("+")[0]
        self.name = rest
        if not self.name:
            raise UsageError(f"{text}: no image", f"write it as {PREFIX}NAME or {PREFIX}@ID")
        self.root = self.root or _graph_root(home)
        if not os.path.isdir(self.root):
            hint = f"{PREFIX}[overlay@/ROOT]NAME names another"
            raise NotFoundError(f"{text}: there is no store at {self.root}", hint)
        if not self.driver:
            there = [name for name in _DRIVERS if os.path.exists(f"{self.root}/{name}-images/images.json")]
            self.driver = there[0] if there else "overlay"
        if self.driver not in _DRIVERS:
            raise UnsupportedError(
                f"{text}: stores of the driver {self.driver} are not read", "podman save NAME | rl load"
            )


def _graph_root(home: str) -> str:
    """The store of the caller, as storage.conf or its default has it."""
    if os.geteuid() == 0 and home in ("", "/root"):
        default, files = "/var/lib/containers/storage", ("/etc/containers/storage.conf",)
        key = "graphroot"
    else:
        data = os.environ.get("XDG_DATA_HOME") or f"{home}/.local/share"
        config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        default, files = f"{data}/containers/storage", (f"{config}/containers/storage.conf",)
        key = "graphroot"
    for path in (os.environ.get("CONTAINERS_STORAGE_CONF", ""), *files):
        try:
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            name, equals, value = line.partition("=")
            if equals and name.strip() == key:
                return os.path.expandvars(value.strip().strip('"'))
    return default


def read(paths: Paths, place: Place) -> list[LoadedImage]:
    """The image at *place*, its blobs in the content store. The caller holds ``content.adding``.

    Raises NoSuchImageError, VerificationError where the store is damaged, RlError.
    """
    return [_Store(paths, place).image()]


class _Store:
    def __init__(self, paths: Paths, place: Place) -> None:
        self._content = ContentStore(paths)
        self._place = place
        self._base = f"{place.root}/{place.driver}"
        self._layers = {layer["id"]: layer for layer in self._records("layers")}

    def _records(self, kind: str) -> list[dict[str, Any]]:
        path = f"{self._base}-{kind}/{kind}.json"
        try:
            found = read_json(path)
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise RlError(f"read {path}: {error}") from None
        return [record for record in found if isinstance(record, dict) and isinstance(record.get("id"), str)]

    def image(self) -> LoadedImage:
        record = self._find()
        manifest = self._big(record, "manifest")
        names = [name for name in record.get("names") or [] if isinstance(name, str)]
        document = d.parse_manifest(manifest, f"manifest of {self._place.name} in {self._place.root}")
        config_digest = document["config"]["digest"]
        config = self._big(record, config_digest)
        if self._content.put_bytes(config) != config_digest:
            raise self._damaged(f"the configuration of {self._place.name}")
        diff_ids = d.parse_config(config, "its configuration", len(document["layers"]))["rootfs"]["diff_ids"]
        chain = self._chain(record.get("layer") or "")
        if len(chain) != len(diff_ids):
            raise self._damaged(f"the list of layers of {self._place.name}")
        layers = [self._layer(layer, diff_id) for layer, diff_id in zip(chain, diff_ids, strict=True)]
        written = dumps(_plain(document, layers)).encode()
        digest = self._content.put_bytes(written)
        return LoadedImage(
            [name for name in names if ":" in name.rpartition("/")[2]], digest, "", config_digest[7:],
            [Layer(layer["digest"], layer["mediaType"], layer["digest"]) for layer in layers],
        )

    def _find(self) -> dict[str, Any]:
        wanted = self._place.name
        records = self._records("images")
        if wanted.startswith("@"):
            found = [record for record in records if record["id"].startswith(wanted[1:])]
        else:
            names = [reference.normalize(wanted, prefix) for prefix in (reference.LOCALHOST, reference.DOCKER)]
            names = [wanted, *names]
            found = [record for record in records if set(record.get("names") or []) & set(names)]
        if not found:
            there = sorted(name for record in records for name in record.get("names") or [])
            hint = f"there are {', '.join(there[:5])}" if there else "it has no images with names"
            raise NoSuchImageError(f"{self._place.root} has no image {wanted}", hint)
        if len(found) > 1 and wanted.startswith("@"):
            raise UsageError(f"{wanted}: {len(found)} images begin so", "give more digits")
        return found[0]

    def _big(self, record: dict[str, Any], name: str) -> bytes:
        """One of the documents that are stored with an image."""
        plain = all(character.islower() or character.isdigit() or character in "._-" for character in name)
        file = name if plain else "=" + base64.b64encode(name.encode()).decode()
        path = f"{self._base}-images/{record['id']}/{file}"
        try:
            with open(path, "rb") as stream:
                return stream.read()
        except OSError as error:
            raise RlError(f"read {path}: {error.strerror}", "podman system check looks at the store") from None

    def _chain(self, top: str) -> list[dict[str, Any]]:
        """The layers below *top*, base first."""
        chain: list[dict[str, Any]] = []
        while top:
            layer = self._layers.get(top)
            if layer is None or len(chain) > d.MAX_LAYERS:
                raise self._damaged(f"layer {top[:12]}")
            chain.append(layer)
            top = layer.get("parent") or ""
        return chain[::-1]

    def _damaged(self, what: str) -> VerificationError:
        return VerificationError(f"{self._place.root}: {what} is missing or damaged", "podman save NAME | rl load")

    # layers

    def _layer(self, layer: dict[str, Any], diff_id: str) -> dict[str, Any]:
        """The descriptor of a layer, whose plain archive is in the content store then."""
        if not self._content.has(diff_id):
            try:
                with self._content.writer(diff_id) as writer:
                    if not writer.done:
                        writer.restart()
                        for piece in self._archive(layer["id"]):
                            writer.write(piece)
                        writer.commit()
            except OSError as error:
                raise RlError(f"read layer {layer['id'][:12]}: {error.strerror}", disk_hint(error)) from None
        return {"mediaType": d.OCI_LAYER, "digest": diff_id, "size": self._content.size(diff_id)}

    def _archive(self, layer_id: str) -> Iterator[bytes]:
        """The bytes of the layer's archive, piece by piece."""
        root = self._open_files(layer_id)
        try:
            for entry in self._split(layer_id):
                if entry.get("type") == _SEGMENT:
                    yield base64.b64decode(entry.get("payload") or "")
                elif entry.get("type") == _FILE and entry.get("size"):
                    yield from self._file(root, entry)
        finally:
            os.close(root)

    def _open_files(self, layer_id: str) -> int:
        below = f"{layer_id}/diff" if self._place.driver == "overlay" else f"dir/{layer_id}"
        try:
            return os.open(f"{self._base}/{below}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            raise self._damaged(f"layer {layer_id[:12]}") from None

    def _split(self, layer_id: str) -> Iterator[dict[str, Any]]:
        path = f"{self._base}-layers/{layer_id}.tar-split.gz"
        try:
            with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape") as lines:
                for line in lines:
                    entry = loads(line)
                    if isinstance(entry, dict):
                        yield entry
        except (OSError, EOFError, ValueError) as error:
            raise VerificationError(f"read {path}: {error}", "podman save NAME | rl load") from None

    def _file(self, root: int, entry: dict[str, Any]) -> Iterator[bytes]:
        """The content of a file, from where it is unpacked."""
        raw = entry.get("name_raw")
        name = os.fsdecode(base64.b64decode(raw)) if raw else str(entry.get("name"))
        left = int(entry["size"])
        try:
            fd = fs.openat2(root, name.lstrip("/").removeprefix("./") or ".", os.O_RDONLY, 0, _BELOW)
        except OSError:
            raise self._damaged(f"file {name}") from None
        try:
            while left:
                piece = os.read(fd, min(left, _PIECE))
                if not piece:
                    raise self._damaged(f"file {name}")
                left -= len(piece)
                yield piece
        finally:
            os.close(fd)


def _plain(document: dict[str, Any], layers: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest, for layers that are stored plain."""
    docker = d.media_type(document) == d.DOCKER_MANIFEST
    kind = d.DOCKER_LAYER if docker else d.OCI_LAYER
    return {
        **document, "schemaVersion": 2, "mediaType": d.DOCKER_MANIFEST if docker else d.OCI_MANIFEST,
        "layers": [{**layer, "mediaType": kind} for layer in layers],
    }
