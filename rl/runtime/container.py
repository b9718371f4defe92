"""Create and start a container: from an OCI bundle to a process (OCI runtime specification 1.2).

Called by the monitor (root of the shared user namespace, single-threaded, in a mount namespace of its own)
and by `rl-runtime`. :func:`create` makes everything up to the command, :func:`start` lets it run. The init
process is always a child of the caller: one clone(2) with all new namespaces, or, where a user or pid
namespace is to be joined, a second one by the first child with CLONE_PARENT.
"""

from __future__ import annotations

import _socket
import errno
import os

from rl.errors import RlError, UnsupportedError
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import child, hooks, launcher, outside, process, rlimits, seccomp, spawning
from rl.runtime.spawning import Created
from rl.runtime.sync import Io, Setup, Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Created", "Io", "create", "run_poststop", "start"]


def create(
    bundle: str, spec: dict[str, Any], io: Io, *, container_id: str = "", cgroup_procs: str | list[str] = "",
    place: Callable[[int], object] | None = None, cache_dir: str = "", die_with_parent: bool = True,
    make_cwd: bool = True, listener: int = -1, no_pivot: bool = False, new_keyring: bool = True,
) -> Created:
    """Make the container of *spec* (config.json, parsed) up to "waiting for start".

    *bundle* is what relative paths in *spec* start from. *cgroup_procs* are the ``cgroup.procs`` files to enter; where
    that takes more, *place* is called with the new process's pid while it waits. *cache_dir* keeps compiled seccomp
    filters, *make_cwd* makes a missing working directory. With a *listener*, a listening SOCK_SEQPACKET socket, the
    start comes from there (:mod:`rl.runtime.sync`) and the caller may end before. *no_pivot* and *new_keyring* as
    runc's options. The caller keeps its fds of *io* and the listener. Raises RlError; then nothing is left.
    """
    parent_end, child_end = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    created = Created(parent_end, spec, bundle, container_id)
    setup = Setup(spec, spec.get("process") or {}, io, Sync(child_end, parent_end))
    setup.bundle = bundle
    setup.cgroup_procs = [cgroup_procs] if isinstance(cgroup_procs, str) else list(cgroup_procs)
    setup.cgroup_procs = [path for path in setup.cgroup_procs if path]
    setup.die_with_parent = die_with_parent
    setup.make_cwd = make_cwd
    setup.listener, setup.no_pivot, setup.new_keyring = listener, no_pivot, new_keyring
    setup.placed, created.place = place is not None, place
    try:
        try:
            _prepare(setup, created, cache_dir)
            setup.exposed = launcher.exposed(spec) and launcher.permitted(setup.seccomp)
            _clone(setup, created)
        finally:
            child_end.close()
            for fd in (*setup.fds.values(), *setup.sources.values(), *setup.nodes.values(), setup.proc, setup.agent):
                if fd >= 0:
                    os.close(fd)
        spawning.until_ready(created)
    except BaseException:
        created.abandon()
        raise
    return created


def _prepare(setup: Setup, created: Created, cache_dir: str) -> None:
    """All that is done outside: seccomp program, namespace files, bind sources, device nodes."""
    spec, linux = setup.spec, setup.linux
    _refuse_unsupported(spec)
    profile = linux.get("seccomp")
    if profile:
        setup.seccomp = seccomp.program_for(profile, cache_dir)
        setup.seccomp_flags = seccomp.flags_of(profile)
    for entry in linux.get("namespaces") or []:
        kind, path = entry.get("type"), entry.get("path")
        if kind not in child.NAMESPACES:
            raise UnsupportedError(f"namespace type {kind!r} is not known")
        if path:
            try:
                setup.fds[kind] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise RlError(f"open the {kind} namespace {path}: {error.strerror}") from None
        else:
            setup.flags |= child.NAMESPACES[kind]
    if not setup.flags & ns.CLONE_NEWNS:
        raise UnsupportedError("a container needs a new mount namespace", 'add {"type": "mount"} to linux.namespaces')
    if linux.get("timeOffsets") and not setup.flags & ns.CLONE_NEWTIME:
        raise RlError("linux.timeOffsets needs a new time namespace", 'add {"type": "time"} to linux.namespaces')
    if linux.get("sysctl"):
        from rl.runtime import sysctl

        sysctl.check(setup, [kind for kind, flag in child.NAMESPACES.items() if setup.flags & flag])
    if linux.get("netDevices"):
        from rl.runtime import netdevices

        netdevices.check(setup)
    process.prepare(setup, profile, created.hook_state("creating") if profile else {}, created.warnings)
    outside.open_outside(setup)
    if spec.get("hooks"):
        setup.hook_state = hooks.state(spec, created.bundle, created.container_id, "creating", 0)


def _refuse_unsupported(spec: dict[str, Any]) -> None:
    """What cannot be honoured is an error, never silence."""
    for what, value in (("linux.intelRdt", (spec.get("linux") or {}).get("intelRdt")), ("vm", spec.get("vm"))):
        if value:
            raise UnsupportedError(f"{what} is not supported", "remove it from config.json")


def _clone(setup: Setup, created: Created) -> None:
    """The process, with the root as its working directory: clone carries that into the new mount namespace."""
    root = os.path.join(created.bundle, (setup.spec.get("root") or {}).get("path") or "rootfs")
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.chdir(root)
        except OSError as error:
            raise RlError(f"enter the root file system {root}: {error.strerror}") from None
        flags = setup.flags & ~child.LATE
        two_steps = "user" in setup.fds or "pid" in setup.fds or (setup.fds and flags & ns.CLONE_NEWUSER)
        if two_steps:
            spawning.fork_beside(setup, created, _join, flags, child.STEPS)
            return
        try:
            pid, pidfd = spawning.fork(setup, flags)
        except OSError as error:
            raise _cannot_clone(error) from None
        if pid == 0:
            spawning.run(setup, child.STEPS)
        created.pid, created.pidfd = pid, pidfd
    finally:
        os.fchdir(here)
        os.close(here)


def _join(setup: Setup) -> None:
    spawning.enter_cgroup(setup)
    setup.cgroup_procs, setup.placed = [], False
    if "user" in setup.fds:
        rlimits.raise_for(0, setup.process)
    spawning.oom_score(setup)  # its file is closed to us once we are not dumpable
    if not setup.flags & ns.CLONE_NEWUSER and not setup.linux.get("timeOffsets"):
        # Before processes of another container see the next child in their pid namespace: it still sees the host's
        # files. (Not where files of its /proc must be written: id maps, time offsets.)
        kp.prctl(kp.PR_SET_DUMPABLE, 0)
    child.join_namespaces(setup)


def _cannot_clone(error: OSError) -> RlError:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        hint = "the limit of namespaces is reached: see /proc/sys/user/max_*_namespaces"
    elif error.errno in (errno.EPERM, errno.EINVAL):
        hint = "this kernel or an outer container forbids one of the namespaces that are asked for"
    elif error.errno == errno.EAGAIN:
        hint = "the limit of processes is reached: ulimit -u, or the pids limit of an outer cgroup"
    return RlError(f"create the container's namespaces: {os.strerror(error.errno or 0)}", hint)


def start(created: Created) -> None:
    """Let the command run; returns when it does.

    Raises CommandNotFoundError (127), CommandNotExecutableError (126), or RlError, also when a poststart
    hook fails; then the process is gone and reaped.
    """
    if created.sock is None:
        raise RlError("the container was started already")
    try:
        try:
            created.sock.send(b"S")
        except BrokenPipeError:
            pass  # it has ended: what it said last tells why
        spawning.until_running(created)
        if hooks.wanted(created.spec, "poststart"):
            hooks.run(created.spec, "poststart", created.hook_state("running"))
    except BaseException:
        created.abandon()
        raise


def run_poststop(spec: dict[str, Any], bundle: str, container_id: str) -> list[str]:
    """Run the poststop hooks of a container that has ended; returns what went wrong, hooks after it ran."""
    if not hooks.wanted(spec, "poststop"):
        return []
    return hooks.run_all(spec, "poststop", hooks.state(spec, bundle, container_id, "stopped", 0))
