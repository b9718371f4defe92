"""What comes of a stage: an image in the store. Its snapshots become layers here, and only here.

A snapshot is written as an archive straight into the content store; its directory then becomes the unpacked layer by
one rename(2), so nothing is written twice. Later builds find it there (rl.engine.build.cache). What a timestamp changes
or squashing joins is made for this image alone and unpacked from its archive.

Called by rl.engine.build.build. Source: OCI image specification, "Image Layer", "Image Configuration".
"""

from __future__ import annotations

import os
import stat
from typing import Any

from rl.config.jsonio import dumps, write_json
from rl.engine.build.cache import Cache, Work
from rl.engine.build.files import Files
from rl.engine.commit import format_descriptor
from rl.engine.containers import now
from rl.engine.rootaccess import inside
from rl.errors import RlError, disk_hint
from rl.image import documents as d
from rl.image.content import ContentStore
from rl.kernel import fs
from rl.runtime import userns
from rl.storage import changes as difference
from rl.storage import layers as layer_store
from rl.storage.staging import Staging, make_durable, put
from rl.storage.tarwrite import TarWriter
from rl.storage.unpack import effective_key, unpack_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.paths import Paths
    from rl.engine.build.cache import Layer
    from rl.engine.build.settings import Settings
    from rl.engine.build.state import State

#: Members of a configuration that only Docker's format has.
DOCKER_ONLY = ("Healthcheck", "Shell", "OnBuild")


def write(
    paths: Paths, cache: Cache, settings: Settings, state: State, warn: Callable[[str], None],
    on_step: Callable[[str], None],
) -> str:
    """Write layers, configuration and manifest; the manifest's digest. The caller holds ``content.adding``.

    Raises RlError for a full disk.
    """
    made = _layers(paths, cache, settings, state)
    for layer in made:
        on_step(f"Copying blob {layer['digest']}")
    document = configuration(settings, state, [layer["diff_id"] for layer in made], warn)
    content = ContentStore(paths)
    data = dumps(document).encode(errors="surrogateescape")
    config_digest = content.put_bytes(data)
    on_step(f"Copying config {config_digest}")
    docker = settings.format == "docker"
    base = [] if settings.squash_all else state.descriptors
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": d.DOCKER_MANIFEST if docker else d.OCI_MANIFEST,
        "config": {
            "mediaType": d.DOCKER_CONFIG if docker else d.OCI_CONFIG, "digest": config_digest, "size": len(data),
        },
        "layers": [
            *[format_descriptor(descriptor, docker) for descriptor in base],
            *[_descriptor(layer, docker) for layer in made],
        ],
    }
    annotations = {**state.annotations, **settings.annotations}
    if annotations and not docker:
        manifest["annotations"] = annotations
    elif settings.annotations:
        warn("--annotation is not supported for Docker's image format and left out: --format oci has it")
    on_step("Writing manifest to image destination")
    return content.put_bytes(dumps(manifest).encode(errors="surrogateescape"))


def _descriptor(layer: Layer, docker: bool) -> dict[str, Any]:
    kind, compression = d.DOCKER_LAYER if docker else d.OCI_LAYER, layer.get("compression", "")
    suffix = f"{'.' if docker else '+'}{compression}" if compression else ""
    return {"mediaType": kind + suffix, "digest": layer["digest"], "size": layer["size"]}


# --------------------------------------------------------------------------- documents


def configuration(
    settings: Settings, state: State, diff_ids: list[str], warn: Callable[[str], None]
) -> dict[str, Any]:
    """The image configuration of *state*, with *diff_ids* above those of its base."""
    config = {key: value for key, value in state.config.items() if value not in (None, "", [], {})}
    if settings.format != "docker":
        lost = [key for key in DOCKER_ONLY if config.pop(key, None)]
        if lost:
            names = ", ".join(key.upper() for key in lost)
            warn(f"{names}: not in OCI's image format and left out; --format docker has it")
    created = state.created or now()
    if settings.timestamp is not None:
        created = _time(settings.timestamp)
    base = [] if settings.squash_all else state.layers
    document: dict[str, Any] = {
        "created": created, **state.document, "config": config,
        "rootfs": {"type": "layers", "diff_ids": [*base, *diff_ids]},
        "history": _history(settings, state, bool(diff_ids)),
    }
    if settings.options.get("omit_history"):
        document["history"] = []
    return document


def _history(settings: Settings, state: State, squashed: bool) -> list[dict[str, Any]]:
    """The entries; with one layer for all of the new ones the last entry is the one that has it."""
    entries = [dict(entry) for entry in state.history]
    if settings.timestamp is not None:
        for entry in entries[state.base_history:]:
            entry["created"] = _time(settings.timestamp)
    if not settings.squash:
        return entries
    start = 0 if settings.squash_all else state.base_history
    for entry in entries[start:]:
        entry["empty_layer"] = True
    if squashed and entries[start:]:
        del entries[-1]["empty_layer"]
    elif squashed:
        entries.append({"created": state.created or now(), "created_by": "/bin/sh"})
    return entries


def _time(seconds: int) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --------------------------------------------------------------------------- layers


def _layers(paths: Paths, cache: Cache, settings: Settings, state: State) -> list[Layer]:
    """The layers above those of the base image, each in the store and unpacked."""
    if not settings.squash and settings.timestamp is None:
        return layers(paths, cache, settings.template["driver"], state)
    if settings.squash and not state.snapshots and not settings.squash_all:
        return []
    found: list[Layer] = inside(
        paths, _make, paths, cache, state.export(), settings.squash, settings.squash_all,
        settings.timestamp if settings.rewrite_timestamp else None, settings.template["driver"],
    )
    return found


def layers(paths: Paths, cache: Cache, driver: str, state: State) -> list[Layer]:
    """Every snapshot of *state* as a layer."""
    known = [cache.layer(name) for name in state.snapshots]
    if all(layer is not None for layer in known):
        return [layer for layer in known if layer is not None]
    found: list[Layer] = inside(paths, _make, paths, cache, state.export(), False, False, None, driver)
    return found


def _make(
    paths: Paths, cache: Cache, record: dict[str, Any], squash: bool, squash_all: bool, time: int | None, driver: str
) -> list[Layer]:
    """In the user namespace: snapshots as layers."""
    from rl.engine.build.state import State

    state = State.restore(record)
    work = Work(cache)
    files = Files(paths, cache, work.path, driver)
    maker = _Maker(paths, cache, files, time)
    try:
        if squash:
            return [maker.squashed(state, squash_all)]
        return [maker.one(state, number) for number in range(len(state.snapshots))]
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RlError(f"write a layer: {error.strerror}{where}", disk_hint(error)) from None
    finally:
        files.close()
        work.close()


class _Maker:
    """Makes layers. *time*: of every file that is newer, in seconds; None: as they are."""

    def __init__(self, paths: Paths, cache: Cache, files: Files, time: int | None) -> None:
        self._paths = paths
        self._cache = cache
        self._files = files
        self._time = time
        self._content = ContentStore(paths)

    def one(self, state: State, number: int) -> Layer:
        """The layer of one snapshot."""
        name = state.snapshots[number]
        known = self._cache.layer(name)
        if known and self._time is None:
            return known
        directory = self._cache.files(name, self._files.key)
        if self._cache.is_full(name):
            lowers = self._files.stack(state.layers, state.snapshots[:number])
            layer, _ = self._changes(lowers, [directory])
        else:
            layer, info = self._tree(directory)
            if self._time is None and self._files.driver.name == "overlay":  # fuse-overlayfs has marks of its own
                self._adopt(name, layer, info)
                return layer
        unpack_layer(self._paths, self._content.path(layer["digest"]), layer["diff_id"])
        if self._time is None:
            self._known_as(name, layer)
        return layer

    def squashed(self, state: State, everything: bool) -> Layer:
        """One layer for all snapshots, or for all there is."""
        whole = self._files.stack(state.layers, state.snapshots)
        lowers = self._files.stack([], []) if everything else self._files.stack(state.layers, [])
        layer, _ = self._changes(lowers, whole)
        unpack_layer(self._paths, self._content.path(layer["digest"]), layer["diff_id"])
        return layer

    # archives

    def _archive(self, fill: Callable[[TarWriter], None]) -> tuple[Layer, TarWriter]:
        with self._content.writer() as blob:
            put_piece: Callable[[Any], None] = blob.write
            writer = TarWriter(put_piece, single=userns.current_mode() == "single", newest=self._time)
            fill(writer)
            writer.finish()
            size = blob.offset
            digest = blob.commit()
        return {"diff_id": digest, "digest": digest, "size": size}, writer

    def _tree(self, directory: str) -> tuple[Layer, dict[str, Any]]:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        total = [0]

        def keep(path: str, status: os.stat_result) -> bool:
            if stat.S_ISSOCK(status.st_mode):  # no archive can hold it, so the layer has none either
                os.unlink(path, dir_fd=root)
                return False
            total[0] += status.st_size if stat.S_ISREG(status.st_mode) else 0
            return True

        def fill(writer: TarWriter) -> None:
            status = os.fstat(root)
            if (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) != (0, 0, 0o755):
                writer.root(b".", status)
            writer.tree(root, keep=keep, marks=True)

        try:
            layer, writer = self._archive(fill)
        finally:
            os.close(root)
        return layer, {"diff_id": layer["diff_id"], "size": total[0], "entries": writer.entries}

    def _changes(self, lowers: list[str], whole: list[str]) -> tuple[Layer, TarWriter]:
        """What the stack *whole* has that the stack *lowers* has not."""
        found = difference.compared(lowers, whole, None)
        target = self._files.mounted(f"whole-{os.urandom(4).hex()}", whole)
        root = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

        def fill(writer: TarWriter) -> None:
            for kind, path in found:
                if kind == difference.DELETED:
                    writer.whiteout(os.fsencode(path[1:]))
                    continue
                above, _, name = path[1:].rpartition("/")
                directory = fs.openat2(root, above or ".", os.O_RDONLY | os.O_DIRECTORY, 0, fs.RESOLVE_BENEATH)
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                    writer.entry(directory, name, os.fsencode(path[1:]), status)
                finally:
                    os.close(directory)

        try:
            return self._archive(fill)
        finally:
            os.close(root)

    # into place

    def _adopt(self, name: str, layer: Layer, info: dict[str, Any]) -> None:
        """The snapshot's own directory becomes the unpacked layer, unless there is one like it."""
        key = effective_key("")
        if not layer_store.has(self._paths, layer["diff_id"], key):
            staging = Staging(self._paths)
            try:
                staged = f"{staging.path}/{layer_store.hex_of(layer['diff_id'])}"
                os.mkdir(staged, 0o700)
                write_json(f"{staged}/layer.json", info, sync=False)
                os.rename(f"{self._cache.snapshot(name)}/fs", f"{staged}/fs" + (f".{key}" if key else ""))
                make_durable(self._paths)
                put(self._paths, staged, info, layer["diff_id"], key)
            finally:
                staging.close()
        self._known_as(name, layer)

    def _known_as(self, name: str, layer: Layer) -> None:
        write_json(f"{self._cache.snapshot(name)}/layer.json", layer)
