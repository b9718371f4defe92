"""/dev of a container, and the paths of /proc and /sys that it must not see or change.

In a user namespace no device node can be made, so the host's are bound (a copy of one mount, attached to an
empty file). Called by :mod:`rl.runtime.container` before clone (:func:`open_nodes`) and by the child's steps.
Source: OCI runtime specification, config-linux.md "Default Devices", "Masked Paths"; CVE-2025-31133,
CVE-2025-52565: the source of a mask is the host's /dev/null, verified, never what the image calls so.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError
from rl.kernel import mount as m
from rl.runtime import mounts, rootpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: name: (major, minor) (Documentation/admin-guide/devices.txt)
DEFAULT_NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0),
}
_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("core", "/proc/kcore"), ("ptmx", "pts/ptmx"),
)
_SEALED = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC


def has_own_dev(spec: dict[str, Any]) -> bool:
    """Whether /dev is the container's own: with the host's /dev bound there, nothing is to be made in it."""
    entries = spec.get("mounts") or []
    return not any(entry.get("destination", "").rstrip("/") == "/dev" and mounts.is_bind(entry) for entry in entries)


def open_nodes(spec: dict[str, Any]) -> dict[str, int]:
    """Detached mounts of the host's nodes: path in the container → descriptor; ``null`` is the source of masks.

    Raises RlError for a node the host does not have.
    """
    found: dict[str, int] = {}
    try:
        found["null"] = _open_node("/dev/null", 1, 3)
        if not has_own_dev(spec):
            return found
        for name, (major, minor) in DEFAULT_NODES.items():
            found[f"/dev/{name}"] = _open_node(f"/dev/{name}", major, minor)
        for device in (spec.get("linux") or {}).get("devices") or []:
            if device.get("type") in ("c", "b", "u") and device["path"] not in found:
                major, minor = int(device.get("major", -1)), int(device.get("minor", -1))
                found[device["path"]] = _open_node(_host_path(device, major, minor), major, minor)
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def _open_node(path: str, major: int, minor: int) -> int:
    try:
        fd = m.open_tree(path, m.OPEN_TREE_CLONE)
    except OSError as error:
        raise RlError(f"device {path}: {error.strerror}", "the host must have this device node") from None
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode) and not stat.S_ISBLK(info.st_mode):
        os.close(fd)
        raise RlError(f"device {path}: not a device node on this host")
    if (os.major(info.st_rdev), os.minor(info.st_rdev)) != (major, minor):
        os.close(fd)
        raise RlError(f"device {path}: is {os.major(info.st_rdev)}:{os.minor(info.st_rdev)} here, not {major}:{minor}")
    return fd


def _host_path(device: dict[str, Any], major: int, minor: int) -> str:
    """Where the host keeps the node: under the same name, or under the name sysfs knows."""
    path: str = device["path"]
    try:
        if os.stat(path).st_rdev == os.makedev(major, minor):
            return path
    except OSError:
        pass
    kind = "block" if device["type"] == "b" else "char"
    try:
        with open(f"/sys/dev/{kind}/{major}:{minor}/uevent", encoding="utf-8") as file:
            for line in file:
                if line.startswith("DEVNAME="):
                    return "/dev/" + line[8:].strip()
    except OSError:
        pass
    return path


def populate(spec: dict[str, Any], root: int, nodes: dict[str, int]) -> None:
    """Attach the nodes and make the links of /dev."""
    if not has_own_dev(spec):
        return
    dev = rootpath.ensure_directory(root, "/dev")
    try:
        for path, fd in nodes.items():
            if path == "null":
                continue
            name = path[5:] if path.startswith("/dev/") and "/" not in path[5:] else ""
            _attach_node(root, dev, name, path, fd)
        for name, target in _LINKS:
            try:
                os.symlink(target, name, dir_fd=dev)
            except FileExistsError:
                pass
        _fifos(spec, root)
    except OSError as error:
        raise RlError(
            f"create {error.filename or 'a device'} in /dev: {error.strerror}",
            "mount a tmpfs on /dev" if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else "",
        ) from None
    finally:
        os.close(dev)


def _attach_node(root: int, dev: int, name: str, path: str, fd: int) -> None:
    if name:
        # The usual case in two calls: /dev is a new tmpfs in which nobody else can have made anything.
        try:
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            target = os.open(name, flags, 0o666, dir_fd=dev)
        except FileExistsError:
            target = rootpath.ensure_file(root, path)
    else:
        target = rootpath.ensure_file(root, path)
    try:
        m.move_mount(fd, "", target)
    finally:
        os.close(target)


def _fifos(spec: dict[str, Any], root: int) -> None:
    for device in (spec.get("linux") or {}).get("devices") or []:
        if device.get("type") != "p":
            continue
        parent, name = os.path.split(device["path"])
        directory = rootpath.ensure_directory(root, parent)
        try:
            os.mkfifo(name, dir_fd=directory)
            os.chmod(f"/proc/self/fd/{directory}/{name}", device.get("fileMode", 0o666))
            os.chown(name, device.get("uid", 0), device.get("gid", 0), dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)


class _Cover:
    """One mount put over many targets: itself the first time, copies of it (now it can be copied) after that."""

    __slots__ = ("attached", "fd")

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        self.attached = False

    def put(self, target: int) -> None:
        if not self.attached:
            m.move_mount(self.fd, "", target)
            self.attached = True
            return
        copy = m.open_tree("", m.OPEN_TREE_CLONE | m.AT_EMPTY_PATH, self.fd)
        try:
            m.move_mount(copy, "", target)
        finally:
            os.close(copy)


def mask(root: int, paths: list[str], null: int) -> None:
    """Hide *paths*: a file behind /dev/null (detached mount *null*), a directory behind an empty read-only tmpfs."""
    empty, nothing = _Cover(), _Cover(null)
    for path in paths:
        target = rootpath.resolve_or_none(root, path)
        if target is None:
            continue
        try:
            if not stat.S_ISDIR(os.fstat(target).st_mode):
                nothing.put(target)
                continue
            if empty.fd < 0:
                empty.fd = mounts.new_mount("tmpfs", "tmpfs", ["size=0", "nr_inodes=2", "mode=755"], _SEALED)
            empty.put(target)
        except OSError as error:
            raise RlError(f"mask {path}: {error.strerror}") from None
        finally:
            os.close(target)
    if empty.fd >= 0:
        os.close(empty.fd)


def make_readonly(root: int, paths: list[str]) -> None:
    """Cover each of *paths* by a read-only copy of itself, with all that is mounted below."""
    for path in paths:
        target = rootpath.resolve_or_none(root, path)
        if target is None:
            continue
        try:
            copy = m.open_tree("", m.OPEN_TREE_CLONE | m.AT_RECURSIVE | m.AT_EMPTY_PATH, target)
            try:
                mounts.attach(copy, target, mounts.Options(["rbind", "ro"]))
            finally:
                os.close(copy)
        except OSError as error:
            raise RlError(f"make {path} read-only: {error.strerror}") from None
        finally:
            os.close(target)
