"""Detached mounts: copies of bind sources, their attributes, and putting one over its target.

A mount is complete before anybody sees it. The parent calls :func:`open_sources` where it may copy mounts
(:mod:`rl.runtime.outside`), everything else is called in the container's namespaces by :mod:`rl.runtime.mounts` and
:mod:`rl.runtime.devices`. Source: open_tree(2), mount_setattr(2), move_mount(2).
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError, UnsupportedError
from rl.kernel import mount as m
from rl.runtime import mountoptions
from rl.runtime.mountoptions import ATIME, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.sync import Setup

#: The access-time attributes, which the kernel may have locked.
TIMES = ATIME | m.MOUNT_ATTR_NODIRATIME
_LOCKABLE = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | m.MOUNT_ATTR_NOEXEC

#: The mount(2) flag of each attribute (they share the numbers of statvfs(3) too), for kernels before 5.12.
_OLD_FLAGS = (
    (m.MOUNT_ATTR_RDONLY, m.MS_RDONLY), (m.MOUNT_ATTR_NOSUID, m.MS_NOSUID), (m.MOUNT_ATTR_NODEV, m.MS_NODEV),
    (m.MOUNT_ATTR_NOEXEC, m.MS_NOEXEC), (m.MOUNT_ATTR_NOATIME, m.MS_NOATIME),
    (m.MOUNT_ATTR_NODIRATIME, m.MS_NODIRATIME), (m.MOUNT_ATTR_STRICTATIME, m.MS_STRICTATIME),
    (m.MOUNT_ATTR_NOSYMFOLLOW, m.MS_NOSYMFOLLOW),
)
#: What a remount keeps if it is set.
KEPT = m.MS_RDONLY | m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC | m.MS_NOATIME | m.MS_NODIRATIME


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


def open_sources(setup: Setup) -> dict[int, int]:
    """Detached copies of all bind sources, id-mapped if asked: index in ``mounts`` → descriptor.

    Fills ``setup.mount_options`` too. Raises RlError naming the source, or PermissionError where the caller may not
    copy any mount (EPERM); the descriptors opened so far are closed.
    """
    found: dict[int, int] = {}
    linux, userns = setup.linux, setup.fds.get("user", -1)
    entries = setup.spec.get("mounts") or []
    setup.mount_options = [mountoptions.of(entry) for entry in entries]
    try:
        for index, entry in enumerate(entries):
            options = setup.mount_options[index]
            _import(entry, options)
            if not is_bind(entry) or options.remount:
                continue
            if not entry.get("source"):
                raise RlError(f"bind mount on {entry['destination']}: it has no source")
            _check_bind_options(entry, options)
            source = os.path.join(setup.bundle, entry["source"])
            found[index] = open_source(source, options)
            map_ids(found[index], entry, options, linux, userns)
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def _import(entry: dict[str, Any], options: Options) -> None:
    """The modules a mount needs, now: the ids of the child may not reach our files any more."""
    if options.copy_up or entry.get("type") == "ramfs":
        from rl.runtime import mounts_memory  # noqa: F401
    if _wants_id_map(entry, options):
        from rl.runtime import idmap  # noqa: F401


def _wants_id_map(entry: dict[str, Any], options: Options) -> bool:
    return bool(options.id_map or entry.get("uidMappings") or entry.get("gidMappings"))


def _check_bind_options(entry: dict[str, Any], options: Options) -> None:
    """A bind mount shows a file system that is mounted already: what is only for a new one cannot be honoured."""
    wrong = [*options.data, *(["tmpcopyup"] if options.copy_up else [])]
    if wrong:
        raise UnsupportedError(
            f"bind mount on {entry['destination']}: option {wrong[0]} is not one of a bind mount", "leave it out"
        )


def map_ids(fd: int, entry: dict[str, Any], options: Options, linux: dict[str, Any], userns: int) -> None:
    """Id-map detached mount *fd* if *entry* asks for it; see :func:`rl.runtime.idmap.apply`."""
    if _wants_id_map(entry, options):
        from rl.runtime import idmap

        idmap.apply(fd, entry, options, linux, userns)


def open_source(source: str, options: Options) -> int:
    """A detached copy of what is mounted at *source*; with copy-symlink, for a symbolic link, just the link.

    Raises PermissionError with EPERM where the caller may not copy mounts, else RlError.
    """
    try:
        if options.copy_symlink:
            link = os.open(source, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            if stat.S_ISLNK(os.fstat(link).st_mode):
                return link
            os.close(link)
        flags = m.OPEN_TREE_CLONE | (m.AT_RECURSIVE if options.recursive else 0)
        flags |= m.AT_SYMLINK_NOFOLLOW if options.source_nofollow else 0
        try:
            return m.open_tree(source, flags)
        except OSError as error:
            # Mounts that came from a more privileged mount namespace may only be copied with all below them.
            if error.errno != errno.EINVAL or options.recursive:
                raise
            return m.open_tree(source, flags | m.AT_RECURSIVE)
    except OSError as error:
        if error.errno == errno.EPERM:
            raise
        hint = "create it on the host first" if error.errno == errno.ENOENT else ""
        if error.errno == errno.EACCES:
            raise _closed(source) from None
        raise RlError(f"bind mount of {source}: {error.strerror}", hint) from None


def _closed(source: str) -> RlError:
    from rl.runtime import access

    reason, hint = access.explain(source)
    what = f"bind mount of {source}: {os.strerror(errno.EACCES)}"
    return RlError(f"{what}: {reason}" if reason else what, hint or "it is closed to the user rl runs as")


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


def change(fd: int, options: Options) -> None:
    """Other attributes for *fd*, a mount that is in its place; the propagation changes only if that was asked for."""
    try:
        _set_attributes(fd, options, keep_propagation=True)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _remount(fd, options)


def _set_attributes(fd: int, options: Options, keep_propagation: bool = False) -> None:
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
            m.mount_setattr(fd, "", set_, clear & ~_LOCKABLE & ~(0 if set_ & ATIME else TIMES), recursive=deep)
    if keep_propagation and not options.propagation:
        return
    propagation = options.propagation or m.MS_PRIVATE | m.MS_REC
    m.mount_setattr(fd, "", propagation=propagation & ~m.MS_REC, recursive=bool(propagation & m.MS_REC))


def old_flags(attributes: int) -> int:
    """The flags of mount(2) for *attributes* of mount_setattr(2)."""
    return sum(flag for attribute, flag in _OLD_FLAGS if attributes & attribute)


def _remount(fd: int, options: Options) -> None:
    """Attributes by mount(2), for kernels before 5.12; what is set already (and may be locked) is kept."""
    path = f"/proc/self/fd/{fd}"
    flags = os.fstatvfs(fd).f_flag & KEPT | old_flags(options.set | options.recursive_set)
    m.mount(None, path, None, m.MS_REMOUNT | m.MS_BIND | flags)
    m.mount(None, path, None, options.propagation or m.MS_PRIVATE | m.MS_REC)
