"""What the host's own network looks like: default routes and addresses, without netlink.

/proc/net and two ioctls answer in microseconds; rtnetlink libraries take 100 ms to import.
Called by pasta.py, slirp4netns.py and files.py, in the host's network namespace.
"""

from __future__ import annotations

import fcntl
import struct

_RTF_UP, _RTF_GATEWAY, _RTF_REJECT = 0x1, 0x2, 0x200
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B


class Address:
    """An interface's address with the default gateway behind it ("" if the route has none)."""

    __slots__ = ("gateway", "interface", "ip", "prefix")

    def __init__(self, interface: str, ip: str, prefix: int, gateway: str) -> None:
        self.interface = interface
        self.ip = ip
        self.prefix = prefix
        self.gateway = gateway


def _lines(path: str) -> list[list[str]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return [line.split() for line in file]
    except OSError:
        return []


def _quad(value: int) -> str:
    return ".".join(str(byte) for byte in struct.pack("=I", value))


def ipv4() -> Address | None:
    """The address of the interface with the best IPv4 default route; None when the host has none."""
    best: tuple[int, str, int] | None = None
    for fields in _lines("/proc/net/route")[1:]:
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        flags, metric = int(fields[3], 16), int(fields[6])
        if flags & _RTF_UP and not flags & _RTF_REJECT and (best is None or metric < best[0]):
            best = (metric, fields[0], int(fields[2], 16))
    return None if best is None else of_interface(best[1], _quad(best[2]) if best[2] else "")


def of_interface(name: str, gateway: str = "") -> Address | None:
    """The first IPv4 address of interface *name*; None when it has none, or when there is no such interface."""
    import _socket

    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        request = struct.pack("16s24x", name.encode()[:15])
        ip = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)[20:24]
        mask = fcntl.ioctl(sock.fileno(), _SIOCGIFNETMASK, request)[20:24]
    except OSError:
        return None
    finally:
        sock.close()
    prefix = int.from_bytes(mask, "big").bit_count()
    return Address(name, ".".join(str(byte) for byte in ip), prefix, gateway)


def ipv6() -> Address | None:
    """The first global address of the interface with the best IPv6 default route, None when there is none."""
    best: tuple[int, str, str] | None = None
    for fields in _lines("/proc/net/ipv6_route"):
        if len(fields) < 10 or fields[0].strip("0") or fields[1] != "00":
            continue
        metric, flags = int(fields[5], 16), int(fields[8], 16)
        if flags & _RTF_UP and not flags & _RTF_REJECT and fields[9] != "lo" and (best is None or metric < best[0]):
            best = (metric, fields[9], fields[4])
    if best is None:
        return None
    for fields in _lines("/proc/net/if_inet6"):
        if len(fields) >= 6 and fields[5] == best[1] and fields[3] == "00":
            return Address(best[1], _colons(fields[0]), int(fields[2], 16), _colons(best[2]))
    return None


def _colons(digits: str) -> str:
    import _socket

    if not digits.strip("0"):
        return ""
    return _socket.inet_ntop(_socket.AF_INET6, bytes.fromhex(digits))
