"""``linux.netDevices``: move network devices of the host into the container's network namespace.

Called by :mod:`rl.runtime.container` while the container's process waits, imported only where it is asked for (and
pyroute2 with it). A device keeps its settings; its permanent global addresses, which the kernel drops on the way, are
given back. When the namespace ends the kernel returns physical devices to the host and destroys virtual ones, so
nothing is undone here.
Source: OCI runtime specification 1.3, config-linux.md "Network Devices"; rtnetlink(7).
"""

from __future__ import annotations

import errno
import os

from rl.errors import RlError, UsageError
from rl.kernel import namespaces as ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rl.runtime.sync import Setup

_NAME = 15  # bytes (IFNAMSIZ - 1)
_PERMANENT = 0x80
_GLOBAL = 0
#: nodad, mngtmpaddr, noprefixroute, autojoin: what was asked for; other flags are states (linux/if_addr.h).
_KEPT_FLAGS = 0x02 | 0x100 | 0x200 | 0x400


def check(setup: Setup) -> None:
    """Refuse what cannot be done before anything is made: names, and a network namespace that is the caller's own."""
    names: dict[str, str] = {}
    for device, new in wanted(setup.linux):
        what = f"linux.netDevices.{device}"
        _valid(device, what, False)
        _valid(new, f"{what}.name", True)
        if new in names and "%" not in new:
            raise UsageError(f"{what}.name: {new!r} is also the name for {names[new]}", "give each device its own name")
        names[new] = device
    own = bool(setup.flags & ns.CLONE_NEWNET)
    if "network" in setup.fds:
        own = not os.path.samestat(os.fstat(setup.fds["network"]), os.stat("/proc/self/ns/net"))
    if not own:
        raise RlError(
            "linux.netDevices needs a network namespace of the container's own", 'add {"type": "network"} to namespaces'
        )


def wanted(linux: dict[str, Any]) -> list[tuple[str, str]]:
    """(name on the host, name in the container) of each device."""
    devices = linux.get("netDevices") or {}
    return [(device, (devices[device] or {}).get("name") or device) for device in devices]


def _valid(name: str, what: str, template: bool) -> None:
    """As the kernel's dev_valid_name(); the *template* ``eth%d`` lets it choose a number."""
    plain = name.replace("%d", "", 1) if template else name
    bad = not 0 < len(os.fsencode(name)) <= _NAME or name in (".", "..")
    if bad or "%" in plain or any(character in "/:" or character.isspace() for character in name):
        hint = "1 to 15 characters, without / : % and space"
        raise UsageError(f"{what}: {name!r} is not a name for a network device", hint)


def move(linux: dict[str, Any], namespace: int) -> None:
    """Move them into the network *namespace*. Raises RlError; a device moved before stays there."""
    from pyroute2 import IPRoute, NetlinkError

    with IPRoute() as here, _socket_in(namespace, IPRoute) as there:
        for device, new in wanted(linux):
            what = f"move network device {device} (linux.netDevices.{device})"
            try:
                _move(here, there, namespace, device, new, what)
            except NetlinkError as error:
                raise RlError(f"{what}: {os.strerror(error.code)}", _hint(error.code, new)) from None


def _hint(number: int, new: str) -> str:
    if number == errno.EPERM:
        return "it takes CAP_NET_ADMIN on the host: run as root"
    if number == errno.EEXIST:
        return f"the container has a device {new} already: give another name"
    return "this kind of device cannot change its namespace" if number == errno.EINVAL else ""


def _socket_in(target: int, make: Any) -> Any:
    """A netlink socket that speaks to namespace *target*: a socket stays where it was made."""
    here = ns.open_namespace("self", "net")
    try:
        try:
            ns.setns(here, ns.CLONE_NEWNET)  # whether we may come back
            ns.setns(target, ns.CLONE_NEWNET)
        except OSError as error:
            what = "move network devices (linux.netDevices): enter the container's network namespace"
            raise RlError(f"{what}: {error.strerror}", _hint(errno.EPERM, "")) from None
        try:
            return make()
        finally:
            ns.setns(here, ns.CLONE_NEWNET)
    finally:
        os.close(here)


def _move(here: Any, there: Any, target: int, device: str, new: str, what: str) -> None:
    index = next(iter(here.link_lookup(ifname=device)), 0)
    if not index:
        raise RlError(f"{what}: there is no such device", "`ip link` shows those that are there")
    addresses = [message for message in here.get_addr(index=index) if _stays(message)]
    before = {link["index"] for link in there.get_links()}
    # In one request, so that the name cannot clash here; the kernel takes the device down meanwhile.
    here.link("set", index=index, net_ns_fd=target, ifname=new)
    moved = [link["index"] for link in there.get_links() if link["index"] not in before]
    if len(moved) != 1:
        raise RlError(f"{what}: it has not arrived")
    for message in addresses:
        given = {"IFA_ADDRESS": "address", "IFA_LOCAL": "local", "IFA_BROADCAST": "broadcast"}
        fields = {ours: message.get_attr(theirs) for theirs, ours in given.items() if message.get_attr(theirs)}
        flags = (message.get_attr("IFA_FLAGS") or message["flags"]) & _KEPT_FLAGS
        fields.update(family=message["family"], prefixlen=message["prefixlen"], flags=flags)
        there.addr("add", index=moved[0], **fields)
    there.link("set", index=moved[0], state="up")


def _stays(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return bool(flags & _PERMANENT) and message["scope"] == _GLOBAL
