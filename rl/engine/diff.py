"""rl diff: what a container, or an image's topmost layer, has added, changed and deleted."""

from __future__ import annotations

import os

from rl.engine import containers
from rl.engine.rootaccess import inside, owner_of
from rl.engine.rootfs import id_key
from rl.errors import NoSuchContainerError, NoSuchImageError, NotFoundError, UnsupportedError
from rl.image import store
from rl.storage import changes, metatree
from rl.storage import driver as storage
from rl.storage import layers as layer_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.storage.changes import Change
    from rl.storage.tarwrite import Owner

#: What the runtime mounts over, and files it makes to mount over: not the container's changes (Podman's list).
NOT_TOLD = frozenset((
    "/dev", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/run", "/run/.containerenv",
    "/run/notify", "/run/rl-init", "/run/secrets", "/sys",
))  # fmt: skip


class Side:
    """One of the two: its directories, top first. ``copied``: the first one has all files, not just changed ones.

    ``owner``: from the owners in the first one to the container's own numbers; None: they are the same.
    """

    __slots__ = ("copied", "owner", "stack")

    def __init__(self, stack: list[str], copied: bool = False, owner: Owner | None = None) -> None:
        self.stack = stack
        self.copied = copied
        self.owner = owner


def diff(engine: Engine, name: str, other: str = "", *, kind: str = "") -> list[Change]:
    """The changes of *name* since its image (a container) or since the layer below (an image), else since *other*.

    *kind*: container or image, where only one is meant; else containers come first. A list of (C, A or D, path).
    Raises NotFoundError, AmbiguousNameError.
    """
    side = _side(engine, name, kind)
    base = _side(engine, other, kind).stack if other else side.stack[1:]
    found: list[Change] = [tuple(pair) for pair in inside(engine.paths, _changes, side, base)]
    return [(what, path) for what, path in found if path not in NOT_TOLD]


def _changes(side: Side, base: list[str]) -> list[Change]:
    stack = side.stack
    if not os.path.isdir(stack[0]):  # a container that never started
        stack = stack[1:]
        return [] if stack == base else changes.compared(base, stack)
    if side.copied:
        return changes.compared(base, stack[:1], side.owner)
    if base == stack[1:]:
        return changes.written(stack[0], base)
    return changes.compared(base, stack)


def _side(engine: Engine, name: str, kind: str) -> Side:
    if kind != "image":
        try:
            return _container(engine.paths, containers.find(engine.paths, name))
        except NoSuchContainerError:
            if kind:
                raise NoSuchContainerError(
                    f"{name} not found: container not known", "`rl ps -a` lists all containers"
                ) from None
    try:
        record = store.find(engine.paths, name)
    except NoSuchImageError:
        what = f"{name}: image not known" if kind else "layer not known"
        hint = "`rl images` lists the images" if kind else "`rl ps -a` and `rl images` list what there is"
        raise NotFoundError(f"{name} not found: {what}", hint) from None
    key = storage.default_key(engine.paths)
    return Side(layer_store.lowers(engine.paths, record["layers"], key))


def _container(paths: Paths, container_id: str) -> Side:
    return side_of(paths, containers.read_config(paths, container_id))


def side_of(paths: Paths, config: ContainerConfig) -> Side:
    """The container's writable directory and the layers below it, as its storage driver has them."""
    if config["rootfs"]:
        raise UnsupportedError(
            f"container {config['name']} runs on the directory {config['rootfs']}: no image is below it",
            "containers made from an image have a layer of their own, which tells what they changed",
        )
    driver = containers.read_state(paths, config["id"]).get("driver", "")
    upper = f"{paths.container(config['id'])}/upper"
    if not config["uid_map"] or config["id_key"] == "single":
        lowers = layer_store.lowers(paths, config["layers"], id_key(config, storage.default_key(paths)))
        return Side([upper, *lowers], driver == "copy")
    if driver != "overlay":  # their layers are as the archive has them; fuse-overlayfs keeps its own so, too
        lowers = layer_store.lowers(paths, config["layers"])
        return Side([upper, *lowers], driver == "copy", owner_of(config) if driver == "copy" else None)
    tree = metatree.path_of(paths, config["image_id"], config["id_key"])
    if not config["id_key"] or metatree.exists(tree):
        lowers = layer_store.lowers(paths, config["layers"])
        lowers = [tree, *lowers] if config["id_key"] else lowers
    else:
        lowers = layer_store.lowers(paths, config["layers"], config["id_key"])
    return Side([upper, *lowers], owner=owner_of(config))
