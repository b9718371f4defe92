"""The container's /etc/hosts, /etc/resolv.conf and /etc/hostname.

Called by the monitor once the network is up (:func:`render`), and by the command line to check
``--add-host`` and ``--dns`` early. Source: podman-run(1), hosts(5), resolv.conf(5), containers.conf(5).
"""

from __future__ import annotations

from rl.errors import UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rl.config.model import NetworkRequest

RESOLV_CONF = "/etc/resolv.conf"
#: Where systemd-resolved keeps the real servers, while RESOLV_CONF names its stub on 127.0.0.53.
RESOLVED_CONF = "/run/systemd/resolve/resolv.conf"
HOSTS = "/etc/hosts"

#: The names under which programs expect the host (Podman's and Docker's).
HOST_NAMES = ("host.containers.internal", "host.docker.internal")


def render(
    request: NetworkRequest, network: dict[str, Any], hostname: str, name: str, config: dict[str, Any] | None = None,
    image_hosts: str = "",
) -> dict[str, str]:  # fmt: skip
    """{"hosts": …, "resolv.conf": …, "hostname": …}; a file the container shall not get is not in it.

    *network* is what the network reported (setup.start); *config* the keys of containersconf.parse, by default
    those of this host; *image_hosts* the image's own /etc/hosts, for ``base_hosts_file="image"``.
    """
    if config is None:
        config = _config()
    texts = {} if request.get("no_hostname") else {"hostname": f"{hostname}\n"}
    if not (request.get("no_hosts") or (config.get("containers.no_hosts") and not request.get("add_hosts"))):
        texts["hosts"] = hosts(request, network, hostname, name, config, image_hosts)
    if not request.get("no_resolv") and "none" not in request.get("dns", []):
        texts["resolv.conf"] = resolv_conf(request, network, config)
    return texts


def _config() -> dict[str, Any]:
    from rl.config import containersconf

    return containersconf.last() or containersconf.parse(containersconf.config_files())


# hosts


def parse_add_host(value: str) -> tuple[list[str], str]:
    """(names, address or ``host-gateway``) of one ``--add-host``: ``name[;name…]:address``. Raises UsageError."""
    separator = "=" if "=" in value.partition(":")[0] else ":"
    names, _, address = value.partition(separator)
    parts = [part.strip() for part in names.split(";")]
    if not all(parts) or any(c in part for part in parts for c in " \t\n#"):
        raise UsageError(f"--add-host {value!r}: a name is empty or has blanks in it", "--add-host name:192.0.2.1")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if address != "host-gateway" and not _family(address):
        hint = "--add-host name:192.0.2.1 or name:host-gateway"
        raise UsageError(f"--add-host {value!r}: {address!r} is not an IP address", hint)
    return parts, address


def _family(address: str) -> int:
    """4, 6, or 0 for what is no address. A zone (``%eth0``) is allowed."""
    import _socket

    bare = address.partition("%")[0]
    for family, number in ((_socket.AF_INET, 4), (_socket.AF_INET6, 6)):
        try:
            _socket.inet_pton(family, bare)
            return number
        except OSError:
            continue
    return 0


def _read(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _entries(lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    found = []
    for line in lines:
        fields = line.partition("#")[0].split()
        if len(fields) > 1:
            found.append((fields[0], fields[1:]))
    return found


def hosts(
    request: NetworkRequest, network: dict[str, Any], hostname: str, name: str, config: dict[str, Any],
    image_hosts: str = "",
) -> str:  # fmt: skip
    """/etc/hosts: --add-host first (the first match counts), the base file, localhost, the host, the container.

    Raises UnsupportedError when host-gateway is asked for where the host cannot be reached.
    """
    gateway = config.get("containers.host_containers_internal_ip") or network.get("host_containers_internal") or ""
    gateway = "" if gateway == "none" else gateway
    if network.get("mode") == "host" and not gateway:
        gateway = "127.0.0.1"
    entries: list[tuple[str, list[str]]] = []
    for value in request.get("add_hosts", []):
        names, address = parse_add_host(value)
        if address == "host-gateway":
            if not gateway:
                raise UnsupportedError(
                    f"--add-host {value}: this container's network has no address of the host",
                    "set host_containers_internal_ip in containers.conf, or use --network=pasta",
                )
            address = gateway
        entries.append((address, names))
    entries += _base(base_file(request, config), image_hosts)
    known = {one for _, names in entries for one in names}
    own = [n for n in dict.fromkeys((hostname, name)) if n and n not in known]
    defaults = [("127.0.0.1", ["localhost"]), ("::1", ["localhost"])] if "localhost" not in known else []
    if gateway:
        defaults.append((gateway, [n for n in HOST_NAMES if n not in known]))
    defaults += [(address, own) for address in _own_addresses(network)]
    return "".join(f"{address}\t{' '.join(names)}\n" for address, names in entries + defaults if names)


def base_file(request: NetworkRequest, config: dict[str, Any]) -> str:
    """What /etc/hosts begins with: --hosts-file, else containers.conf; a path, ``image``, ``none``, "" the host's."""
    return request.get("hosts_file") or config.get("containers.base_hosts_file", "")


def _base(setting: str, image_hosts: str) -> list[tuple[str, list[str]]]:
    if setting == "none":
        return []
    lines = image_hosts.splitlines() if setting == "image" else _read(setting or HOSTS)
    # The host's own idea of these names, if any, is about another network.
    return [
        (address, kept) for address, names in _entries(lines) if (kept := [n for n in names if n not in HOST_NAMES])
    ]


def _own_addresses(network: dict[str, Any]) -> list[str]:
    if network.get("mode") in ("pasta", "slirp4netns"):
        found = [network[key] for key in ("ip", "ipv6") if network.get(key)]
        if found:
            return found
    return ["127.0.0.1"]


# resolv.conf


class Resolver:
    """A resolv.conf(5), taken apart."""

    __slots__ = ("options", "search", "servers")

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self.servers: list[str] = []
        self.search: list[str] = []
        self.options: list[str] = []
        for line in lines:
            word, *rest = line.partition("#")[0].partition(";")[0].split() or [""]
            if word == "nameserver" and rest:
                self.servers.append(rest[0])
            elif word in ("search", "domain"):  # the last one counts
                self.search = rest
            elif word == "options":
                self.options += rest


def _loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "0.0.0.0", "::")


def _reachable(servers: Sequence[str]) -> list[str]:
    """Those that mean the same in another network namespace: no loopback, no link-local address with a zone."""
    return [server for server in servers if not _loopback(server) and "%" not in server]


def host_resolver() -> Resolver:
    """The host's resolv.conf; systemd-resolved's list of real servers in place of its stub."""
    found = Resolver(_read(RESOLV_CONF))
    if not _reachable(found.servers):
        real = Resolver(_read(RESOLVED_CONF))
        if _reachable(real.servers):
            found.servers = real.servers
    return found


def only_loopback_resolvers() -> bool:
    """Whether a container's own network cannot reach any resolver the host uses without a forwarder."""
    found = host_resolver()
    return not _reachable(found.servers)


def resolv_conf(request: NetworkRequest, network: dict[str, Any], config: dict[str, Any]) -> str:
    """/etc/resolv.conf: --dns, else containers.conf, else what the network offers and the host's servers."""
    found = host_resolver()
    own_network = network.get("mode") not in ("host", "ns")
    servers = request.get("dns") or config.get("containers.dns_servers") or []
    if not servers:
        usable = _reachable(found.servers) if own_network else found.servers
        servers = list(dict.fromkeys([*network.get("dns", []), *usable]))
    search = request.get("dns_search") or config.get("containers.dns_searches") or found.search
    options = request.get("dns_options") or config.get("containers.dns_options") or found.options
    lines = []
    if search and search != ["."]:
        lines.append("search " + " ".join(domain for domain in search if domain != "."))
    lines += [f"nameserver {server}" for server in servers]
    if options:
        lines.append("options " + " ".join(options))
    return "".join(f"{line}\n" for line in lines)


def check_dns(servers: Sequence[str]) -> None:
    """Raises UsageError unless every ``--dns`` is an address, or the only one is ``none``."""
    for server in servers:
        if server == "none":
            if len(servers) > 1:
                raise UsageError("--dns=none cannot be given together with other --dns", "leave one of them out")
        elif not _family(server):
            hint = "--dns 192.0.2.53, or --dns none to keep the image's file"
            raise UsageError(f"--dns {server!r}: not an IP address", hint)
