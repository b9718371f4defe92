"""``rl port``: the published ports of running containers. Source: podman-port(1)."""

from __future__ import annotations

from rl.engine import containers
from rl.errors import NotFoundError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.config.model import PortMapping
    from rl.engine.context import Engine


def port(engine: Engine, name: str = "", private: str = "", all: bool = False) -> list[dict[str, Any]]:
    """One dict per published port: id, name, container_port, protocol, host_ip ("0.0.0.0" for all), host_port.

    *private* is ``80`` (tcp and udp) or ``80/udp``. *all* lists every running container's ports instead.
    A container that does not run has none. Raises UsageError, NoSuchContainerError, and NotFoundError when
    *private* is not published.
    """
    if all:
        if name or private:
            raise UsageError("no arguments are needed with --all", "leave --all or the name out")
        found = []
        for container_id in sorted(containers.ids(engine.paths)):
            try:
                found += _of(engine, container_id)
            except NotFoundError:  # removed meanwhile
                continue
        return found
    if not name:
        raise UsageError("a container's name or ID is needed", "`rl port NAME`, or `rl port -a` for all")
    wanted = _private(private) if private else None
    found = _of(engine, containers.find(engine.paths, name))
    if wanted is None:
        return found
    number, protocol = wanted
    found = [p for p in found if p["container_port"] == number and protocol in ("", p["protocol"])]
    if not found:
        raise NotFoundError(f'failed to find published port "{private}"', f"`rl port {name}` lists what is published")
    return found


def _private(text: str) -> tuple[int, str]:
    number, slash, protocol = text.partition("/")
    if not (number.isascii() and number.isdigit() and 0 < int(number) <= 65535) or (
        slash and protocol.lower() not in ("tcp", "udp")
    ):
        raise UsageError(
            f"port {text!r}: not a number from 1 to 65535, optionally with /tcp or /udp", "for example 80/tcp"
        )
    return int(number), protocol.lower()


def _of(engine: Engine, container_id: str) -> list[dict[str, Any]]:
    if containers.read_state(engine.paths, container_id).get("status") not in containers.LIVE:
        return []
    config = containers.read_config(engine.paths, container_id)
    mappings: list[PortMapping] = config.get("network", {}).get("ports", [])
    return [
        {
            "id": container_id,
            "name": config["name"],
            "protocol": mapping["protocol"],
            "container_port": mapping["container_port"] + i,
            "host_port": mapping["host_port"] + i,
            "host_ip": mapping["host_ip"] or "0.0.0.0",
        }
        for mapping in mappings
        for i in range(mapping["range"])
    ]


def lines(ports: list[dict[str, Any]], private: str = "", all: bool = False) -> list[str]:
    """As Podman prints them: ``80/tcp -> 0.0.0.0:8080``; with *private* the host side only; ids before with *all*."""
    text: list[str] = []
    last = ""
    for one in ports:
        if all and one["id"] != last:
            last = one["id"]
            text.append(last)
        ip = one["host_ip"]
        host = f"{f'[{ip}]' if ':' in ip else ip}:{one['host_port']}"
        text.append(host if private else f"{one['container_port']}/{one['protocol']} -> {host}")
    return text
