"""What create and exec have in common: making a process by steps, and serving it until its command runs.

Called by :mod:`rl.runtime.container` and :mod:`rl.runtime.exec`; apart from them, so that exec need not import how
mounts and devices are made. The steps at the end run in the new process.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import struct

from rl.config.jsonio import loads
from rl.errors import RlError, from_wire
from rl.kernel import clone as kclone
from rl.kernel import namespaces as ns
from rl.kernel import process as kp
from rl.runtime import hooks, launch, launcher, rlimits
from rl.runtime.sync import PACKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from rl.runtime.sync import Setup

    Steps = tuple[tuple[str, Callable[[Setup], None]], ...]


class Created:
    """A container that waits for :func:`start`, or runs.

    ``pid`` is init's pid here and ``pidfd`` stands for it; ``master`` is the pty's master or -1; the caller owns both
    descriptors and reaps the process. ``warnings`` are for the user.
    """

    __slots__ = (
        "bundle", "container_id", "master", "meanwhile", "pid", "pidfd", "place", "sock", "spec", "warnings",
    )

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
        self.meanwhile: Callable[[], object] | None = None  # called while a first child joins namespaces

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


def fork(setup: Setup, flags: int) -> tuple[int, int]:
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


def fork_beside(setup: Setup, created: Created, join: Callable[[Setup], None], flags: int, steps: Steps) -> None:
    """Two forks: a first child walks *join*, then makes a sibling of itself that walks *steps*, and ends.

    The sibling is our child too (CLONE_PARENT) and becomes *created*'s process. Also called by :mod:`rl.runtime.exec`.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            first, pidfd = fork(setup, 0)
            if first == 0:
                _first_child(setup, write_end, join, flags, steps)
        finally:
            os.close(write_end)
        if created.meanwhile is not None:
            created.meanwhile()
        if created.place is not None:
            _serve_place(created, first, read_end)
        data = os.read(read_end, 16)
    finally:
        os.close(read_end)
    os.close(pidfd)
    os.waitpid(first, 0)
    if not data:
        assert created.sock is not None
        raise error_of(created.sock.recv(PACKET), created)
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
    setup: Setup, pid_pipe: int, join: Callable[[Setup], None], flags: int, steps: Steps
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
    run(setup, steps)


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
            raise error_of(data, created)


def _write_maps(created: Created) -> None:
    """The id maps of a new user namespace, in ids of ours."""
    assert created.sock is not None
    from rl.runtime import userns

    linux = created.spec.get("linux") or {}
    rlimits.raise_for(created.pid, created.spec.get("process") or {})
    for kind in ("gid", "uid"):
        maps = linux.get(f"{kind}Mappings") or []
        if not maps:
            raise RlError(f"a new user namespace needs linux.{kind}Mappings")
        ranges = [(entry["containerID"], entry["hostID"], entry["size"]) for entry in maps]
        userns.map_process(created.pid, kind, ranges)
    created.sock.send(b"m")


def error_of(data: bytes, created: Created) -> RlError:
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


def until_running(created: Created) -> None:
    """Wait for the command: its exec closes the child's end of the socket, an error comes as a packet before."""
    assert created.sock is not None
    data = launcher.outcome(created.sock, created.pidfd, PACKET)
    if data:
        raise error_of(data, created)
    created.sock.close()
    created.sock = None


# steps of the new process -------------------------------------------------------------------------
def enter_cgroup(setup: Setup) -> None:
    """Go into the cgroup, before its namespace makes it the root: by ourselves, or by the parent's hand."""
    if setup.placed:
        setup.sync.ask(b"C")
    for path in setup.cgroup_procs:
        ns.write_proc(path, "0")


def oom_score(setup: Setup) -> None:
    """oomScoreAdj; a user may raise it, not lower it below what it was: then it stays."""
    wanted = setup.process.get("oomScoreAdj")
    if wanted is None:
        return
    try:
        ns.write_proc("/proc/self/oom_score_adj", str(wanted))
    except PermissionError:
        with open("/proc/self/oom_score_adj", encoding="utf-8") as file:
            if file.read().strip() == str(wanted):
                return  # by the parent: in a user namespace that we have just entered the file is not ours
        if not setup.sync.wait:
            return  # exec: it was said of the container
        setup.sync.tell(b"W", f"oom_score_adj {wanted} is not set: lowering it needs privileges on the host".encode())
    except OSError as error:
        raise RlError(f"set process.oomScoreAdj {wanted}: {error.strerror}", "it goes from -1000 to 1000") from None


def new_session(setup: Setup) -> None:
    """A session and a keyring of our own; from here on nobody may trace us or read our memory."""
    os.setsid()
    try:
        if setup.labels is not None:
            from rl.runtime import lsm  # imported by the parent already

            lsm.label_keyring(setup.labels, setup.proc, True)
        if setup.new_keyring:
            kp.join_new_keyring()
        if setup.labels is not None:
            lsm.label_keyring(setup.labels, setup.proc, False)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EDQUOT, errno.EPERM):
            raise
        if error.errno == errno.EDQUOT:
            why = "the container has the caller's session keyring: the quota of keys is used up (kernel.keys.maxkeys)"
            setup.sync.tell(b"W", why.encode())
    kp.prctl(kp.PR_SET_DUMPABLE, 0)


def run(setup: Setup, steps: Steps) -> NoReturn:
    """Walk the steps; the last one does not return."""
    current = ""
    try:
        setup.sync.begin()
        for name, step in steps:
            current = name
            step(setup)
    except BaseException as error:
        setup.sync.fail(current, error)
    os._exit(1)
