"""Which proxy a request takes: http_proxy, https_proxy, no_proxy, lower case before upper case.

Called by rl.image.transport. The rules of no_proxy are those of Go's httpproxy, which the other
container tools follow: ``*``; a domain stands for itself and what is below it; ``.domain`` only for what is
below; addresses, CIDR ranges; each may end in ``:port``. Loopback never takes a proxy.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote, urlsplit

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Proxy:
    """Where a proxy listens, and the headers it wants."""

    __slots__ = ("address", "headers", "host", "port", "scheme")

    def __init__(self, scheme: str, host: str, port: int, headers: dict[str, str]) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.headers = headers
        self.address = f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether *host* (no port, no brackets) is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(scheme: str, host: str, port: int, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for scheme://host:port, or None. Raises UsageError for a variable that is no proxy."""
    name = f"{scheme}_proxy"
    value = environ.get(name) or environ.get(name.upper()) or ""
    if scheme == "http" and environ.get("REQUEST_METHOD"):
        value = environ.get(name, "")  # in CGI, HTTP_PROXY is a header that the client chose (httpoxy)
    if not value or is_loopback(host):
        return None
    if _excluded(host, port, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
        return None
    return _parse(name, value)


def _parse(name: str, value: str) -> Proxy:
    parts = urlsplit(value if "://" in value else f"http://{value}")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise UsageError(f"{name}={value!r} is not a proxy rl can use", f"set {name}=http://HOST:PORT, or unset it")
    headers = {}
    if parts.username is not None:
        from base64 import b64encode

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = "Basic " + b64encode(pair.encode()).decode()
    return Proxy(parts.scheme, parts.hostname, port, headers)


def _excluded(host: str, port: int, rules: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    host = host.lower().rstrip(".")
    for word in rules.split(","):
        rule = word.strip().lower()
        if rule == "*":
            return True
        if not rule:
            continue
        if "/" in rule:
            try:
                if address is not None and address in ipaddress.ip_network(rule, strict=False):
                    return True
            except ValueError:
                pass
            continue
        name, rule_port = _split_port(rule)
        if rule_port and rule_port != port:
            continue
        if address is not None:
            if name.strip("[]") == str(address):
                return True
            continue
        if name.startswith("*."):
            name = name[1:]
        if host.endswith(name if name.startswith(".") else f".{name}") or host == name:
            return True
    return False


def _split_port(rule: str) -> tuple[str, int]:
    name, colon, port = rule.rpartition(":")
    if colon and port.isdigit() and (":" not in name or name.endswith("]")):
        return name, int(port)
    return rule, 0
