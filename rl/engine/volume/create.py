"""rl volume create."""

from __future__ import annotations

import os

from rl.engine.spec.values import is_name, pairs
from rl.engine.volume import options as local
from rl.engine.volume import records
from rl.errors import ConflictError, NotFoundError, RlError, UnsupportedError, UsageError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import VolumeRecord
    from rl.config.paths import Paths
    from rl.engine.context import Engine


def create(
    engine: Engine, name: str = "", *, driver: str = "local", labels: list[str] | None = None,
    options: list[str] | None = None, ignore: bool = False, uid: int = -1, gid: int = -1,
) -> str:
    """Make a volume and return its name; without *name* one of 64 hex digits.

    *options*: ``KEY=VALUE`` of the driver (rl.engine.volume.options). *ignore*: a volume that exists is fine. *uid*,
    *gid*: the owner, an id in the containers' user namespace; -1: the first container decides.
    Raises UsageError, ConflictError, UnsupportedError.
    """
    check_driver(driver)
    if name and not is_name(name):
        raise UsageError(
            f"volume name {name!r}: names must match [a-zA-Z0-9][a-zA-Z0-9_.-]*: invalid argument",
            "use letters, digits, '_', '.' and '-'",
        )
    record = records.fresh()
    record["Labels"] = pairs(labels or [], "--label")
    if uid >= 0:
        record["UID"] = uid
    if gid >= 0:
        record["GID"] = gid
    name = name or os.urandom(32).hex()
    if not make(engine.paths, name, record, pairs(options or [], "--opt")):
        if ignore:
            return name
        raise ConflictError(
            f"volume with name {name} already exists: volume already exists", "--ignore takes it as it is"
        )
    from rl.engine.events import emit

    emit(engine.paths, "volume", "create", name, name)
    return name


def check_driver(driver: str) -> None:
    """Raises UnsupportedError for any but the local one."""
    if driver in ("", "local"):
        return
    if driver == "image":
        raise UnsupportedError(
            "volume driver image is not available",
            "show an image's files in a container: --mount type=image,source=IMAGE,destination=DIR",
        )
    raise UnsupportedError(
        f"volume driver {driver} is a plugin, and rl runs no volume plugins", "use the driver local, with --opt"
    )


def make(paths: Paths, name: str, record: VolumeRecord, options: dict[str, str]) -> bool:
    """Make a volume with driver options; False where the name is taken. Raises RlError before anything is there."""
    found = local.parse(options)
    record["Options"] = local.recorded(options, found)
    for key, value in (("UID", found.uid), ("GID", found.gid)):
        if value >= 0:
            record[key] = value  # type: ignore[literal-required]
    if options.get("type", "").lower() == "bind" and not os.path.isdir(found.device):
        raise NotFoundError(
            f"invalid volume option device for driver 'local': stat {found.device}: no such file or directory",
            f"mkdir -p {found.device}",
        )
    quota = (found.size or found.inodes) and not found.type
    if quota:
        from rl.engine.volume import quota as quotas

        quotas.check(paths)
    owner = (record.get("UID", 0), record.get("GID", 0))
    if records.exists(paths, name):
        return False

    def prepare(data: str) -> None:
        if owner != (0, 0):
            try:
                userns.call(paths.run, _own, data, *owner)
            except RlError as error:
                raise RlError(
                    f"create volume {name}: give it to {owner[0]}:{owner[1]}: {error.message}",
                    "ids are those of the containers' user namespace: /etc/subuid and /etc/subgid tell how many",
                ) from None
        if quota:
            quotas.limit(data, found.size, found.inodes)

    return records.make(paths, name, record, prepare)


def _own(path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)
