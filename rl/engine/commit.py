"""rl commit: an image of a container: its image's layers and one more, with what the container has written.

The path of a new layer is that of an import: under ``content/lock``, the archive goes into the content store and its
digest becomes the diff id; it is unpacked from there, out of the page cache, in the same process in the user namespace,
so that the tree is what the archive says even if the container goes on writing; the record comes last.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import Any

from rl.config.jsonio import dumps
from rl.engine import containers
from rl.engine.collect import collect_pending, discard_later
from rl.engine.containers import now
from rl.engine.diff import stack_of
from rl.engine.events import emit_container
from rl.engine.rootaccess import hold, inside, open_root, owner_of
from rl.engine.tag import target_name
from rl.errors import NoSuchContainerError, NoSuchImageError, RlError, UnsupportedError, UsageError, disk_hint
from rl.image import documents as d
from rl.image import store
from rl.image.archive import this_platform
from rl.image.changes import apply
from rl.image.content import ContentStore, adding
from rl.kernel import fs
from rl.runtime import userns
from rl.storage import changes as difference
from rl.storage.tarwrite import TarWriter
from rl.storage.unpack import unpack_layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.storage.tarwrite import Owner

FORMATS = ("oci", "docker")

#: Files the runtime makes to mount over; they stay away from the image while they are as it made them: empty.
_PLACEHOLDERS = frozenset(("etc/hostname", "etc/hosts", "etc/resolv.conf", "run/.containerenv", "run/rl-init"))
_SECRETS = "run/secrets"


def commit(
    engine: Engine, name: str, reference: str = "", *, author: str = "", message: str = "",
    changes: list[str] | None = None, config: dict[str, Any] | None = None, format: str = "oci",
    include_volumes: bool = False, pause: bool = False, squash: bool = False,
    on_step: Callable[[str], None] = lambda text: None,
) -> str:
    """Make an image of container *name*; its id. Without a *reference* it has no name.

    *changes*: Dockerfile instructions; *config*: the ``config`` object of an image configuration to merge in;
    *message*: a comment, which only the docker format has. *pause*: freeze it meanwhile. *squash*: one layer for all.
    Raises NoSuchContainerError, UsageError, RlError.
    """
    paths = engine.paths
    container_id = containers.find(paths, name)
    target = target_name(reference) if reference else ""
    if format not in FORMATS:
        raise UsageError(f'unrecognized image format "{format}"', "choose oci or docker")
    if message and format != "docker":
        raise UsageError("messages are only compatible with the docker image format (-f docker)", "add --format docker")
    record = containers.read_config(paths, container_id)
    configuration = _configuration(record, include_volumes)
    merge(configuration, config or {})
    apply(configuration, changes or [])
    if format == "oci" and configuration.pop("OnBuild", None):
        engine.warn("ONBUILD is not supported for the OCI image format and left out: --format docker has it")
    base = None if squash else _base(paths, record)
    try:
        with adding(paths):
            discard_later(paths)
            with frozen(engine, container_id) if pause else _running():
                layer = inside(paths, _make_layer, paths, container_id, squash)
            on_step(f"Copying blob {layer['digest']}")
            manifest, config_digest = _documents(paths, record, configuration, base, layer, author, message, format)
            on_step(f"Copying config {config_digest}")
            on_step("Writing manifest to image destination")
            image_id = store.add(paths, target, manifest)["id"]
    finally:
        collect_pending(engine)
    emit_container(paths, record, "commit")
    return image_id


# --------------------------------------------------------------------------- the layer


def _make_layer(paths: Paths, container_id: str, squash: bool) -> dict[str, Any]:
    """Write, store and unpack the new layer; its digest, which is its diff id too, and its size. In the namespace."""
    content = ContentStore(paths)
    try:
        with content.writer() as blob:
            if squash:
                with open_root(paths, container_id, plain=True) as root:
                    writer = _writer(owner_of(root.config), blob.write)
                    writer.tree(root.fd, keep=_belongs)
            else:
                writer = _changed(paths, containers.read_config(paths, container_id), blob.write)
            writer.finish()
            size = blob.offset
            digest = blob.commit()
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise RlError(f"commit container {container_id[:12]}: {error.strerror}{where}", disk_hint(error)) from None
    unpack_layer(paths, content.path(digest), digest)
    return {"digest": digest, "size": size}


def _writer(owner: Owner | None, write: Callable[[Any], None]) -> TarWriter:
    return TarWriter(write, owner=owner, single=userns.current_mode() == "single")


def _changed(paths: Paths, config: ContainerConfig, write: Callable[[Any], None]) -> TarWriter:
    """What the container has written, from its writable directory."""
    stack, copied, owner = stack_of(paths, config)
    writer = _writer(owner, write)
    lock, _ = hold(paths, config["id"])
    try:
        try:
            upper = os.open(stack[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return writer  # it never started
        try:
            _root(upper, writer, owner)
            if copied:
                _entries(upper, difference.compared(stack[1:], stack[:1], owner), writer)
            else:
                writer.tree(upper, keep=_belongs, marks=True)
        finally:
            os.close(upper)
        if not os.path.isdir(stack[0]):
            raise NoSuchContainerError(f"container {config['name']} was removed while it was committed")
    finally:
        if lock >= 0:
            from rl.engine.prefork import forget_run_directory

            forget_run_directory(paths, config["id"])
            os.close(lock)
    return writer


def _root(upper: int, writer: TarWriter, owner: Owner | None) -> None:
    """Owner and mode of / where they are not what unpacking gives by itself."""
    status = os.fstat(upper)
    ids = owner(status.st_uid, status.st_gid) if owner else (status.st_uid, status.st_gid)
    if (*ids, stat.S_IMODE(status.st_mode)) != (0, 0, 0o755):
        writer.root(b".", status)


def _entries(upper: int, changes: list[difference.Change], writer: TarWriter) -> None:
    for kind, path in changes:
        parent, _, name = path[1:].rpartition("/")
        if kind == difference.DELETED:
            writer.whiteout(os.fsencode(path[1:]))
            continue
        directory = fs.openat2(upper, parent or ".", os.O_RDONLY | os.O_DIRECTORY, 0, fs.RESOLVE_BENEATH)
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if _belongs(path[1:], status):
                writer.entry(directory, name, os.fsencode(path[1:]), status)
        except FileNotFoundError:
            pass  # the container goes on
        finally:
            os.close(directory)


def _belongs(path: str, status: os.stat_result) -> bool:
    """Whether *path* is the container's: not what the runtime made to mount something over it."""
    if path in _PLACEHOLDERS:
        return not (stat.S_ISREG(status.st_mode) and status.st_size == 0)
    if path == _SECRETS or path.startswith(_SECRETS + "/"):
        return not (status.st_size == 0 or stat.S_ISDIR(status.st_mode))
    return True


# --------------------------------------------------------------------------- its documents


def _configuration(config: ContainerConfig, include_volumes: bool) -> dict[str, Any]:
    """The image's own configuration, as the container was told to be."""
    image = dict(config["image_config"])
    options = config["options"]
    image["Env"] = list(config["env"])
    image["WorkingDir"] = config["workdir"]
    if config["user"]:
        image["User"] = config["user"]
    for key, words in (("Entrypoint", config["entrypoint"]), ("Cmd", config["arguments"])):
        image.pop(key, None)
        if words:
            image[key] = list(words)
    if config["labels"]:
        image["Labels"] = dict(config["labels"])
    ports = dict(image.get("ExposedPorts") or {})
    for port in config["network"].get("ports", []):
        for offset in range(port["range"]):
            ports[f"{port['container_port'] + offset}/{port['protocol']}"] = {}
    wanted: dict[str, Any] = {"ExposedPorts": ports} if ports else {}
    apply(wanted, [f"EXPOSE {word}" for word in options.get("expose", [])])
    image.update(wanted)
    if include_volumes:
        asked = [spec["destination"] for spec in config["mounts"] if spec["type"] in ("bind", "volume")]
        volumes = {**(image.get("Volumes") or {}), **{path: {} for path in asked}}
        if volumes:
            image["Volumes"] = dict(sorted(volumes.items()))
    return image


_LISTS = ("Entrypoint", "Cmd", "OnBuild", "Shell")
_OBJECTS = ("ExposedPorts", "Volumes", "Labels")
_STRINGS = ("User", "WorkingDir", "StopSignal")


def merge(configuration: dict[str, Any], given: dict[str, Any]) -> None:
    """--config: objects are joined, variables replaced by name, everything else that is given takes the place.

    Raises UsageError for an unknown field or a wrong type.
    """
    for key, value in given.items():
        known = (
            key == "Env" or key in _LISTS) and isinstance(value, list) and all(isinstance(item, str) for item in value
        )
        known = known or (key in _OBJECTS and isinstance(value, dict)) or (key in _STRINGS and isinstance(value, str))
        if not known:
            hint = f"known: {', '.join(('Env', *_LISTS, *_OBJECTS, *_STRINGS))}"
            raise UsageError(f"--config: {key} is no field of an image's configuration, or has a wrong type", hint)
        if key == "Env":
            names = {item.partition("=")[0] for item in value}
            kept = [item for item in configuration.get("Env") or [] if item.partition("=")[0] not in names]
            configuration["Env"] = kept + value
        elif key in _OBJECTS:
            configuration[key] = {**(configuration.get(key) or {}), **value}
        else:
            configuration[key] = value


class _Base:
    """The image below: its configuration document and the descriptors of its layers."""

    __slots__ = ("document", "layers")

    def __init__(self, document: dict[str, Any], layers: list[dict[str, Any]]) -> None:
        self.document = document
        self.layers = layers


def _base(paths: Paths, config: ContainerConfig) -> _Base:
    if config["rootfs"]:
        raise UnsupportedError(
            f"container {config['name']} runs on the directory {config['rootfs']}: there is no image to add a layer to",
            "use --squash: the image gets one layer with all of it",
        )
    try:
        record = store.find(paths, f"sha256:{config['image_id']}")
    except NoSuchImageError:
        raise NoSuchImageError(
            f"image {config['image'] or config['image_id'][:12]} of container {config['name']} is gone",
            f"get it again (rl pull {config['image']}), or use --squash: the new image has a layer with all files",
        ) from None
    return _Base(store.config(paths, record), store.manifest(paths, record)["layers"])


def _documents(
    paths: Paths, config: ContainerConfig, configuration: dict[str, Any], base: _Base | None, layer: dict[str, Any],
    author: str, message: str, format: str,
) -> tuple[str, str]:
    """Write the image's configuration and manifest; the digests of the manifest and of the configuration."""
    created = now()
    history: dict[str, Any] = {"created": created, "created_by": " ".join(configuration.get("Shell") or ["/bin/sh"])}
    if author:
        history["author"] = author
    if config["image"]:
        history["comment"] = f"FROM {config['image']}"
    old = base.document if base else {}
    own = this_platform()
    document: dict[str, Any] = {
        "created": created, "architecture": old.get("architecture") or own[1], "os": old.get("os") or own[0],
        "config": configuration,
        "rootfs": {"type": "layers", "diff_ids": [*(old.get("rootfs") or {}).get("diff_ids", []), layer["digest"]]},
        "history": [*(old.get("history") or []), history],
    }
    if author:
        document["author"] = author
    if old.get("variant"):
        document["variant"] = old["variant"]
    if message:
        document["comment"] = message
    docker = format == "docker"
    data = dumps(document).encode()
    content = ContentStore(paths)
    config_digest = content.put_bytes(data)
    own_layer = {"mediaType": d.DOCKER_LAYER if docker else d.OCI_LAYER, **layer}
    kind = d.DOCKER_CONFIG if docker else d.OCI_CONFIG
    manifest = {
        "schemaVersion": 2,
        "mediaType": d.DOCKER_MANIFEST if docker else d.OCI_MANIFEST,
        "config": {"mediaType": kind, "digest": config_digest, "size": len(data)},
        "layers": [*[format_descriptor(descriptor, docker) for descriptor in (base.layers if base else [])], own_layer],
    }
    return content.put_bytes(dumps(manifest).encode()), config_digest


def format_descriptor(descriptor: dict[str, Any], docker: bool) -> dict[str, Any]:
    """A layer's descriptor with the media type of the other format's name for the same compression."""
    kind = (descriptor.get("mediaType") or "").replace("+", ".").rpartition(".")[2]
    compression = kind if kind in ("gzip", "zstd") else ""
    if docker:
        media_type = d.DOCKER_LAYER + (f".{compression}" if compression else "")
    else:
        media_type = d.OCI_LAYER + (f"+{compression}" if compression else "")
    return {"mediaType": media_type, "digest": descriptor["digest"], "size": descriptor["size"]}


# --------------------------------------------------------------------------- --pause


@contextmanager
def _running() -> Iterator[None]:
    yield


@contextmanager
def frozen(engine: Engine, container_id: str) -> Iterator[None]:
    """The container stands still. A child of ours lets it go on, even if this process is killed meanwhile.

    One that does not run, or is paused already, stays as it is; where there is no cgroup a warning says so.
    """
    state = containers.read_state(engine.paths, container_id)
    path = state.get("cgroup", "")
    if state.get("status") != "running":
        yield
        return
    if not path:
        engine.warn("--pause: the container has no cgroup that could be frozen; it goes on while its files are read")
        yield
        return
    from rl.runtime.cgroup import Cgroup

    group = Cgroup(path)
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.setsid()  # what ends us from the terminal must not end it
            os.close(write_end)
            os.read(read_end, 1)
            group.thaw()
        finally:
            os._exit(0)
    os.close(read_end)
    try:
        group.freeze()
        yield
    finally:
        os.close(write_end)
        os.waitpid(child, 0)
