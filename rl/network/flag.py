"""``--network``: from what the user wrote to (mode, options), and the options of each mode.

Called by the command line for validation and by pasta.py and slirp4netns.py.
Source: podman-run(1), "--network".
"""

from __future__ import annotations

import os

from rl.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.config.model import NetworkRequest

PLAIN = ("host", "none", "private")
PROGRAMS = ("pasta", "slirp4netns")
_MODES_HINT = "use pasta, slirp4netns, host, none, container:NAME or ns:PATH"

#: Options of pasta that decide where it runs and how it is supervised: they are the engine's.
_ENGINES_OWN = frozenset((
    "--netns", "--netns-only", "--userns", "--pid", "-P", "--foreground", "-f", "--runas", "--fd", "-F",
    "--socket", "-s", "--one-off", "-1", "--help", "-h", "--version", "--no-netns-quit",
))  # fmt: skip

_SLIRP_OPTIONS = (
    "allow_host_loopback", "cidr", "enable_ipv6", "mtu", "outbound_addr", "outbound_addr6", "port_handler",
)  # fmt: skip


def parse_network_flag(values: list[str]) -> NetworkRequest:
    """The ``mode`` and ``options`` of a NetworkRequest from the values of ``--network``; [] means default.

    Raises UsageError for a mode, a network or an option that does not exist.
    """
    if not values:
        return {"mode": "default", "options": []}
    if len(values) > 1:
        raise UsageError(
            f"a container can have one network, --network was given {len(values)} times: {', '.join(values)}",
            _MODES_HINT,
        )
    value = values[0]
    mode, colon, rest = value.partition(":")
    if mode in PLAIN or value == "default":
        if colon:
            raise UsageError(f"--network={value}: {mode} takes no options", f"use --network={mode}")
        return {"mode": mode, "options": []}
    if mode in ("container", "ns"):
        if not rest:
            what = "a container's name or ID" if mode == "container" else "the path of a network namespace"
            raise UsageError(f"--network={value}: {what} must follow the colon", f"{mode}:…")
        if mode == "ns" and not rest.startswith("/"):
            raise UsageError(f"--network={value}: the path must be absolute", "for example ns:/proc/1234/ns/net")
        return {"mode": value, "options": []}
    if mode in PROGRAMS:
        options = [option for option in rest.split(",") if option]
        if mode == "pasta":
            check_pasta_options(options)
        else:
            slirp4netns_options(options)
        return {"mode": mode, "options": options}
    if mode == "bridge" or colon:
        raise UsageError(f"--network={value}: {mode!r} is not a network mode this version has", _MODES_HINT)
    raise UsageError(f'unable to find network with name or ID "{value}": network not found', _MODES_HINT)


def check_mac(text: str, mode: str) -> None:
    """Raises UsageError unless *text* may be the hardware address of an interface that *mode* makes."""
    octets = text.replace("-", ":").split(":")
    if len(octets) != 6 or not all(len(o) == 2 and all(c in "0123456789abcdefABCDEF" for c in o) for o in octets):
        raise UsageError(f"--mac-address {text!r} is not a hardware address", "write such as 92:d0:c6:0a:29:33")
    if int(octets[0], 16) & 1:
        raise UsageError(f"--mac-address {text}: that is the address of a group", "make its first byte even")
    if mode not in ("default", "private", *PROGRAMS):
        raise UsageError(f"--mac-address cannot be used with --network={mode}", "use the default network")


def check_pasta_options(options: list[str]) -> None:
    """Raises UsageError for an option that belongs to the engine; pasta itself judges the others."""
    for option in options:
        name = option.partition("=")[0]
        # Long options may be abbreviated (getopt_long(3)), short ones may have their value glued on.
        mine = name in _ENGINES_OWN or (name[:2] in _ENGINES_OWN and not name.startswith("--"))
        if name.startswith("--") and len(name) > 4 and name != "--ns":
            mine = mine or any(own.startswith(name) for own in _ENGINES_OWN)
        if mine:
            raise UsageError(f"pasta option {option}: set by rl itself", "leave it out")
    if options and not options[0].startswith("-"):
        raise UsageError(f"pasta option {options[0]!r}: options begin with -", "for example --network=pasta:-T,5432")


def _boolean(name: str, text: str) -> bool:
    if text.lower() in ("true", "1", "t"):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise UsageError(f"slirp4netns option {name}={text}: neither true nor false", f"{name}=true")


def slirp4netns_options(options: list[str]) -> dict[str, str | bool | int]:
    """The options as a mapping with checked values. Raises UsageError."""
    result: dict[str, str | bool | int] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in _SLIRP_OPTIONS or not equals or not value:
            hint = "known: " + ", ".join(_SLIRP_OPTIONS)
            raise UsageError(f"slirp4netns option {option!r}: unknown or without a value", hint)
        if name in ("allow_host_loopback", "enable_ipv6"):
            result[name] = _boolean(name, value)
        elif name == "mtu":
            if not value.isdigit() or not 68 <= int(value) <= 65521:
                raise UsageError(f"slirp4netns option mtu={value}: not a number from 68 to 65521", "mtu=65520")
            result[name] = int(value)
        elif name == "port_handler":
            if value == "rootlesskit":
                raise UsageError(
                    "slirp4netns option port_handler=rootlesskit: rl has no such forwarder",
                    "leave it out: port_handler=slirp4netns is used",
                )
            if value != "slirp4netns":
                raise UsageError(f"slirp4netns option port_handler={value}: unknown", "port_handler=slirp4netns")
            result[name] = value
        elif name == "cidr":
            network(value)
            result[name] = value
        else:
            _check_source(name, value)
            result[name] = value
    return result


def _check_source(name: str, value: str) -> None:
    """An outbound address or an interface; slirp4netns itself ignores what it does not understand."""
    import _socket

    try:
        _socket.inet_pton(_socket.AF_INET6 if name.endswith("6") else _socket.AF_INET, value)
    except OSError:
        if "/" in value or not os.path.exists(f"/sys/class/net/{value}"):
            hint = "`ip address` lists both"
            raise UsageError(f"slirp4netns option {name}={value}: neither an address nor an interface", hint) from None


def network(cidr: str) -> tuple[int, int]:
    """(first address as a number, prefix length) of an IPv4 network. Raises UsageError; the prefix must be ≤ 25."""
    import _socket

    address, _, prefix = cidr.partition("/")
    try:
        number = int.from_bytes(_socket.inet_pton(_socket.AF_INET, address), "big")
        length = int(prefix)
    except (OSError, ValueError):
        raise UsageError(f"slirp4netns option cidr={cidr}: not an IPv4 network", "cidr=10.0.2.0/24") from None
    if not 1 <= length <= 25 or number & ((1 << 32 - length) - 1):
        what = "must be a network address with a prefix up to 25"
        raise UsageError(f"slirp4netns option cidr={cidr}: {what}", "cidr=10.0.2.0/24")
    return number, length


def dotted(number: int) -> str:
    """An IPv4 address from its number."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))
