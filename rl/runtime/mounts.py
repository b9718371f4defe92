"""The mounts of an OCI config: each becomes a detached mount, gets its attributes, and is attached by descriptor.

Bind sources are opened with the ids of the caller, in whose mount namespace they are reachable
(:mod:`rl.runtime.detached`, :mod:`rl.runtime.outside`); the rest is made inside the container's own namespaces
(:func:`mount_all`). A target is resolved inside the root and used by descriptor, so no link in the image leads a mount
to the host.
Source: OCI runtime specification, config.md "Mounts"; mount_setattr(2); CVE-2019-16884, CVE-2019-19921, CVE-2021-30465.
"""

from __future__ import annotations

import errno
import os
import stat

from rl.errors import RlError, UnsupportedError
from rl.kernel import fs
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import cgroupmount, rootpath
from rl.runtime.detached import KEPT, TIMES, attach, change, is_bind, map_ids, old_flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.sync import Setup

_OLD_SUPERBLOCK = {"sync": m.MS_SYNCHRONOUS, "dirsync": m.MS_DIRSYNC, "lazytime": m.MS_LAZYTIME, "mand": m.MS_MANDLOCK}

#: In these nothing can be made, so they may be read-only at once.
_FIXED = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts"))
#: The kernel labels these by itself (Linux: "SELinux: mount options of pseudo file systems").
_UNLABELLED = frozenset(("proc", "sysfs", "cgroup", "cgroup2"))
#: What may be mounted within /proc: files that programs like lxcfs provide, and two switches. As runc has it.
_IN_PROC = frozenset((
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime", "/proc/loadavg",
    "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
))  # fmt: skip
_TTY_GID = "gid=5"
#: Options of cgroup v2; those of v1 (the controllers' names), which old configs have, mean nothing to it.
_CGROUP_OPTIONS = frozenset(
    ("nsdelegate", "favordynmods", "memory_localevents", "memory_recursiveprot", "memory_hugetlb_accounting")
)


class Job:
    """One mount on its way: the entry of config.json, its options, and the target it goes over."""

    __slots__ = ("destination", "entry", "existed", "kind", "options", "setup", "source", "straight", "target")

    def __init__(self, setup: Setup, index: int, entry: dict[str, Any]) -> None:
        self.setup = setup
        self.entry = entry
        self.options = setup.mount_options[index]
        self.source = setup.sources.get(index, -1)  # descriptor of a bind's source or -1
        self.destination = "/" + entry["destination"].strip("/")
        self.kind: str = "bind" if is_bind(entry) else entry.get("type") or "none"
        self.target = -1
        self.existed = False  # the target was there before
        self.straight = False  # no symbolic link leads to it: it is where its name says

    def place(self, fd: int) -> None:
        """Give new mount *fd* what was asked and put it over the target; takes the descriptor.

        A file system in which something may still have to be made becomes read-only by :func:`finish`.
        """
        late = False
        try:
            map_ids(fd, self.entry, self.options, self.setup.linux, -1)
            late = self.source < 0 and self.kind not in _FIXED and self.options.without_readonly()
            attach(fd, self.target, self.options)
            if self.kind == "proc":
                self.setup.procfs.add(os.fstat(fd).st_dev)
            if late:
                self.setup.late_readonly.append(fd)
        except BaseException:
            late = False
            raise
        finally:
            if not late:
                os.close(fd)


def mount_all(setup: Setup) -> None:
    """Perform all mounts of the spec, in order, under directory ``setup.root``."""
    setup.procfs.add(os.stat("/proc").st_dev)  # a bind of the host's is a procfs, too
    for index, entry in enumerate(setup.spec.get("mounts") or []):
        job = Job(setup, index, entry)
        try:
            _mount_one(job)
        except OSError as error:
            where = error.filename or ""
            where = "" if where in ("", job.destination) or where.startswith("/proc/self/fd/") else f" ({where})"
            kind = UnsupportedError if error.errno == errno.EPERM else RlError
            raise kind(f"mount {job.kind} on {job.destination}: {error.strerror}{where}", _hint(job, error)) from None


def finish(setup: Setup) -> None:
    """Make read-only what :meth:`Job.place` left writable, now that all below it exists."""
    for fd in setup.late_readonly:
        try:
            m.mount_setattr(fd, "", m.MOUNT_ATTR_RDONLY)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            flags = os.fstatvfs(fd).f_flag & KEPT
            m.mount(None, f"/proc/self/fd/{fd}", None, m.MS_REMOUNT | m.MS_BIND | m.MS_RDONLY | flags)
        os.close(fd)
    setup.late_readonly = []


def _hint(job: Job, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "the image has a symbolic link there; mount somewhere else"
    if error.errno == errno.EROFS:
        return "the mount point does not exist and what it would be made in is read-only: create it there first"
    if error.errno == errno.EACCES and (error.strerror or "").startswith("create:"):
        return "the mount point does not exist and its directory is somebody else's: create it there first"
    if error.errno == errno.EPERM and job.kind == "proc":
        return "/proc of this host is partly hidden, as inside a container: run that one with --security-opt unmask=ALL"
    if error.errno == errno.EPERM and job.source >= 0 and (job.options.set | job.options.recursive_set) & TIMES:
        return "in a user namespace the host's mounts keep their access-time modes: leave out noatime, strictatime, …"
    if error.errno in (errno.ENOTDIR, errno.EISDIR):
        return "a directory can be mounted over a directory only, a file over a file"
    if error.errno == errno.EINVAL and job.options.remount:
        return "a remount needs a mount that is there: name its mount point as the destination"
    if "swap" in (error.strerror or ""):
        return "only real root may turn off swap for a tmpfs: leave noswap out"
    if error.errno == errno.ENODEV:
        return "this kernel does not know the file system: see /proc/filesystems"
    return ""


def _mount_one(job: Job) -> None:
    if job.destination == "/":
        raise _over_root(job)
    if job.options.copy_up and job.kind not in ("tmpfs", "ramfs"):
        raise UnsupportedError(f"mount {job.kind} on {job.destination}: tmpcopyup is for a tmpfs", "leave it out")
    if job.options.copy_symlink and job.source >= 0 and stat.S_ISLNK(os.fstat(job.source).st_mode):
        _copy_symlink(job)
        return
    _check_proc_name(job, job.destination)
    job.target = _target(job)
    try:
        _check_proc(job)
        if job.options.remount:
            _change(job)
        elif job.source >= 0:
            is_directory = stat.S_ISDIR(os.fstat(job.source).st_mode)
            if is_directory != stat.S_ISDIR(os.fstat(job.target).st_mode):
                number = errno.ENOTDIR if is_directory else errno.EISDIR
                raise OSError(number, os.strerror(number), job.destination)
            attach(job.source, job.target, job.options)
        else:
            _KINDS.get(job.kind, _file_system)(job)
    finally:
        os.close(job.target)


def _target(job: Job) -> int:
    root, destination = job.setup.root, job.destination
    if job.options.remount:
        return rootpath.resolve(root, destination)
    is_file = job.source >= 0 and not stat.S_ISDIR(os.fstat(job.source).st_mode)
    if job.options.target_nofollow:
        return rootpath.ensure_nofollow(root, destination, not is_file)
    flags = os.O_PATH | (0 if is_file else os.O_DIRECTORY)
    must_be_straight = job.kind in ("proc", "sysfs")  # a link would make later writes go astray (CVE-2019-19921)
    try:
        target = rootpath.resolve(root, destination, flags, fs.RESOLVE_NO_SYMLINKS)
        job.existed, job.straight = True, "/.." not in destination
        return target
    except OSError as error:
        if error.errno == errno.ENOENT:  # before any link: it is truly missing
            return rootpath.make(root, destination, not is_file, 0o644 if is_file else 0o755)
        if error.errno != errno.ELOOP or must_be_straight:
            raise
    if is_file:
        return rootpath.ensure_file(root, destination)
    found = rootpath.resolve_or_none(root, destination, flags)
    job.existed = found is not None
    return rootpath.ensure_directory(root, destination) if found is None else found


def _check_proc(job: Job) -> None:
    """Nothing is put over or into /proc that could lead later writes astray, whatever links lead there.

    Over it only procfs itself, into it only what :data:`_IN_PROC` lists (CVE-2019-16884, CVE-2019-19921).
    """
    inside = job.destination
    if not job.straight:
        root = os.readlink(f"/proc/self/fd/{job.setup.root}").rstrip("/")
        path = os.readlink(f"/proc/self/fd/{job.target}")
        if path == (root or "/"):
            raise _over_root(job)
        inside = path[len(root) :] if path.startswith(root + "/") else inside
    if inside == "/proc":
        on_procfs = job.source >= 0 and fs.fs_type(job.source) == fs.PROC_SUPER_MAGIC
        if job.kind != "proc" and not on_procfs and not job.options.remount:
            raise UnsupportedError(
                f"mount {job.kind} on {job.destination}: only a procfs may be there", "use type proc or a bind of /proc"
            )
        return
    _check_proc_name(job, inside)
    if os.fstat(job.target).st_dev in job.setup.procfs and inside not in _IN_PROC and not job.options.remount:
        raise _inside_proc(job)


def _check_proc_name(job: Job, path: str) -> None:
    if path.startswith("/proc/") and path not in _IN_PROC and not job.options.remount:
        raise _inside_proc(job)


def _over_root(job: Job) -> UnsupportedError:
    return UnsupportedError(
        f"mount {job.kind} on {job.destination}: it would cover the root", "give what is to be the root as root.path"
    )


def _inside_proc(job: Job) -> UnsupportedError:
    return UnsupportedError(
        f"mount {job.kind} on {job.destination}: it lies inside /proc",
        f"only these may be covered: {', '.join(sorted(_IN_PROC))}; to hide others there is linux.maskedPaths",
    )


def _copy_symlink(job: Job) -> None:
    """copy-symlink: what the source is, a symbolic link, is made at the destination."""
    text = os.readlink("", dir_fd=job.source)
    parent_path, name = os.path.split(job.destination)
    parent = rootpath.ensure_directory(job.setup.root, parent_path)
    try:
        os.symlink(text, name, dir_fd=parent)
    except FileExistsError:
        if rootpath.link_text(parent, name) != text:
            raise OSError(errno.EEXIST, "there is something else than that symbolic link", job.destination) from None
    finally:
        os.close(parent)


def _change(job: Job) -> None:
    """``remount``: other attributes for the mount that is there, and other options for its file system."""
    if job.options.data or (job.options.superblock and not job.options.bind):
        context = m.fspick(job.target)
        try:
            _configure(context, [*job.options.data, *job.options.superblock.values()])
            m.fsconfig_reconfigure(context)
        finally:
            os.close(context)
    change(job.target, job.options)


def new_mount(kind: str, source: str, data: list[str], attributes: int = 0) -> int:
    """A detached mount of a new file system."""
    context = m.fsopen(kind)
    try:
        m.fsconfig_string(context, "source", source or kind)
        _configure(context, data)
        m.fsconfig_create(context)
        return m.fsmount(context, attributes)
    finally:
        os.close(context)


def _configure(context: int, data: list[str]) -> None:
    for item in data:
        key, equals, value = item.partition("=")
        if equals:
            m.fsconfig_string(context, key, value.strip('"') if key.endswith("context") else value)
        else:
            m.fsconfig_flag(context, key)


def _file_system(job: Job) -> None:
    data = data_of(job)
    if data and max(map(len, map(os.fsencode, data))) > 255:
        _by_old_call(job, data)
        return
    job.place(new_labelled(job, data))


def data_of(job: Job) -> list[str]:
    """Everything for the file system: its own options, those all have, and ``ro`` where it lies on a device."""
    options, source = job.options, job.entry.get("source", "")
    data = options.data
    if options.superblock or options.iversion:
        data = [*data, *options.superblock.values(), *_iversion(job)]
    if options.set & m.MOUNT_ATTR_RDONLY and job.kind not in _KINDS and source.startswith("/"):
        try:
            if stat.S_ISBLK(os.stat(source).st_mode):
                data = [*data, "ro"]  # a device that cannot be written, or a file system that never is
        except OSError:
            pass
    return data


def _iversion(job: Job) -> list[str]:
    """``iversion`` is no option of fsconfig(2): ext4 has a word of its own, others count always or never."""
    if not job.options.iversion or job.kind in ("xfs", "btrfs", "tmpfs"):
        return []
    if job.kind == "ext4":
        return ["i_version"]
    raise UnsupportedError(
        f"mount {job.kind} on {job.destination}: option iversion is not known of this file system", "leave it out"
    )


def new_labelled(job: Job, data: list[str]) -> int:
    """A detached mount of the new file system that *job* asks for, with the container's SELinux label."""
    kind, source = job.entry.get("type") or "none", job.entry.get("source", "")
    label = job.setup.linux.get("mountLabel") or ""
    labels = label_options(job.kind, label, _has_selinux()) if label else []
    try:
        return new_mount(kind, source, data + labels)
    except OSError:
        if not labels or job.kind != "mqueue":
            raise
        return new_mount(kind, source, data)  # older kernels do not label it


def _has_selinux() -> bool:
    return os.path.exists("/sys/fs/selinux/enforce")


def label_options(kind: str, label: str, selinux: bool) -> list[str]:
    """linux.mountLabel as option of a new file system of *kind*, where the host has SELinux and the kind takes it."""
    return [f"context={label}"] if label and selinux and kind not in _UNLABELLED else []


def _by_old_call(job: Job, data: list[str]) -> None:
    """mount(2), as fsconfig(2) takes 255 bytes at most: the long lowerdir of an overlay, …"""
    options = job.options
    if options.propagation not in (0, m.MS_PRIVATE, m.MS_PRIVATE | m.MS_REC) or options.id_map:
        raise UnsupportedError(
            f"mount {job.kind} on {job.destination}: with an option of more than 255 bytes it can be neither shared"
            " nor id-mapped", "shorten the paths, for example by symbolic links",
        )
    flags = old_flags(options.set | options.recursive_set)
    flags |= sum(_OLD_SUPERBLOCK.get(word, 0) for word in options.superblock.values())
    data = data + label_options(job.kind, job.setup.linux.get("mountLabel") or "", _has_selinux())
    text = ",".join(item for item in data if item not in options.superblock.values() and item != "ro")
    m.mount(job.entry.get("source") or job.kind, f"/proc/self/fd/{job.target}", job.kind, flags, text)


def _ramfs(job: Job) -> None:
    from rl.runtime import mounts_memory

    mounts_memory.ramfs(job)


def _tmpfs(job: Job) -> None:
    if job.options.copy_up:
        from rl.runtime import mounts_memory

        mounts_memory.filled(job)
        return
    if job.existed and "mode=" not in ",".join(job.options.data):
        job.options.data.append(f"mode={stat.S_IMODE(os.fstat(job.target).st_mode):o}")  # as runc and crun do
    _file_system(job)


def _devpts(job: Job) -> None:
    try:
        _file_system(job)
    except OSError as error:
        mapped = any(first <= 5 < first + count for first, _, count in kp.id_map("gid"))
        if error.errno != errno.EINVAL or _TTY_GID not in job.options.data or mapped:
            raise
        # tty has no counterpart in a single-id map; the terminal then belongs to its user's group.
        job.options.data = [item for item in job.options.data if item != _TTY_GID]
        _file_system(job)


def _or_bind(path: str) -> Callable[[Job], None]:
    """Mount it; where the namespace it shows is not ours to mount, bind the host's *path*."""

    def mount(job: Job) -> None:
        try:
            _file_system(job)
        except PermissionError as error:
            try:
                _bind(path, job)
            except OSError:
                raise error from None

    return mount


def _bind(path: str, job: Job) -> None:
    job.options.recursive = True
    job.place(m.open_tree(path, m.OPEN_TREE_CLONE | m.AT_RECURSIVE))


def _cgroup(job: Job) -> None:
    """cgroup v2 at the container's own cgroup; else a bind of that one alone, else (cgroup v1) an empty directory."""
    options, setup = job.options, job.setup
    options.data = [item for item in options.data if item in _CGROUP_OPTIONS]
    try:
        job.place(new_mount("cgroup2", "cgroup", options.data))
        return
    except OSError as error:
        if error.errno not in cgroupmount.FALL_BACK:
            raise
    options.data = []
    # In a cgroup namespace of its own the host's view of it cannot be told any more.
    own = "" if setup.flags & ns.CLONE_NEWCGROUP or "cgroup" in setup.fds else cgroupmount.own_directory()
    if own:
        try:
            _bind(own, job)
            return
        except OSError:
            pass
    options.set |= m.MOUNT_ATTR_RDONLY
    job.place(new_mount("tmpfs", "tmpfs", []))


_KINDS: dict[str, Callable[[Job], None]] = {
    "tmpfs": _tmpfs,
    "ramfs": _ramfs,
    "devpts": _devpts,
    "sysfs": _or_bind("/sys"),
    "mqueue": _or_bind("/dev/mqueue"),
    "cgroup": _cgroup,
    "cgroup2": _cgroup,
}
