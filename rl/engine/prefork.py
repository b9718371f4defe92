"""The monitor-to-be: forked before anything heavy is imported, in the user namespace before it is needed.

`rl run` calls :func:`prefork` first thing. While the command line is parsed and the image resolved, the
fork takes the container's lock, enters the shared user namespace and imports the runtime; then it waits
for the launch message. A command that fails before that closes the socket, and the fork goes away.
"""

from __future__ import annotations

import _signal
import _socket
import errno
import fcntl
import os
import sys
import time

from rl.config.jsonio import dumps, loads
from rl.config.paths import Paths
from rl.errors import RlError, StateError, from_wire, to_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rl.runtime.cgroup.systemd import Scope

#: Packet type of launch progress, see docs/architecture.md, "Attach protocol".
PROGRESS = b"\x06"
_PACKET = 1 << 17
#: In the lock file of a container that does not run: a command is at its files (rl.engine.rootaccess.hold).
AT_THE_FILES = b"files"
#: Seconds that start, rm and other such commands wait for it.
PATIENCE = 600.0


class Handle:
    """The command line's end of the pair: the monitor's pid, the container's id, the socket."""

    __slots__ = ("container_id", "pid", "sock")

    def __init__(self, container_id: str, pid: int, sock: _socket.socket) -> None:
        self.container_id = container_id
        self.pid = pid
        self.sock = sock

    def abandon(self) -> None:
        """Nothing will be launched: let the fork go, and wait until it has."""
        self.sock.close()
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:
            self._wait_for_a_strangers_child()

    def _wait_for_a_strangers_child(self) -> None:
        import select

        try:
            pidfd = os.pidfd_open(self.pid)
        except OSError:
            return
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(5000)
        os.close(pidfd)

    def launch(self, message: dict[str, Any], on_step: Callable[[dict[str, Any]], None] | None = None) -> int:
        """Send the launch message and wait until the container runs; its pid.

        Raises the error of the step that failed. *on_step* gets each step's timing.
        """
        try:
            self.sock.send(PROGRESS + dumps(message).encode())
        except OSError:
            pass  # the fork failed early: its error is waiting for us
        while True:
            try:
                packet = self.sock.recv(_PACKET)
            except ConnectionResetError:
                packet = b""
            if not packet:
                raise RlError("the monitor ended before the container ran", "see `dmesg` for an out-of-memory kill")
            if packet[:1] != PROGRESS:
                raise RlError(f"unexpected packet {packet[0]} from the monitor")
            progress = loads(packet[1:].decode())
            if "started" in progress:
                return int(progress["started"])
            if "error" in progress:
                self.abandon()
                raise from_wire(progress["error"])
            if on_step:
                on_step(progress)


def prefork(paths: Paths | None = None, container_id: str = "", argv: list[str] | None = None) -> Handle:
    """Fork the monitor of a new container, or of *container_id*; *argv* is the command line, where it asks for one."""
    if paths is None:
        paths = Paths.from_environment(os.environ)
    paths.ensure()
    new = not container_id
    container_id = container_id or os.urandom(32).hex()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        pid = _fork_away() if os.environ.get("NOTIFY_SOCKET") else os.fork()
    except OSError as error:
        raise RlError(f"fork the monitor: {error.strerror}", "the limit of processes is reached: ulimit -u") from None
    if pid:
        theirs.close()
        return Handle(container_id, pid, ours)
    try:
        ours.close()
        _monitor(paths, container_id, theirs, new, argv)
    except BaseException:
        if os.environ.get("RL_DEBUG"):
            sys.excepthook(*sys.exc_info())
    finally:
        os._exit(125)


def _fork_away() -> int:
    """As fork(2), but the child is systemd's: what systemd takes for a service's main process has to be."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    between = os.fork()
    if not between:
        try:
            pid = os.fork()
        except OSError:
            os._exit(1)
        if pid:
            os.write(writer, str(pid).encode())
            os._exit(0)
        os.close(reader)
        os.close(writer)
        return 0
    os.close(writer)
    os.waitpid(between, 0)
    text = os.read(reader, 32)
    os.close(reader)
    if not text:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return int(text)


def _monitor(
    paths: Paths, container_id: str, sock: _socket.socket, new: bool, argv: list[str] | None
) -> None:  # fmt: skip
    """The fork's life until it launches the container and becomes the lean monitor."""
    from rl.kernel import process
    from rl.runtime import userns

    os.setsid()
    process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    error: BaseException | None = None
    lock = -1
    mode = ""
    scope = None
    began = time.monotonic_ns()
    try:
        lock = take_lock(paths, container_id, PATIENCE)
        scope = _early_scope(paths, container_id, argv) if argv else None
        mode = userns.enter(paths.run, lock, _import_launch)
    except BaseException as failure:
        error = failure
    ended = time.monotonic_ns()
    message = _receive(sock)
    if message is not None and error is None:
        from rl.engine import launch

        spans = [{"step": "user namespace", "start": began, "end": ended}]
        launch.launch(paths, container_id, sock, lock, mode, message, spans, scope)  # returns only when it failed
    elif error is not None and message is not None:
        send_progress(sock, {"error": to_wire(error)})
    if lock >= 0:
        if new:
            _take_back(paths, container_id)
        forget_run_directory(paths, container_id)


def _early_scope(paths: Paths, container_id: str, argv: list[str]) -> Scope | None:
    from rl.engine import cgroups

    return cgroups.early(paths.run, container_id, argv)


def _take_back(paths: Paths, container_id: str) -> None:
    """The record that `rl run` made, of a container that will not run: the command line may have been killed."""
    if not os.path.isdir(paths.container(container_id)):
        return
    from rl.engine import containers, rm
    from rl.storage import trash

    rm.forget(paths, container_id, containers.read_config(paths, container_id), with_volumes=True)
    trash.empty(paths)


def _import_launch() -> None:
    """The runtime and all that a launch needs, while the command line parses and ids are mapped."""
    from rl.engine import launch  # noqa: F401


def _receive(sock: _socket.socket) -> dict[str, Any] | None:
    try:
        packet = sock.recv(_PACKET)
    except OSError:
        return None
    return loads(packet[1:].decode()) if packet else None


def send_progress(sock: _socket.socket, progress: dict[str, Any]) -> None:
    """Tell the command line; it may be gone, which stops nothing."""
    try:
        sock.send(PROGRESS + dumps(progress).encode())
    except OSError:
        pass


def take_lock(paths: Paths, container_id: str, patience: float = 0.0) -> int:
    """Hold the container's lock file, which says that its monitor lives.

    Raises StateError when another process holds it. Whoever only asks holds a shared lock for
    microseconds, so a refusal is believed only when it lasts. *patience*: seconds to wait for a command that reads or
    writes the files of a container that does not run (:data:`AT_THE_FILES`).
    """
    directory = paths.container_run(container_id)
    end = time.monotonic() + patience
    attempts = 50
    busy = False
    while attempts > 0:
        attempts -= 1
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            fd = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # its last monitor removed the directory just now
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(f"{directory}/lock")):
                os.ftruncate(fd, 0)
                return fd
        except BlockingIOError:
            busy = os.pread(fd, 8, 0) == AT_THE_FILES
            if busy and time.monotonic() < end:
                attempts = 50
                time.sleep(0.02)
            time.sleep(0.002)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != errno.ENOLCK:
                raise
            hint = "put XDG_RUNTIME_DIR on a local file system"
            raise RlError(f"lock {directory}/lock: {error.strerror}", hint) from None
        os.close(fd)
    if busy:
        what = f"the files of container {container_id[:12]} are being copied, exported or committed"
        raise StateError(what, "try again when that command has ended")
    raise StateError(f"container {container_id[:12]} is already running or being started")


def forget_run_directory(paths: Paths, container_id: str) -> None:
    """Remove the run directory of a container that did not start; the lock last, it protects the rest."""
    directory = paths.container_run(container_id)
    try:
        for name in sorted(os.listdir(directory), key="lock".__eq__):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except OSError:
        pass
