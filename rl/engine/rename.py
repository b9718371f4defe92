"""rl rename: another name for a container, running or not.

The name is three things: the link below names/, the record, and what the monitor frees with --rm. All happens under the
lock of names/; whoever is killed in the middle leaves two links, of which the one that the record does not name is
removed by the next sweep (:func:`rl.engine.naming.sweep`).
"""

from __future__ import annotations

import fcntl
import os

from rl.config.jsonio import write_json
from rl.engine import containers, events, naming
from rl.errors import ConflictError, RlError, disk_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def rename(engine: Engine, name: str, new: str) -> None:
    """Call the container *new*. Raises NoSuchContainerError, UsageError, ConflictError."""
    paths = engine.paths
    container_id = containers.find(paths, name)
    config = containers.read_config(paths, container_id)
    naming.check_name(new)
    old = config["name"]
    if new == old:
        return
    try:
        naming.take_name(paths, new, container_id)
    except ConflictError:
        what = f"renaming container {container_id}: name {new} already in use, cannot rename container {container_id}: "
        raise ConflictError(f"{what}container already exists", f"`rl rm {new}` frees it, or choose another") from None
    try:
        config = _record(paths, container_id, new)
    except BaseException as error:
        naming.release_name(paths, new, container_id)
        if isinstance(error, OSError):
            raise RlError(f"rename container {old}: {error.strerror}", disk_hint(error)) from None
        raise
    _tell(paths, container_id, old, new)
    events.emit_container(paths, config, "rename")


def _record(paths: Paths, container_id: str, new: str) -> ContainerConfig:
    """Write the new name and free the old one, in the names' lock: of two renames at once the second sees the first."""
    names = os.open(paths.names, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(names, fcntl.LOCK_EX)
        config = containers.read_config(paths, container_id)
        old, config["name"] = config["name"], new
        _keep(paths, new, container_id)
        write_json(f"{paths.container(container_id)}/config.json", config, sync=not config.get("remove"))
        try:
            if os.path.basename(os.readlink(f"{paths.names}/{old}")) == container_id:
                os.unlink(f"{paths.names}/{old}")
        except FileNotFoundError:
            pass
        return config
    finally:
        os.close(names)


def _keep(paths: Paths, name: str, container_id: str) -> None:
    """The link that was made before the lock was held: a sweep may have taken it for a leftover."""
    try:
        os.symlink(f"../containers/{container_id}", f"{paths.names}/{name}")
    except FileExistsError:
        if os.path.basename(os.readlink(f"{paths.names}/{name}")) != container_id:
            raise ConflictError(f"rename the container: {name} was taken meanwhile", "choose another name") from None


def _tell(paths: Paths, container_id: str, old: str, new: str) -> None:
    """Its monitor, if it has one."""
    from rl.engine.monitors import Connection

    try:
        connection = Connection(paths, container_id)
    except OSError:
        return
    try:
        connection.tell("name", {"old": f"{paths.names}/{old}", "new": f"{paths.names}/{new}", "name": new})
    except OSError:
        pass  # it ends just now
    finally:
        connection.close()
