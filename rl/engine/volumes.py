"""Named and anonymous volumes: directories below volumes/<name>/_data.

Called by the monitor, inside the user namespace, when it launches a container.
"""

from __future__ import annotations

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
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        os.makedirs(f"{directory}/_data", 0o755, exist_ok=True)
        return f"{directory}/_data", False
    os.mkdir(f"{directory}/_data", 0o755)
    record = {"Name": name, "Driver": "local", "CreatedAt": containers.now(), "Labels": {}, "Options": {}, "Anonymous": anonymous}
    write_json(f"{directory}/volume.json", record, sync=not anonymous)
    return f"{directory}/_data", True


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
        if not os.listdir(data):
            _fill(config, spec, data, rootfs)
        found[spec["destination"]] = data
    return found


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
        raise RlError(f"copy {spec['destination']} of the image to volume {spec['source'][:24]}: {error.strerror}") from None
    finally:
        os.close(source)


def _root(ranges: list[IdRange]) -> int:
    """The shared id of the container's id 0; ranges are (id inside, shared id, count)."""
    return next((outside for inside, outside, _ in ranges if inside == 0), 0)


def chown_tree(path: str, uid: int, gid: int) -> None:
    """Give *path* and all below it to (uid, gid) of the shared namespace: the mount option U."""
    os.lchown(path, uid, gid)
    for directory, names, files in os.walk(path):
        for name in names + files:
            os.lchown(f"{directory}/{name}", uid, gid)
