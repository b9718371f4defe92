"""rl volume rm: into the trash by one rename, unless a container uses it."""

from __future__ import annotations

from rl.engine.volume import records
from rl.errors import NoSuchVolumeError, RlError, UsageError, VolumeInUseError
from rl.image.content import records_lock
from rl.storage import trash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def rm(
    engine: Engine, names: list[str], *, all: bool = False, force: bool = False, time: int | None = None
) -> list[tuple[str, RlError | None]]:
    """Remove *names*, or *all*; (name, error or None) for each, all are tried.

    *force* removes the containers that use a volume first, with *time* seconds of grace, and takes a volume that does
    not exist for removed. Raises UsageError.
    """
    if all == bool(names):
        raise UsageError("choose either one or more volumes or all", "name volumes, or use --all")
    paths = engine.paths
    results: list[tuple[str, RlError | None]] = []
    for text in records.names(paths) if all else names:
        try:
            name = records.find(paths, text)
            if force:
                _remove_containers(engine, name, time)
            with records_lock(paths, exclusive=True):
                remove(paths, name)
        except NoSuchVolumeError as error:
            if not all and not force:
                results.append((text, error))
        except RlError as error:
            results.append((text, error))
        else:
            results.append((name, None))
    trash.empty(paths)
    return results


def remove(paths: Paths, name: str) -> None:
    """Take the volume away; under the exclusive records lock. Raises VolumeInUseError, NoSuchVolumeError."""
    users = records.users_of(paths, name)
    if users:
        raise VolumeInUseError(
            f"volume {name} is being used by the following container(s): {', '.join(users)}: volume is being used",
            f"remove that first: rl rm {' '.join(user[:12] for user in users)}; or both: rl volume rm --force {name}",
        )
    if not trash.discard(paths, records.directory(paths, name)):
        what = f'no volume with name "{name}" found: no such volume'
        raise NoSuchVolumeError(what, "`rl volume ls` lists all volumes")
    _tell(paths, name)


def _tell(paths: Paths, name: str) -> None:
    from rl.engine.events import emit

    emit(paths, "volume", "remove", name, name)


def _remove_containers(engine: Engine, name: str, time: int | None) -> None:
    """Without the lock: stopping a container takes its time."""
    from rl.engine.rm import rm as remove_containers

    users = records.users_of(engine.paths, name)
    if not users:
        return
    for _, error in remove_containers(engine, users, force=True, ignore=True, time=time):
        if error is not None:
            raise error


def forget_anonymous(paths: Paths, config: ContainerConfig) -> None:
    """What goes with a container: its anonymous volumes that no other uses. Under the exclusive records lock."""
    for spec in config.get("mounts", []):
        name = spec.get("source", "")
        if not spec.get("anonymous") or not records.exists(paths, name):
            continue
        if records.has_mark(paths, name, records.SHARED) and set(records.users_of(paths, name)) - {config.get("id")}:
            continue
        if trash.discard(paths, records.directory(paths, name)):
            _tell(paths, name)
