"""Volumes that are file systems: tmpfs, overlay, a directory of the host, mounted at the volume's ``_data``.

A mount lives in the mount namespace of the monitor that made it and ends with it, so nobody has to unmount anything.
Containers that use a volume at the same time share one file system: who comes later takes the mount of one who has it
(rl.runtime.mountns), under the lock of the volume's directory. When the last of them has ended a tmpfs is gone, as
with Podman's mount counter. `rl volume mount` in `rl unshare` does the same in the shell's namespace.

Imported only for volumes with options.
"""

from __future__ import annotations

import errno
import fcntl
import os

from rl.engine.volume import options as local
from rl.engine.volume import records
from rl.errors import RlError, UnsupportedError
from rl.kernel import mount as m
from rl.kernel import proc
from rl.runtime import mountns, mountoptions, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import VolumeRecord
    from rl.config.paths import Paths


def mount(paths: Paths, name: str, record: VolumeRecord) -> tuple[bool, bool]:
    """See to it that the volume is mounted in this mount namespace: (it is a new file system, it is the host's).

    For a volume without a file system of its own (False, False). Raises RlError, UnsupportedError.
    """
    options = local.parse(record.get("Options") or {})
    if not options.type:
        return False, False
    data = records.data(paths, name)
    if is_mounted("self", data):
        return False, options.type == "bind"
    if options.type == "bind":
        _bind(name, options, data)
        return False, True
    lock = os.open(records.directory(paths, name), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for pid in holders(paths, name):
            try:
                mountns.attach_from(pid, data, data)
                return False, False
            except RlError:
                continue  # it has just ended
        _make(name, options, data)
        own = (record.get("UID", -1), record.get("GID", -1))
        if own != (-1, -1):
            os.chown(data, *own)
    finally:
        os.close(lock)
    return True, False


def unmount(paths: Paths, name: str) -> bool:
    """Take the volume down in this mount namespace; whether it was mounted. Raises RlError."""
    data = records.data(paths, name)
    if not is_mounted("self", data):
        return False
    try:
        m.umount(data, m.UMOUNT_NOFOLLOW)
    except OSError as error:
        raise RlError(f"unmount volume {name}: {error.strerror}", "a process works in it: see `fuser -m`") from None
    return True


def holders(paths: Paths, name: str) -> list[int]:
    """The monitors, other than this process, that have the volume mounted."""
    data = records.data(paths, name)
    found = []
    for container_id in records.users_of(paths, name):
        pid = userns.monitor_pid(f"{paths.container_run(container_id)}/lock")
        if pid > 0 and pid != os.getpid() and is_mounted(str(pid), data):
            found.append(pid)
    return found


def is_mounted(pid: str, path: str) -> bool:
    """Whether *path* is a mount point of process *pid*."""
    wanted = os.path.realpath(path)
    try:
        return any(point == wanted for point, _ in proc.mounts(pid))
    except OSError:
        return False


def _bind(name: str, options: local.Local, data: str) -> None:
    words = mountoptions.Options(options.flags)
    if words.data or words.superblock or words.id_map:
        unknown = words.data[0] if words.data else next(iter(words.superblock.values()), words.id_map)
        raise UnsupportedError(f"mount volume {name}: option {unknown} has no meaning for a bind mount", "leave it out")
    recursive = words.recursive or "bind" not in options.flags
    try:
        tree = m.open_tree(options.device, m.OPEN_TREE_CLONE | (m.AT_RECURSIVE if recursive else 0))
    except OSError as error:
        raise RlError(
            f"mount volume {name}: bind {options.device}: {error.strerror}",
            f"mkdir -p {options.device}" if error.errno == errno.ENOENT else "",
        ) from None
    _attach(name, tree, words, data)


def _make(name: str, options: local.Local, data: str) -> None:
    """A new file system."""
    words = mountoptions.Options(options.flags)
    settings = [*words.data]
    if options.type == "tmpfs":
        for key, most in (("size", options.size), ("nr_inodes", options.inodes)):
            settings += [f"{key}={most}"] if most else []
    elif options.size or options.inodes:
        raise UnsupportedError(f"mount volume {name}: size and inodes are for tmpfs", "leave them out")
    context = -1
    try:
        context = m.fsopen(options.type)
        m.fsconfig_string(context, "source", options.device or options.type)
        for setting in settings:
            key, equals, value = setting.partition("=")
            if equals:
                m.fsconfig_string(context, key, value)
            else:
                m.fsconfig_flag(context, key)
        m.fsconfig_create(context)
        tree = m.fsmount(context)
    except OSError as error:
        raise RlError(
            f"mount volume {name}: {options.type} with {','.join(options.flags) or 'no options'}: {error.strerror}",
            "see the file system's options in mount(8)",
        ) from None
    finally:
        if context >= 0:
            os.close(context)
    _attach(name, tree, words, data)


def _attach(name: str, tree: int, words: mountoptions.Options, data: str) -> None:
    try:
        if words.set or words.clear:
            m.mount_setattr(tree, "", words.set, words.clear)
        m.move_mount(tree, data)
    except OSError as error:
        raise RlError(f"mount volume {name} at {data}: {error.strerror}") from None
    finally:
        os.close(tree)
