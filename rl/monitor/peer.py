"""What the monitor does to the container's pseudo terminal: resize it, keep it open, end its input.

Called by `rl.monitor.loop` and `rl.monitor.handover`; a file of its own because most containers have no terminal.

Source: ioctl_tty(2), termios(3).
"""

from __future__ import annotations

import fcntl
import posix

_TIOCSWINSZ = 0x5414
_TIOCGPTPEER = 0x5441


def resize(master: int, size: bytes) -> None:
    """Set the window size; *size* is ``struct "=HH"``: rows, columns."""
    try:
        fcntl.ioctl(master, _TIOCSWINSZ, size + b"\0\0\0\0")
    except OSError:
        pass


def open_terminal(master: int) -> int:
    """Open the other end of *master* (Linux 4.13), -1 where that fails.

    While the monitor has it open, reading the master does not fail with EIO when the container closes its terminal
    for a moment, as init systems do.
    """
    try:
        return fcntl.ioctl(master, _TIOCGPTPEER, posix.O_RDWR | posix.O_NOCTTY | posix.O_CLOEXEC)
    except OSError:
        return -1


def type_end_of_file(master: int) -> None:
    """What closing a pipe is to a filter: ctrl-d, if the terminal reads lines and so gives it that meaning."""
    import termios

    try:
        attributes = termios.tcgetattr(master)
        if attributes[3] & termios.ICANON:
            posix.write(master, attributes[6][termios.VEOF])
    except (OSError, termios.error):
        pass
