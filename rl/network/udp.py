"""UDP ports that the network program would not serve for clients on the host itself.

Both programs of Debian 12 lose the answers to such clients (measured): pasta of 2023-03-09 when the two port
numbers differ, slirp4netns 1.2 always, because --disable-host-loopback also refuses answers to the
loopback. A small relay (relay.py) serves those ports then.

Called by pasta.py and slirp4netns.py. Source: udp(7).
"""

from __future__ import annotations

import os
import sys

from rl.errors import RlError
from rl.kernel import namespaces as ns
from rl.network.helper import Helper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from rl.config.model import PortMapping

TIMEOUT_MS = 10_000


def start(listen: Sequence[tuple[str, PortMapping]], net_fd: int) -> Helper | None:
    """Start the relay for every (address to listen on, mapping) towards the namespace *net_fd* holds.

    None when *listen* is empty. The sockets are bound when :func:`wait` returns.
    """
    if not listen:
        return None
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "relay.py")

    def prepare() -> list[str]:
        # In the child: sockets in the host's network namespace first, then into the container's.
        arguments = []
        for address, mapping in listen:
            for offset in range(mapping["range"]):
                fd = _bound(address, mapping["host_port"] + offset)
                if fd >= 0:
                    arguments.append(f"{fd}:{mapping['container_port'] + offset}")
        ns.setns(net_fd, ns.CLONE_NEWNET)
        return arguments

    # Not a virtual environment's interpreter: the real one starts faster.
    interpreter = getattr(sys, "_base_executable", "") or sys.executable
    return Helper([interpreter, "-I", "-S", "-B", script], "/", prepare)


def _bound(address: str, port: int) -> int:
    """A socket bound to it, inherited by programs; -1 where the host lacks the address family."""
    import _socket

    family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
    try:
        sock = _socket.socket(family, _socket.SOCK_DGRAM)
    except OSError:
        return -1
    # Beside the network program, which has the wildcard address: the more specific socket wins.
    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    if family == _socket.AF_INET6:
        sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
    try:
        sock.bind((address, port))
    except OSError:
        if address in ("::", "::1"):  # IPv6 is there, but switched off
            sock.close()
            return -1
        raise
    os.set_inheritable(sock.fileno(), True)
    return sock.detach()


def wait(relay: Helper | None) -> list[int]:
    """[pid] of the relay once it serves, [] without one. Raises RlError; it is killed then."""
    if relay is None:
        return []
    if not relay.wait(TIMEOUT_MS):
        complaints = relay.complaints() or "no answer"
        relay.kill()
        raise RlError(f"publish UDP ports: {complaints}")
    relay.release()
    return [relay.pid]


def on_loopback(mappings: Sequence[PortMapping]) -> list[tuple[str, PortMapping]]:
    """Where to listen beside a program that serves the other addresses of *mappings*."""
    found = []
    for mapping in mappings:
        ip = mapping["host_ip"]
        if ip in ("", "0.0.0.0"):
            found.append(("127.0.0.1", mapping))
        if ip in ("", "::"):
            found.append(("::1", mapping))
        if ip not in ("", "0.0.0.0", "::"):
            found.append((ip, mapping))
    return found


def everywhere(mappings: Sequence[PortMapping]) -> list[tuple[str, PortMapping]]:
    """Where to listen instead of the program."""
    return [(ip, m) for m in mappings for ip in ((m["host_ip"],) if m["host_ip"] else ("0.0.0.0", "::"))]
