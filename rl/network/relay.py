"""A program of its own: forwards UDP from sockets of the host to 127.0.0.1 in the container's network.

Started by udp.py as ``python -I -S relay.py FD:PORT …``: each FD is a socket bound in the host's network
namespace; the process itself is in the container's, so every socket it makes is there. It imports nothing
of rl, to stay small, and ends by the parent-death signal or when the container does.
"""

from __future__ import annotations

import _socket
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: How long an answer may be awaited, as Linux's connection tracking has it for streams (seconds).
IDLE = 180
#: Clients per published port; the one silent for longest makes room.
CLIENTS = 512
_DATAGRAM = 65535


class Port:
    """One published port: a listener, and a socket towards the container for every client."""

    __slots__ = ("clients", "listener", "target")

    def __init__(self, fd: int, target: int) -> None:
        self.listener = _socket.socket(fileno=fd)
        self.listener.setblocking(False)
        self.target = target
        self.clients: dict[Any, Client] = {}  # in the order of their last datagram


class Client:
    """Who asked, and the socket its datagrams leave from."""

    __slots__ = ("address", "port", "seen", "socket")

    def __init__(self, port: Port, address: Any) -> None:
        self.port = port
        self.address = address
        self.seen = 0.0
        self.socket = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        self.socket.connect(("127.0.0.1", port.target))


class Relay:
    """The loop."""

    __slots__ = ("_clients", "_epoll", "_ports")

    def __init__(self, ports: list[Port]) -> None:
        self._epoll = select.epoll()
        self._ports = {port.listener.fileno(): port for port in ports}
        self._clients: dict[int, Client] = {}
        for fd in self._ports:
            self._epoll.register(fd, select.EPOLLIN)

    def step(self, timeout: float) -> None:
        """Forward what is there; forget who has been silent for long."""
        now = time.monotonic()
        for fd, _ in self._epoll.poll(timeout):
            if fd in self._ports:
                self._from_outside(self._ports[fd], now)
            elif fd in self._clients:
                self._from_container(self._clients[fd], now)
        for port in self._ports.values():
            while port.clients:
                oldest = next(iter(port.clients.values()))
                if now - oldest.seen < IDLE and len(port.clients) <= CLIENTS:
                    break
                self._forget(oldest)

    def _from_outside(self, port: Port, now: float) -> None:
        try:
            data, address = port.listener.recvfrom(_DATAGRAM)
        except OSError:
            return  # an earlier answer could not be delivered
        client = port.clients.pop(address, None)
        try:
            if client is None:
                client = Client(port, address)
                self._clients[client.socket.fileno()] = client
                self._epoll.register(client.socket.fileno(), select.EPOLLIN)
            port.clients[address] = client
            client.seen = now
            client.socket.send(data)
        except OSError:
            pass  # nobody listens in the container, or the queue is full: UDP may lose datagrams

    def _from_container(self, client: Client, now: float) -> None:
        try:
            data = client.socket.recv(_DATAGRAM)
            client.port.clients[client.address] = client.port.clients.pop(client.address)
            client.seen = now
            client.port.listener.sendto(data, client.address)
        except OSError:
            pass

    def _forget(self, client: Client) -> None:
        del client.port.clients[client.address]
        del self._clients[client.socket.fileno()]
        client.socket.close()


def main(arguments: list[str]) -> None:
    """Run for ever."""
    pairs = [argument.split(":") for argument in arguments]
    relay = Relay([Port(int(fd), int(target)) for fd, target in pairs])
    os.write(1, b"ready\n")
    while True:
        relay.step(IDLE / 4)


if __name__ == "__main__":
    main(sys.argv[1:])
