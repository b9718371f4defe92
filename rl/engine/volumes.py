"""Named and anonymous volumes: directories below volumes/<name>/_data.

Called by the monitor, inside the user namespace, when it launches a container.
"""

from __future__ import annotations

import fcntl
import os

from rl.config.jsonio import write_json
from rl.engine import containers
from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig, IdRange, MountSpec
    from rl.config.paths import Paths


def ensure(paths: Paths, name: str, anonymous: bool = False) -> tuple[str, bool]:
    """(data directory, whether it was made now) of volume *name*; mkdir(2) decides a race."""
    directory = f"{paths.volumes}/{name}"
    os.makedirs(directory, 0o700, exist_ok=True)
    made = False
    try:
        os.mkdir(f"{directory}/_data", 0o755)
        made = True
    except FileExistsError:
        pass
    if made or not os.path.exists(f"{directory}/volume.json"):  # who made it was killed between the two
        record = {"Name": name, "Driver": "local", "CreatedAt": containers.now(), "Labels": {}, "Options": {},
                  "Anonymous": anonymous}
        write_json(f"{directory}/volume.json", record, sync=not anonymous)
    return f"{directory}/_data", made


def prepare(paths: Paths, config: ContainerConfig, rootfs: str) -> dict[str, str]:
    """Destination → data directory of every volume of the container; new ones are filled from the image.

    *rootfs* is the mounted root file system, from whose directory at the destination an empty volume
    gets content, owner and mode (copy-up, as in Podman).
    """
    found = {}
    for spec in config["mounts"]:
        if spec["type"] != "volume":
            continue
        data, _ = ensure(paths, spec["source"], bool(spec.get("anonymous")))
        _fill_once(config, spec, data, rootfs)
        found[spec["destination"]] = data
    return found


def _fill_once(config: ContainerConfig, spec: MountSpec, data: str, rootfs: str) -> None:
    """Fill the volume if it is empty. Containers that start together wait for the one that copies.

    In place, for a running container may have the directory mounted; the mark ``filling`` says that what
    is there is a part only, when the process that copied was killed.
    """
    mark = f"{os.path.dirname(data)}/filling"
    if os.listdir(data) and not os.path.exists(mark):
        return
    from rl.storage import trash

    lock = os.open(os.path.dirname(data), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(mark):
            trash.remove_contents(data)
        elif os.listdir(data):
            return
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        try:
            _fill(config, spec, data, rootfs)
        except BaseException:
            trash.remove_contents(data)  # a full disk: the next start begins afresh
            raise
        finally:
            os.unlink(mark)
    finally:
        os.close(lock)


def _fill(config: ContainerConfig, spec: MountSpec, data: str, rootfs: str) -> None:
    """Make the empty directory *data* like the image's directory at the destination."""
    from rl.kernel import fs
    from rl.storage.treecopy import copy_tree

    owner = (_root(config["uid_map"]), _root(config["gid_map"]))
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = fs.openat2(root, spec["destination"].lstrip("/"), os.O_RDONLY | os.O_DIRECTORY, 0, fs.RESOLVE_IN_ROOT)
    except OSError:
        os.chown(data, *owner)  # the image has no such directory
        return
    finally:
        os.close(root)
    try:
        if spec.get("no_copy"):
            status = os.fstat(source)
            os.chown(data, status.st_uid, status.st_gid)
            os.chmod(data, status.st_mode & 0o7777)
        else:
            copy_tree(source, data)
    except OSError as error:
        what = f"copy {spec['destination']} of the image to volume {spec['source'][:24]}"
        raise RlError(f"{what}: {error.strerror}") from None
    finally:
        os.close(source)


def _root(ranges: list[IdRange]) -> int:
    """The shared id of the container's id 0; ranges are (id inside, shared id, count)."""
    return next((outside for inside, outside, _ in ranges if inside == 0), 0)
