"""Published ports: ``-p``, ``-P`` and ``--expose`` in all of Podman's forms; whether the host has them free.

Called by the engine (create, port, ps) and by setup.py. Source: podman-run(1), "--publish".
"""

from __future__ import annotations

import errno
import os

from rl.errors import ConflictError, RlError, UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rl.config.model import PortMapping

PROTOCOLS = ("tcp", "udp")
_FORM = "write [[ip:][hostPort]:]containerPort[/tcp|udp], for example -p 8080:80 or -p 127.0.0.1:5353:53/udp"
_WILDCARDS = ("", "0.0.0.0", "::")


def _range(text: str, what: str, spec: str) -> tuple[int, int]:
    """(first, last) of ``80`` or ``80-90``."""
    first, dash, last = text.partition("-")
    numbers = (first, last if dash else first)
    if not all(n.isascii() and n.isdigit() for n in numbers):
        raise UsageError(f"port {spec!r}: {what} {text!r} is not a number or a range", _FORM)
    low, high = int(numbers[0]), int(numbers[1])
    if not 0 < low <= 65535 or not 0 < high <= 65535:
        raise UsageError(f"port {spec!r}: {what} {text!r} is not between 1 and 65535", _FORM)
    if high < low:
        raise UsageError(f"port {spec!r}: the range {text} ends before it begins", _FORM)
    return low, high


def _protocols(text: str, spec: str) -> list[str]:
    names = text.lower().split(",")
    for name in names:
        if name == "sctp":
            hint = "use tcp or udp, or --network=host"
            raise UsageError(f"port {spec!r}: SCTP cannot be forwarded without root", hint)
        if name not in PROTOCOLS:
            raise UsageError(f"port {spec!r}: protocol {name!r} is neither tcp nor udp", _FORM)
    return names


def _split(spec: str) -> tuple[str, str, str]:
    """(ip, host part, container part) as text."""
    ip = ""
    rest = spec
    if spec.startswith("["):
        ip, bracket, rest = spec[1:].partition("]:")
        if not bracket:
            raise UsageError(f"port {spec!r}: no ]: after the IPv6 address", _FORM)
        if ":" not in rest:
            return ip, "", rest
    parts = rest.split(":")
    if ip and len(parts) == 2:
        return ip, parts[0], parts[1]
    if ip or len(parts) > 3:
        raise UsageError(f"port {spec!r}: too many colons", "write an IPv6 address in brackets: -p [::1]:8080:80")
    if len(parts) == 3:
        return parts[0], parts[1], parts[2]
    return "", parts[0] if len(parts) == 2 else "", parts[-1]


def check_ip(ip: str, spec: str) -> None:
    """Raises UsageError unless *ip* is "" or an address."""
    import _socket

    for family in (_socket.AF_INET, _socket.AF_INET6):
        try:
            if ip:
                _socket.inet_pton(family, ip)
            return
        except OSError:
            continue
    raise UsageError(f"port {spec!r}: {ip!r} is not an IP address", _FORM)


def parse(spec: str) -> list[PortMapping]:
    """One ``-p`` value. A ``host_port`` of 0 stands for a random one, see :func:`parse_publish`. Raises UsageError."""
    body, slash, protocol = spec.partition("/")
    protocols = _protocols(protocol, spec) if slash else ["tcp"]
    ip, host, container = _split(body)
    check_ip(ip, spec)
    first, last = _range(container, "container port", spec)
    mappings: list[PortMapping] = []
    for name in protocols:
        if host in ("", "0"):
            mappings += [_mapping(ip, 0, port, 1, name) for port in range(first, last + 1)]
            continue
        low, high = _range(host, "host port", spec)
        if high - low != last - first:
            raise UsageError(f"port {spec!r}: the host and the container range differ in length", _FORM)
        mappings.append(_mapping(ip, low, first, last - first + 1, name))
    return mappings


def _mapping(ip: str, host: int, container: int, count: int, protocol: str) -> PortMapping:
    return {"host_ip": ip, "host_port": host, "container_port": container, "range": count, "protocol": protocol}


def parse_expose(specs: Iterable[str]) -> list[tuple[int, str]]:
    """(port, protocol) of every port of ``--expose`` values and ExposedPorts keys, once each. Raises UsageError."""
    return list(dict.fromkeys(pair for spec in specs for pair in _expose(spec)))


def _expose(spec: str) -> list[tuple[int, str]]:
    body, slash, protocol = spec.partition("/")
    try:
        protocols = _protocols(protocol, spec) if slash else ["tcp"]
        first, last = _range(body, "--expose", spec)
    except UsageError as error:
        raise UsageError(error.message, "write --expose PORT[-LAST][/udp], for example --expose 8000-8010") from None
    return [(port, name) for name in protocols for port in range(first, last + 1)]


def parse_publish(
    published: Sequence[str], exposed: Iterable[str] = (), publish_all: bool = False
) -> list[PortMapping]:
    """All mappings of a container, random host ports chosen, sorted.

    *published* are the ``-p`` values; *exposed* (``--expose`` and the image's ExposedPorts) count with
    *publish_all* (``-P``), except those a ``-p`` already names.
    Raises UsageError (bad value, two mappings want the same host port), UnsupportedError (no free port).
    """
    mappings = [mapping for spec in published for mapping in parse(spec)]
    if publish_all:
        named = {(m["container_port"] + i, m["protocol"]) for m in mappings for i in range(m["range"])}
        for port, protocol in parse_expose(exposed):
            if (port, protocol) not in named:
                mappings.append(_mapping("", 0, port, 1, protocol))
    fixed: list[PortMapping] = []
    for mapping in mappings:
        if mapping["host_port"] and mapping not in fixed:
            _check_overlap(mapping, fixed)
            fixed.append(mapping)
    for mapping in mappings:
        if not mapping["host_port"]:
            fixed.append({**mapping, "host_port": _random(mapping, fixed)})
    fixed.sort(key=lambda m: (m["protocol"], m["host_ip"], m["host_port"]))
    return fixed


def _same_address(a: str, b: str) -> bool:
    """Whether both cover some common address; "" covers all of both families."""
    if a == b or "" in (a, b):
        return True
    return (":" in a) == (":" in b) and (a in _WILDCARDS or b in _WILDCARDS)


def _overlap(a: PortMapping, b: PortMapping) -> bool:
    return (
        a["protocol"] == b["protocol"]
        and _same_address(a["host_ip"], b["host_ip"])
        and a["host_port"] < b["host_port"] + b["range"]
        and b["host_port"] < a["host_port"] + a["range"]
    )


def _check_overlap(mapping: PortMapping, others: list[PortMapping]) -> None:
    for other in others:
        if _overlap(mapping, other):
            raise UsageError(
                f"conflicting port mappings: {format_ports([other])} and {format_ports([mapping])}"
                " want the same host port",
                "publish each host port once",
            )


def _random(mapping: PortMapping, taken: list[PortMapping]) -> int:
    """A host port that is free now, chosen by the kernel: bind(2) to port 0."""
    import _socket

    ip = mapping["host_ip"] or "0.0.0.0"
    kind = _socket.SOCK_STREAM if mapping["protocol"] == "tcp" else _socket.SOCK_DGRAM
    for _ in range(64):
        sock = _socket.socket(_socket.AF_INET6 if ":" in ip else _socket.AF_INET, kind)
        try:
            sock.bind((ip, 0))
            port = int(sock.getsockname()[1])
        except OSError as error:
            hint = "name an address this host has"
            raise UnsupportedError(f"choose a free port on {ip}: {error.strerror}", hint) from None
        finally:
            sock.close()
        if not any(_overlap({**mapping, "host_port": port}, other) for other in taken):
            return port
    raise UnsupportedError(f"choose a free port on {ip}: none found")


def format_ports(mappings: Sequence[PortMapping], exposed: Sequence[tuple[int, str]] = ()) -> str:
    """As `podman ps` shows them: ``0.0.0.0:8080-8081->80-81/tcp``; *exposed* but unpublished: ``90/tcp``."""
    merged: list[PortMapping] = []
    for mapping in sorted(mappings, key=lambda m: (m["protocol"], m["host_ip"], m["host_port"])):
        last = merged[-1] if merged else None
        if (
            last
            and (last["protocol"], last["host_ip"]) == (mapping["protocol"], mapping["host_ip"])
            and last["host_port"] + last["range"] == mapping["host_port"]
            and last["container_port"] + last["range"] == mapping["container_port"]
        ):
            last["range"] += mapping["range"]
        else:
            merged.append(mapping.copy())
    published = {(m["container_port"] + i, m["protocol"]) for m in merged for i in range(m["range"])}
    texts = []
    for m in merged:
        host, container = _show(m["host_port"], m["range"]), _show(m["container_port"], m["range"])
        texts.append(f"{_show_ip(m['host_ip'])}:{host}->{container}/{m['protocol']}")
    texts += [f"{port}/{protocol}" for port, protocol in exposed if (port, protocol) not in published]
    return ", ".join(texts)


def _show_ip(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip or "0.0.0.0"


def _show(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


# Whether the host has them free


def _bind(ip: str, port: int, protocol: str) -> int:
    """0 if *port* could be bound just now, else the errno."""
    import _socket

    kind = _socket.SOCK_STREAM if protocol == "tcp" else _socket.SOCK_DGRAM
    try:
        sock = _socket.socket(_socket.AF_INET6 if ":" in ip else _socket.AF_INET, kind | _socket.SOCK_CLOEXEC)
    except OSError as error:
        return error.errno or errno.EAFNOSUPPORT
    try:
        if ":" in ip:
            sock.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)  # TIME_WAIT does not count
        sock.bind((ip, port))
        return 0
    except OSError as error:
        return error.errno or errno.EINVAL
    finally:
        sock.close()


def _each(mappings: Sequence[PortMapping]) -> Iterable[tuple[str, int, str]]:
    for mapping in mappings:
        for port in range(mapping["host_port"], mapping["host_port"] + mapping["range"]):
            yield mapping["host_ip"], port, mapping["protocol"]


def check_free(mappings: Sequence[PortMapping]) -> None:
    """Raises ConflictError (in use, by whom if that can be seen), UnsupportedError (privileged, no such address).

    Meant for just before the forwarder starts: old pasta does not tell which port it did not get.
    """
    for ip, port, protocol in _each(mappings):
        number = _bind(ip or "0.0.0.0", port, protocol)
        if number == 0 and ip == "":
            number = _bind("::", port, protocol)
            if number in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # no IPv6 here
                number = 0
        if number:
            raise _refused(ip, port, protocol, number)


def not_served(mappings: Sequence[PortMapping]) -> list[str]:
    """The ports nobody serves, as ``ip:port/protocol``: for after a forwarder started."""
    return [
        f"{_show_ip(ip)}:{port}/{protocol}"
        for ip, port, protocol in _each(mappings)
        if _bind(ip or "0.0.0.0", port, protocol) != errno.EADDRINUSE
    ]


def _refused(ip: str, port: int, protocol: str, number: int) -> RlError:
    what = f"publish port {_show_ip(ip)}:{port}/{protocol}: "
    if number == errno.EADDRINUSE:
        user = _user_of(port, protocol)
        return ConflictError(
            what + "address already in use" + (f" by {user}" if user else ""),
            "publish another host port, stop what uses this one, "
            f"or find it with `ss -{'t' if protocol == 'tcp' else 'u'}lnp sport = :{port}`",
        )
    if number == errno.EACCES:
        return UnsupportedError(
            what + f"only root may serve ports below {_unprivileged_start()}",
            f"use a higher host port, or allow it: sudo sysctl net.ipv4.ip_unprivileged_port_start={port}",
        )
    if number == errno.EADDRNOTAVAIL:
        return UnsupportedError(what + "this host has no such address", "`ip address` lists the addresses of this host")
    return UnsupportedError(what + os.strerror(number))


def _unprivileged_start() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _user_of(port: int, protocol: str) -> str:
    """``name (pid N)`` of the process that has *port*, if we may look into it; "" otherwise."""
    inodes = set()
    for suffix in ("", "6"):
        try:
            with open(f"/proc/net/{protocol}{suffix}", encoding="utf-8") as file:
                for line in file:
                    fields = line.split()
                    listening = protocol == "udp" or fields[3] == "0A"
                    if listening and fields[1].endswith(f":{port:04X}") and fields[9] != "0":
                        inodes.add(f"socket:[{fields[9]}]")
        except (OSError, IndexError):
            continue
    for pid in os.listdir("/proc") if inodes else ():
        if not pid.isdigit():
            continue
        try:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{fd}") in inodes:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (pid {pid})"
        except OSError:
            continue
    return ""
