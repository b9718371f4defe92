"""A person at a terminal: a command on a pty of its own, what it shows, what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence

from support.users import User


class Console:
    """*command* as *user*, with a new pty as its controlling terminal."""

    def __init__(self, user: User, command: Sequence[str], rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        os.chown(os.ttyname(slave), user.uid, user.gid)

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = user.popen(*command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=take_terminal)
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, pattern: str, seconds: float = 15) -> re.Match[str]:
        """The first match in what was shown since the last one; that is gone then."""
        deadline = time.monotonic() + seconds
        while True:
            found = re.search(pattern, self.seen)
            if found:
                self.seen = self.seen[found.end() :]
                return found
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.master], [], [], left)[0], f"{pattern!r} is not in {self.seen!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:
                data = b""
            assert data, f"it ended after {self.seen!r}"
            self.seen += data.decode(errors="replace")

    def hang_up(self) -> None:
        """The terminal is closed: its window, or the connection to it."""
        os.close(self.master)
        self.master = -1

    def end(self, seconds: float = 15) -> int:
        """The exit code, when it has ended."""
        return self.process.wait(seconds)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        if self.master >= 0:
            with contextlib.suppress(OSError):
                os.close(self.master)
