"""Talking to the monitors of containers: the other end of rl.monitor.control, for what is answered.

Called by whoever has something done to a container that has a monitor: start, restart, pause, rename, update, health
checks, upgrade.
"""

from __future__ import annotations

import _socket

from rl.config.jsonio import dumps, loads
from rl.errors import RlError, StateError, from_wire
from rl.monitor import client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.paths import Paths
    from rl.engine.launching import Streams

_PACKET = 1 << 17


class Connection:
    """A connection to the monitor of a container. Raises OSError where there is none."""

    __slots__ = ("_id", "_sock")

    def __init__(self, paths: Paths, container_id: str, streams: Streams | None = None) -> None:
        self._id = container_id
        wants = (streams.stdin, streams.stdout, streams.stderr) if streams else (False, False, False)
        fd = client.connect(paths.container_run(container_id), stdin=wants[0], stdout=wants[1], stderr=wants[2])
        self._sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)

    def tell(self, key: str, value: Any) -> None:
        """Send a command that is not answered. Raises OSError."""
        self._sock.send(b"\x08" + dumps({key: value}).encode())

    def started(self) -> int:
        """Wait until the container was started again: its pid. Raises the error with which that failed."""
        while True:
            packet = self._receive()
            message = loads(packet[1:].decode()) if packet[0] in (4, 6) else {}
            if packet[0] == 4:
                what = f"container {self._id[:12]} was stopped meanwhile"
                what += f": {message['error']}" if message["error"] else ""
                raise StateError(what, f"rl start {self._id[:12]}")
            if "started" in message:
                return int(message["started"])
            if "error" in message:
                raise from_wire(message["error"])

    def answer(self, key: str, seconds: float = 0) -> dict[str, Any]:
        """Wait for the answer that has *key*. Raises the error that came instead, RlError after *seconds*."""
        if seconds:
            self._sock.settimeout(seconds)
        message: dict[str, Any] = {}
        while key not in message:
            packet = self._receive()
            message = loads(packet[1:].decode()) if packet[0] in (4, 6) else {}
            if packet[0] == 4:
                raise StateError(f"container {self._id[:12]} has ended meanwhile", f"rl start {self._id[:12]}")
            if "error" in message:
                raise from_wire(message["error"])
        return message

    def _receive(self) -> bytes:
        try:
            packet = self._sock.recv(_PACKET)
        except ConnectionResetError:
            packet = b""
        except TimeoutError:
            raise RlError(f"the monitor of container {self._id[:12]} does not answer") from None
        if not packet:
            raise RlError(f"the monitor of container {self._id[:12]} is gone", "`rl ps -a` tells what became of it")
        return packet

    def detach(self) -> _socket.socket:
        """The socket, to relay the streams over: nothing of them is lost, for the answer came before."""
        sock, self._sock = self._sock, _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        return sock

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()
