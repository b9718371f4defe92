"""rl system check: is everything in the state as it should be? And making it so again (rl.engine.repair).

Looks at records, names, blobs (their digests), layers (their files, against the archives), volumes, containers, and at
what killed processes left. Takes no lock but the one that keeps the garbage collector away: what changes meanwhile is
looked at as it is.
"""

from __future__ import annotations

import fcntl
import os
import time

from rl.engine import artifacts, containers
from rl.engine.build import cache as builds
from rl.engine.collect import blobs_of, unpacked_layers
from rl.engine.manifest import records as lists
from rl.engine.volume import records as volumes
from rl.errors import CorruptRecordError, NoSuchContainerError, NoSuchVolumeError, RlError
from rl.image import store
from rl.image.content import ContentStore, adding
from rl.runtime import userns
from rl.storage import layers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import ImageRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine

#: Garbage younger than this may be somebody's work in progress (podman-system-check(1), --max).
MAX_AGE = 24 * 3600
# The order in which things are repaired: what others are made of comes first.
KINDS = ("blob", "image", "layer", "container", "name", "volume", "leftover")


class Damage:
    """``what`` is damaged: a *kind* of :data:`KINDS`, its name, what is wrong, and what the repair has to know."""

    __slots__ = ("details", "kind", "problems", "what")

    def __init__(self, kind: str, what: str, problems: list[str], **details: Any) -> None:
        self.kind = kind
        self.what = what
        self.problems = problems
        self.details = details


def check(engine: Engine, *, quick: bool = False, max_age: float = MAX_AGE) -> list[Damage]:
    """Everything that is wrong, in the order of :data:`KINDS`.

    *quick*: contents are not read, neither of blobs nor of layers. *max_age*: seconds that something no record names
    may be there before it counts as damage.
    """
    with adding(engine.paths):
        images = _Images(engine.paths, quick)
        found = images.check()
        found += _layers(engine.paths, images, quick, max_age)
        found += _garbage(engine.paths, images, max_age)
    found += _containers(engine.paths, images)
    found += _names(engine.paths)
    found += _volumes(engine.paths)
    found += _leftovers(engine.paths)
    return sorted(found, key=lambda damage: KINDS.index(damage.kind))


class _Images:
    """Records, manifests, blobs. ``blobs``: diff id → (path, media type) of what layers are unpacked from."""

    __slots__ = ("_content", "_quick", "_seen", "blobs", "layers", "named", "paths", "readable", "records")

    def __init__(self, paths: Paths, quick: bool) -> None:
        self.paths = paths
        self._quick = quick
        self._content = ContentStore(paths)
        self._seen: dict[str, str] = {}
        self.records: list[ImageRecord] = []
        self.blobs: dict[str, tuple[str, str]] = {}
        self.layers: set[str] = set()
        self.named: set[str] = set()  # blobs
        self.readable = True  # all records could be read, so what none of them names is garbage

    def check(self) -> list[Damage]:
        self.records, errors = store.list_images(self.paths)
        self.readable = not errors
        found = [Damage("image", _record_name(error), [error.message]) for error in errors]
        for record in self.records:
            self.layers.update(record["layers"])
            found += self._image(record)
        return found

    def _image(self, record: ImageRecord) -> list[Damage]:
        wanted: list[dict[str, Any]] = [{"digest": record["manifest"]}]
        if record.get("index"):
            wanted.append({"digest": record["index"]})
        found = [damage for descriptor in wanted if (damage := self._blob(record, descriptor))]
        try:
            manifest = store.manifest(self.paths, record)
            self.named |= blobs_of(self.paths, record)
        except CorruptRecordError as error:
            self.readable = False
            return found or [self._damage(record, wanted[0], error.message)]
        for descriptor in (manifest["config"], *manifest["layers"]):
            damage = self._blob(record, descriptor)
            if damage:
                found.append(damage)
        for diff_id, layer in zip(record["layers"], manifest["layers"], strict=False):
            if not self._problem(layer):
                self.blobs[diff_id] = (self._content.path(layer["digest"]), layer.get("mediaType") or "")
        return found

    def _blob(self, record: ImageRecord, descriptor: dict[str, Any]) -> Damage | None:
        problem = self._problem(descriptor)
        return self._damage(record, descriptor, problem) if problem else None

    def _damage(self, record: ImageRecord, descriptor: dict[str, Any], problem: str) -> Damage:
        name = record["name"] or record["id"][:12]
        what = f"{descriptor['digest']}"
        return Damage("blob", what, [f"of image {name}: {problem}"], record=record, descriptor=descriptor)

    def _problem(self, descriptor: dict[str, Any]) -> str:
        digest = descriptor["digest"]
        if digest not in self._seen:
            self._seen[digest] = self._look(digest, descriptor.get("size", -1))
        return self._seen[digest]

    def _look(self, digest: str, size: int) -> str:
        try:
            there = self._content.size(digest)
        except RlError:
            return "it is missing"
        if 0 <= size != there:
            return f"it has {there} bytes instead of {size}"
        return "" if self._quick or _digest_of(self._content, digest) == digest else "its content has another digest"


def _record_name(error: CorruptRecordError) -> str:
    file = error.message.partition(": ")[0].rpartition("/")[2]
    return store.record_name(file) or file


def _digest_of(content: ContentStore, digest: str) -> str:
    from hashlib import sha256

    found = sha256()
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    try:
        with open(content.open(digest), "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                found.update(view[:count])
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"sha256:{found.hexdigest()}"


# layers and garbage


def _layers(paths: Paths, images: _Images, quick: bool, max_age: float) -> list[Damage]:
    found = []
    of_builds = builds.used(paths)
    used = images.layers | of_builds[0]
    images.named |= of_builds[1] | lists.blobs(paths) | artifacts.blobs(paths)
    for container_id in containers.ids(paths):
        try:
            used.update(containers.read_config(paths, container_id).get("layers", []))
        except RlError:
            images.readable = False
    for name in unpacked_layers(paths):
        diff_id = f"sha256:{name}"
        problems = _layer_problems(paths, diff_id)
        if not problems and not quick and diff_id in images.blobs:
            problems = _compare(paths, diff_id, images.blobs[diff_id][0])
        if problems:
            found.append(Damage("layer", diff_id, problems, blob=images.blobs.get(diff_id)))
        elif images.readable and diff_id not in used and _age(f"{paths.layers}/{name}") > max_age:
            found.append(Damage("leftover", f"{paths.layers}/{name}", ["no image and no container uses this layer"]))
    return found


def _layer_problems(paths: Paths, diff_id: str) -> list[str]:
    problems = []
    directory = layers.layer_dir(paths, diff_id)
    try:
        record = layers.info(paths, diff_id)
        if record.get("diff_id", diff_id) != diff_id or not isinstance(record.get("size"), int):
            problems.append("layer.json is not the record of this layer")
    except RlError as error:
        problems.append(error.message)
    if not any(name.startswith("fs") for name in os.listdir(directory)):
        problems.append("its files are missing")
    return problems


def _compare(paths: Paths, diff_id: str, blob: str) -> list[str]:
    from rl.storage import verify

    key = "" if layers.has(paths, diff_id) else "single"
    if not layers.has(paths, diff_id, key):
        return []  # only copies for other ids are here
    try:
        found: list[str] = userns.call(
            paths.run, verify.differences, layers.layer_path(paths, diff_id, key), blob, diff_id
        )
        return found
    except RlError as error:
        return [f"compare it with its archive: {error.message}"]


def _garbage(paths: Paths, images: _Images, max_age: float) -> list[Damage]:
    """Blobs that no image names."""
    if not images.readable:
        return []
    content = ContentStore(paths)
    unnamed = [digest for digest in content.digests() if digest not in images.named]
    old = [content.path(digest) for digest in unnamed if _age(content.path(digest)) > max_age]
    return [Damage("leftover", path, ["no image has this blob"]) for path in old]


def _age(path: str) -> float:
    try:
        return time.time() - os.lstat(path).st_mtime
    except OSError:
        return 0.0


# containers, names, volumes


def _containers(paths: Paths, images: _Images) -> list[Damage]:
    found = []
    for container_id in containers.ids(paths):
        problems, state = [], ""
        try:
            config = containers.read_config(paths, container_id)
            wanted = [layer for layer in config.get("layers", []) if layer not in images.blobs]
            missing = [layer for layer in wanted if not _has_layer(paths, layer)]
            if missing:
                problems.append(f"layer {missing[0][:19]} of its image is neither unpacked nor stored")
            if os.path.basename(_link(f"{paths.names}/{config['name']}")) != container_id:
                found.append(Damage("name", config["name"], [f"container {container_id[:12]} has lost it"],
                                    container=container_id))  # fmt: skip
        except NoSuchContainerError:
            continue
        except CorruptRecordError as error:
            problems.append(error.message)
        try:
            containers.read_state(paths, container_id)
        except NoSuchContainerError:
            if os.path.isdir(paths.container(container_id)):
                state = "its state.json is missing"
        except CorruptRecordError as error:
            state = error.message
        if problems or state:
            problems += [state] if state else []
            only_state = bool(state) and len(problems) == 1
            found.append(Damage("container", container_id, problems, only_state=only_state))
    return found


def _has_layer(paths: Paths, diff_id: str) -> bool:
    return os.path.isdir(layers.layer_dir(paths, diff_id))


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _names(paths: Paths) -> list[Damage]:
    """Names of containers that do not exist."""
    found = []
    for name in os.listdir(paths.names):
        owner = os.path.basename(_link(f"{paths.names}/{name}"))
        being_made = os.path.isdir(f"{paths.containers}/.{owner}.new")
        if not os.path.isdir(paths.container(owner)) and not being_made and os.path.lexists(f"{paths.names}/{name}"):
            found.append(Damage("name", name, [f"there is no container {owner[:12]}"]))
    return found


def _volumes(paths: Paths) -> list[Damage]:
    found = []
    for name in volumes.names(paths):
        try:
            volumes.read(paths, name)
        except NoSuchVolumeError:
            continue
        except CorruptRecordError as error:
            found.append(Damage("volume", name, [error.message], record=True))
        if not os.path.isdir(volumes.data(paths, name)):
            found.append(Damage("volume", name, ["its directory _data is missing"]))
    return found


def _leftovers(paths: Paths) -> list[Damage]:
    """What killed processes left: staging directories whose lock is free, and what waits in the trash."""
    found = []
    for top in (paths.containers, paths.volumes):
        found += [f"{top}/{name}" for name in os.listdir(top) if name[0] == "." and _unlocked(f"{top}/{name}")]
    staging = [f"{paths.layers}/{name}" for name in os.listdir(paths.layers) if name.startswith(".staging-")]
    found += [path for path in staging if not path.endswith(".lock") and _unlocked(f"{path}.lock")]
    found += [f"{paths.trash}/{name}" for name in os.listdir(paths.trash)]
    return [Damage("leftover", path, ["a killed process left it"]) for path in found]


def _unlocked(path: str) -> bool:
    """Whether nobody holds the lock on *path*."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
