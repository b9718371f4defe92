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
import select
import struct

from rl.config.jsonio import loads
from rl.errors import RlError, UnsupportedError, from_wire
from rl.kernel import clone as kclone
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import child, hooks, launch, launcher, outside, process, rlimits, seccomp, userns
from rl.runtime.sync import PACKET, Io, Setup, Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

__all__ = ["Created", "Io", "create", "run_poststop", "start"]


class Created:
    """A container that waits for :func:`start`, or runs.

    ``pid`` is init's pid here and ``pidfd`` stands for it; ``master`` is the pty's master or -1; the caller owns both
    descriptors and reaps the process. ``warnings`` are for the user.
    """

    __slots__ = ("bundle", "container_id", "master", "pid", "pidfd", "place", "sock", "spec", "warnings")

    def __init__(self, sock: _socket.socket, spec: dict[str, Any], bundle: str = "", container_id: str = "") -> None:
        self.pid = 0
        self.pidfd = -1
        self.master = -1
        self.sock: _socket.socket | None = sock
        self.spec = spec
        self.warnings: list[str] = []
        self.bundle = bundle
        self.container_id = container_id
        self.place: Callable[[int], object] | None = None

    def hook_state(self, status: str) -> dict[str, Any]:
        """The state document hooks get."""
        return hooks.state(self.spec, self.bundle, self.container_id, status, self.pid)

    def leave_to_listener(self) -> None:
        """Let the process wait at its listener: from here on it lives without us. Until then it ends with us."""
        assert self.sock is not None
        self.sock.send(b"L")
        self.sock.close()
        self.sock = None

    def abandon(self) -> None:
        """Kill and reap what exists of the process, close everything; for errors before or at start."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        kp.end(self)


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
        until_ready(created)
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
            fork_beside(setup, created, _join, flags, child.STEPS)
            return
        try:
            pid, pidfd = _fork(setup, flags)
        except OSError as error:
            raise _cannot_clone(error) from None
        if pid == 0:
            child.run(setup, child.STEPS)
        created.pid, created.pidfd = pid, pidfd
    finally:
        os.fchdir(here)
        os.close(here)


def _fork(setup: Setup, flags: int) -> tuple[int, int]:
    """clone(2), straight into the cgroup where the kernel can and lets us; else the child moves itself."""
    procs = setup.cgroup_procs
    if len(procs) == 1:
        try:
            cgroup = os.open(os.path.dirname(procs[0]), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return kclone.clone(flags)  # the child will say what is wrong with it
        setup.cgroup_procs = []
        try:
            return kclone.clone(flags, cgroup)
        except OSError:
            setup.cgroup_procs = procs
        finally:
            os.close(cgroup)
    return kclone.clone(flags)


def _join(setup: Setup) -> None:
    child.enter_cgroup(setup)
    setup.cgroup_procs, setup.placed = [], False
    if "user" in setup.fds:
        rlimits.raise_for(0, setup.process)
    child.oom_score(setup)  # its file is closed to us once we are not dumpable
    if not setup.flags & ns.CLONE_NEWUSER and not setup.linux.get("timeOffsets"):
        # Before processes of another container see the next child in their pid namespace: it still sees the host's
        # files. (Not where files of its /proc must be written: id maps, time offsets.)
        kp.prctl(kp.PR_SET_DUMPABLE, 0)
    child.join_namespaces(setup)


def fork_beside(setup: Setup, created: Created, join: Callable[[Setup], None], flags: int, steps: child.Steps) -> None:
    """Two forks: a first child walks *join*, then makes a sibling of itself that walks *steps*, and ends.

    The sibling is our child too (CLONE_PARENT) and becomes *created*'s process. Also called by :mod:`rl.runtime.exec`.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            first, pidfd = _fork(setup, 0)
            if first == 0:
                _first_child(setup, write_end, join, flags, steps)
        finally:
            os.close(write_end)
        if created.place is not None:
            _serve_place(created, first, read_end)
        data = os.read(read_end, 16)
    finally:
        os.close(read_end)
    os.close(pidfd)
    os.waitpid(first, 0)
    if not data:
        assert created.sock is not None
        raise _error_of(created.sock.recv(PACKET), created)
    created.pid = int(data)
    created.pidfd = os.pidfd_open(created.pid)


def _serve_place(created: Created, pid: int, pid_pipe: int) -> None:
    """Put the first child into its cgroup if it asks for that, before it tells of its sibling or of an error."""
    assert created.sock is not None and created.place is not None
    poll = select.poll()
    for fd in (created.sock.fileno(), pid_pipe):
        poll.register(fd, select.POLLIN)
    poll.poll()
    try:
        packet = created.sock.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    if packet == b"C":
        created.sock.recv(1)
        created.place(pid)
        created.sock.send(b"c")


def _first_child(
    setup: Setup, pid_pipe: int, join: Callable[[Setup], None], flags: int, steps: child.Steps
) -> NoReturn:
    step = "join namespaces"
    try:
        setup.sync.begin()
        join(setup)
        step = "create namespaces"
        pid, _ = kclone.clone(flags | kclone.CLONE_PARENT)
        if pid:
            os.write(pid_pipe, b"%d" % pid)
            os._exit(0)
        os.close(pid_pipe)  # at its end the parent sees whether the first child has failed
    except BaseException as error:
        setup.sync.fail(step, error)
        os._exit(1)
    child.run(setup, steps)


def _cannot_clone(error: OSError) -> RlError:
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EUSERS):
        hint = "the limit of namespaces is reached: see /proc/sys/user/max_*_namespaces"
    elif error.errno in (errno.EPERM, errno.EINVAL):
        hint = "this kernel or an outer container forbids one of the namespaces that are asked for"
    elif error.errno == errno.EAGAIN:
        hint = "the limit of processes is reached: ulimit -u, or the pids limit of an outer cgroup"
    return RlError(f"create the container's namespaces: {os.strerror(error.errno or 0)}", hint)


def until_ready(created: Created) -> None:
    """Serve the child until it waits for start."""
    assert created.sock is not None
    while True:
        data, ancillary, _, _ = created.sock.recvmsg(PACKET, 64)
        letter = data[:1]
        if letter == b"C":
            assert created.place is not None
            created.place(created.pid)
            created.sock.send(b"c")
        elif letter == b"M":
            _write_maps(created)
        elif letter == b"D":
            from rl.runtime import netdevices

            namespace = struct.unpack("=i", ancillary[0][2][:4])[0]
            try:
                netdevices.move(created.spec["linux"], namespace)
            finally:
                os.close(namespace)
            created.sock.send(b"d")
        elif letter == b"H":
            document = created.hook_state("creating")
            for kind in ("prestart", "createRuntime"):
                hooks.run(created.spec, kind, document)
            created.sock.send(b"h")
        elif letter == b"W":
            created.warnings.append(data[1:].decode())
        elif letter == b"R":
            for _, _, fds in ancillary:
                created.master = struct.unpack("=i", fds[:4])[0]
            if created.master >= 0:
                os.set_inheritable(created.master, False)
            return
        else:
            raise _error_of(data, created)


def _write_maps(created: Created) -> None:
    """The id maps of a new user namespace, in ids of ours."""
    assert created.sock is not None
    linux = created.spec.get("linux") or {}
    rlimits.raise_for(created.pid, created.spec.get("process") or {})
    for kind in ("gid", "uid"):
        maps = linux.get(f"{kind}Mappings") or []
        if not maps:
            raise RlError(f"a new user namespace needs linux.{kind}Mappings")
        ranges = [(entry["containerID"], entry["hostID"], entry["size"]) for entry in maps]
        userns.map_process(created.pid, kind, ranges)
    created.sock.send(b"m")


def _error_of(data: bytes, created: Created) -> RlError:
    """The error that the child sent, or what its end tells."""
    if data[:1] == b"E":
        return from_wire(loads(data[1:].decode()))
    if data[:1] == launcher.PATH_LETTER:
        return launch.explain(*launcher.parse(data))
    status = 0
    if created.pid:
        status = os.waitstatus_to_exitcode(os.waitpid(created.pid, 0)[1])
        created.pid = 0
    if status == -9:
        return RlError(
            "the container's process was killed while it was prepared",
            "its memory limit may be too small: raise --memory",
        )
    if status == -31:
        return RlError("the seccomp profile forbids a call needed to start the command", "see --security-opt seccomp=…")
    return RlError(f"the container's process ended while it was prepared (status {status})")


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
        until_running(created)
        if hooks.wanted(created.spec, "poststart"):
            hooks.run(created.spec, "poststart", created.hook_state("running"))
    except BaseException:
        created.abandon()
        raise


def until_running(created: Created) -> None:
    """Wait for the command: its exec closes the child's end of the socket, an error comes as a packet before."""
    assert created.sock is not None
    data = launcher.outcome(created.sock, created.pidfd, PACKET)
    if data:
        raise _error_of(data, created)
    created.sock.close()
    created.sock = None


def run_poststop(spec: dict[str, Any], bundle: str, container_id: str) -> list[str]:
    """Run the poststop hooks of a container that has ended; returns what went wrong, hooks after it ran."""
    if not hooks.wanted(spec, "poststop"):
        return []
    return hooks.run_all(spec, "poststop", hooks.state(spec, bundle, container_id, "stopped", 0))
