"""The child's way from clone to the container's command: one list of steps, :data:`STEPS`.

Called by :mod:`rl.runtime.container` in the new process. Every step is a function of the
:class:`~rl.runtime.sync.Setup`; the first that fails ends the child, its error goes to the parent.
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError, UnsupportedError
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.kernel import proc
from rl.runtime import detached, devices, hooks, mounts, outside, process, spawning, terminal
from rl.runtime.mountoptions import PROPAGATION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.runtime.sync import Setup

#: OCI namespace type: clone flag
NAMESPACES = {
    "user": ns.CLONE_NEWUSER, "mount": ns.CLONE_NEWNS, "pid": ns.CLONE_NEWPID, "network": ns.CLONE_NEWNET,
    "ipc": ns.CLONE_NEWIPC, "uts": ns.CLONE_NEWUTS, "cgroup": ns.CLONE_NEWCGROUP, "time": ns.CLONE_NEWTIME,
}
#: Made by a step of its own: cgroup after entering the cgroup, time because its offsets come first.
LATE = ns.CLONE_NEWCGROUP | ns.CLONE_NEWTIME


def join_namespaces(setup: Setup) -> None:
    """Join what the spec names by path.

    Before a user namespace, those that belong to the one around it: inside we have no power over them any more.
    After it, as its root, those that only it may join.
    """
    if setup.joined:
        return
    setup.joined = True
    kinds = [kind for kind in setup.fds if kind != "user"]
    if "user" in setup.fds:
        kinds = [kind for kind in kinds if not _try_join(setup, kind)]
        _join(setup, "user")
        become_root(setup)
    for kind in kinds:
        _join(setup, kind)


def _try_join(setup: Setup, kind: str) -> bool:
    try:
        ns.setns(setup.fds[kind], NAMESPACES[kind])
    except PermissionError:
        return False
    return True


def _join(setup: Setup, kind: str) -> None:
    try:
        ns.setns(setup.fds[kind], NAMESPACES[kind])
    except OSError as error:
        hint = "it belongs to another user namespace" if error.errno == errno.EPERM else ""
        raise RlError(f"join the {kind} namespace: {error.strerror}", hint) from None


def become_root(setup: Setup) -> None:
    """uid and gid 0 of the user namespace just entered."""
    setup.setgroups_denied = _setgroups_denied()
    try:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise RlError(f"become root of the user namespace: {error.strerror}", "its id maps must map id 0") from None


def _setgroups_denied() -> bool:
    with open("/proc/self/setgroups", encoding="utf-8") as file:
        return file.read().strip() == "deny"


def map_ids(setup: Setup) -> None:
    """In a new user namespace: wait until the parent has written the maps."""
    if setup.flags & ns.CLONE_NEWUSER:
        setup.sync.ask(b"M")
        become_root(setup)
    else:
        setup.setgroups_denied = _setgroups_denied()


def late_namespaces(setup: Setup) -> None:
    """The cgroup namespace, and the time namespace with its offsets."""
    if setup.flags & ns.CLONE_NEWCGROUP:
        ns.unshare(ns.CLONE_NEWCGROUP)
    if setup.flags & ns.CLONE_NEWTIME:
        ns.unshare(ns.CLONE_NEWTIME)
        for clock, offset in (setup.linux.get("timeOffsets") or {}).items():
            _time_offset(clock, offset)
        # unshare(2) leaves ourselves outside; entering by its file saves a second fork.
        fd = ns.open_namespace("self", "time_for_children")
        ns.setns(fd, ns.CLONE_NEWTIME)
        os.close(fd)


def _time_offset(clock: str, offset: dict[str, int]) -> None:
    what = f"linux.timeOffsets.{clock}"
    if clock not in ("monotonic", "boottime"):
        raise RlError(f"{what}: there is no such clock", "monotonic and boottime can be set")
    seconds, nanoseconds = offset.get("secs", 0), offset.get("nanosecs", 0)
    if not 0 <= nanoseconds < 10**9:
        raise RlError(f"{what}.nanosecs: {nanoseconds} is not from 0 to 999999999")
    try:
        ns.write_proc("/proc/self/timens_offsets", f"{clock} {seconds} {nanoseconds}\n")
    except OSError as error:
        hint = "the clock would be negative, or beyond 146 years" if error.errno == errno.ERANGE else ""
        raise RlError(f"{what}: set {seconds} s: {error.strerror}", hint) from None


def names(setup: Setup) -> None:
    """Host name and domain name; a network namespace of our own gets its loopback up, and the host's devices."""
    for key, what, function in (
        ("hostname", "host name", ns.sethostname), ("domainname", "domain name", ns.setdomainname),
    ):
        name = setup.spec.get(key)
        if not name:
            continue
        if not setup.flags & ns.CLONE_NEWUTS and "uts" not in setup.fds:
            raise UnsupportedError(f"{what} {name!r} needs a UTS namespace", "leave out --uts=host")
        try:
            function(name)
        except OSError as error:
            raise RlError(f"set {what} {name!r}: {error.strerror}", f"a {what} has at most 64 bytes") from None
    if setup.flags & ns.CLONE_NEWNET:
        ns.loopback_up()
    if setup.linux.get("netDevices"):
        # Before sysctls: net.ipv4.conf.DEVICE is there then. By descriptor: our /proc/PID/ns is closed to the parent.
        fd = ns.open_namespace("self", "net")
        setup.sync.ask(b"D", fd)
        os.close(fd)


def root_file_system(setup: Setup) -> None:
    """Detach from the host's mounts and make the root, our working directory, a mount of its own."""
    slave = setup.linux.get("rootfsPropagation") in ("slave", "rslave")
    receives = slave or detached.wants_propagation(setup.spec)
    m.mount(None, "/", None, m.MS_REC | (m.MS_SLAVE if receives else m.MS_PRIVATE))
    # By an empty path: nothing is looked up, so it may be below directories closed to our present ids.
    root = m.open_tree("", m.OPEN_TREE_CLONE | m.AT_RECURSIVE | m.AT_EMPTY_PATH)
    m.move_mount(root, "", m.AT_FDCWD)
    setup.root = root
    os.fchdir(root)
    if receives and not slave:
        m.mount(None, ".", None, m.MS_REC | m.MS_PRIVATE)


def all_mounts(setup: Setup) -> None:
    """The spec's mounts, in order."""
    mounts.mount_all(setup)


def all_devices(setup: Setup) -> None:
    """/dev: nodes, links, and the terminal as /dev/console."""
    devices.populate(setup)
    if setup.process.get("terminal"):
        setup.master, setup.slave = terminal.open_pair(setup.root, setup.process)
        terminal.bind_console(setup.root, setup.slave)


def sysctls(setup: Setup) -> None:
    """linux.sysctl."""
    if setup.linux.get("sysctl"):
        from rl.runtime import sysctl  # imported by the parent already

        sysctl.apply(setup)


def outer_hooks(setup: Setup) -> None:
    """prestart and createRuntime hooks, run by the parent; createContainer hooks, run here."""
    if setup.hook_state is None:
        return
    if hooks.wanted(setup.spec, "prestart", "createRuntime"):
        setup.sync.ask(b"H")
    hooks.run(setup.spec, "createContainer", {**setup.hook_state, "pid": os.getpid()})


def hidden_paths(setup: Setup) -> None:
    """maskedPaths and readonlyPaths."""
    devices.mask(setup.root, setup.linux.get("maskedPaths") or [], setup.nodes["null"])
    devices.make_readonly(setup.root, setup.linux.get("readonlyPaths") or [])


def readonly_root(setup: Setup) -> None:
    """root.readonly and read-only file systems: last, as mount points may have had to be made."""
    mounts.finish(setup)
    if not (setup.spec.get("root") or {}).get("readonly"):
        return
    try:
        m.mount_setattr(setup.root, "", m.MOUNT_ATTR_RDONLY)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        flags = os.fstatvfs(setup.root).f_flag & (m.MS_NOSUID | m.MS_NODEV | m.MS_NOEXEC)
        m.mount(None, ".", None, m.MS_REMOUNT | m.MS_BIND | m.MS_RDONLY | flags)


def pivot(setup: Setup) -> None:
    """Make the root the root, and let go of the host's mounts (pivot_root(2), the "." trick)."""
    os.fchdir(setup.root)
    if setup.no_pivot:
        _move_root()
    else:
        m.pivot_root(".", ".")
        m.umount(".", m.MNT_DETACH)
    os.chdir("/")
    os.close(setup.root)
    propagation = setup.linux.get("rootfsPropagation")
    if propagation:
        if propagation not in PROPAGATION:
            raise RlError(f"rootfsPropagation {propagation!r} is not known")
        m.mount(None, "/", None, PROPAGATION[propagation])


def _move_root() -> None:
    """``--no-pivot``, for a host whose root is a ramfs: move the root over "/" and chroot there.

    The host's mounts stay below it, so its proc and sysfs are taken away first: through a further copy of them the
    container could undo what is masked in its own (CVE-2019-19921 and its like).
    """
    here = os.readlink("/proc/self/cwd")
    for path, kind in proc.mounts():
        if kind in ("proc", "sysfs") and path != here and not path.startswith(here + "/"):
            try:
                m.umount(path, m.MNT_DETACH)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EPERM):
                    raise
                m.mount("tmpfs", path, "tmpfs")  # it may not be unmounted, but it can be covered
    m.mount(".", "/", None, m.MS_MOVE)
    os.chroot(".")


STEPS: spawning.Steps = (
    ("enter the cgroup", spawning.enter_cgroup),
    ("open what is mounted", outside.open_inside),
    ("map ids", map_ids),
    ("join namespaces", join_namespaces),
    ("create namespaces", late_namespaces),
    ("set oom_score_adj", spawning.oom_score),
    ("start a session", spawning.new_session),
    ("set the host name", names),
    ("prepare the root file system", root_file_system),
    ("mount", all_mounts),
    ("create devices", all_devices),
    ("set sysctls", sysctls),
    ("run hooks", outer_hooks),
    ("hide paths", hidden_paths),
    ("make the root read-only", readonly_root),
    ("change the root", pivot),
    *process.STEPS,
)
