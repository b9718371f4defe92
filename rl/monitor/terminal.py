"""The user's terminal: raw mode, window size, and the key sequence that detaches.

Called by `rl.monitor.client` (run, start, attach) and by exec; whatever speaks to a person through a
container's pseudo terminal.

Source: termios(3), ioctl_tty(2), podman-attach(1) "--detach-keys".
"""

from __future__ import annotations

import os

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"

_CTRL = {symbol: code for code, symbol in enumerate("@abcdefghijklmnopqrstuvwxyz[\\]^_")}


def window_size(fd: int) -> tuple[int, int]:
    """(rows, columns) of the terminal *fd*; (0, 0) where it is none or does not know."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 0, 0
    return rows, columns


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Tell terminal *fd* its size; its foreground process group gets SIGWINCH when it changed (TIOCSWINSZ)."""
    import fcntl
    import struct

    fcntl.ioctl(fd, 0x5414, struct.pack("=HHHH", rows, columns, 0, 0))


class RawMode:
    """Context manager: terminal *fd* passes every byte through unchanged; what it was is restored at the end.

    Does nothing where *fd* is no terminal.
    """

    __slots__ = ("_fd", "_saved")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        if self._fd < 0 or not os.isatty(self._fd):
            return self
        import termios as t

        try:
            saved = t.tcgetattr(self._fd)
        except t.error:
            return self
        raw = list(saved)
        raw[6] = list(saved[6])
        # As cfmakeraw(3), but output processing too is left to the container's terminal alone.
        raw[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        raw[1] &= ~t.OPOST
        raw[2] = raw[2] & ~(t.CSIZE | t.PARENB) | t.CS8
        raw[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        raw[6][t.VMIN], raw[6][t.VTIME] = 1, 0
        # TCSADRAIN, not TCSAFLUSH: what was typed ahead belongs to the container.
        t.tcsetattr(self._fd, t.TCSADRAIN, raw)
        self._saved = saved
        return self

    def restore(self) -> None:
        """Back to how it was; may be called more than once."""
        if self._saved is None:
            return
        import termios as t

        saved, self._saved = self._saved, None
        try:
            t.tcsetattr(self._fd, t.TCSADRAIN, saved)
        except t.error:
            pass  # the terminal is gone

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


def parse_detach_keys(text: str) -> bytes:
    """The bytes of a sequence such as ``ctrl-p,ctrl-q`` or ``a,ctrl-@``; b"" (never detach) for "".

    Raises UsageError.
    """
    keys = bytearray()
    for key in text.split(",") if text else []:
        symbol = key[5:] if key.startswith("ctrl-") else ""
        if symbol in _CTRL:
            keys.append(_CTRL[symbol])
        elif len(key) == 1 and key.isascii() and key.isprintable():
            keys.append(ord(key))
        else:
            raise UsageError(
                f"detach keys {text!r}: unknown key {key!r}",
                "separate keys by commas; a key is one character or ctrl- with one of a-z @ [ \\ ] ^ _",
            )
    return bytes(keys)


class DetachKeys:
    """Finds the detach sequence in what a person types, across reads of any size.

    *text* None means the default, "" that nothing detaches.
    """

    __slots__ = ("_held", "_keys")

    def __init__(self, text: str | None = None) -> None:
        self._keys = parse_detach_keys(DEFAULT_DETACH_KEYS if text is None else text)
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what to pass on, whether the sequence is complete).

        The beginning of a possible sequence is held back until the next byte decides.
        """
        keys = self._keys
        if not keys:
            return data, False
        data = self._held + data
        self._held = b""
        position = data.find(keys)
        if position >= 0:
            return data[:position], True
        for length in range(min(len(keys) - 1, len(data)), 0, -1):
            if data.endswith(keys[:length]):
                self._held = data[-length:]
                return data[:-length], False
        return data, False
