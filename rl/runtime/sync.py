"""What parent and child share while a process is prepared: the record of it, and the socket between them.

One SOCK_SEQPACKET pair; a packet is one letter and a payload. The child's end closes at exec: end of file
without an error packet means that the command runs.

| packet | from | meaning |
|---|---|---|
| ``C`` / ``c`` | child / parent | put me into my cgroup / done |
| ``M`` / ``m`` | child / parent | write my id maps / done |
| ``D`` [fd] / ``d`` | child / parent | move the network devices into this network namespace / done |
| ``H`` / ``h`` | child / parent | run the hooks that run outside / done |
| ``R`` [fd] | child | ready, waiting for start; the descriptor is the terminal's master |
| ``S`` | parent | start |
| ``L`` | parent | the container is on record: wait for the start at the listener, not for me |
| ``W`` text | child | a warning for the user |
| ``X`` errno, path | launcher | the command cannot be executed (:mod:`rl.runtime.launcher`) |
| ``E`` JSON | child | failed: :func:`rl.errors.to_wire`, and ``step`` |

Where who creates does not wait for the start (`rl-runtime create`), the child listens on a socket of the state
directory after ``R``. Who connects and says ``S`` gets what the parent would have got: an ``E``, or end of file when
the command runs. This is the "exec fifo" of other runtimes with a way back for errors.
"""

from __future__ import annotations

import _socket
import os
import struct

from rl.config.jsonio import dumps
from rl.errors import RlError, limit_hint, to_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.launcher import Launcher
    from rl.runtime.lsm import Labels
    from rl.runtime.mountoptions import Options

PACKET = 1 << 15


class Io:
    """The descriptors a process gets as 0, 1 and 2 (unused with a terminal), and those for 3…; -1 leaves a gap."""

    __slots__ = ("preserve", "stderr", "stdin", "stdout")

    def __init__(self, stdin: int = 0, stdout: int = 1, stderr: int = 2, preserve: list[int] | None = None) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.preserve = preserve or []


class Sync:
    """The child's end of the socket. A parent that is gone ends the child."""

    __slots__ = ("parent", "sock", "wait")

    def __init__(self, sock: _socket.socket, parent: _socket.socket, wait: bool = True) -> None:
        self.sock = sock
        self.parent = parent
        self.wait = wait  # False: nobody will say start (exec)

    def move(self, number: int) -> None:
        """Speak over descriptor *number*, a duplicate of the present one."""
        self.sock.detach()  # stays open: whoever moves closes
        self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, number)

    def sit_at(self, number: int) -> None:
        """Speak over descriptor *number*, whatever it was before, instead of the present one."""
        old = self.sock.fileno()
        if old != number:
            self.move(os.dup2(old, number, inheritable=False))
            os.close(old)

    def begin(self) -> None:
        """In the child: let go of the parent's end, so that its death shows as end of file."""
        self.parent.close()

    def tell(self, letter: bytes, payload: bytes = b"") -> None:
        """Send a packet that needs no answer."""
        try:
            self.sock.send(letter + payload)
        except OSError:
            os._exit(1)

    def ask(self, letter: bytes, fd: int = -1) -> None:
        """Send a packet, with descriptor *fd* where one is given, and wait for its answer."""
        if fd < 0:
            self.tell(letter)
        else:
            try:
                self.sock.sendmsg([letter], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", fd))])
            except OSError:
                os._exit(1)
        self._await()

    def _await(self) -> None:
        if not self.sock.recv(1):
            os._exit(1)  # the parent has gone or given up

    def ready(self, master: int, listener: int = -1) -> None:
        """Say that everything is prepared, hand over the terminal's *master* (-1: none), wait for start.

        With a *listener* it comes from there, once the parent has said that it may end.
        """
        ancillary = []
        if master >= 0:
            ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", master)))
        try:
            self.sock.sendmsg([b"R"], ancillary)
        except OSError:
            os._exit(1)
        if listener >= 0:
            self._await()
            self._accept(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, listener))
        elif self.wait:
            self._await()

    def _accept(self, listener: _socket.socket) -> None:
        """Go on with the first who connects and says start; one who was killed before that does not count."""
        self.sock.close()
        while True:
            number, _ = listener._accept()  # type: ignore[attr-defined]  # of _socket.socket; typeshed knows socket.socket
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, number)
            try:
                if connection.recv(1) == b"S":
                    break
            except OSError:
                pass
            connection.close()
        self.sock = connection
        listener.close()

    def fail(self, step: str, error: BaseException) -> None:
        """Tell the parent why it will not be."""
        if isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            wire = to_wire(RlError(f"{step}: {error.strerror or error}{where}", limit_hint(error)))
        elif isinstance(error, RlError):
            wire = to_wire(error)
        else:
            wire = to_wire(RlError(f"{step}: {type(error).__name__}: {error}", limit_hint(error)))
        wire["step"] = step
        data = dumps(wire).encode()
        if len(data) >= PACKET:
            wire["message"] = wire["message"][: PACKET // 8]
            data = dumps(wire).encode()
        self.tell(b"E", data)


class Setup:
    """Everything the steps of a child work on; filled by the parent before clone, then by the steps."""

    __slots__ = (
        "agent", "agent_message", "agent_metadata", "agent_state", "bundle", "candidates", "cgroup_procs",
        "die_with_parent", "environment", "exposed", "fds", "flags", "hook_state", "io", "joined", "labels",
        "late_readonly", "launcher", "linux", "listener", "make_cwd", "master", "mount_options", "movable",
        "new_keyring", "no_pivot", "nodes", "opened", "placed", "proc", "process", "procfs", "retry_cwd", "root",
        "seccomp", "seccomp_flags", "setgroups_denied", "slave", "sources", "spec", "sync",
    )

    def __init__(self, spec: dict[str, Any], process: dict[str, Any], io: Io, sync: Sync) -> None:
        self.spec = spec
        self.process = process
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.io = io
        self.sync = sync
        self.bundle = ""
        self.cgroup_procs: list[str] = []
        self.placed = False  # the parent puts this process into its cgroup, when asked
        self.movable = False  # the parent can have this process moved where it may not go by itself (exec)
        self.listener = -1  # a listening socket that start comes from, instead of the parent
        self.die_with_parent = False
        self.new_keyring = True
        self.no_pivot = False
        self.flags = 0  # CLONE_NEW*: the namespaces that are new
        self.fds: dict[str, int] = {}  # type of namespace to join → its file
        self.joined = False
        self.sources: dict[int, int] = {}  # index of mount → detached mount of its source
        self.nodes: dict[str, int] = {}  # path of device → detached mount of it
        self.opened = False  # the two above are filled (rl.runtime.outside)
        self.mount_options: list[Options] = []  # of each mount, in the order of the spec
        self.procfs: set[int] = set()  # device numbers of the procfs the container may have
        self.late_readonly: list[int] = []  # mounts to be made read-only when everything in them exists
        self.root = -1
        self.master = -1
        self.slave = -1
        self.seccomp: bytes | None = None
        self.seccomp_flags = 0
        self.setgroups_denied = False
        self.retry_cwd = False
        self.make_cwd = True
        self.hook_state: dict[str, Any] | None = None
        self.environment: dict[str, str] = {}
        self.candidates: list[str] = []
        self.proc = -1  # the caller's /proc, where a step needs it after the root has changed
        self.labels: Labels | None = None
        self.agent = -1  # connected to the seccomp agent
        self.agent_state: dict[str, Any] = {}
        self.agent_metadata = ""
        self.agent_message = b""
        self.exposed = True  # whether the container could write our interpreter
        self.launcher: Launcher | None = None
