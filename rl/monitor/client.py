"""The other end of the attach socket: relay the caller's stdio to a container, or wait for its end.

Called by the engine: run and start with the socket pair they gave the monitor, attach, wait, stop and logs with a new
connection. The packets are described in docs/architecture.md, "Attach protocol". On the hot path.
"""

from __future__ import annotations

import _signal
import _socket
import errno
import os
import select
import sys
import time

from rl.config.jsonio import dumps, loads
from rl.errors import RlError
from rl.kernel import process
from rl.monitor.terminal import DetachKeys, RawMode, window_size
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.paths import Paths

_CHUNK = 32768
#: Left alone: what cannot be caught, says something about ourselves (faults, broken pipes, children), or is job control
#: between us and the caller's shell. SIGWINCH has a packet of its own.
_NOT_PROXIED = frozenset((
    _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGURG, _signal.SIGWINCH,
    _signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGCONT, _signal.SIGSEGV, _signal.SIGBUS, _signal.SIGFPE,
    _signal.SIGILL, _signal.SIGTRAP, _signal.SIGSYS, _signal.SIGABRT, 32, 33,
))


BROKEN_PIPE = "broken pipe"  # AttachResult.error: nobody reads our output any more


class AttachResult:
    """How the relaying ended: ``kind`` is exited (with exit_code), detached (by keys) or lost (``error`` says why)."""

    __slots__ = ("error", "exit_code", "kind", "oom_killed")

    def __init__(self, kind: str, exit_code: int = 0, oom_killed: bool = False, error: str = "") -> None:
        self.kind = kind
        self.exit_code = exit_code
        self.oom_killed = oom_killed
        self.error = error


def connect(run_dir: str, *, stdin: bool = False, stdout: bool = False, stderr: bool = False) -> int:
    """Connect to the monitor of the container with this run directory and say hello; the descriptor.

    All false means a client that waits for the exit only. Raises OSError: ENOENT or ECONNREFUSED when
    there is no monitor.
    """
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/attach")  # sun_path holds 108 bytes only
        sock.send(b"\5" + dumps({"stdin": stdin, "stdout": stdout, "stderr": stderr}).encode())
        return sock.detach()
    finally:
        sock.close()
        os.close(directory)


def relay(
    fd: int, *, stdin: int = -1, stdout: int = -1, stderr: int = -1, tty: bool = False, detach_keys: str | None = None,
    sig_proxy: bool = True, pid: int = 0,
) -> int:
    """:func:`attach`, with the result as an exit code: the container's own, or 0 when the user detached.

    Raises RlError when the connection was lost, or the caller's output cannot be written; BrokenPipeError when
    nobody reads that any more (`rl run … | head -1`), which leaves the container running, as in Podman.
    """
    result = attach(
        fd, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty, detach_keys=detach_keys, sig_proxy=sig_proxy, pid=pid
    )
    if result.kind == "lost":
        if result.error == BROKEN_PIPE:
            raise BrokenPipeError
        what = f"attached to the container: {result.error}"
        raise RlError(what, "`rl ps -a` tells what became of the container, `rl logs` what it said")
    return result.exit_code


def attach(
    fd: int, *, stdin: int = -1, stdout: int = -1, stderr: int = -1, tty: bool = False, detach_keys: str | None = None,
    sig_proxy: bool = True, pid: int = 0, redraw: bool = False,
) -> AttachResult:
    """Relay between descriptors of ours (-1: none) and the container behind *fd*, until it ends or the user detaches.

    *fd* is closed at the end. *tty*: the container has a terminal; ours, if *stdin* is one, becomes raw
    and its size the container's. *sig_proxy*: signals to us go to the container's init, directly if *pid* is
    given, otherwise through the monitor (where a container that does not read its input can hold them up).
    *redraw*: have a full-screen program paint again, for a terminal that was not there before.
    """
    session = _Session(fd, stdin, stdout, stderr, tty, DetachKeys(detach_keys), pid)
    try:
        with RawMode(stdin if tty and stdin >= 0 else -1):
            handlers = session.catch_signals(sig_proxy)
            try:
                if tty:
                    session.send_size(redraw)
                return session.run()
            finally:
                for number, handler in handlers:
                    _signal.signal(number, handler)
    finally:
        session.close()


class _Session:
    """One attached caller."""

    def __init__(self, fd: int, stdin: int, stdout: int, stderr: int, tty: bool, keys: DetachKeys, pid: int) -> None:
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
        self._sock.setblocking(False)
        self._fd = fd
        self._stdin = stdin
        self._outputs = {1: stdout, 2: stderr}
        self._tty = tty
        # Keys are typed: they mean nothing in a file or a pipe, where the bytes may be anything.
        self._keys = keys if tty and stdin >= 0 and os.isatty(stdin) else None
        self._pending = b""  # a packet the socket did not take
        self._poll = select.poll()
        self._pidfd = -1
        self._pid = pid
        if pid:
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                pass  # it has ended: the exit packet is on its way

    # signals --------------------------------------------------------------------------------------
    def catch_signals(self, proxy: bool) -> list[tuple[int, Any]]:
        """Install the handlers; what they replaced."""
        wanted: dict[int, Any] = {}
        if proxy:
            wanted = {n: self._on_signal for n in range(1, _signal.SIGRTMAX + 1) if n not in _NOT_PROXIED}
        elif self._tty:
            # To die with the terminal left raw would be rude.
            wanted = dict.fromkeys((_signal.SIGTERM, _signal.SIGHUP), _leave)
        if self._keys is not None:
            wanted[_signal.SIGHUP] = _leave  # our terminal has hung up, which is nothing to the container
        if self._tty:
            wanted[_signal.SIGWINCH] = lambda _number, _frame: self.send_size()
        replaced = []
        for number, handler in wanted.items():
            try:
                replaced.append((number, _signal.signal(number, handler)))
            except (OSError, ValueError):
                continue
        return [(number, _signal.SIG_DFL if handler is None else handler) for number, handler in replaced]

    def _on_signal(self, number: int, _frame: object) -> None:
        try:
            if self._pidfd >= 0:
                tell_signal(self._sock, number, self._pid)
                process.pidfd_send_signal(self._pidfd, number)
            elif self._pid:  # between two runs, or the last one was over before we looked: the monitor knows
                tell_signal(self._sock, number, 0)
            else:
                self._sock.send(b"\7" + bytes([number]))
        except OSError as error:
            # It has ended, and we still write what it left: the signal is meant for us.
            ended = error.errno in (errno.ESRCH, errno.EPIPE, errno.ECONNRESET)
            if ended and number in (_signal.SIGINT, _signal.SIGTERM):
                raise SystemExit(128 + number) from None

    def send_size(self, redraw: bool = False) -> None:
        """Tell the container the size of our terminal. A size that does not change makes no program redraw."""
        for fd in (self._outputs[1], self._stdin):
            rows, columns = window_size(fd) if fd >= 0 else (0, 0)
            if rows and columns:
                sizes = [(rows + 1, columns + 1), (rows, columns)] if redraw else [(rows, columns)]
                for height, width in sizes:
                    try:
                        packet = height.to_bytes(2, sys.byteorder) + width.to_bytes(2, sys.byteorder)
                        self._sock.send(b"\3" + packet)
                    except OSError:
                        return  # its queue is full of input it does not read, or it is gone
                return

    # relaying -------------------------------------------------------------------------------------
    def run(self) -> AttachResult:
        """The loop."""
        self._poll.register(self._fd, select.POLLIN)
        if self._stdin >= 0:
            self._poll.register(self._stdin, select.POLLIN)
        buffer = memoryview(bytearray(_CHUNK + 1))
        while True:
            for fd, events in self._poll.poll():
                if fd == self._stdin:
                    if self._on_input():
                        return AttachResult("detached")
                    continue
                if events & select.POLLOUT:
                    self._flush()
                if events & ~select.POLLOUT:
                    result = self._on_packet(buffer)
                    if result:
                        return result

    def _on_packet(self, buffer: memoryview) -> AttachResult | None:
        try:
            size = self._sock.recv_into(buffer)
        except (BlockingIOError, ConnectionResetError):
            return None  # a reset comes before what was received: look again
        if not size:
            return AttachResult("lost", error="the monitor is gone, or dropped us because we read too slowly")
        kind = buffer[0]
        if kind == 4:
            info = loads(bytes(buffer[1:size]).decode())
            return AttachResult("exited", info["exit_code"], info["oom_killed"], info["error"])
        if kind == 6:
            self._follow(loads(bytes(buffer[1:size]).decode()).get("started", 0))
        target = self._outputs.get(kind, -1)
        if target >= 0:
            try:
                _write(target, buffer[1:size])
            except BrokenPipeError:
                return AttachResult("lost", error=BROKEN_PIPE)
            except OSError as error:
                name = "standard output" if kind == 1 else "standard error"
                return AttachResult("lost", error=f"write to {name}: {error.strerror}")
        return None

    def _follow(self, pid: int) -> None:
        """The container was started again: signals go to its new process."""
        if self._pid and pid:
            if self._pidfd >= 0:
                os.close(self._pidfd)
            self._pid = pid
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:
                self._pidfd = -1
            if self._tty:
                self.send_size()

    def _on_input(self) -> bool:
        """Pass on what was typed; whether it says to detach."""
        try:
            data = os.read(self._stdin, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: our terminal is gone; EBADF, EISDIR
            data = b""
        if not data and self._keys is not None:
            return True  # a raw terminal has an end only when it hangs up: no end of input for the container
        if data and self._keys:
            data, detach = self._keys.feed(data)
            if detach:
                if data:
                    self._send(b"\0" + data)
                return True
            if not data:
                return False
        if not data:
            self._poll.unregister(self._stdin)
            self._stdin = -1
        self._send(b"\0" + data)
        return False

    def _send(self, packet: bytes) -> None:
        try:
            self._sock.send(packet)
        except BlockingIOError:
            self._pending = packet
            self._poll.register(self._fd, select.POLLIN | select.POLLOUT)
            if self._stdin >= 0:
                self._poll.unregister(self._stdin)
        except OSError:
            pass  # the end is told by what we receive

    def _flush(self) -> None:
        try:
            self._sock.send(self._pending)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._pending = b""
        self._poll.register(self._fd, select.POLLIN)
        if self._stdin >= 0:
            self._poll.register(self._stdin, select.POLLIN)

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def tell_signal(sock: _socket.socket, number: int, pid: int, stop: bool = False, time: float | None = None) -> None:
    """Tell the monitor that its user signals process *pid* (rl.monitor.control), just before that is done.

    With *stop*, the signal is the first act of `rl stop`, which gives the container *time* seconds.
    """
    message = {"signal": {"number": number, "pid": pid, "stop": stop, "time": time}}
    try:
        sock.send(b"\x08" + dumps(message).encode())
    except OSError:
        pass  # its queue is full of input nobody reads, or it is gone


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _write(fd: int, data: memoryview) -> None:
    """All of *data*; waits also where the caller gave us a non-blocking descriptor."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


class ExitWatch:
    """Tells when a running container has ended and is cleaned up, without polling: wait for ``fd`` to be readable.

    ``fd`` is -1 when there is no monitor now. ``info`` is the exit packet's content at the end, or None when the
    monitor ended without a word (it was killed): the container's record tells, once corrected.
    """

    __slots__ = ("_sock", "fd", "info")

    def __init__(self, run_dir: str) -> None:
        self.fd = -1
        self.info: dict[str, Any] | None = None
        self._sock: _socket.socket | None = None
        try:
            self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, connect(run_dir))
            self._sock.setblocking(False)
            self.fd = self._sock.fileno()
            return
        except OSError:
            pass
        # No socket: it is being launched or ending, or there is none. Its pid counts while the lock is held.
        pid = userns.monitor_pid(f"{run_dir}/lock")
        if pid > 0:
            try:
                self.fd = os.pidfd_open(pid)
            except OSError:
                return
            if userns.monitor_pid(f"{run_dir}/lock") != pid:
                self.close()

    def tell_signal(self, number: int, pid: int, stop: bool = False, time: float | None = None) -> None:
        """As the function of this name, where there is a monitor."""
        if self._sock is not None:
            tell_signal(self._sock, number, pid, stop, time)

    def ended(self) -> bool:
        """Whether it is over; to be called when the descriptor is readable."""
        while self._sock is not None:
            try:
                packet = self._sock.recv(_CHUNK + 1)
            except BlockingIOError:
                return False
            except ConnectionResetError:
                continue
            if packet[:1] == b"\4":
                self.info = loads(packet[1:].decode())
            elif packet:
                continue
            break
        self.close()
        return True

    def close(self) -> None:
        """Stop watching."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def wait_exit(paths: Paths, container_id: str, timeout: float | None = None) -> dict[str, Any] | None:
    """Wait until the container has ended and is cleaned up: ``{"exit_code", "oom_killed", "error"}``.

    None when no monitor lives, or it was killed: then the container's record tells. Raises TimeoutError after
    *timeout* seconds.
    """
    watch = ExitWatch(paths.container_run(container_id))
    deadline = None if timeout is None else time.monotonic() + timeout
    poll = select.poll()
    if watch.fd < 0:
        return None
    poll.register(watch.fd, select.POLLIN)
    try:
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            if not poll.poll(left):
                raise TimeoutError
            if watch.ended():
                return watch.info
    finally:
        watch.close()
