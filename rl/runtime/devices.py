"""/dev of a container, and the paths of /proc and /sys that it must not see or change.

Real root makes device nodes as config.json describes them. In a user namespace none can be made, so the host's are
bound (a copy of one mount, attached to an empty file), with the owner and the mode they have there: fileMode, uid and
gid of ``linux.devices`` have no effect then, as with runc and crun. Called by :mod:`rl.runtime.outside`
(:func:`open_nodes`) and by the child's steps.
Source: OCI runtime specification, config-linux.md "Devices", "Default Devices", "Masked Paths"; CVE-2025-31133,
CVE-2025-52565: the source of a mask is the host's /dev/null, verified, never what the image calls so.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError
from rl.kernel import fs
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.runtime import detached, mounts, rootpath
from rl.runtime.mountoptions import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.sync import Setup

#: name: (major, minor) (Documentation/admin-guide/devices.txt)
DEFAULT_NODES = {
    "null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0),
}
_LINKS = (
    ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"), ("core", "/proc/kcore"), ("ptmx", "pts/ptmx"),
)
_SEALED = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC
_FORMATS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def has_own_dev(spec: dict[str, Any]) -> bool:
    """Whether /dev is the container's own: with the host's /dev bound there, nothing is to be made in it."""
    entries = spec.get("mounts") or []
    return not any(entry.get("destination", "").rstrip("/") == "/dev" and detached.is_bind(entry) for entry in entries)


def wanted(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Path → entry of ``linux.devices``, and the default devices that it does not name."""
    found: dict[str, dict[str, Any]] = {}
    for device in (spec.get("linux") or {}).get("devices") or []:
        found["/" + device["path"].strip("/")] = device
    for name, (major, minor) in DEFAULT_NODES.items():
        found.setdefault(f"/dev/{name}", {"type": "c", "major": major, "minor": minor})
    return found


def may_make(setup: Setup) -> bool:
    """Whether the container is made in the initial user namespace, where mknod(2) is a matter of capabilities."""
    return not setup.flags & ns.CLONE_NEWUSER and "user" not in setup.fds and ns.is_initial_user_namespace()


def open_nodes(setup: Setup) -> dict[str, int]:
    """Detached mounts of the host's nodes: path in the container → descriptor; ``null`` is the source of masks.

    Raises PermissionError where the caller may not copy mounts, RlError for a node the host does not have.
    """
    found: dict[str, int] = {}
    try:
        found["null"] = _open_node("/dev/null", 1, 3)
        if has_own_dev(setup.spec) and not may_make(setup):
            for path, device in wanted(setup.spec).items():
                if device["type"] != "p":
                    found[path] = _open_host_node(path, device)
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def _numbers(device: dict[str, Any]) -> tuple[int, int]:
    return int(device.get("major", -1)), int(device.get("minor", -1))


def _open_host_node(path: str, device: dict[str, Any]) -> int:
    major, minor = _numbers(device)
    return _open_node(_host_path(path, device), major, minor)


def _open_node(path: str, major: int, minor: int) -> int:
    # The copy is a peer of the host's mount where that is shared: whoever attaches it makes it private, else what the
    # container mounts over its /dev/null would lie over the host's too.
    try:
        fd = m.open_tree(path, m.OPEN_TREE_CLONE)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        raise RlError(f"device {path}: {error.strerror}", "the host must have this device node") from None
    info = os.fstat(fd)
    if not stat.S_ISCHR(info.st_mode) and not stat.S_ISBLK(info.st_mode):
        os.close(fd)
        raise RlError(f"device {path}: not a device node on this host")
    if (os.major(info.st_rdev), os.minor(info.st_rdev)) != (major, minor):
        os.close(fd)
        raise RlError(f"device {path}: is {os.major(info.st_rdev)}:{os.minor(info.st_rdev)} here, not {major}:{minor}")
    return fd


def _host_path(path: str, device: dict[str, Any]) -> str:
    """Where the host keeps the node: under the same name, or under the name sysfs knows."""
    major, minor = _numbers(device)
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


def populate(setup: Setup) -> None:
    """Make or attach the nodes and make the links of /dev."""
    if not has_own_dev(setup.spec):
        return
    dev = rootpath.ensure_directory(setup.root, "/dev")
    try:
        for path, device in wanted(setup.spec).items():
            # The usual case is short: /dev is a new tmpfs in which nobody else can have made anything.
            in_dev = path.startswith("/dev/") and "/" not in path[5:]
            parent_path, name = os.path.split(path)
            parent = dev if in_dev else rootpath.ensure_directory(setup.root, parent_path)
            try:
                _put(setup, parent, name, path, device)
            finally:
                if parent != dev:
                    os.close(parent)
        _links(dev, wanted(setup.spec))
    except OSError as error:
        raise RlError(
            f"create {error.filename or 'a device'} in /dev: {error.strerror}",
            "mount a tmpfs on /dev" if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM) else "",
        ) from None
    finally:
        os.close(dev)


def _put(setup: Setup, parent: int, name: str, path: str, device: dict[str, Any]) -> None:
    node = setup.nodes.get(path, -1)
    if node < 0:
        try:
            _make(parent, name, path, device)
            return
        except PermissionError:
            if device["type"] == "p":
                raise
            node = _open_host_node(path, device)  # no CAP_MKNOD, or an outer device filter: as in a user namespace
    try:
        flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o666, dir_fd=parent))
    except FileExistsError:
        _is_it(parent, name, path, device)  # covered all the same: it may lie on a mount where nodes have no meaning
    target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        detached.attach(node, target, Options([]))
    finally:
        os.close(target)
        os.close(node)


def _make(parent: int, name: str, path: str, device: dict[str, Any]) -> None:
    """mknod(2), and owner and mode as asked; by descriptor, as somebody may share the directory."""
    number = 0 if device["type"] == "p" else os.makedev(*_numbers(device))
    try:
        os.mknod(name, _FORMATS[device["type"]] | 0o600, number, dir_fd=parent)
    except FileExistsError:
        if _is_it(parent, name, path, device):
            return
        os.unlink(name, dir_fd=parent)  # the empty file that a bind mount left
        os.mknod(name, _FORMATS[device["type"]] | 0o600, number, dir_fd=parent)
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if not _matches(os.fstat(fd), device):
            raise OSError(errno.EEXIST, "somebody else has put something there", path)
        os.chown(f"/proc/self/fd/{fd}", device.get("uid") or 0, device.get("gid") or 0)
        mode = device.get("fileMode")
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(0o666 if mode is None else mode))
    finally:
        os.close(fd)


def _matches(info: os.stat_result, device: dict[str, Any]) -> bool:
    kind = _FORMATS[device["type"]]
    return stat.S_IFMT(info.st_mode) == kind and (
        kind == stat.S_IFIFO or (os.major(info.st_rdev), os.minor(info.st_rdev)) == _numbers(device)
    )


def _is_it(parent: int, name: str, path: str, device: dict[str, Any]) -> bool:
    """Whether what is there is the device; False for an empty file, over which a node can be put.

    "If a file already exists at path that does not match the requested device, the runtime MUST generate an error."
    """
    info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if _matches(info, device):
        return True
    if stat.S_ISREG(info.st_mode) and info.st_size == 0:
        return False
    raise RlError(f"device {path}: there is something else in the image", "remove it, or use another path")


def _links(dev: int, nodes: dict[str, dict[str, Any]]) -> None:
    for name, target in _LINKS:
        try:
            os.symlink(target, name, dir_fd=dev)
        except FileExistsError:
            # An image's own ptmx would be the host's, not that of the container's devpts; one that was asked for stays.
            if name != "ptmx" or "/dev/ptmx" in nodes:
                continue
            if rootpath.link_text(dev, name) not in (target, f"/dev/{target}") and not _is_mount(dev, name):
                os.unlink(name, dir_fd=dev)
                os.symlink(target, name, dir_fd=dev)


def _is_mount(directory: int, name: str) -> bool:
    """Whether something is mounted over *name*."""
    try:
        os.close(fs.openat2(directory, name, os.O_PATH | os.O_NOFOLLOW, 0, fs.RESOLVE_NO_XDEV))
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


class _Cover:
    """One mount put over many targets: itself the first time, copies of it (now it can be copied) after that."""

    __slots__ = ("attached", "fd")

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        self.attached = False

    def put(self, target: int) -> None:
        if not self.attached:
            detached.attach(self.fd, target, Options([]))
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
                detached.attach(copy, target, Options(["rbind", "ro"]))
            finally:
                os.close(copy)
        except OSError as error:
            raise RlError(f"make {path} read-only: {error.strerror}") from None
        finally:
            os.close(target)
