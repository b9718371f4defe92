"""Which volumes there are, and who uses them.

A volume is the directory ``volumes/<name>`` with volume.json and ``_data``; it appears complete by one rename(2), which
fails where the name is taken. Whether it is in use is told by the records of the containers, running or not: a volume
goes only under the exclusive :func:`rl.image.content.records_lock`, and a container is made under the shared one.

On the path of `rl run`.
"""

from __future__ import annotations

import errno
import os

from rl.config.jsonio import read_json, write_json
from rl.engine import containers
from rl.engine.naming import hold_staging
from rl.errors import AmbiguousNameError, CorruptRecordError, NoSuchVolumeError, RlError, disk_hint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rl.config.model import ContainerConfig, VolumeRecord
    from rl.config.paths import Paths

#: Marks, empty files in the volume's directory. A container had it mounted: it is not filled from an image any more.
USED = "used"
#: The copy from the image is not complete.
FILLING = "filling"
#: Containers other than the one it was made for use this anonymous volume.
SHARED = "shared"

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
_LIST = "`rl volume ls` lists all volumes"


def directory(paths: Paths, name: str) -> str:
    return f"{paths.volumes}/{name}"


def data(paths: Paths, name: str) -> str:
    """Where the files are."""
    return f"{paths.volumes}/{name}/_data"


def exists(paths: Paths, name: str) -> bool:
    """Whether there is a volume of exactly this name."""
    return bool(name) and name[0] != "." and "/" not in name and os.path.isdir(f"{paths.volumes}/{name}")


def names(paths: Paths) -> list[str]:
    """All volumes, sorted."""
    try:
        return sorted(name for name in os.listdir(paths.volumes) if name[0] != ".")
    except FileNotFoundError:
        return []


def find(paths: Paths, text: str) -> str:
    """The volume with this name, or the only one whose name begins so.

    Raises NoSuchVolumeError, AmbiguousNameError.
    """
    if exists(paths, text):
        return text
    found = [name for name in names(paths) if name.startswith(text)] if text else []
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousNameError(
            f'more than one result for volume name "{text}": volume already exists',
            "give more of the name, or all of it",
        )
    raise NoSuchVolumeError(f'no volume with name "{text}" found: no such volume', _LIST)


def read(paths: Paths, name: str) -> VolumeRecord:
    """Its record. Raises NoSuchVolumeError, CorruptRecordError."""
    path = f"{paths.volumes}/{name}/volume.json"
    try:
        record = read_json(path)
        if not isinstance(record, dict) or not isinstance(record.get("Options", {}), dict):
            raise ValueError("not a volume's record")
    except FileNotFoundError:
        if not exists(paths, name):
            raise NoSuchVolumeError(f"no such volume {name}", _LIST) from None
        raise CorruptRecordError(f"read {path}: it is missing", _REPAIR) from None
    except (OSError, ValueError) as error:
        raise CorruptRecordError(f"read {path}: {error}", _REPAIR) from None
    return record  # type: ignore[return-value]


_REPAIR = "`rl system check --repair` writes a new record; the volume's files are not touched"


def make(
    paths: Paths, name: str, record: VolumeRecord, prepare: Callable[[str], None] | None = None, sync: bool = True
) -> bool:
    """Make volume *name*, complete or not at all; False where the name is taken.

    *prepare* gets the data directory before anybody else sees it. Raises RlError.
    """
    staging = f"{paths.volumes}/.{os.getpid()}-{os.urandom(4).hex()}.new"
    held = -1
    try:
        held = hold_staging(staging)
        os.mkdir(f"{staging}/_data", 0o755)
        write_json(f"{staging}/volume.json", record, sync=sync)
        if prepare is not None:
            prepare(f"{staging}/_data")
        os.rename(staging, f"{paths.volumes}/{name}")
        return True
    except BaseException as error:
        _unmake(staging)
        if isinstance(error, OSError):
            if error.errno in _TAKEN:
                return False
            raise RlError(f"create volume {name}: {error.strerror}", disk_hint(error)) from None
        raise
    finally:
        if held >= 0:
            os.close(held)


def _unmake(staging: str) -> None:
    for remove, name in ((os.unlink, "/volume.json"), (os.rmdir, "/_data"), (os.rmdir, "")):
        try:
            remove(f"{staging}{name}")
        except OSError:
            continue


def fresh(anonymous: bool = False) -> VolumeRecord:
    """The record of a volume without anything special."""
    return {"Driver": "local", "CreatedAt": containers.now(), "Labels": {}, "Options": {}, "Anonymous": anonymous}


def mark(paths: Paths, name: str, which: str) -> None:
    """Set one of the marks. Raises FileNotFoundError where the volume is gone."""
    os.close(os.open(f"{paths.volumes}/{name}/{which}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def has_mark(paths: Paths, name: str, which: str) -> bool:
    return os.path.exists(f"{paths.volumes}/{name}/{which}")


# who uses it

def users(paths: Paths) -> dict[str, list[str]]:
    """Volume → the ids of the containers that use it. A record that cannot be read is passed over."""
    found: dict[str, list[str]] = {}
    for container_id in containers.ids(paths):
        try:
            config: ContainerConfig = read_json(f"{paths.container(container_id)}/config.json")
            for name in of_container(config):
                found.setdefault(name, []).append(container_id)
        except (OSError, ValueError, AttributeError, TypeError):
            continue
    return found


def of_container(config: ContainerConfig) -> list[str]:
    """The volumes in a container's record, each once."""
    mounts = config.get("mounts", [])
    return list(dict.fromkeys(spec["source"] for spec in mounts if spec.get("type") == "volume" and spec.get("source")))


def users_of(paths: Paths, name: str) -> list[str]:
    """The ids of the containers that use volume *name*; those with a record that does not tell count, where it has
    the name in it."""
    wanted = f'"{name}"'.encode()
    found = []
    for container_id in containers.ids(paths):
        try:
            with open(f"{paths.container(container_id)}/config.json", "rb") as file:
                text = file.read()
        except OSError:
            continue
        if wanted not in text:
            continue
        try:
            from rl.config.jsonio import loads

            if name not in of_container(loads(text.decode())):
                continue
        except (ValueError, AttributeError, TypeError, KeyError):
            pass
        found.append(container_id)
    return found


def sweep(paths: Paths) -> None:
    """Into the trash with what killed creators left; who lives holds the lock of its staging directory."""
    import fcntl

    from rl.storage import trash

    for name in os.listdir(paths.volumes):
        if name[0] != ".":
            continue
        path = f"{paths.volumes}/{name}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trash.discard(paths, path)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)
