"""rl diff: what a container, or an image's topmost layer, has added, changed and deleted."""

from __future__ import annotations

import os

from rl.engine import containers, rootfs
from rl.engine.rootaccess import inside, owner_of
from rl.errors import NoSuchContainerError, NoSuchImageError, NotFoundError, UnsupportedError
from rl.image import store
from rl.storage import changes
from rl.storage import driver as storage
from rl.storage import layers as layer_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.engine.context import Engine
    from rl.storage.changes import Change, Owner

#: What the runtime mounts over, and files it makes to mount over: not the container's changes (Podman's list).
NOT_TOLD = frozenset((
    "/dev", "/etc/hostname", "/etc/hosts", "/etc/mtab", "/etc/resolv.conf", "/proc", "/run", "/run/.containerenv",
    "/run/notify", "/run/rl-init", "/run/secrets", "/sys",
))  # fmt: skip


class _Side:
    """One of the two: its directories, top first. ``copied``: the first one has all files, not just changed ones."""

    __slots__ = ("copied", "owner", "stack")

    def __init__(self, stack: list[str], copied: bool = False, owner: Owner | None = None) -> None:
        self.stack = stack
        self.copied = copied
        self.owner = owner  # from owners in the first directory to the container's own numbers


def diff(engine: Engine, name: str, other: str = "", *, kind: str = "") -> list[Change]:
    """The changes of *name* since its image (a container) or since the layer below (an image), else since *other*.

    *kind*: container or image, where only one is meant; else containers come first. A list of (C, A or D, path).
    Raises NotFoundError, AmbiguousNameError.
    """
    side = _side(engine, name, kind)
    base = _side(engine, other, kind).stack if other else side.stack[1:]
    found: list[Change] = [tuple(pair) for pair in inside(engine.paths, _changes, side, base)]
    return [(what, path) for what, path in found if path not in NOT_TOLD]


def _changes(side: _Side, base: list[str]) -> list[Change]:
    stack = side.stack
    if not os.path.isdir(stack[0]):  # a container that never started
        stack = stack[1:]
        return [] if stack == base else changes.compared(base, stack, side.owner)
    if side.copied:
        return changes.compared(base, stack[:1], side.owner)
    if base == stack[1:]:
        return changes.written(stack[0], base)
    return changes.compared(base, stack, side.owner)


def _side(engine: Engine, name: str, kind: str) -> _Side:
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
    return _Side(layer_store.lowers(engine.paths, record["layers"], key))


def _container(paths: Paths, container_id: str) -> _Side:
    config = containers.read_config(paths, container_id)
    return _Side(*stack_of(paths, config))


def stack_of(paths: Paths, config: ContainerConfig) -> tuple[list[str], bool, Owner | None]:
    """(the container's writable directory and the layers below it, whether it was made by copying them, from owners
    there to the container's own numbers; None: they are the same)."""
    if config["rootfs"]:
        raise UnsupportedError(
            f"container {config['name']} runs on the directory {config['rootfs']}: no image is below it",
            "containers made from an image have a layer of their own, which tells what they changed",
        )
    driver = containers.read_state(paths, config["id"]).get("driver", "")
    lowers = rootfs.lower_directories(paths, config, driver)
    owner = owner_of(config) if rootfs.keeps_shared_owners(config, driver) else None
    return [f"{paths.container(config['id'])}/upper", *lowers], driver == "copy", owner
