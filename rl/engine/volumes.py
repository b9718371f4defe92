"""The volumes of a container: claimed when it is made, mounted and filled when it starts.

Called by :func:`rl.engine.recording.record` in the command line, and by the monitor, inside the user namespace, when it
launches. What a volume is on disk: rl.engine.volume.records.
"""

from __future__ import annotations

import fcntl
import os

from rl.config.jsonio import write_json
from rl.engine.volume import records
from rl.errors import NoSuchVolumeError, RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import ContainerConfig, MountSpec, VolumeRecord
    from rl.config.paths import Paths


# when the container is made


def claim(paths: Paths, config: ContainerConfig, *, own: bool) -> list[str]:
    """Make the volumes that do not exist; their names. Under the records lock.

    First those that have names, before the container is on disk, so that nobody removes them; then its *own*, anonymous
    ones, after it: nothing but its record tells that somebody wants them, should we be killed in between.
    An anonymous volume of another container gets the mark that its own may not take it along any more.
    """
    made = []
    for spec in config.get("mounts", []):
        if spec["type"] != "volume" or own is not is_own(spec):
            continue
        name = spec["source"]
        if not spec.get("borrowed") and _make(paths, spec):
            made.append(name)
        elif spec.get("borrowed") or _is_anonymous(paths, name):
            try:
                records.mark(paths, name, records.SHARED)
            except FileNotFoundError:
                raise NoSuchVolumeError(f"volume {name} was removed meanwhile") from None
    return made


def is_own(spec: MountSpec) -> bool:
    """Whether it is an anonymous volume made for this very container."""
    return bool(spec.get("anonymous") and not spec.get("borrowed"))


def _make(paths: Paths, spec: MountSpec) -> bool:
    name, anonymous = spec["source"], bool(spec.get("anonymous"))
    if records.exists(paths, name):
        if not os.path.exists(f"{records.directory(paths, name)}/volume.json"):  # it was removed by hand
            write_json(f"{records.directory(paths, name)}/volume.json", records.fresh(anonymous))
        return False
    record = records.fresh(anonymous)
    record["Labels"] = spec.get("volume_labels") or {}
    options = spec.get("volume_options")
    if not options:
        return records.make(paths, name, record, sync=not anonymous)
    from rl.engine.volume.create import make

    return make(paths, name, record, options)


def _is_anonymous(paths: Paths, name: str) -> bool:
    try:
        return bool(records.read(paths, name).get("Anonymous"))
    except RlError:
        return False  # what is wrong with it is told when the container starts


# when it starts


def prepare(paths: Paths, config: ContainerConfig, rootfs: str, owner: tuple[int, int]) -> dict[str, str]:
    """Destination → directory (or file) to mount there, of every volume of the container.

    New ones are filled from *rootfs*, the mounted root file system (copy-up, as in Podman); where the image has no such
    directory they belong to *owner*: (uid, gid) of the container's process, in the shared namespace.
    """
    found = {}
    for spec in config["mounts"]:
        if spec["type"] != "volume":
            continue
        name = spec["source"]
        _make(paths, spec)  # somebody removed its directory by hand
        record = records.read(paths, name)
        data = records.data(paths, name)
        os.makedirs(data, 0o755, exist_ok=True)
        fresh, keep = False, False
        if record.get("Options"):
            from rl.engine.volume import mounting

            fresh, keep = mounting.mount(paths, name, record)
        _fill_once(paths, spec, record, rootfs, owner, fresh, keep)
        found[spec["destination"]] = data
    return found


def _fill_once(
    paths: Paths, spec: MountSpec, record: VolumeRecord, rootfs: str, owner: tuple[int, int], fresh: bool, keep: bool
) -> None:
    """Fill the volume if no container had it yet and it is empty. Containers that start together wait for the one that
    copies.

    In place, for a running container may have the directory mounted; the mark ``filling`` says that what
    is there is a part only, when the process that copied was killed. *fresh*: it is a new, empty file system; *keep*:
    it is a directory of the host, where nothing is ever removed.
    """
    name = spec["source"]
    if records.has_mark(paths, name, records.USED) and not fresh:
        return
    from rl.storage import trash

    data = records.data(paths, name)
    filling, used = (f"{records.directory(paths, name)}/{mark}" for mark in (records.FILLING, records.USED))
    lock = os.open(records.directory(paths, name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(filling) and not keep:
            trash.remove_contents(data)
        elif os.path.exists(used) and not fresh:
            return
        elif os.listdir(data) or os.statvfs(data).f_flag & os.ST_RDONLY:
            records.mark(paths, name, records.USED)  # it was filled otherwise: import, the host
            return
        records.mark(paths, name, records.FILLING)
        try:
            _fill(spec, record, data, rootfs, owner)
        except BaseException:
            if not keep:
                trash.remove_contents(data)  # a full disk: the next start begins afresh
            os.unlink(filling)
            raise
        os.rename(filling, used)
    finally:
        os.close(lock)


def _fill(spec: MountSpec, record: VolumeRecord, data: str, rootfs: str, owner: tuple[int, int]) -> None:
    """Make the empty directory *data* like the image's directory at the destination."""
    from rl.kernel import fs
    from rl.storage.treecopy import copy_tree

    own = (record.get("UID", -1), record.get("GID", -1))
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = fs.openat2(root, spec["destination"].lstrip("/"), os.O_RDONLY | os.O_DIRECTORY, 0, fs.RESOLVE_IN_ROOT)
    except OSError:  # the image has no such directory
        if own == (-1, -1):
            os.chown(data, *owner)
        return
    finally:
        os.close(root)
    options = record.get("Options") or {}
    try:
        status = os.fstat(source)
        if spec.get("no_copy") or "nocopy" in options:
            if own == (-1, -1):
                os.chown(data, status.st_uid, status.st_gid)
                os.chmod(data, status.st_mode & 0o7777)
        else:
            before = os.stat(data)
            copy_tree(source, data)
            if own != (-1, -1):
                os.chown(data, before.st_uid, before.st_gid)
    except OSError as error:
        what = f"copy {spec['destination']} of the image to volume {spec['source'][:24]}"
        raise RlError(f"{what}: {error.strerror}") from None
    finally:
        os.close(source)


