"""rl rm: remove containers, with their writable layer, name, log and, if asked, anonymous volumes.

The directory goes into the trash by one rename, which is the moment the container is gone; the
files, many of which belong to subordinate ids, are deleted inside the user namespace right after.
"""

from __future__ import annotations

import os
import time as clock

from rl.engine import containers, events, leftovers, naming
from rl.engine.dependencies import Dependents
from rl.engine.prefork import PATIENCE, forget_run_directory, take_lock
from rl.engine.selection import monitored
from rl.errors import ConflictError, CorruptRecordError, NoSuchContainerError, RlError, StateError
from rl.runtime import userns
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.engine.context import Engine


#: Seconds to wait for a container that is being started, or whose monitor was told to end.
_PATIENCE = 30.0


def rm(
    engine: Engine, names: list[str], *, force: bool = False, all: bool = False, ignore: bool = False,
    time: int | None = None, volumes: bool = False, depend: bool = False,
) -> list[tuple[str, RlError | None]]:
    """Remove each of *names*; (name as given, error or None) for each, all are tried.

    A running container needs *force*, which stops all such at once, with *time* seconds of grace. *ignore* makes
    missing ones no error. A container that others need stays, unless *depend*, which removes these too, or they are
    among *names*: they go first.
    """
    paths = engine.paths
    results: list[tuple[str, RlError | None]] = []
    shown: dict[str, str] = {each: each for each in containers.ids(paths)} if all else {}
    for name in names:
        try:
            shown.setdefault(_find(paths, name, force), name)
        except RlError as error:
            if not ignore or not isinstance(error, NoSuchContainerError):
                results.append((name, error))
    dependents = Dependents(paths)
    if depend:
        for container_id in tuple(shown):
            for other in dependents.all_of(container_id):
                shown.setdefault(other, other)
    if force:
        _stop(engine, set(monitored(paths)).intersection(shown), time)  # what goes wrong is told when it is removed
    for container_id in dependents.removal_order(list(shown)):
        name = shown[container_id]
        try:
            dependents.check(container_id)
            _remove(engine, container_id, force, time, volumes)
        except NoSuchContainerError as error:  # gone meanwhile, with --rm because it was stopped
            if force:
                results.append((name, None))
            elif not ignore and not all:
                results.append((name, error))
            continue
        except RlError as error:
            results.append((name, error))
            continue
        results.append((name, None))
    trash.empty(paths)
    leftovers.sweep(paths)
    asked = {name: index for index, name in enumerate(names)}
    return sorted(results, key=lambda result: asked.get(result[0], -1))


def _find(paths: Paths, name: str, force: bool) -> str:
    """The container's id; with *force* also that of a directory whose records are unreadable."""
    try:
        return containers.find(paths, name)
    except NoSuchContainerError:
        if force:
            for container_id in containers.ids(paths):
                if container_id.startswith(name) and len(name) >= 12:
                    return container_id
        raise


def _remove(engine: Engine, container_id: str, force: bool, time: int | None, with_volumes: bool) -> None:
    paths = engine.paths
    config: ContainerConfig = {}
    try:
        config = containers.read_config(paths, container_id)
    except (CorruptRecordError, NoSuchContainerError):
        if not force or not os.path.isdir(paths.container(container_id)):
            raise
    lock = _hold(engine, container_id, force, time)
    try:
        forget(paths, container_id, config, with_volumes)
    finally:
        forget_run_directory(paths, container_id)
        if lock >= 0:
            os.close(lock)


def _hold(engine: Engine, container_id: str, force: bool, time: int | None) -> int:
    """The held lock of the container, which no `rl start` gets meanwhile; with *force* it is stopped first.

    -1 where no lock can be had, as on a full disk. Raises ConflictError, StateError, CorruptRecordError.
    """
    deadline = clock.monotonic() + _PATIENCE
    while True:
        try:
            status = containers.read_state(engine.paths, container_id).get("status", "")
        except NoSuchContainerError:
            status = ""  # its monitor removed it, or state.json is lost
        except CorruptRecordError:
            if not force:
                raise
            status = ""
            _end_monitor(engine.paths, container_id)
        if status in containers.MONITORED:
            if not force and status != "initialized":
                verb = "unpause" if status == "paused" else "stop"
                raise ConflictError(
                    f"cannot remove container {container_id} as it is {status} - running or paused containers "
                    "cannot be removed without force: container state improper",
                    f"`rl {verb} {container_id[:12]}` first, or use `rl rm --force`",
                )
            for _, error in _stop(engine, {container_id}, time):
                if error is not None:
                    raise error
        try:
            return take_lock(engine.paths, container_id, PATIENCE)
        except StateError:  # it is being started
            if not force or clock.monotonic() > deadline:
                raise
        except OSError:
            return -1


def _end_monitor(paths: Paths, container_id: str) -> None:
    """Where the record does not tell what to stop: its monitor, told to end, stops the container first."""
    pid = userns.monitor_pid(f"{paths.container_run(container_id)}/lock")
    if pid > 0:
        try:
            os.kill(pid, 15)
        except OSError:
            pass


def _stop(engine: Engine, ids: set[str], time: int | None) -> list[tuple[str, RlError | None]]:
    """Stop running containers, all at once; one with --rm removes itself meanwhile, which is fine."""
    from rl.engine.stop import stop

    return stop(engine, list(ids), time=time, ignore=True, force=True)


def forget(paths: Paths, container_id: str, config: ContainerConfig, with_volumes: bool = False) -> None:
    """Everything of the container into the trash; the caller holds its lock. --rm takes its anonymous volumes along.

    The record, which names the rest, goes after it, and before the name: one who is killed in here leaves a container
    that can be removed again, or a name that points nowhere, which is free.
    """
    _unlink_cidfile(config, container_id)
    name = config.get("name", "") or _name_of(paths, container_id)
    if (with_volumes or config.get("remove")) and any(spec.get("anonymous") for spec in config.get("mounts", [])):
        from rl.engine.volume.rm import forget_anonymous
        from rl.image.content import records_lock

        with records_lock(paths, exclusive=True):  # else a container that takes them over now would lose them
            forget_anonymous(paths, config)
            trash.discard(paths, paths.container(container_id))
    else:
        trash.discard(paths, paths.container(container_id))
    naming.release_name(paths, name, container_id)
    image, labels = config.get("image", ""), config.get("labels", {})
    events.emit_container(paths, {"id": container_id, "name": name, "image": image, "labels": labels}, "remove")


def _unlink_cidfile(config: ContainerConfig, container_id: str) -> None:
    cidfile = config.get("options", {}).get("cidfile")
    if cidfile:
        try:
            with open(cidfile, encoding="utf-8") as file:
                ours = file.read().strip() == container_id
            if ours:
                os.unlink(cidfile)
        except (OSError, UnicodeDecodeError):
            pass


def _name_of(paths: Paths, container_id: str) -> str:
    """The name that points to *container_id*, for one whose config.json cannot be read."""
    for name in os.listdir(paths.names):
        try:
            if os.path.basename(os.readlink(f"{paths.names}/{name}")) == container_id:
                return name
        except OSError:
            continue
    return ""
