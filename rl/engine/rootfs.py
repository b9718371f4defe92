"""The container's root file system: which layers, in which on-disk id mapping, mounted where.

Called by the monitor inside the user namespace, and by what needs to look into a stopped container.
"""

from __future__ import annotations

import time

from rl.errors import RlError
from rl.image import store
from rl.runtime import userns
from rl.storage import container, trash
from rl.storage import driver as storage
from rl.storage import layers as layer_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ContainerConfig, LayerInfo
    from rl.config.paths import Paths
    from rl.storage.driver import Driver, IdMaps, Mounted

    Note = Callable[[str], object]

#: Bytes to copy, and files to make an inode for, that one would have to wait for.
_BIG, _MANY = 256 << 20, 100_000
#: Work that takes no longer is not spoken of; then it is, every so often.
_QUIET_SECONDS, _REPORT_SECONDS = 1.0, 5.0


def id_key(config: ContainerConfig, mode: str) -> str:
    """The on-disk id mapping of the layers: the container's own, or that of a host with a single id."""
    return config["id_key"] or ("single" if mode == "single" else "")


def mount(paths: Paths, driver: Driver, config: ContainerConfig, mode: str, note: Note) -> Mounted:
    """Stack the layers and the container's writable layer at containers/<id>/rootfs, unpacking what is missing.

    *note* gets a line about work that takes long.

    Raises RlError when a layer is neither unpacked nor in the content store.
    """
    made = stack(paths, driver, config, note, id_key(config, mode))
    upper, work, target = container.prepare(paths, paths.container(config["id"]), made.lowers)
    # What a container that is removed at its end wrote need not survive a power loss.
    return driver.mount(
        made.lowers, upper, work, target, volatile=config["remove"], data=made.data, id_maps=made.id_maps
    )


def choose(paths: Paths, wanted: str, config: ContainerConfig, note: Note) -> Driver:
    """The storage driver of a container: *wanted*, else the best that can be used.

    Where the kernel's overlay would have to be made ready for the container's id maps first, and for long (a copy of a
    big image before Linux 6.16, an inode for each of very many files since), fuse-overlayfs takes its place, which
    shifts ids while files are read: it starts at once.
    """
    chosen = storage.choose(paths, wanted)
    key = config["id_key"]
    if chosen.name != "overlay" or wanted or not config["uid_map"] or key in ("", "single"):
        return chosen
    if not _takes_long(paths, config) or storage.configured(paths)[0]:
        return chosen
    if not storage.usable(paths, "fuse-overlayfs"):
        return chosen
    image = config["image"] or config["image_id"][:12]
    note(
        f"--userns={config['userns']}: fuse-overlayfs is used, as the kernel's overlay, which is faster, takes long to "
        f"be made ready for this image; `rl pull --policy=missing --userns={config['userns']} {image}` does it"
    )
    return storage.by_name("fuse-overlayfs")


def _takes_long(paths: Paths, config: ContainerConfig) -> bool:
    """Whether nobody would want to wait until the kernel's overlay has the owners that the container needs."""
    key, layers = config["id_key"], config["layers"]
    if storage.data_layers(paths):
        from rl.storage import metatree

        ready = metatree.exists(metatree.path_of(paths, config["image_id"], key))
        return not ready and sum(_info(paths, diff_id).get("entries", 0) for diff_id in layers) > _MANY
    missing = [diff_id for diff_id in layers if not layer_store.has(paths, diff_id, key)]
    return sum(_info(paths, diff_id).get("size", 0) for diff_id in missing) > _BIG


def _info(paths: Paths, diff_id: str) -> LayerInfo:
    try:
        return layer_store.info(paths, diff_id)
    except RlError:
        return {}  # it has to be unpacked again, whichever driver it is for


def prepare(paths: Paths, config: ContainerConfig) -> None:
    """Make now what the first container with these id maps would have to wait for. From anywhere. Raises RlError."""
    if storage.choose(paths).name == "overlay" and config["uid_map"] and config["id_key"] not in ("", "single"):
        userns.call(paths.run, _prepare, paths, config)


def _prepare(paths: Paths, config: ContainerConfig) -> None:
    _shifted(paths, config, config["id_key"], lambda text: None)


class Stack:
    """What a driver stacks, top first; data-only layers; id maps for a driver that shifts owners by itself."""

    __slots__ = ("data", "id_maps", "lowers")

    def __init__(self, lowers: list[str], data: list[str] | None = None, id_maps: IdMaps | None = None) -> None:
        self.lowers = lowers
        self.data = data or []
        self.id_maps = id_maps


def stack(paths: Paths, driver: Driver, config: ContainerConfig, note: Note, key: str = "") -> Stack:
    """The image's layers as the container's user namespace wants them owned; unpacked or made now if missing.

    *key* matters without a user namespace of the container's own only. Raises RlError.
    """
    if not config["uid_map"] or config["id_key"] == "single":
        key = key or storage.default_key(paths)
        _unpack(paths, config, key, note)
        return Stack(layer_store.lowers(paths, config["layers"], key))
    if driver.name == "overlay":
        return Stack(*_shifted(paths, config, config["id_key"], note))
    _unpack(paths, config, "", note)
    return Stack(layer_store.lowers(paths, config["layers"]), id_maps=(config["uid_map"], config["gid_map"]))


def mount_directory(paths: Paths, driver: Driver, config: ContainerConfig) -> Mounted:
    """--rootfs DIR:O: a writable layer over a directory of the host, new at each start."""
    directory = paths.container(config["id"])
    for name in ("upper", "work"):
        trash.remove_tree(f"{directory}/{name}")
    upper, work, target = container.prepare(paths, directory, [config["rootfs"]])
    return driver.mount([config["rootfs"]], upper, work, target, volatile=True)


def lower_directories(paths: Paths, config: ContainerConfig, driver: str) -> list[str]:
    """The directories below the writable layer of a container of *driver*, top first.

    Raises NotFoundError for a layer that is gone. Their owners: see :func:`keeps_shared_owners`.
    """
    key = config.get("id_key", "")
    layers = config.get("layers", [])
    if not config.get("uid_map") or key == "single":
        return layer_store.lowers(paths, layers, key or storage.default_key(paths))
    if driver in ("", "overlay") and key:
        from rl.storage import metatree

        tree = metatree.path_of(paths, config["image_id"], key)
        if metatree.exists(tree):
            return [tree]
        if all(layer_store.has(paths, diff_id, key) for diff_id in layers):
            return layer_store.lowers(paths, layers, key)
    return layer_store.lowers(paths, layers)


def keeps_shared_owners(config: ContainerConfig, driver: str) -> bool:
    """Whether files in the writable layer have their owners in ids of the shared namespace; else in the container's.

    The kernel's overlay and the copy driver write what is seen; fuse-overlayfs shifts the writable layer, too.
    """
    return bool(config["uid_map"]) and driver != "fuse-overlayfs"


def _shifted(paths: Paths, config: ContainerConfig, key: str, note: Note) -> tuple[list[str], list[str]]:
    """(layers, data-only layers) with the owners of the container's user namespace, for the kernel's overlay."""
    if not key:  # a map that changes nothing for the files
        _unpack(paths, config, "", note)
        return layer_store.lowers(paths, config["layers"]), []
    from rl.storage import metatree

    if not storage.data_layers(paths):
        return _copied(paths, config, key, note), []
    tree = metatree.path_of(paths, config["image_id"], key)
    if not metatree.exists(tree):
        from rl.storage.idmap import owner_function

        _unpack(paths, config, "", note)
        owner = owner_function(config["uid_map"], config["gid_map"])
        progress = _Progress(paths, config, note)
        layers = layer_store.lowers(paths, config["layers"])
        metatree.ensure(paths, config["image_id"], layers, key, owner, owner(0, 0)[0], progress.files)
    return [tree], layer_store.lowers(paths, config["layers"])


def _copied(paths: Paths, config: ContainerConfig, key: str, note: Note) -> list[str]:
    """The layers with other owners, data and all: where the kernel knows no data-only layers."""
    missing = [diff_id for diff_id in config["layers"] if not layer_store.has(paths, diff_id, key)]
    if missing:
        from rl.storage.idmap import ensure_mapped

        _unpack(paths, config, "", note)
        progress = _Progress(paths, config, note)
        ensure_mapped(paths, missing, key, config["uid_map"], config["gid_map"], progress.layer)
    return layer_store.lowers(paths, config["layers"], key)


class _Progress:
    """Tells how far a copy with other owners is, when it takes longer than one is willing to wait without a word."""

    def __init__(self, paths: Paths, config: ContainerConfig, note: Note) -> None:
        self.paths = paths
        self.config = config
        self.note = note
        self.due = time.monotonic() + _QUIET_SECONDS
        self.done = 0
        self.current = ("", 0)

    def layer(self, diff_id: str, count: int) -> None:
        """*count* entries of one layer are done."""
        if diff_id != self.current[0]:
            self.done += self.current[1]
        self.current = (diff_id, count)
        self.files(self.done + count)

    def files(self, count: int) -> None:
        """*count* entries of the image are done."""
        now = time.monotonic()
        if now < self.due:
            return
        self.due = now + _REPORT_SECONDS
        total = sum(layer_store.info(self.paths, diff_id).get("entries", 0) for diff_id in self.config["layers"])
        self.note(
            f"first use of this image with --userns={self.config['userns']}: {count} of {total} files have got "
            "their other owners"
        )


def _unpack(paths: Paths, config: ContainerConfig, key: str, note: Note) -> None:
    """Unpack again, from their blobs, the layers that are missing."""
    missing = [diff_id for diff_id in config["layers"] if not layer_store.has(paths, diff_id, key)]
    if not missing:
        return
    from rl.storage.unpack import unpack_layer

    image = store.find(paths, config["image_id"])
    blobs = {
        diff_id: (f"{paths.blobs}/{layer['digest'].partition(':')[2]}", layer["mediaType"])
        for diff_id, layer in zip(image["layers"], store.manifest(paths, image)["layers"], strict=True)
    }
    for diff_id in missing:
        if diff_id not in blobs:
            raise RlError(
                f"layer {diff_id[:19]} of image {config['image']} is gone",
                f"rl pull {config['image'] or config['image_id']}",
            )
        path, media_type = blobs[diff_id]
        unpack_layer(paths, path, diff_id, media_type, id_key=key)
