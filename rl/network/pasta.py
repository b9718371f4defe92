"""pasta: the container's traffic through a tap device and ordinary sockets, source addresses kept.

pasta stays in the foreground as the monitor's child, so that it dies with it, and says that it is
ready by writing its pid to its stdout, a pipe. (In the background it would be re-parented, and lose
the parent-death signal.)

Old versions, such as Debian 12's of March 2023, lack --map-guest-addr; for them the container gets
an address of its own (10.0.2.100) instead of a copy of the host's: whatever the host serves on its
own addresses can then be reached, without opening the host's loopback (--no-map-gw stays).

Called by setup.py. Source: pasta(1).
"""

from __future__ import annotations

from rl.errors import RlError, UnsupportedError, UsageError
from rl.network import flag, host, ports, udp
from rl.network.helper import Helper, Pending
from rl.network.namespace import Pinned, pin_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rl.config.model import PortMapping

#: How long pasta may take; it needs 20 ms.
TIMEOUT_MS = 15_000

#: Podman's addresses for the same purposes (link-local, so no real network has them).
DNS_FORWARD = "169.254.1.1"
MAP_GUEST = "169.254.1.2"


def is_old(can: frozenset[str]) -> bool:
    """Whether this pasta is from before September 2024, by its options *can*."""
    return "--map-guest-addr" not in can


def loses_replies(can: frozenset[str], mappings: Sequence[PortMapping]) -> list[PortMapping]:
    """The UDP ports whose clients on the host's loopback would never get an answer: see udp.py.

    Old pasta looks up the socket to answer by the container's port instead of the host's: measured with
    2023-03-09, where the answer goes to file descriptor 0. Equal port numbers and other clients are fine.
    """
    if not is_old(can):
        return []
    remapped = [m for m in mappings if m["protocol"] == "udp" and m["host_port"] != m["container_port"]]
    return [m for m in remapped if _local(m["host_ip"])]


def _local(ip: str) -> bool:
    return ip in ("", "0.0.0.0", "::", "::1") or ip.startswith("127.")


class Plan:
    """Arguments for pasta, and what the container's network will look like with them."""

    __slots__ = ("arguments", "network", "relayed")

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.network: dict[str, Any] = {}
        self.relayed: list[tuple[str, PortMapping]] = []  # (address, mapping) our own relay serves


def _values(options: Sequence[str], *names: str) -> list[str]:
    """Every value of the option called *names*, in all three forms getopt_long(3) reads; "" for a last one without."""
    found = []
    for index, option in enumerate(options):
        name, equals, value = option.partition("=")
        if name in names:
            following = options[index + 1] if index + 1 < len(options) else ""
            found.append(value if equals else following)
        elif not option.startswith("--") and option[:2] in names:
            found.append(option[2:])  # a short option with its value glued on
    return found


def _value(options: Sequence[str], *names: str) -> str | None:
    values = _values(options, *names)
    return values[-1] if values else None


def _has(options: Sequence[str], *names: str) -> bool:
    return bool(_values(options, *names))


def port_arguments(mappings: Sequence[PortMapping], options: Sequence[str]) -> list[str]:
    """-t, -u, -T, -U: the published ports, and none of the kinds nobody asked for."""
    arguments = []
    for protocol, short, long in (("tcp", "-t", "--tcp-ports"), ("udp", "-u", "--udp-ports")):
        chosen = [m for m in mappings if m["protocol"] == protocol]
        for mapping in chosen:
            last = mapping["range"] - 1
            first = mapping["host_port"], mapping["container_port"]
            spec = ":".join(f"{port}-{port + last}" if last else str(port) for port in first)
            arguments += [short, f"{mapping['host_ip']}/{spec}" if mapping["host_ip"] else spec]
        if not chosen and _value(options, short, long) is None:
            arguments += [short, "none"]
    for short, long in (("-T", "--tcp-ns"), ("-U", "--udp-ns")):
        if _value(options, short, long) is None:
            arguments += [short, "none"]
    return arguments


def plan(
    given: Sequence[str], mappings: Sequence[PortMapping], can: frozenset[str], loopback_dns: bool, as_root: bool
) -> Plan:
    """The command line. *given* are the user's options, *can* those this pasta has.

    *loopback_dns*: the host's resolvers are on its loopback only; *as_root*: the caller is the host's root.
    Raises UsageError for options that are the engine's.
    """
    flag.check_pasta_options([option for option in given if option != "--map-gw"])
    result = Plan()
    result.relayed = udp.on_loopback(loses_replies(can, mappings))
    mappings = [m for m in mappings if not any(m is one and ip == m["host_ip"] for ip, one in result.relayed)]
    # --map-gw is not pasta's, it is Podman's word for "leave --no-map-gw out".
    options = [option for option in given if option != "--map-gw"]
    arguments = ["--config-net", *port_arguments(mappings, options)]
    if "--map-gw" not in given and "--no-map-gw" not in options:
        arguments.append("--no-map-gw")
    if not {"-q", "--quiet", "-d", "--debug", "--trace"}.intersection(options):
        arguments.append("--quiet")
    if "--no-netns-quit" in can:
        arguments.append("--no-netns-quit")  # the path it is given is taken away once it is up
    if as_root:
        arguments += ["--runas", "0:0"]  # or it becomes nobody, who may not join the namespace
    network = result.network
    arguments += _addresses(network, options, can)
    if "--map-gw" in given:
        network["host_containers_internal"] = network["gateway"]
    forward = _value(options, "--dns-forward")
    if forward is None and loopback_dns and "--dns-forward" in can:
        forward = DNS_FORWARD
        arguments += ["--dns-forward", forward]
    network["dns"] = [forward] if forward else []
    result.arguments = arguments + options
    return result


def _addresses(network: dict[str, Any], options: Sequence[str], can: frozenset[str]) -> list[str]:
    """Which addresses the container gets and how it reaches the host; the arguments that make it so."""
    arguments: list[str] = []
    template = _value(options, "-i", "--interface")
    v4 = host.of_interface(template) if template else host.ipv4()
    v6 = None if template else host.ipv6()
    if _has(options, "-6", "--ipv6-only"):
        v4 = None
    if _has(options, "-4", "--ipv4-only"):
        v6 = None
    own = next((value for value in _values(options, "-a", "--address") if ":" not in value), "")
    like = v4 or v6
    network["interface"] = _value(options, "-I", "--ns-ifname") or (like.interface if like else "")
    network.update(ip=own or (v4.ip if v4 else ""), prefix=v4.prefix if v4 else 0, gateway=v4.gateway if v4 else "")
    if v4 and not own and "--map-guest-addr" not in can and not template:
        net = "10.0.3" if v4.ip == "10.0.2.100" else "10.0.2"
        network.update(ip=f"{net}.100", prefix=24, gateway=f"{net}.2")
        arguments += ["-a", network["ip"], "-n", "24", "-g", network["gateway"]]
    netmask = _value(options, "-n", "--netmask")
    if netmask:
        network["prefix"] = int(netmask) if netmask.isdigit() else _bits(netmask)
    network["gateway"] = next((g for g in _values(options, "-g", "--gateway") if ":" not in g), network["gateway"])
    own6 = next((value for value in _values(options, "-a", "--address") if ":" in value), "")
    if v6:
        network.update(ipv6=own6 or v6.ip, ipv6_prefix=v6.prefix, ipv6_gateway=v6.gateway)
    mapped = _value(options, "--map-guest-addr")
    if "--map-guest-addr" in can and mapped is None:
        mapped = MAP_GUEST
        arguments += ["--map-guest-addr", mapped]
    reachable = v4.ip if v4 and v4.ip != network["ip"] else ""  # its own address would lead it to itself
    network["host_containers_internal"] = mapped if mapped and mapped != "none" else reachable
    return arguments


def _bits(netmask: str) -> int:
    return sum(int(byte).bit_count() for byte in netmask.split(".") if byte.isdigit())


def start(
    executable: str, plan: Plan, mappings: Sequence[PortMapping], net_fd: int, run_dir: str, verify: bool
) -> Pending:
    """Start pasta on the namespace *net_fd* holds. *verify*: look afterwards whether it serves the ports.

    ``ready()`` raises UnsupportedError (the host has no interface pasta could use), UsageError (it does
    not take the user's options), RlError.
    """
    pinned = Pinned(net_fd, pin_path(run_dir))
    argv = [executable, *plan.arguments, "--foreground", "--pid", "/dev/stdout", "--netns", pinned.path]
    relay = None
    try:
        program = Helper(argv, "/")
        relay = udp.start(plan.relayed, net_fd)
    except BaseException:
        pinned.release()
        raise

    def finish() -> dict[str, Any]:
        try:
            said = program.wait(TIMEOUT_MS)
            if not said:
                raise _failure(program.complaints(), plan)
            helpers = [program.pid, *udp.wait(relay)]
            missing = ports.not_served(mappings) if verify else []
            if missing:
                raise RlError(f"pasta does not serve {', '.join(missing)}", "publish other host ports")
        except BaseException:
            cancel()
            raise
        pinned.release()
        program.release()
        return {**plan.network, "mode": "pasta", "pids": helpers, "warnings": []}

    def cancel() -> None:
        program.kill()
        if relay is not None:
            relay.kill()
        pinned.release()

    return Pending(finish=finish, cancel=cancel, expected={**plan.network, "mode": "pasta"})


def _failure(complaints: str, plan: Plan) -> RlError:
    text = complaints or f"no answer within {TIMEOUT_MS // 1000} s"
    if "interface not usable" in text or "No interface with a default route" in text or "No routable interface" in text:
        return UnsupportedError(
            f"pasta finds no network on the host to connect to: {text}",
            "connect the host to a network, install slirp4netns, or use --network=none or --network=host",
        )
    if "unrecognized option" in text or "invalid option" in text or "Invalid" in text:
        return UsageError(f"pasta: {text}", "`man pasta` lists the options this version has")
    if "Permission denied" in text and "netns" in text:
        return UnsupportedError(
            f"pasta: {text}", "a security module confines pasta: update its profile, or use --network=slirp4netns"
        )
    return RlError(f"pasta: {text}", "arguments were: " + " ".join(plan.arguments))
