"""One attached client of the monitor: its socket, what it wants, what it has not taken yet.

Called by `rl.monitor.loop`. The packets are described in docs/architecture.md, "Attach protocol".
"""

from __future__ import annotations

import _socket
import select
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Bytes a client other than the first may be behind before it is disconnected.
LIMIT = 1 << 20
_PACKET = 32769
_LARGEST_HELLO = 1000


class Client:
    """*first* is the client that started the container: it slows the container down rather than losing anything."""

    __slots__ = ("_sock", "behind", "fd", "first", "queue", "stderr", "stdin", "stdout", "waits")

    def __init__(
        self, fd: int, stdin: bool = False, stdout: bool = False, stderr: bool = False, first: bool = False,
        waits: bool = False, queue: list[bytes] | None = None,
    ) -> None:  # fmt: skip
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)
        self._sock.setblocking(False)
        self.fd = fd
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.first = first
        self.waits = waits  # not read until the container took its input
        self.queue: list[bytes] = queue or []
        self.behind = sum(map(len, self.queue))  # bytes in the queue

    def export(self) -> dict[str, Any]:
        """The arguments to make it again, in another interpreter."""
        return {
            "fd": self.fd, "stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr, "first": self.first,
            "waits": self.waits, "queue": self.queue,
        }  # fmt: skip

    def uid(self) -> int:
        """Who it is, in ids of our user namespace (unix(7), SO_PEERCRED)."""
        return int.from_bytes(self._sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)

    def events(self) -> int:
        """What to poll for."""
        return (0 if self.waits else select.POLLIN) | (select.POLLOUT if self.queue else 0)

    def send(self, packet: memoryview | bytes) -> bool:
        """Send or queue *packet*; False when the client is gone or too far behind."""
        if not self.queue:
            try:
                self._sock.send(packet)
                return True
            except BlockingIOError:
                pass
            except OSError:
                return False
        self.queue.append(bytes(packet))
        self.behind += len(packet)
        return self.first or self.behind <= LIMIT

    def flush(self) -> bool:
        """Send what the socket takes; False when the client is gone."""
        sent = 0
        try:
            for packet in self.queue:
                self._sock.send(packet)
                self.behind -= len(packet)
                sent += 1
        except BlockingIOError:
            pass
        except OSError:
            return False
        del self.queue[:sent]
        return True

    def receive(self) -> bytes | None:
        """The next packet, b"" at the end, None when there is none now."""
        try:
            return self._sock.recv(_PACKET)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def hello(self, payload: bytes) -> None:
        """Take the client's wish; what is no such document changes nothing."""
        from rl.config.jsonio import loads

        if len(payload) > _LARGEST_HELLO:
            return
        try:
            wish = loads(payload.decode())
            self.stdin, self.stdout, self.stderr = (wish.get(name) is True for name in ("stdin", "stdout", "stderr"))
        except (ValueError, AttributeError, RecursionError):
            pass

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()
        self.fd = -1
        self.queue.clear()
