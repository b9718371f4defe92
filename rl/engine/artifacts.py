"""rl artifact: files under a name, kept and moved as OCI artifacts.

A record is ``$DATA/artifacts/<quoted name>``: the name and the digest of a manifest whose layers are the files, each
with its name as the annotation ``org.opencontainers.image.title``. Blobs are in the content store; an artifact is no
image: `rl images` does not show it and `rl run` cannot take it.

Source: podman-artifact(1) and the pages of its commands; OCI image specification, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import mimetypes
import os
from typing import Any

from rl.config.jsonio import dumps, read_json, write_atomic
from rl.engine.collect import collect
from rl.engine.containers import now
from rl.engine.tag import target_name
from rl.errors import ConflictError, NotFoundError, RlError, UsageError, disk_hint
from rl.image import documents as d
from rl.image import reference, store
from rl.image.content import ContentStore, Lock, adding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.image.progress import Progress

TITLE = "org.opencontainers.image.title"
EMPTY = "application/vnd.oci.empty.v1+json"
UNKNOWN = "application/vnd.unknown.artifact.v1"
_PIECE = 1 << 20


def _directory(paths: Paths) -> str:
    return f"{paths.data}/artifacts"


def _lock(paths: Paths) -> Lock:
    return Lock(f"{_directory(paths)}/.lock", exclusive=True)


def _records(paths: Paths) -> dict[str, str]:
    """Full name → digest of the manifest."""
    found = {}
    try:
        files = os.listdir(_directory(paths))
    except FileNotFoundError:
        return {}
    for file in files:
        if file.startswith(".") or file.endswith(".tmp"):
            continue
        try:
            record = read_json(f"{_directory(paths)}/{file}")
            found[str(record["name"])] = str(record["manifest"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _write(paths: Paths, name: str, digest: str) -> None:
    path = f"{_directory(paths)}/{store.file_name(name)}"
    try:
        write_atomic(path, dumps({"name": name, "manifest": digest}).encode())
    except OSError as error:
        raise RlError(f"write {path}: {error.strerror}", disk_hint(error)) from None


def find(engine: Engine, name: str) -> tuple[str, str]:
    """(full name, digest of the manifest) of an artifact, by name or digest. Raises NotFoundError."""
    known = _records(engine.paths)
    for prefix in (reference.LOCALHOST, reference.DOCKER):
        try:
            full = str(reference.parse(reference.normalize(name, prefix)).with_default_tag())
        except UsageError:
            break
        if full in known:
            return full, known[full]
    digits = name.removeprefix("sha256:")
    found = [(full, digest) for full, digest in known.items() if digest[7:].startswith(digits)]
    if len(digits) >= store.SHORTEST_PREFIX and len(found) == 1:
        return found[0]
    raise NotFoundError(f"{name}: artifact does not exist", "`rl artifact ls` lists those there are")


def blobs(paths: Paths) -> set[str]:
    """The digests of all that artifacts are made of: it is not garbage."""
    content, found = ContentStore(paths), set()
    for digest in _records(paths).values():
        found.add(digest)
        try:
            manifest = d.parse_manifest(content.read(digest), digest)
        except RlError:
            continue
        found.update([manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])])
    return found


# --------------------------------------------------------------------------- making


def add(
    engine: Engine, name: str, files: list[str], *, kind: str = "", file_type: str = "", append: bool = False,
    replace: bool = False, annotations: dict[str, str] | None = None,
) -> str:
    """Make the artifact *name* of *files*, or add them to it (*append*); the digest of its manifest.

    *kind*: its artifactType; *file_type*: the media type of the files; *annotations*: of each file. Raises
    ConflictError, NotFoundError, UsageError, RlError.
    """
    paths, full = engine.paths, target_name(name)
    if append and (kind or replace):
        raise UsageError("artifact add: --append goes with neither --type nor --replace", "leave one of them out")
    with _lock(paths), adding(paths):
        known = _records(paths).get(full)
        if known and not (append or replace):
            raise ConflictError(f"{full}: artifact already exists", "--append adds to it, --replace makes it anew")
        if append and not known:
            raise NotFoundError(f"{full}: artifact does not exist", "leave --append out")
        content = ContentStore(paths)
        document = d.parse_manifest(content.read(known), full) if known and append else _new(content, kind or UNKNOWN)
        for file in files:
            layer = _layer(content, file, file_type, annotations or {})
            title = layer["annotations"][TITLE]
            if title in [(old.get("annotations") or {}).get(TITLE) for old in document["layers"]]:
                raise ConflictError(f"{full} has a file {title} already", "take another name")
            document["layers"].append(layer)
        digest = content.put_bytes(dumps(document).encode())
        _write(paths, full, digest)
    if known:
        collect(engine)
    return digest


def _new(content: ContentStore, kind: str) -> dict[str, Any]:
    return {
        "schemaVersion": 2, "mediaType": d.OCI_MANIFEST, "artifactType": kind,
        "config": {"mediaType": EMPTY, "digest": content.put_bytes(b"{}"), "size": 2}, "layers": [],
        "annotations": {"org.opencontainers.image.created": now()},
    }


def _layer(content: ContentStore, file: str, kind: str, annotations: dict[str, str]) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream, content.writer() as writer:
            while piece := stream.read(_PIECE):
                writer.write(piece)
            size = writer.offset
            digest = writer.commit()
    except FileNotFoundError:
        raise NotFoundError(f"artifact add {file}: no such file", "give the paths of files") from None
    except OSError as error:
        raise RlError(f"artifact add {file}: {error.strerror}", disk_hint(error)) from None
    kind = kind or mimetypes.guess_type(file)[0] or "application/octet-stream"
    return {"mediaType": kind, "digest": digest, "size": size,
            "annotations": {**annotations, TITLE: os.path.basename(file)}}


# --------------------------------------------------------------------------- looking


def inspect(engine: Engine, name: str) -> dict[str, Any]:
    """Its manifest, name and digest."""
    full, digest = find(engine, name)
    document = d.parse_manifest(ContentStore(engine.paths).read(digest), full)
    return {"Manifest": document, "Name": full, "Digest": digest}


def ls(engine: Engine) -> list[dict[str, Any]]:
    """A row for each artifact, by name."""
    rows = []
    for full, digest in sorted(_records(engine.paths).items()):
        try:
            manifest = d.parse_manifest(ContentStore(engine.paths).read(digest), full)
        except RlError as error:
            engine.warn(f"{full}: {error.message}")
            continue
        name = reference.parse(full)
        size = sum(layer["size"] for layer in manifest["layers"])
        rows.append({"Repository": name.name, "Tag": name.tag, "Digest": digest, "VirtualSize": size})
    return rows


def extract(engine: Engine, name: str, target: str, *, title: str = "", digest: str = "") -> list[str]:
    """Write the files of an artifact into the directory *target*, or its only one to the file *target*; the paths.

    *title* or *digest*: this file alone. Raises NotFoundError, UsageError, ConflictError, RlError.
    """
    full, manifest_digest = find(engine, name)
    content = ContentStore(engine.paths)
    layers = d.parse_manifest(content.read(manifest_digest), full)["layers"]
    if title and digest:
        raise UsageError("artifact extract: --title and --digest say the same", "use one of them")
    if title:
        layers = [layer for layer in layers if (layer.get("annotations") or {}).get(TITLE) == title]
    if digest:
        layers = [layer for layer in layers if layer["digest"].startswith(digest)]
    if not layers:
        raise NotFoundError(f"{full} has no file {title or digest}", f"rl artifact inspect {name}")
    if not os.path.isdir(target):
        if len(layers) > 1:
            raise UsageError(f"{full} has {len(layers)} files, and {target} is no directory", "--title chooses one")
        return [_extracted(content, layers[0], target)]
    names = [_file_name(layer) for layer in layers]
    return [_extracted(content, layer, os.path.join(target, one)) for layer, one in zip(layers, names, strict=True)]


def _file_name(layer: dict[str, Any]) -> str:
    """The title, if that can be a file's name: it comes from a registry. Else the digest."""
    title = str((layer.get("annotations") or {}).get(TITLE) or "")
    if not title:
        return str(layer["digest"]).replace(":", "-")
    if "/" in title or title in (".", "..") or "\0" in title:
        raise UsageError(f"a file of the artifact is called {title!r}", "--digest and a path of your own take it out")
    return title


def _extracted(content: ContentStore, layer: dict[str, Any], path: str) -> str:
    source = content.open(layer["digest"])
    staged = f"{path}.{os.getpid()}.partial"
    try:
        with open(source, "rb") as reader, open(staged, "xb") as writer:
            while piece := reader.read(_PIECE):
                writer.write(piece)
        os.rename(staged, path)
    except OSError as error:
        raise RlError(f"write {path}: {error.strerror}", disk_hint(error)) from None
    finally:
        try:
            os.unlink(staged)
        except FileNotFoundError:
            pass
    return path


def remove(engine: Engine, names: list[str], *, all: bool = False) -> list[str]:
    """Remove artifacts; the digests of what went. Raises NotFoundError before anything is removed."""
    found = list(_records(engine.paths).items()) if all else [find(engine, name) for name in names]
    with _lock(engine.paths):
        for full, _ in found:
            try:
                os.unlink(f"{_directory(engine.paths)}/{store.file_name(full)}")
            except FileNotFoundError:
                continue
    collect(engine)
    return [digest for _, digest in found]


# --------------------------------------------------------------------------- registries


def pull(engine: Engine, name: str, **how: Any) -> str:
    """Fetch an artifact; its digest. Raises NoSuchImageError, RegistryError, UsageError for an image."""
    from rl.engine.manifest.lists import puller_for, reference_of

    full = reference_of(name)
    puller = puller_for(engine, how)
    try:
        with adding(engine.paths):
            data, digest = puller.document(full)
            document = d.parse_document(data, f"the manifest of {name}")
            if d.media_type(document) in d.INDEXES or document.get("config", {}).get("mediaType") in _IMAGES:
                raise UsageError(f"{name} is an image", f"rl pull {name}")
            manifest = d.parse_manifest(data, f"the manifest of {name}")
            content = ContentStore(engine.paths)
            for descriptor in (manifest["config"], *manifest["layers"]):
                if not content.has(descriptor["digest"], descriptor["size"]):
                    puller.refetch(full, descriptor)
            content.put_bytes(data, digest)
            stored = full.without_tag() if full.digest else full
            with _lock(engine.paths):
                _write(engine.paths, str(stored), digest)
    finally:
        puller.close()
    return digest


_IMAGES = (d.OCI_CONFIG, d.DOCKER_CONFIG)


def push(engine: Engine, name: str, destination: str = "", *, progress: Progress | None = None, **how: Any) -> str:
    """Push an artifact to a registry, by default to its own name; the digest there."""
    from rl.engine.manifest.lists import connection, reference_of
    from rl.image.form import Form
    from rl.image.progress import Progress as Silent
    from rl.image.push import Pusher

    full, digest = find(engine, name)
    target = reference_of(destination or full)
    if target.digest or target.registry == reference.LOCALHOST:
        raise UsageError(f"push {name} to {target}: not a name in a registry", f"rl artifact push {name} REGISTRY/NAME")
    shown = progress or Silent()
    pusher = Pusher(engine.paths, connection(how), Form(), shown)
    try:
        with adding(engine.paths):
            return pusher.push_artifact(digest, target)
    finally:
        pusher.close()
        shown.close()
