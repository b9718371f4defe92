"""The mounts of an OCI config: each becomes a detached mount, gets its attributes, and is attached by descriptor.

Bind sources are opened by the caller of clone (:func:`open_sources`), in whose mount namespace and with whose
ids they are reachable; the rest is made inside the container's own namespaces (:func:`mount_all`). A target is
resolved inside the root and used by descriptor, so no link in the image leads a mount to the host.
Source: OCI runtime specification, config.md "Mounts"; mount_setattr(2); CVE-2019-19921, CVE-2021-30465.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError, UnsupportedError
from rl.kernel import fs
from rl.kernel import mount as m
from rl.runtime import rootpath

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ATIME = 0x70  # MOUNT_ATTR__ATIME: the access-time modes exclude each other, so setting one clears the field

#: option: (attributes to set, attributes to clear)
_ATTRIBUTES = {
    "ro": (m.MOUNT_ATTR_RDONLY, 0), "rw": (0, m.MOUNT_ATTR_RDONLY),
    "nosuid": (m.MOUNT_ATTR_NOSUID, 0), "suid": (0, m.MOUNT_ATTR_NOSUID),
    "nodev": (m.MOUNT_ATTR_NODEV, 0), "dev": (0, m.MOUNT_ATTR_NODEV),
    "noexec": (m.MOUNT_ATTR_NOEXEC, 0), "exec": (0, m.MOUNT_ATTR_NOEXEC),
    "nodiratime": (m.MOUNT_ATTR_NODIRATIME, 0), "diratime": (0, m.MOUNT_ATTR_NODIRATIME),
    "noatime": (m.MOUNT_ATTR_NOATIME, _ATIME), "relatime": (0, _ATIME),
    "strictatime": (m.MOUNT_ATTR_STRICTATIME, _ATIME), "atime": (0, _ATIME), "norelatime": (0, 0),
    "nostrictatime": (0, 0),
    "nosymfollow": (m.MOUNT_ATTR_NOSYMFOLLOW, 0), "symfollow": (0, m.MOUNT_ATTR_NOSYMFOLLOW),
}
PROPAGATION = {
    "private": m.MS_PRIVATE, "slave": m.MS_SLAVE, "shared": m.MS_SHARED, "unbindable": m.MS_UNBINDABLE,
    "rprivate": m.MS_PRIVATE | m.MS_REC, "rslave": m.MS_SLAVE | m.MS_REC, "rshared": m.MS_SHARED | m.MS_REC,
    "runbindable": m.MS_UNBINDABLE | m.MS_REC,
}
_IGNORED = frozenset(
    ("defaults", "async", "sync", "dirsync", "mand", "nomand", "iversion", "noiversion", "silent", "loud")
)
_LOCKABLE = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC

#: For kernels before 5.12: the mount(2) flag of each attribute (they share the numbers of statvfs(3) too).
_OLD_FLAGS = (
    (m.MOUNT_ATTR_RDONLY, m.MS_RDONLY), (m.MOUNT_ATTR_NOSUID, m.MS_NOSUID), (m.MOUNT_ATTR_NODEV, m.MS_NODEV),
    (m.MOUNT_ATTR_NOEXEC, m.MS_NOEXEC), (m.MOUNT_ATTR_NOATIME, m.MS_NOATIME),
    (m.MOUNT_ATTR_NODIRATIME, m.MS_NODIRATIME),
)
_KEPT = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC | m.MS_NOATIME | m.MS_NODIRATIME


class Options:
    """The options of one mount, sorted; ``recursive_*`` come from the ``r…`` forms (rro, rnosuid, …)."""

    __slots__ = (
        "bind", "clear", "copy_up", "data", "propagation", "recursive", "recursive_clear", "recursive_set", "set",
    )

    def __init__(self, options: list[str]) -> None:
        self.set = self.clear = self.recursive_set = self.recursive_clear = self.propagation = 0
        self.bind = self.recursive = self.copy_up = False
        self.data: list[str] = []
        for option in options:
            if option in ("bind", "rbind"):
                self.bind = True
                self.recursive = option == "rbind"
            elif option in PROPAGATION:
                self.propagation = PROPAGATION[option]
            elif option in _ATTRIBUTES:
                on, off = _ATTRIBUTES[option]
                self.set, self.clear = self.set & ~off | on, self.clear & ~on | off
            elif option[:1] == "r" and option[1:] in _ATTRIBUTES:
                on, off = _ATTRIBUTES[option[1:]]
                self.recursive_set, self.recursive_clear = self.recursive_set | on, self.recursive_clear | off
            elif option == "tmpcopyup":
                self.copy_up = True
            elif option in ("idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow"):
                raise UnsupportedError(f"mount option {option} is not supported", "leave it out")
            elif option not in _IGNORED:
                self.data.append(option)


def known_options() -> list[str]:
    """The options that mean something here; all others go to the file system (features.md, "Mount Options")."""
    names = {"bind", "rbind", "tmpcopyup", *PROPAGATION, *_ATTRIBUTES, *(f"r{name}" for name in _ATTRIBUTES), *_IGNORED}
    return sorted(names)


def is_bind(entry: dict[str, Any]) -> bool:
    """Whether the mount is a bind mount: by type, or by option as the specification has it."""
    options = entry.get("options") or []
    return entry.get("type") in ("bind", "rbind") or "bind" in options or "rbind" in options


def wants_propagation(spec: dict[str, Any]) -> bool:
    """Whether any mount is to receive (or send) mounts from (to) the host."""
    return any(
        option in ("slave", "shared", "rslave", "rshared")
        for entry in spec.get("mounts") or [] for option in entry.get("options") or []
    )


def open_sources(spec: dict[str, Any], bundle: str) -> dict[int, int]:
    """Detached copies of all bind sources with their attributes set: index in ``mounts`` → descriptor.

    Raises RlError naming the source; the descriptors opened so far are closed.
    """
    found: dict[int, int] = {}
    try:
        for index, entry in enumerate(spec.get("mounts") or []):
            if entry.get("uidMappings") or entry.get("gidMappings"):
                raise UnsupportedError(
                    f"mount {entry['destination']}: id-mapped mounts need privileges that a user has not",
                    "leave the mappings out; --userns=keep-id makes the container's user you",
                )
            if is_bind(entry):
                source = os.path.join(bundle, entry.get("source", ""))
                found[index] = open_source(source, Options(entry.get("options") or []))
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def open_source(source: str, options: Options) -> int:
    """A detached copy of what is mounted at *source*."""
    flags = m.OPEN_TREE_CLONE | (m.AT_RECURSIVE if options.recursive else 0)
    try:
        try:
            fd = m.open_tree(source, flags)
        except OSError as error:
            # Mounts that came from a more privileged mount namespace may only be copied with all below them.
            if error.errno != errno.EINVAL or options.recursive:
                raise
            fd = m.open_tree(source, flags | m.AT_RECURSIVE)
        return fd
    except OSError as error:
        hint = "create it on the host first" if error.errno == errno.ENOENT else ""
        if error.errno == errno.EACCES:
            hint = "the path, or a directory above it, is closed to the user rl runs as"
        raise RlError(f"bind mount of {source}: {error.strerror}", hint) from None


def attach(fd: int, target: int, options: Options) -> None:
    """Set the attributes and propagation of detached mount *fd* and put it over *target*."""
    try:
        _set_attributes(fd, options)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        m.move_mount(fd, "", target)
        _remount(fd, options)
        return
    m.move_mount(fd, "", target)


def _set_attributes(fd: int, options: Options) -> None:
    recursive = options.recursive and bool(options.set & m.MOUNT_ATTR_RDONLY)
    for set_, clear, deep in (
        (options.set & ~m.MOUNT_ATTR_RDONLY if recursive else options.set, options.clear, False),
        (options.recursive_set | (m.MOUNT_ATTR_RDONLY if recursive else 0), options.recursive_clear, True),
    ):
        if not set_ and not clear:
            continue
        try:
            m.mount_setattr(fd, "", set_, clear, recursive=deep)
        except PermissionError:
            # What the host locked (nosuid, nodev, …) stays: only then clearing is refused.
            m.mount_setattr(fd, "", set_, clear & ~_LOCKABLE & ~(0 if set_ & _ATIME else _ATIME), recursive=deep)
    propagation = options.propagation or m.MS_PRIVATE | m.MS_REC
    m.mount_setattr(fd, "", propagation=propagation & ~m.MS_REC, recursive=bool(propagation & m.MS_REC))


def _remount(fd: int, options: Options) -> None:
    """Attributes by mount(2), for kernels before 5.12; what is set already (and may be locked) is kept."""
    path = f"/proc/self/fd/{fd}"
    flags = os.fstatvfs(fd).f_flag & _KEPT
    for attribute, flag in _OLD_FLAGS:
        if (options.set | options.recursive_set) & attribute:
            flags |= flag
    m.mount(None, path, None, m.MS_REMOUNT | m.MS_BIND | flags)
    m.mount(None, path, None, options.propagation or m.MS_PRIVATE | m.MS_REC)


def mount_all(spec: dict[str, Any], root: int, sources: dict[int, int]) -> None:
    """Perform all mounts, in order, under root directory *root*."""
    for index, entry in enumerate(spec.get("mounts") or []):
        destination = entry.get("destination", "")
        try:
            _mount_one(entry, root, sources.get(index))
        except OSError as error:
            raise RlError(
                f"mount {entry.get('type') or 'bind'} on {destination}: {error.strerror}"
                + (f" ({error.filename})" if error.filename and error.filename != destination else ""),
                _hint(entry, error),
            ) from None


def _hint(entry: dict[str, Any], error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "the image has a symbolic link there; mount somewhere else"
    if error.errno == errno.EROFS:
        return "the mount point does not exist and the root file system is read-only: create it in the image"
    if error.errno == errno.EPERM and entry.get("type") == "proc":
        return "/proc of this host is partly hidden, as inside a container: run that one with --security-opt unmask=ALL"
    if error.errno == errno.ENOTDIR:
        return "one of the two is a directory and the other is not"
    return ""


def _mount_one(entry: dict[str, Any], root: int, source: int | None) -> None:
    options = Options(entry.get("options") or [])
    kind = "bind" if source is not None else entry.get("type") or "none"
    destination = "/" + entry["destination"].strip("/")
    if source is not None and not stat.S_ISDIR(os.fstat(source).st_mode):
        target = rootpath.ensure_file(root, destination)
    else:
        target = _directory(root, destination, kind)
    try:
        if source is not None:
            attach(source, target, options)
        else:
            _KINDS.get(kind, _file_system)(entry, options, target, root)
    finally:
        os.close(target)


def _directory(root: int, destination: str, kind: str) -> int:
    target = rootpath.ensure_directory(root, destination)
    if kind in ("proc", "sysfs"):
        # These must lie where they say: a link would make later writes to /proc go astray (CVE-2019-19921).
        os.close(target)
        target = rootpath.resolve(root, destination, os.O_PATH | os.O_DIRECTORY, fs.RESOLVE_NO_SYMLINKS)
    return target


def new_mount(kind: str, source: str, data: list[str], attributes: int = 0) -> int:
    """A detached mount of a new file system."""
    context = m.fsopen(kind)
    try:
        m.fsconfig_string(context, "source", source or kind)
        for item in data:
            key, equals, value = item.partition("=")
            if equals:
                m.fsconfig_string(context, key, value)
            else:
                m.fsconfig_flag(context, key)
        m.fsconfig_create(context)
        return m.fsmount(context, attributes)
    finally:
        os.close(context)


def _file_system(entry: dict[str, Any], options: Options, target: int, root: int) -> None:
    fd = new_mount(entry.get("type") or "none", entry.get("source", ""), options.data)
    try:
        attach(fd, target, options)
    finally:
        os.close(fd)


def _tmpfs(entry: dict[str, Any], options: Options, target: int, root: int) -> None:
    if not options.copy_up:
        _file_system(entry, options, target, root)
        return
    from rl.runtime import copyup

    given = {item.partition("=")[0] for item in options.data}
    old = os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = new_mount("tmpfs", entry.get("source", ""), options.data)
    try:
        copyup.copy_tree(old, fd, keep_owner="uid" not in given and "gid" not in given, keep_mode="mode" not in given)
        attach(fd, target, options)
    finally:
        os.close(old)
        os.close(fd)


def _devpts(entry: dict[str, Any], options: Options, target: int, root: int) -> None:
    try:
        _file_system(entry, options, target, root)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # gid=5 (tty) has no counterpart in a single-id map; the terminal then belongs to its user's group.
        options.data = [item for item in options.data if not item.startswith("gid=")]
        _file_system(entry, options, target, root)


def _or_bind(path: str) -> Callable[[dict[str, Any], Options, int, int], None]:
    """Mount it; where the namespace it shows is not ours to mount, bind the host's *path*."""

    def mount(entry: dict[str, Any], options: Options, target: int, root: int) -> None:
        try:
            _file_system(entry, options, target, root)
        except PermissionError as error:
            try:
                _bind(path, options, target)
            except OSError:
                raise error from None

    return mount


def _bind(path: str, options: Options, target: int) -> None:
    options.recursive = True
    fd = m.open_tree(path, m.OPEN_TREE_CLONE | m.AT_RECURSIVE)
    try:
        attach(fd, target, options)
    finally:
        os.close(fd)


def _cgroup(entry: dict[str, Any], options: Options, target: int, root: int) -> None:
    """cgroup v2 at the container's own cgroup; else the host's, else (cgroup v1) an empty directory."""
    options.data = [item for item in options.data if item in ("nsdelegate", "memory_recursiveprot")]
    try:
        _file_system({**entry, "type": "cgroup2", "source": "cgroup"}, options, target, root)
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EBUSY, errno.ENODEV, errno.EINVAL):
            raise
    options.data = []
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        _bind("/sys/fs/cgroup", options, target)
        return
    options.set |= m.MOUNT_ATTR_RDONLY
    _file_system({"type": "tmpfs", "source": "tmpfs"}, options, target, root)


_KINDS: dict[str, Callable[[dict[str, Any], Options, int, int], None]] = {
    "tmpfs": _tmpfs,
    "devpts": _devpts,
    "sysfs": _or_bind("/sys"),
    "mqueue": _or_bind("/dev/mqueue"),
    "cgroup": _cgroup,
    "cgroup2": _cgroup,
}
