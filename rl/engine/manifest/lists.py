"""rl manifest: lists are made of images that are here or in registries, changed, shown, and pushed.

Source: podman-manifest(1) and the pages of its commands; OCI image specification, "Image Index".
"""

from __future__ import annotations

import os

from rl.engine.collect import collect
from rl.engine.containers import now
from rl.engine.manifest import records
from rl.engine.tag import target_name
from rl.errors import ConflictError, NoSuchImageError, NotFoundError, RlError, UnsupportedError, UsageError
from rl.image import documents as d
from rl.image import platforms, reference, store
from rl.image.content import ContentStore, adding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.engine.context import Engine
    from rl.engine.manifest.records import ManifestList
    from rl.image.connect import Options
    from rl.image.form import Form
    from rl.image.progress import Progress
    from rl.image.pull import Puller

_LOCAL = "containers-storage:"
_REMOTE = "docker://"


def full_name(engine: Engine, name: str) -> str:
    """The full name of an existing list. Raises NoSuchImageError."""
    known = records.names(engine.paths)
    for prefix in (reference.LOCALHOST, reference.DOCKER):
        try:
            full = str(reference.parse(reference.normalize(name, prefix)).with_default_tag())
        except UsageError:  # an id, for one, is no name
            break
        if full in known:
            return full
    for candidate in known:
        if len(name) >= store.SHORTEST_PREFIX and records.read(engine.paths, candidate)["id"].startswith(name):
            return candidate
    raise NoSuchImageError(f"{name}: no such manifest list", f"rl manifest create {name}")


def exists(engine: Engine, name: str) -> bool:
    try:
        full_name(engine, name)
    except NoSuchImageError:
        return False
    return True


def create(
    engine: Engine, name: str, images: list[str], *, all: bool = False, amend: bool = False,
    annotations: dict[str, str] | None = None, **how: Any,
) -> str:
    """Make the list *name* of *images*; its id. *amend*: one of that name is added to. Raises ConflictError."""
    full = target_name(name)
    paths = engine.paths
    with records.lock(paths):
        if full in records.names(paths):
            record = records.read(paths, full)
            if not amend:
                raise ConflictError(f"{full}: that name is a manifest list's already", "--amend adds to it")
        else:
            try:
                taken = store.find(paths, full)["name"] == full
            except NoSuchImageError:
                taken = False
            if taken:
                raise ConflictError(f"{full}: that name is an image's already", f"take another one, or rl untag {full}")
            record = {
                "id": os.urandom(32).hex(), "name": full, "created": now(), "manifests": [], "annotations": {}
            }  # fmt: skip
        record["annotations"].update(annotations or {})
        with adding(paths):
            for image in images:
                for entry in _entries(engine, image, all, None, how):
                    _put(record, entry)
            records.write(paths, record)
    return record["id"]


def add(
    engine: Engine, name: str, image: str, *, all: bool = False, changes: dict[str, Any] | None = None, **how: Any
) -> str:
    """Add *image* to a list; the list's id. *changes*: see :func:`annotate`. Raises as :func:`create`."""
    paths, full, changes = engine.paths, full_name(engine, name), changes or {}
    wanted = None
    if not all and any(key in changes for key in ("os", "arch", "variant")):
        wanted = platforms.requested("", changes.get("arch", ""), changes.get("os", ""), changes.get("variant", ""))
    with records.lock(paths), adding(paths):
        record = records.read(paths, full)
        for entry in _entries(engine, image, all, wanted, how):
            _change(entry, changes)
            _put(record, entry)
        records.write(paths, record)
    return record["id"]


def annotate(engine: Engine, name: str, which: str, changes: dict[str, Any], *, index: bool = False) -> str:
    """Change what a list says of an entry, named by its digest or its image; the list's id.

    *changes*: ``arch``, ``os``, ``variant``, ``os_version``, ``features``, ``os_features``, ``annotation``. *index*:
    the annotations are the list's own. Raises NotFoundError, UsageError.
    """
    paths, full = engine.paths, full_name(engine, name)
    with records.lock(paths):
        record = records.read(paths, full)
        if index:
            record["annotations"].update(changes.get("annotation", {}))
        else:
            _change(_entry(engine, record, which), changes)
        records.write(paths, record)
    return record["id"]


def remove(engine: Engine, name: str, digest: str) -> str:
    """Take an entry out of a list; the list's id. Raises NotFoundError."""
    paths, full = engine.paths, full_name(engine, name)
    with records.lock(paths):
        record = records.read(paths, full)
        record["manifests"].remove(_entry(engine, record, digest))
        records.write(paths, record)
    collect(engine)
    return record["id"]


def delete(engine: Engine, name: str) -> tuple[str, str]:
    """Remove a list; (full name, id). The images in it stay. Raises NoSuchImageError."""
    full = full_name(engine, name)
    with records.lock(engine.paths):
        record = records.read(engine.paths, full)
        records.remove(engine.paths, full)
    collect(engine)
    return full, record["id"]


def inspect(engine: Engine, name: str, **how: Any) -> dict[str, Any]:
    """The document of a list here or, else, of what *name* is in a registry. Raises NoSuchImageError, RlError."""
    if not name.startswith(_REMOTE):
        try:
            return records.index(records.read(engine.paths, full_name(engine, name)))
        except NoSuchImageError:
            pass
        try:
            return store.manifest(engine.paths, store.find(engine.paths, name))
        except NoSuchImageError:
            if "/" not in name:
                what = f"{name}: neither a manifest list nor an image"
                raise NoSuchImageError(what, "rl manifest create NAME") from None
    puller = puller_for(engine, how)
    try:
        data, _ = puller.document(reference_of(name))
    finally:
        puller.close()
    return d.parse_document(data, f"the manifest of {name}")


# --------------------------------------------------------------------------- entries


def _entry(engine: Engine, record: ManifestList, which: str) -> dict[str, Any]:
    digests = {which}
    if not which.startswith("sha256:"):
        try:
            digests = {found["manifest"] for found in [store.find(engine.paths, which)]}
        except NoSuchImageError:
            digests = {f"sha256:{which}"}
    for entry in record["manifests"]:
        if entry["digest"] in digests or (which.startswith("sha256:") and entry["digest"].startswith(which)):
            return entry
    there = ", ".join(entry["digest"][:19] for entry in record["manifests"]) or "nothing"
    raise NotFoundError(f"{which} is not in the manifest list {record['name']}", f"it has {there}")


def _put(record: ManifestList, entry: dict[str, Any]) -> None:
    """An entry of the same digest is replaced."""
    record["manifests"] = [old for old in record["manifests"] if old["digest"] != entry["digest"]] + [entry]


def _change(entry: dict[str, Any], changes: dict[str, Any]) -> None:
    platform = entry.setdefault("platform", {})
    for flag, key in (("arch", "architecture"), ("os", "os"), ("variant", "variant"), ("os_version", "os.version"),
                      ("features", "features"), ("os_features", "os.features")):
        if flag in changes:
            platform[key] = changes[flag]
    if changes.get("annotation"):
        entry["annotations"] = {**entry.get("annotations", {}), **changes["annotation"]}


def _entries(
    engine: Engine, image: str, all: bool, wanted: platforms.Platform | None, how: dict[str, Any]
) -> list[dict[str, Any]]:
    """The entries that *image* gives: one, or with *all* those of a list."""
    if not image.startswith(_REMOTE):
        name = image.removeprefix(_LOCAL)
        if ":" in image and image.partition(":")[0] in ("oci", "oci-archive", "docker-archive", "dir"):
            from rl.engine.load import load

            path = image.partition(":")[2]
            path = path if os.path.exists(path) else path.rpartition(":")[0]
            return [_of_record(engine, store.find(engine.paths, found)["manifest"]) for found in load(engine, path)]
        try:
            own = records.read(engine.paths, full_name(engine, name))
        except NoSuchImageError:
            pass
        else:
            if all:
                return [dict(entry) for entry in own["manifests"]]
            raise UsageError(f"{image} is a manifest list", "--all adds all of its entries")
        try:
            return [_of_record(engine, store.find(engine.paths, name)["manifest"])]
        except NoSuchImageError:
            if image.startswith(_LOCAL):
                raise
    return _remote(engine, image, all, wanted, how)


def _of_record(engine: Engine, digest: str) -> dict[str, Any]:
    """The descriptor of a manifest that is in the content store."""
    content = ContentStore(engine.paths)
    data = content.read(digest)
    manifest = d.parse_manifest(data, f"manifest {digest}")
    config = d.parse_config(content.read(manifest["config"]["digest"]), f"config of {digest}")
    platform = {key: config[key] for key in ("architecture", "os", "variant", "os.version") if config.get(key)}
    return {"mediaType": d.media_type(manifest), "digest": digest, "size": len(data), "platform": platform}


def reference_of(name: str) -> reference.Reference:
    """The full name, with a tag or a digest, that *name* means in a registry."""
    full = reference.normalize(name.removeprefix(_REMOTE), reference.DOCKER)
    return reference.parse(full).with_default_tag()


def puller_for(engine: Engine, how: dict[str, Any]) -> Puller:
    """What fetches documents and blobs; *how*: tls_verify, authfile, creds, cert_dir. The caller closes it."""
    from rl.engine.pull import Layers
    from rl.image.progress import Progress as Silent
    from rl.image.pull import Puller

    return Puller(engine.paths, Layers(engine), connection(how), Silent(), engine.warn)


def connection(how: dict[str, Any]) -> Options:
    """How registries are talked to: tls_verify, authfile, creds, cert_dir."""
    from rl.engine.pull import checked
    from rl.image.connect import Options
    from rl.image.credentials import from_option

    return Options(
        tls_verify=how.get("tls_verify"), authfile=checked(how.get("authfile", "")), cert_dir=how.get("cert_dir", ""),
        credentials=from_option(how["creds"]) if how.get("creds") else None,
    )


def _remote(
    engine: Engine, image: str, all: bool, wanted: platforms.Platform | None, how: dict[str, Any]
) -> list[dict[str, Any]]:
    """What a registry has under the name: its manifest and configuration are fetched, the layers when it is pushed."""
    name = reference_of(image)
    puller = puller_for(engine, how)
    try:
        data, digest = puller.document(name)
        document = d.parse_document(data, f"the manifest of {image}")
        if d.media_type(document) not in d.INDEXES:
            return [_fetched(engine, puller, name, digest)]
        listed = d.parse_index(data, f"the index of {image}")["manifests"]
        if not all:
            listed = [platforms.choose(listed, wanted, image)]
        found = []
        for descriptor in listed:
            source = f"{_REMOTE}{name.name}@{descriptor['digest']}"
            found.append({**descriptor, "source": source})
        return found
    finally:
        puller.close()


def _fetched(engine: Engine, puller: Puller, name: reference.Reference, digest: str) -> dict[str, Any]:
    content = ContentStore(engine.paths)
    puller.refetch(name, {"digest": digest})
    manifest = d.parse_manifest(content.read(digest), f"manifest {digest}")
    if not content.has(manifest["config"]["digest"]):
        puller.refetch(name, manifest["config"])
    return {**_of_record(engine, digest), "source": f"{_REMOTE}{name.name}@{digest}"}


# --------------------------------------------------------------------------- push


def push(
    engine: Engine, name: str, destination: str = "", *, all: bool = True, form: Form | None = None,
    rm: bool = False, progress: Progress | None = None, **how: Any,
) -> str:
    """Push a list to a registry, with the images in it (*all*); its digest there.

    *rm*: the list is removed here afterwards. Raises NoSuchImageError, RegistryError, RlError.
    """
    from rl.image.form import Form as Plain
    from rl.image.progress import Progress as Silent
    from rl.image.push import Pusher

    full = full_name(engine, name)
    record = records.read(engine.paths, full)
    transport, colon, _ = destination.partition(":")
    if colon and transport in ("oci", "oci-archive", "docker-archive", "dir", "containers-storage"):
        what = f"push to {destination}: lists go to registries only"
        raise UnsupportedError(what, "rl save -m writes several images")
    target = reference_of(destination or full)
    if target.digest:
        raise UsageError(f"push {destination}: a digest cannot be pushed to", "give a name, with or without a tag")
    shown = progress or Silent()
    form = form or Plain()
    with adding(engine.paths):
        if all:
            _bring(engine, record, how)
        pusher = Pusher(engine.paths, connection(how), form.compressing("gzip"), shown)
        try:
            entries = record["manifests"] if all else []
            document = records.index(record, form.format)
            digest = pusher.push_index(document, [entry["digest"] for entry in entries], target)
        finally:
            pusher.close()
            shown.close()
    if rm:
        delete(engine, full)
    return digest


def _bring(engine: Engine, record: ManifestList, how: dict[str, Any]) -> None:
    """Fetch what is not here of the images in a list."""
    content = ContentStore(engine.paths)
    puller = puller_for(engine, how)
    try:
        for entry in record["manifests"]:
            digest = entry["digest"]
            source = reference_of(entry["source"]) if "source" in entry else None
            if not content.has(digest):
                if source is None:
                    raise _gone(record, digest)
                puller.refetch(source, {"digest": digest})
            manifest = d.parse_manifest(content.read(digest), f"manifest {digest}")
            for descriptor in (manifest["config"], *manifest["layers"]):
                if not content.has(descriptor["digest"], descriptor["size"]):
                    if source is None:
                        raise _gone(record, digest)
                    puller.refetch(source, descriptor)
    finally:
        puller.close()


def _gone(record: ManifestList, digest: str) -> RlError:
    return RlError(
        f"push {record['name']}: the image {digest[:19]} is not here any more",
        f"take it out: rl manifest remove {record['name']} {digest[:19]}…; or push the list alone: --all=false",
    )


