"""The container's root file system: which layers, in which on-disk id mapping, mounted where.

Called by the monitor inside the user namespace, and by what needs to look into a stopped container.
"""

from __future__ import annotations

from rl.errors import RlError
from rl.image import store
from rl.storage import container, trash
from rl.storage import layers as layer_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.storage.driver import Driver, Mounted


def id_key(config: ContainerConfig, mode: str) -> str:
    """The on-disk id mapping of the layers: the container's own, or that of a host with a single id."""
    return config["id_key"] or ("single" if mode == "single" else "")


def mount(
    paths: Paths, driver: Driver, config: ContainerConfig, mode: str, note: Callable[[str], object]
) -> Mounted:
    """Stack the layers and the container's writable layer at containers/<id>/rootfs, unpacking what is missing.

    *note* gets a line about work that takes long.

    Raises RlError when a layer is neither unpacked nor in the content store.
    """
    key = id_key(config, mode)
    missing = [diff_id for diff_id in config["layers"] if not layer_store.has(paths, diff_id, key)]
    if missing:
        _make(paths, config, missing, key, note)
    lowers = layer_store.lowers(paths, config["layers"], key)
    upper, work, target = container.prepare(paths, paths.container(config["id"]), lowers)
    # What a container that is removed at its end wrote need not survive a power loss.
    return driver.mount(lowers, upper, work, target, volatile=config["remove"])


def mount_directory(paths: Paths, driver: Driver, config: ContainerConfig) -> Mounted:
    """--rootfs DIR:O: a writable layer over a directory of the host, new at each start."""
    directory = paths.container(config["id"])
    for name in ("upper", "work"):
        trash.remove_tree(f"{directory}/{name}")
    upper, work, target = container.prepare(paths, directory, [config["rootfs"]])
    return driver.mount([config["rootfs"]], upper, work, target, volatile=True)


def _make(paths: Paths, config: ContainerConfig, missing: list[str], key: str, note: Callable[[str], object]) -> None:
    """Unpack layers again from their blobs, or copy them with the owners that *key* wants."""
    if config["uid_map"]:
        from rl.storage.idmap import ensure_mapped

        plain = [diff_id for diff_id in missing if not layer_store.has(paths, diff_id)]
        if plain:
            _unpack(paths, config, plain, "")
        what = f"copying {len(missing)} layers with other owners"
        note(f"first use of this image with --userns={config['userns']}: {what}")
        ensure_mapped(paths, missing, key, config["uid_map"], config["gid_map"])
    else:
        _unpack(paths, config, missing, key)


def _unpack(paths: Paths, config: ContainerConfig, missing: list[str], key: str) -> None:
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
