"""The caller's streams during `rl exec`: handed to the process, or relayed where they are a terminal.

A terminal is never handed over: the process could read what its user types later, and inject input. Called by
:mod:`rl.engine.exec` only.
"""

from __future__ import annotations

import _signal
import os
import select

from rl.runtime.sync import Io

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.monitor.terminal import DetachKeys, RawMode
    from rl.runtime.spawning import Created

_CHUNK = 1 << 16
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Relay:
    """Between the caller's fds 0-2 and the process."""

    __slots__ = (
        "_ends", "_held", "_keys", "_out", "_pending", "_pidfd", "_raw", "_sink", "_stdin_open", "_tty", "_typed",
    )

    def __init__(self, interactive: bool, tty: bool, detach_keys: str | None) -> None:
        self._tty = tty
        self._typed = interactive
        self._keys: DetachKeys | None = None
        self._raw: RawMode | None = None
        if tty and interactive:
            from rl.monitor.terminal import DetachKeys

            self._keys = DetachKeys(detach_keys)
        self._ends: list[int] = []  # the process's ends, closed once it has them
        self._held: list[int] = []  # ours
        self._out: dict[int, int] = {}  # fd to read → caller's fd to write
        self._sink = -1  # where what is typed goes
        self._stdin_open = False
        self._pending = b""
        self._pidfd = -1

    def io(self, preserve: list[int]) -> Io:
        """What the process gets as 0, 1, 2."""
        if self._tty:
            return Io(preserve=preserve)
        stdin = 0
        if not self._typed:
            stdin = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
            self._ends.append(stdin)
        elif os.isatty(0):
            stdin, self._sink = os.pipe2(os.O_CLOEXEC)
            self._ends.append(stdin)
            self._held.append(self._sink)
        streams = []
        for fd in (1, 2):
            if os.isatty(fd):
                read_end, write_end = os.pipe2(os.O_CLOEXEC)
                self._ends.append(write_end)
                self._held.append(read_end)
                self._out[read_end] = fd
                streams.append(write_end)
            else:
                streams.append(fd)
        return Io(stdin, streams[0], streams[1], preserve)

    def started(self, created: Created) -> None:
        """The process runs: close its ends, put the terminal into raw mode."""
        self._pidfd = created.pidfd
        for fd in self._ends:
            os.close(fd)
        self._ends = []
        if self._tty:
            self._out[created.master] = 1
            if self._typed:
                from rl.monitor.terminal import RawMode

                self._sink = created.master
                self._raw = RawMode(0)
                self._raw.__enter__()
            self._follow_size(created.master)
        if self._sink >= 0:
            self._stdin_open = True
            os.set_blocking(self._sink, False)

    def _follow_size(self, master: int) -> None:
        from rl.monitor import terminal

        def resized(number: int, frame: object) -> None:
            rows, columns = terminal.window_size(0)
            if rows and columns:
                terminal.set_window_size(master, rows, columns)

        if os.isatty(0):
            _signal.signal(_signal.SIGWINCH, resized)
            resized(0, None)  # it may have changed since we looked

    def run(self) -> bool:
        """Relay until the process has ended and its output is through; True when its user detached."""
        if not self._out and self._sink < 0:
            return False  # it has the caller's own streams: waitpid(2) is all there is to do
        ended = False
        while True:
            poll = select.poll()
            if not ended:
                poll.register(self._pidfd, select.POLLIN)
            for fd in self._out:
                poll.register(fd, select.POLLIN)
            if self._pending:
                if self._sink >= 0:
                    poll.register(self._sink, select.POLLOUT | (select.POLLIN if self._sink in self._out else 0))
            elif self._stdin_open:
                poll.register(0, select.POLLIN)
            events = poll.poll(0 if ended else None)
            if ended and not any(fd in self._out for fd, _ in events):
                return False  # what children of the process may still write is not waited for
            for fd, mask in events:
                if fd == self._pidfd:
                    ended = True
                elif fd == 0:
                    if self._read_input():
                        return True
                else:
                    if fd in self._out and mask & _READABLE:
                        self._pass_on(fd)
                    if fd == self._sink and mask & (select.POLLOUT | select.POLLERR):
                        self._write_pending()
            if ended:
                self._stdin_open, self._pending = False, b""
                if not self._out:
                    return False

    def _pass_on(self, fd: int) -> None:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the terminal's last user is gone
            data = b""
        if not data:
            del self._out[fd]
            if fd == self._sink:
                self._stdin_open, self._sink, self._pending = False, -1, b""
            return
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._out[fd], view) :]
        except OSError:
            if fd != self._sink:
                del self._out[fd]  # nobody reads our output: neither do we, the process gets SIGPIPE
                os.close(fd)
                self._held.remove(fd)

    def _read_input(self) -> bool:
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            data = b""
        detached = False
        if not data:
            self._stdin_open = False
            if self._tty:
                self._pending += b"\x04"  # end of file, as a terminal says it
            else:
                self._close_sink()
        elif self._keys is not None:
            data, detached = self._keys.feed(data)
        self._pending += data
        self._write_pending()
        return detached

    def _write_pending(self) -> None:
        try:
            while self._pending and self._sink >= 0:
                self._pending = self._pending[os.write(self._sink, self._pending) :]
        except BlockingIOError:
            pass
        except OSError:  # EPIPE, EIO: it does not listen any more
            self._pending, self._stdin_open = b"", False
            self._close_sink()

    def _close_sink(self) -> None:
        if self._sink in self._held:
            self._held.remove(self._sink)
            os.close(self._sink)
            self._sink = -1

    def close(self) -> None:
        """Restore the caller's terminal, close our pipes."""
        if self._raw is not None:
            self._raw.restore()
        for fd in self._ends + self._held:
            os.close(fd)
        self._ends, self._held = [], []
