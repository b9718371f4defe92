"""Where manifest lists are: ``$DATA/manifests/<quoted name>``, a JSON object each; the blobs are in the content store.

An entry is a descriptor with its platform and, where its image is not here, the name it can be fetched by (``source``,
which no list that is pushed or shown has). Changes are made under a lock on the directory.

Called by rl.engine.manifest.lists and, for what must stay, by rl.engine.collect.
"""

from __future__ import annotations

import os

from rl.config.jsonio import dumps, loads, read_json, write_atomic
from rl.errors import CorruptRecordError, NoSuchImageError, RlError
from rl.image import documents as d
from rl.image import store
from rl.image.content import ContentStore, Lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypedDict

    from rl.config.paths import Paths

    class ManifestList(TypedDict):
        id: str  # 64 digits, made at its creation
        name: str  # full, with tag
        created: str  # RFC 3339
        manifests: list[dict[str, Any]]
        annotations: dict[str, str]


def _directory(paths: Paths) -> str:
    return f"{paths.data}/manifests"


def lock(paths: Paths) -> Lock:
    """Held while a list is changed."""
    return Lock(f"{_directory(paths)}/.lock", exclusive=True)


def read(paths: Paths, name: str) -> ManifestList:
    """The list of the full name *name*. Raises NoSuchImageError, CorruptRecordError."""
    path = f"{_directory(paths)}/{store.file_name(name)}"
    try:
        record: ManifestList = read_json(path)
        if not isinstance(record["manifests"], list) or record["name"] != name:
            raise ValueError("it is not the record of this list")
    except FileNotFoundError:
        raise NoSuchImageError(f"{name}: no such manifest list", "rl manifest create NAME") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptRecordError(f"read {path}: {error}", f"remove it: rm {path}") from None
    return record


def write(paths: Paths, record: ManifestList) -> None:
    """Make the record, or replace it. Raises RlError."""
    path = f"{_directory(paths)}/{store.file_name(record['name'])}"
    try:
        write_atomic(path, dumps(record).encode())
    except OSError as error:
        raise RlError(f"write {path}: {error.strerror}", "free disk space: `rl rmi` and `rl gc`") from None


def remove(paths: Paths, name: str) -> None:
    os.unlink(f"{_directory(paths)}/{store.file_name(name)}")


def names(paths: Paths) -> list[str]:
    """The full names of all lists, sorted."""
    found = []
    try:
        files = os.listdir(_directory(paths))
    except FileNotFoundError:
        return []
    for file in files:
        if file.startswith(".") or file.endswith(".tmp"):
            continue
        try:
            found.append(str(read_json(f"{_directory(paths)}/{file}")["name"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sorted(found)


def blobs(paths: Paths) -> set[str]:
    """The digests of all that lists are about and that is here: it is not garbage."""
    content = ContentStore(paths)
    found: set[str] = set()
    for name in names(paths):
        try:
            entries = read(paths, name)["manifests"]
        except RlError:
            continue
        for entry in entries:
            found.add(entry["digest"])
            try:
                manifest = d.parse_manifest(content.read(entry["digest"]), entry["digest"])
            except RlError:
                continue
            found.add(manifest["config"]["digest"])
            found.update(layer["digest"] for layer in manifest["layers"])
    return found


def index(record: ManifestList, format: str = "") -> dict[str, Any]:
    """The list as its document. *format*: oci, v2s2, or "": Docker's, unless something in it is of OCI."""
    entries = [{key: value for key, value in entry.items() if key != "source"} for entry in record["manifests"]]
    oci = any(entry.get("mediaType") == d.OCI_MANIFEST for entry in entries) or bool(record["annotations"])
    kind = {"oci": d.OCI_INDEX, "v2s2": d.DOCKER_LIST}.get(format) or (d.OCI_INDEX if oci else d.DOCKER_LIST)
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
    if record["annotations"]:
        document["annotations"] = record["annotations"]
    return loads(dumps(document))  # type: ignore[no-any-return]
