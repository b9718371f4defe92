"""The journald log driver: each line becomes an entry of the systemd journal, with the fields that conmon writes.

MESSAGE, PRIORITY (6 stdout, 3 stderr), CONTAINER_ID, CONTAINER_ID_FULL, CONTAINER_NAME, CONTAINER_TAG where there is
one, SYSLOG_IDENTIFIER (the tag, else the name), CONTAINER_PARTIAL_MESSAGE=true where the line goes on in the next
entry, and the fields of ``--log-opt label=``. The time, the user and the pid are the journal's own: it asks the kernel.

A line whose end is yet to come is held back until it is longer than :data:`HELD`, or the container ends: an entry is
never changed.

The container is never blocked for good: a journal that takes nothing for :data:`PATIENCE` is stuck, and from then on
entries are dropped at once, and counted in ``lost``, until it takes one again.

Source: systemd, docs/JOURNAL_NATIVE_PROTOCOL.md.
"""

from __future__ import annotations

import _socket
import posix
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import LogConfig

SOCKET = "/run/systemd/journal/socket"
HELD = 16384
#: Seconds that the journal gets to take an entry, once; and to take the last one when the container has ended.
PATIENCE = 1.0

_PRIORITIES = {1: b"PRIORITY=6\n", 2: b"PRIORITY=3\n"}
_PARTIAL = b"CONTAINER_PARTIAL_MESSAGE=true\n"
_BUFFER = 8 << 20  # asked for; the kernel grants net.core.wmem_max at most


def problem() -> str:
    """Why no journal can be written to on this host; "" if one can."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(SOCKET)
        return ""
    except OSError as error:
        return f"no journal runs on this host ({SOCKET}: {error.strerror})"
    finally:
        sock.close()


def field(name: str, value: str) -> bytes:
    """One field as the protocol has it; a value of several lines is told by its length."""
    data = value.encode("utf-8", "surrogateescape")
    if b"\n" not in data:
        return name.encode() + b"=" + data + b"\n"
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def send_file(sock: _socket.socket, entry: bytes) -> bool:
    """An entry too long for a datagram goes as a sealed file in memory; whether the journal took it."""
    import fcntl

    fd = posix.memfd_create("rl-journal", 3)  # MFD_CLOEXEC | MFD_ALLOW_SEALING
    try:
        posix.write(fd, entry)
        fcntl.fcntl(fd, 1033, 0xF)  # F_ADD_SEALS: seal, shrink, grow, write
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(4, "little"))
        sock.sendmsg([b""], [rights])
        return True
    except OSError:
        return False
    finally:
        posix.close(fd)


class Journal:
    """Sends the entries of one container; the same methods as `rl.monitor.logs.LogFile`."""

    __slots__ = ("_fields", "_held", "_socket", "_stuck", "lost")

    def __init__(self, config: LogConfig) -> None:
        name, tag, identity = config["name"], config.get("tag", ""), config["id"]
        fields = [("CONTAINER_ID_FULL", identity), ("CONTAINER_ID", identity[:12]), ("CONTAINER_NAME", name)]
        if tag:
            fields.append(("CONTAINER_TAG", tag))
        fields.append(("SYSLOG_IDENTIFIER", tag or name))
        self._fields = b"".join([field(key, value) for key, value in [*fields, *config.get("labels", {}).items()]])
        self._held = {1: b"", 2: b""}
        self._stuck = False
        self.lost = 0  # bytes of messages that the journal did not take
        kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
        self._socket = _socket.socket(_socket.AF_UNIX, kind)
        self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, _BUFFER)
        self._connect()

    def _connect(self) -> bool:
        try:
            self._socket.connect(SOCKET)
            return True
        except OSError:
            return False  # tried again with the next entry

    def write(self, stream: int, data: bytes) -> None:
        """Send what the container wrote to *stream* (1 or 2), line by line."""
        held = self._held[stream]
        *lines, rest = (held + data).split(b"\n") if held else data.split(b"\n")
        for line in lines:
            self._entry(stream, line, b"")
        if len(rest) > HELD:
            self._entry(stream, rest, _PARTIAL)
            rest = b""
        self._held[stream] = rest

    def carry(self) -> tuple[bytes, bytes]:
        """What is held back of either stream, to go on with after the monitor replaced itself."""
        return self._held[1], self._held[2]

    def take(self, carried: tuple[bytes, bytes]) -> None:
        """Go on with what :meth:`carry` gave."""
        self._held = {1: carried[0], 2: carried[1]}

    def close(self) -> None:
        """Send what was held back, and let the journal take it all: who is told of the end may read it then."""
        for stream, held in self._held.items():
            if held:
                self._entry(stream, held, _PARTIAL)
        self._settle()
        self._socket.close()

    def _entry(self, stream: int, message: bytes, partial: bytes) -> None:
        entry = b"MESSAGE=" + message + b"\n" + _PRIORITIES[stream] + partial + self._fields
        if self._send(entry):
            self._stuck = False
        else:
            self._stuck = True
            self.lost += len(message) + 1

    def _send(self, entry: bytes) -> bool:
        deadline = 0.0
        again = True
        while True:
            try:
                self._socket.send(entry)
                return True
            except BlockingIOError:
                now = time.monotonic()
                deadline = deadline or now + PATIENCE
                if self._stuck or now >= deadline:
                    return False
                poll = select.poll()
                poll.register(self._socket.fileno(), select.POLLOUT)
                poll.poll((deadline - now) * 1000)
            except OSError as error:
                import errno

                if error.errno == errno.EMSGSIZE:
                    return send_file(self._socket, entry)
                # Never connected, or the socket was made anew: journald's socket unit was restarted.
                if not again or not self._connect():
                    return False
                again = False

    def _settle(self) -> None:
        """Wait until the journal has read everything, or for PATIENCE."""
        import fcntl

        deadline = time.monotonic() + PATIENCE
        try:
            while not self._stuck and time.monotonic() < deadline:
                # SIOCOUTQ: bytes sent and not read yet
                if not any(fcntl.ioctl(self._socket.fileno(), 0x5411, b"\0\0\0\0")):
                    return
                time.sleep(0.002)
        except OSError:
            return
