"""Terminals of `rl-runtime`: handing the master over a console socket, or relaying it in the foreground.

Source: opencontainers/runc docs/terminals.md ("Detached new terminal", "New terminal").
"""

from __future__ import annotations

import _signal
import _socket
import fcntl
import os
import select
import struct

from rl.errors import RlError, UsageError
from rl.kernel import proc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.activation import Notify

_TIOCGWINSZ = 0x5413
_TIOCSWINSZ = 0x5414
_CHUNK = 1 << 15
_WINCH = 28
#: not passed on: those that cannot be caught, that mean us, or that the kernel sends for our own faults
_OURS = frozenset((4, 5, 7, 8, 9, 11, 13, 17, 19, 31, 32, 33))


def check(terminal: bool, path: str, detached: bool) -> None:
    """Raises UsageError where terminal and console socket do not go together, as runc does."""
    if terminal and detached and not path:
        raise UsageError(
            "process.terminal: a terminal nobody would read from: the command does not wait for the container",
            "give --console-socket, or set process.terminal to false",
        )
    if path and not terminal:
        raise UsageError("--console-socket: the process has no terminal", "set process.terminal to true")
    if path and not detached:
        raise UsageError("--console-socket: the terminal is relayed by this command itself", "add --detach")


def send(path: str, master: int) -> None:
    """Hand *master* over the listening socket *path* (SCM_RIGHTS, the pty's name as data). Raises RlError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
        rights = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", master))]
        sock.sendmsg([b"/dev/ptmx"], rights)
    except OSError as error:
        raise RlError(f"send the terminal over --console-socket {path}: {error.strerror or error}") from None
    finally:
        sock.close()


class Relay:
    """Between our terminal (or whatever 0 and 1 are) and the container's *master*; a terminal is raw meanwhile."""

    __slots__ = ("input_ended", "master", "saved")

    def __init__(self, master: int) -> None:
        self.master = master
        self.saved: Any = None
        self.input_ended = False
        if os.isatty(0):
            import termios
            import tty

            self.saved = termios.tcgetattr(0)
            tty.setraw(0)
            self.resize()

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        try:
            size = fcntl.ioctl(0, _TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.master, _TIOCSWINSZ, size)
        except OSError:
            pass  # no terminal, or gone

    def output(self) -> bool:
        """Pass on what is there; False at the end (EIO: nobody has the terminal open any more)."""
        try:
            data = os.read(self.master, _CHUNK)
        except OSError:
            return False
        _write_all(1, data)
        return bool(data)

    def input(self) -> None:
        """Pass on what was typed; at the end of a pipe, ctrl-d."""
        data = os.read(0, _CHUNK)
        if not data:
            self.input_ended = True
            data = b"\x04"
        try:
            _write_all(self.master, data)
        except OSError:
            self.input_ended = True

    def close(self) -> None:
        """Restore our terminal."""
        if self.saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self.saved)
            self.saved = None
        os.close(self.master)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def supervise(pid: int, pidfd: int, relay: Relay | None, notify: Notify | None = None) -> int:
    """Pass on the terminal and notifications until child *pid* ends; its exit code, negative for a signal."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if notify is not None:
        poll.register(notify.fd, select.POLLIN)
    if relay is not None:
        poll.register(relay.master, select.POLLIN)
        poll.register(0, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if notify is not None and notify.fd in ready:
            notify.relay(pid)
        if relay is not None and relay.master in ready and not relay.output():
            poll.unregister(relay.master)
        elif pidfd in ready:
            break  # after what it wrote last
        if relay is not None and 0 in ready:
            relay.input()
            if relay.input_ended:
                poll.unregister(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def forward_signals(pidfd: int, relay: Relay | None) -> None:
    """From now on the signals we get are the container's; before it starts, so that none is lost between."""

    def forward(number: int, frame: object) -> None:
        if number == _WINCH and relay is not None:
            relay.resize()
            return
        try:
            proc.pidfd_send_signal(pidfd, number)
        except OSError:
            pass

    for number in range(1, 65):
        if number not in _OURS:
            _signal.signal(number, forward)
