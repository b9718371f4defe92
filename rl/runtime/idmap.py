"""Id-mapped mounts: a file's owner on the file system is another one through the mount (mount_setattr(2), Linux 5.12).

The kernel allows it to who has CAP_SYS_ADMIN in the user namespace that the file system was mounted in: to real root
for the disks of the host, to a user for what was mounted in a user namespace of theirs. Imported only where such a
mount is asked for. Source: OCI runtime specification, config.md "POSIX-platform Mounts" (uidMappings, idmap, ridmap).
"""

from __future__ import annotations

import errno
import os

from rl.errors import UnsupportedError
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process as kp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.mountoptions import Options


def apply(fd: int, entry: dict[str, Any], options: Options, linux: dict[str, Any], joined: int = -1) -> None:
    """Map the ids of detached mount *fd*; *joined* is the user namespace the container joins, if it does.

    Host ids of the mappings are those of the caller's user namespace. Raises UnsupportedError naming mount and reason.
    """
    what = f"mount {entry['destination']}: map ids"
    namespace, own = _namespace(entry, linux, joined, what)
    try:
        m.mount_setattr(
            fd, "", m.MOUNT_ATTR_IDMAP, userns_fd=namespace, recursive=options.id_map == "ridmap"
        )
    except OSError as error:
        raise UnsupportedError(f"{what}: {error.strerror}", _hint(error)) from None
    finally:
        if own:
            os.close(namespace)


def _hint(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (
            "only real root outside of user namespaces may map ids of the host's file systems: --userns=keep-id makes "
            "the container's user you, the mount option U gives the files to it"
        )
    if error.errno == errno.EINVAL:
        return "this kind of file system cannot be id-mapped on this kernel, or it is mapped already"
    return "id-mapped mounts need Linux 5.12" if error.errno == errno.ENOSYS else ""


def _namespace(entry: dict[str, Any], linux: dict[str, Any], joined: int, what: str) -> tuple[int, bool]:
    """(a user namespace with the wanted mapping, whether the caller has to close it)."""
    maps = [entry.get("uidMappings") or [], entry.get("gidMappings") or []]
    if not any(maps):
        if joined >= 0:
            return joined, False
        if all(space.get("type") != "user" for space in linux.get("namespaces") or []):
            raise UnsupportedError(
                f"{what}: the container has no user namespace whose map could be taken",
                "give the mount uidMappings and gidMappings",
            )
        # A namespace with the map of the container's, which does not exist yet or is not to be entered.
        maps = [linux.get("uidMappings") or [], linux.get("gidMappings") or []]
    if not all(maps):
        raise UnsupportedError(f"{what}: a mount has uidMappings and gidMappings, or neither", "add the missing one")
    try:
        return make_namespace(_lines(maps[0]), _lines(maps[1])), True
    except OSError as error:
        raise UnsupportedError(
            f"{what}: {error.strerror} ({error.filename or 'make a user namespace'})",
            "the host ids must be ids of the caller's, and none may be mapped twice",
        ) from None


def _lines(maps: list[dict[str, Any]]) -> str:
    return "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in maps)


def make_namespace(uid_map: str, gid_map: str) -> int:
    """A new user namespace with these maps (lines of uid_map and gid_map): its descriptor; no process stays in it."""
    ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
    done_read, done_write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            os.close(ready_read)
            os.close(done_write)
            ns.unshare(ns.CLONE_NEWUSER)
            # A container's child is not dumpable when it mounts; then /proc/PID/uid_map would not be ours to write.
            kp.prctl(kp.PR_SET_DUMPABLE, 1)
            # Our number as /proc counts: the caller may be in a pid namespace that this /proc does not show.
            os.write(ready_write, os.readlink("/proc/self").encode())
            os.read(done_read, 1)
        finally:
            os._exit(0)
    os.close(ready_write)
    os.close(done_read)
    try:
        pid = os.read(ready_read, 32).decode()
        if not pid:
            raise OSError(errno.EPERM, "a user namespace cannot be made here")
        ns.write_proc(f"/proc/{pid}/uid_map", uid_map)
        ns.write_proc(f"/proc/{pid}/gid_map", gid_map)
        return ns.open_namespace(pid, "user")
    finally:
        os.close(ready_read)
        os.close(done_write)
        os.waitpid(child, 0)
