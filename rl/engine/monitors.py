"""Talking to the monitors of containers: the other end of rl.monitor.control, for what is answered.

Called by start and restart.
"""

from __future__ import annotations

import _socket
import select
import time

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

    def tell(self, key: str, value: dict[str, Any]) -> None:
        """Send a command that is not answered. Raises OSError."""
        self._sock.send(b"\x08" + dumps({key: value}).encode())

    def started(self) -> int:
        """Wait until the container was started again: its pid. Raises the error with which that failed."""
        while True:
            try:
                packet = self._sock.recv(_PACKET)
            except ConnectionResetError:
                packet = b""
            if not packet:
                raise RlError(f"the monitor of container {self._id[:12]} is gone", "`rl ps -a` tells what became of it")
            message = loads(packet[1:].decode()) if packet[0] in (4, 6) else {}
            if packet[0] == 4:
                what = f"container {self._id[:12]} was stopped meanwhile"
                what += f": {message['error']}" if message["error"] else ""
                raise StateError(what, f"rl start {self._id[:12]}")
            if "started" in message:
                return int(message["started"])
            if "error" in message:
                raise from_wire(message["error"])

    def answer(self, seconds: float) -> dict[str, Any]:
        """The answer to a command that has one in a packet 8. Raises RlError when none comes."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._sock.fileno(), select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            if not poll.poll(left * 1000):
                continue
            packet = self._sock.recv(_PACKET)
            if not packet or packet[0] == 4:
                raise RlError("the container has just ended")
            if packet[0] == 8:
                found: dict[str, Any] = loads(packet[1:].decode())
                return found
        raise RlError(f"its monitor does not answer within {seconds:.0f} s")

    def detach(self) -> _socket.socket:
        """The socket, to relay the streams over: nothing of them is lost, for the answer came before."""
        sock, self._sock = self._sock, _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        return sock

    def close(self) -> None:
        """Disconnect."""
        self._sock.close()
