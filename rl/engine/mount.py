"""rl mount, rl unmount: root file systems of containers and images where programs of the caller reach them.

A mount lives in the mount namespace it was made in: an ordinary user's in that of the `rl unshare` around the command,
with which it ends; real root's in the host's, until it is unmounted. The kernel's table is the only record.

A container that does not run is mounted as its next start would mount it; started meanwhile, it has a mount of its own,
and the two need not see at once what the other writes. Of a running one its own mount is shown.
"""

from __future__ import annotations

import errno
import os

from rl.engine import containers, rootaccess
from rl.engine.events import emit, emit_container
from rl.engine.prefork import forget_run_directory
from rl.errors import ConflictError, RlError, UnsupportedError
from rl.image import store
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import proc
from rl.runtime import mountns, userns
from rl.storage import driver as storage
from rl.storage import layers as layer_store
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.paths import Paths
    from rl.engine.context import Engine

    Result = tuple[str, str, RlError | None]  # name as given, path, error


def mount(engine: Engine, names: list[str], *, all: bool = False) -> list[Result]:
    """Mount each container of *names*, or all; (name, where, error) for each. One that is mounted stays as it is."""
    require("mount")
    chosen = sorted(containers.ids(engine.paths)) if all else names
    return [_tried(name, lambda name=name: _mount_container(engine.paths, name)) for name in chosen]


def unmount(engine: Engine, names: list[str], *, all: bool = False, force: bool = False) -> list[Result]:
    """Unmount each; one that is not mounted is no error. *force*: even what is in use, until who uses it lets it go."""
    for name in names:  # as Podman: a wrong name is said before that the command stands in the wrong place
        containers.find(engine.paths, name)
    require("unmount")
    chosen = [row["id"] for row in mounts(engine)] if all else names
    return [_tried(name, lambda name=name: _unmount_container(engine.paths, name, force)) for name in chosen]


def mounts(engine: Engine) -> list[dict[str, Any]]:
    """The containers that are mounted here: id, Names, mountpoint."""
    require("mount")
    found = []
    for path in sorted(_mountpoints(f"{engine.paths.containers}/")):
        container_id, _, rest = path.removeprefix(f"{engine.paths.containers}/").partition("/")
        if rest == "rootfs":
            name = containers.read_config(engine.paths, container_id)["name"]
            found.append({"id": container_id, "Names": [name], "mountpoint": path})
    return found


def mount_images(engine: Engine, names: list[str], *, all: bool = False) -> list[Result]:
    """Mount each image of *names*, or all, read-only."""
    require("image mount")
    chosen = sorted({record["id"] for record in store.list_images(engine.paths)[0]}) if all else names
    return [_tried(name, lambda name=name: _mount_image(engine, name)) for name in chosen]


def unmount_images(engine: Engine, names: list[str], *, all: bool = False, force: bool = False) -> list[Result]:
    """Unmount each; a missing mount is an error unless *force* or *all*."""
    chosen = [row["id"] for row in image_mounts(engine)] if all else names
    return [_tried(name, lambda name=name: _unmount_image(engine, name, force or all)) for name in chosen]


def image_mounts(engine: Engine) -> list[dict[str, Any]]:
    """The images that are mounted here: id, Names (digests), Repositories (names), mountpoint."""
    require("image mount")
    found = []
    base = _images_base(engine.paths)
    for path in sorted(_mountpoints(f"{base}/")):
        image_id = path.removeprefix(f"{base}/")
        records = store.same_image(engine.paths, image_id)
        names = [record["name"] for record in records if record["name"]]
        digests = list(dict.fromkeys(record["manifest"] for record in records))
        found.append({"id": image_id, "Names": digests, "Repositories": names, "mountpoint": path})
    return found


def require(verb: str) -> None:
    """Raises UnsupportedError where a mount would be gone with this command: for an ordinary user outside."""
    if userns.is_entered():
        userns.stay_inside()
    elif os.getuid() == 0 and ns.is_initial_user_namespace():
        userns.stay_inside()  # root may mount where it is
    else:
        raise UnsupportedError(
            f'cannot run command "rl {verb}" in rootless mode, must execute `rl unshare` first',
            f"rl unshare, and in its shell rl {verb} …: the mount ends with that shell",
        )


def _tried(name: str, action: Any) -> Result:
    try:
        return name, action(), None
    except RlError as error:
        return name, "", error
    except OSError as error:
        return name, "", RlError(f"{name}: {error.strerror}" + (f" ({error.filename})" if error.filename else ""))


# --------------------------------------------------------------------------- containers


def _mount_container(paths: Paths, name: str) -> str:
    container_id = containers.find(paths, name)
    config = containers.read_config(paths, container_id)
    if config["rootfs"]:
        return config["rootfs"]
    target = f"{paths.container(container_id)}/rootfs"
    if target in _mountpoints(target):
        return target
    lock, state = rootaccess.hold(paths, container_id)
    if lock < 0:
        mountns.attach_from(userns.monitor_pid(f"{paths.container_run(container_id)}/lock"), target, target)
    else:
        try:
            rootaccess.mount_stopped(paths, config, state, None, lasting=True)
        finally:
            forget_run_directory(paths, container_id)
            os.close(lock)
    emit_container(paths, config, "mount")
    return target


def _unmount_container(paths: Paths, name: str, force: bool) -> str:
    container_id = containers.find(paths, name)
    target = f"{paths.container(container_id)}/rootfs"
    if target in _mountpoints(target):
        _umount(target, force, f"container {name}")
        emit_container(paths, containers.read_config(paths, container_id), "unmount")
    return target


# --------------------------------------------------------------------------- images


def _images_base(paths: Paths) -> str:
    return f"{paths.data}/mounts"


def _mount_image(engine: Engine, name: str) -> str:
    paths = engine.paths
    record = store.find(paths, name)
    target = f"{_images_base(paths)}/{record['id']}"
    if target in _mountpoints(target):
        return target
    os.makedirs(target, 0o700, exist_ok=True)
    lowers = layer_store.lowers(paths, record["layers"], storage.default_key(paths))
    chosen = rootaccess.stays(storage.choose(paths, engine.options.get("storage_driver") or ""))
    chosen.mount(lowers, "", "", target, readonly=True)
    emit(paths, "image", "mount", record["id"], record["name"])
    return target


def _unmount_image(engine: Engine, name: str, force: bool) -> str:
    record = store.find(engine.paths, name)
    target = f"{_images_base(engine.paths)}/{record['id']}"
    if target not in _mountpoints(target):
        if force:
            return record["id"]
        raise ConflictError(f"image {name} is not mounted", "`rl image mount` lists the mounted ones")
    _umount(target, force, f"image {name}")
    # The copy driver's copy. The directory stays: removing it would take the mount away from another `rl unshare`.
    trash.remove_contents(target)
    emit(engine.paths, "image", "unmount", record["id"], record["name"])
    return record["id"]


# --------------------------------------------------------------------------- the kernel's table


def _umount(target: str, force: bool, what: str) -> None:
    try:
        m.umount(target, m.UMOUNT_NOFOLLOW | (m.MNT_DETACH if force else 0))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise ConflictError(
            f"unmount {what}: it is in use", f"leave the directory, or use --force; `fuser -vm {target}` tells by whom"
        ) from None


def _mountpoints(prefix: str) -> set[str]:
    """Where something is mounted, of the paths that begin with *prefix*."""
    return {path for path, _ in proc.mounts() if path.startswith(prefix)}
