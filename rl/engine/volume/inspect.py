"""rl volume inspect: Podman's document of a volume (libpod's InspectVolumeData, without numbers of locks)."""

from __future__ import annotations

from rl.engine.volume import records
from rl.errors import NoSuchVolumeError, RlError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import VolumeRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def inspect(
    engine: Engine, names: list[str], *, all: bool = False
) -> tuple[list[dict[str, Any]], list[RlError]]:
    """The documents of *names* (or their unambiguous beginnings), or of *all*; an error for each that has none."""
    documents: list[dict[str, Any]] = []
    errors: list[RlError] = []
    for name in records.names(engine.paths) if all else names:
        try:
            documents.append(document(engine.paths, records.find(engine.paths, name)))
        except NoSuchVolumeError as error:
            if not all:
                errors.append(NoSuchVolumeError(f"inspecting object: no such volume {name}", error.hint))
        except RlError as error:
            errors.append(type(error)(f"inspecting volume {name}: {error.message}", error.hint))
    return documents, errors


def document(paths: Paths, name: str) -> dict[str, Any]:
    """The document of one volume. Raises NoSuchVolumeError, CorruptRecordError."""
    if not records.exists(paths, name):
        raise NoSuchVolumeError(f"no such volume {name}", "`rl volume ls` lists all volumes")
    return of_record(paths, name, records.read(paths, name))


def of_record(paths: Paths, name: str, record: VolumeRecord) -> dict[str, Any]:
    """As Podman, keys that say nothing are left out: UID, GID, Anonymous, NeedsCopyUp, NeedsChown."""
    used = records.has_mark(paths, name, records.USED)
    found: dict[str, Any] = {
        "Name": name,
        "Driver": record.get("Driver", "local"),
        "Mountpoint": records.data(paths, name),
        "CreatedAt": record.get("CreatedAt", ""),
        "Labels": record.get("Labels") or {},
        "Scope": "local",
        "Options": record.get("Options") or {},
    }
    for key in ("UID", "GID"):
        if record.get(key):
            found[key] = record[key]
    if record.get("Anonymous"):
        found["Anonymous"] = True
    found["MountCount"] = _mounts(paths, name, record)
    if not used:
        found["NeedsCopyUp"] = True
        if "UID" not in record and "GID" not in record:
            found["NeedsChown"] = True
    return found


def _mounts(paths: Paths, name: str, record: VolumeRecord) -> int:
    """How many containers have it mounted; as in Podman a plain directory is not counted."""
    from rl.engine.volume import options

    try:
        if not options.needs_mount(record):
            return 0
    except RlError:
        return 0
    locks = [f"{paths.container_run(container_id)}/lock" for container_id in records.users_of(paths, name)]
    return sum(userns.monitor_pid(lock) > 0 for lock in locks)
