"""The cache of builds in a registry: ``--cache-to`` and ``--cache-from``, for machines that begin with nothing.

A step that wrote files is an image of one layer whose tag is the step's key; its configuration says when the step was
done and what its snapshot is called. A snapshot keeps its name, so the keys of what follows are the same everywhere.
Steps that write no file need no entry: they cost nothing to do again.

Called by rl.engine.build.build (:func:`write`) and, through the walk, by rl.engine.build.steps (:meth:`Source.find`).
Whoever may write to the repository decides what builds get: name one that you trust.
"""

from __future__ import annotations

import os
from typing import Any

from rl.config.jsonio import dumps, loads, write_json
from rl.engine.manifest.lists import connection, puller_for, reference_of
from rl.engine.rootaccess import inside
from rl.errors import NoSuchImageError, RlError, UsageError, VerificationError
from rl.image import documents as d
from rl.image.content import ContentStore
from rl.image.reference import Reference
from rl.image.streams import MAGIC_SIZE, kind_of
from rl.storage.unpack import unpack_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.engine.build.cache import Cache, Entry
    from rl.engine.context import Engine

_CONFIG = "application/vnd.rl.build.step.v1+json"
_HEX = frozenset("0123456789abcdef")


def repository(text: str, flag: str) -> Reference:
    """The repository that ``--cache-to`` or ``--cache-from`` names. Raises UsageError for a name with a tag."""
    found = reference_of(text)
    if found.digest or text.rpartition("/")[2] != found.repository.rpartition("/")[2] or "/" not in text:
        raise UsageError(f"{flag} {text}: not a repository", "write REGISTRY/NAME, without a tag")
    return found


class Source:
    """``--cache-from``: repositories that are asked, in order, for what the cache here does not have."""

    def __init__(self, engine: Engine, cache: Cache, names: list[str], how: dict[str, Any], work: str) -> None:
        self._engine = engine
        self._cache = cache
        self._places = [repository(name, "--cache-from") for name in names]
        self._puller = puller_for(engine, how)
        self._work = work
        self.failed = False

    def close(self) -> None:
        self._puller.close()

    def find(self, key: str) -> Entry | None:
        """The step with *key*, brought into the cache here; None: nobody has it. A registry that fails is a warning."""
        for place in self._places:
            name = Reference(place.registry, place.repository, key)
            try:
                data, _ = self._puller.document(name)
            except NoSuchImageError:
                continue
            except RlError as error:
                if not self.failed:
                    self._engine.warn(f"--cache-from {place.name}: {error.message}")
                self.failed = True
                continue
            try:
                self._take(key, name, data)
            except RlError as error:
                self._engine.warn(f"--cache-from {place.name}: step {key[:12]}: {error.message}")
                continue
            return self._cache.find(key)
        return None

    def _take(self, key: str, name: Reference, data: bytes) -> None:
        paths, content = self._engine.paths, ContentStore(self._engine.paths)
        manifest = d.parse_manifest(data, f"the manifest of {name}")
        if len(manifest["layers"]) != 1:
            raise VerificationError("it is no step of a build", "another repository is meant")
        for descriptor in (manifest["config"], manifest["layers"][0]):
            if not content.has(descriptor["digest"], descriptor["size"]):
                self._puller.refetch(name, descriptor)
        step = _step(content.read(manifest["config"]["digest"]))
        blob = manifest["layers"][0]
        inside(paths, unpack_layer, paths, content.path(blob["digest"]), step["diff_id"])
        with open(content.path(blob["digest"]), "rb") as file:
            compression = kind_of(file.read(MAGIC_SIZE))
        directory = self._cache.snapshot(step["snapshot"])
        if not os.path.isdir(directory):
            staged = f"{self._work}/{step['snapshot']}"
            os.mkdir(staged, 0o700)
            layer = {"diff_id": step["diff_id"], "digest": blob["digest"], "size": blob["size"]}
            write_json(f"{staged}/layer.json", {**layer, "compression": compression})
            os.close(os.open(f"{staged}/durable", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.rename(staged, directory)
        self._cache.put(key, step["created"], step["snapshot"], step["label"])


def _step(data: bytes) -> dict[str, str]:
    """What a step's configuration says. Raises VerificationError."""
    try:
        document = loads(data.decode())
        found = {name: document[name] for name in ("created", "label", "snapshot", "diff_id")}
        good = all(isinstance(value, str) for value in found.values())
        good = good and len(found["snapshot"]) == 32 and _HEX.issuperset(found["snapshot"])
    except (ValueError, KeyError, TypeError):
        good = False
    if not good:
        raise VerificationError("it is no step of a build", "another repository is meant")
    return found


def write(
    engine: Engine, cache: Cache, names: list[str], trail: list[tuple[str, Entry]], how: dict[str, Any]
) -> int:
    """``--cache-to``: push the steps of *trail* whose snapshots are layers by now; how many. Raises RlError."""
    from rl.image.form import Form
    from rl.image.progress import Progress as Silent
    from rl.image.push import Pusher

    content = ContentStore(engine.paths)
    pushed = 0
    for name in names:
        place = repository(name, "--cache-to")
        pusher = Pusher(engine.paths, connection(how), Form(compression="gzip"), Silent())
        try:
            for key, entry in trail:
                layer = cache.layer(entry["snapshot"])
                if layer is None:
                    continue
                step = {"created": entry["created"], "label": entry.get("label", ""), "snapshot": entry["snapshot"],
                        "diff_id": layer["diff_id"]}
                data = dumps(step).encode()
                config = {"mediaType": _CONFIG, "digest": content.put_bytes(data), "size": len(data)}
                plain = {"mediaType": d.OCI_LAYER, "digest": layer["digest"], "size": layer["size"]}
                manifest = {"schemaVersion": 2, "mediaType": d.OCI_MANIFEST, "config": config, "layers": [plain]}
                digest = content.put_bytes(dumps(manifest).encode())
                target = Reference(place.registry, place.repository, key)
                pusher.push({"manifest": digest, "layers": [layer["diff_id"]]}, target)
                pushed += 1
        finally:
            pusher.close()
    return pushed
