"""linux.netDevices: devices of a host, which is a network namespace of the test's own, move into containers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rl.errors import RlError, UsageError
from rl.kernel import namespaces as ns
from rl.runtime import netdevices
from rl.runtime.sync import Io, Setup
from unit.runtime.container_lab import Lab, lab_of, specification

HOST = """
ip link add rlt0 type veth peer name peer0
ip link add rlt1 type ifb
ip addr add 10.99.0.3/24 brd 10.99.0.255 dev rlt0
ip addr add 10.99.1.1 peer 10.99.1.2/32 dev rlt0
ip addr add fd99::5/64 dev rlt0 nodad noprefixroute
ip addr add 10.99.2.1/24 dev rlt0 scope link
ip addr add fd98::1/64 dev rlt0 valid_lft 500 preferred_lft 400
ip link set rlt0 mtu 1400 up
ip link set peer0 up
"""


def host(*more: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """For Lab.run(inside=): the monitor's "host" becomes a network namespace with devices in it."""

    def inside(spec: dict[str, Any]) -> None:
        ns.unshare(ns.CLONE_NEWNET)
        subprocess.run(["sh", "-ec", HOST], check=True)
        for change in more:
            change(spec)

    return inside


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_of("root") as made:
        yield made


@pytest.fixture(params=["root", "shared", "user"])
def any_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    with lab_of(request.param) as made:
        yield made


def moving(script: str, devices: dict[str, Any]) -> dict[str, Any]:
    spec = specification(["sh", "-c", script])
    spec["linux"]["netDevices"] = devices
    return spec


def test_a_device_moves_with_its_addresses(any_lab: Lab) -> None:
    """Whoever made the network namespace has the right to it: real root, and a user in a namespace of the user's."""
    spec = moving("ip -o link; ip -o addr show eth7", {"rlt0": {"name": "eth7"}, "rlt1": {}})
    result = any_lab.run(spec, inside=host())
    assert result.error is None, result.error.message if result.error else ""
    links = {line.split()[1].rstrip(":").partition("@")[0]: line for line in result.output.splitlines() if " mtu " in line}
    assert set(links) == {"lo", "eth7", "rlt1"}
    assert "mtu 1400" in links["eth7"] and ",UP" in links["eth7"] and ",UP" in links["rlt1"]
    addresses = [line.split(maxsplit=2)[2] for line in result.output.splitlines() if " inet" in line]
    text = "\n".join(addresses)
    assert "10.99.0.3/24 brd 10.99.0.255 scope global" in text
    assert "10.99.1.1 peer 10.99.1.2/32 scope global" in text and "fd99::5/64 scope global" in text
    assert "10.99.2.1" not in text and "fd98" not in text, "not global, not permanent"
    assert result.extra["leaked"] == 0


def test_they_are_gone_from_the_host(lab: Lab) -> None:
    names: list[str] = []

    def after(spec: dict[str, Any]) -> None:
        original = netdevices.move

        def move(linux: dict[str, Any], namespace: int) -> None:
            original(linux, namespace)
            shown = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
            names.extend(line.split()[1].rstrip(":").partition("@")[0] for line in shown.splitlines())
            with open(lab.bundle / "left", "w") as file:
                file.write(" ".join(names))

        netdevices.move = move

    result = lab.run(moving("true", {"rlt0": {}}), inside=host(after))
    assert result.error is None and (lab.bundle / "left").read_text().split() == ["lo", "peer0", "rlt1"]


def test_before_sysctls_and_hooks(lab: Lab) -> None:
    spec = moving("cat /proc/sys/net/ipv4/conf/eth7/forwarding", {"rlt0": {"name": "eth7"}})
    spec["linux"]["sysctl"] = {"net.ipv4.conf.eth7.forwarding": "1"}
    result = lab.run(spec, inside=host())
    assert result.output == "1\n", result.error and result.error.message


def test_a_template_for_the_name(lab: Lab) -> None:
    spec = moving("ls /sys/class/net", {"rlt0": {"name": "net%d"}, "rlt1": {"name": "net%d"}})
    assert lab.run(spec, inside=host()).output.split() == ["lo", "net0", "net1"]


def test_into_a_new_user_namespace(lab: Lab) -> None:
    spec = moving("ls /sys/class/net", {"rlt0": {"name": "eth7"}})
    spec["linux"]["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": 0, "size": 65536}]
    spec["linux"].update(uidMappings=maps, gidMappings=maps)
    assert lab.run(spec, inside=host()).output.split() == ["eth7", "lo"]


def test_into_a_namespace_named_by_path(lab: Lab) -> None:
    def other(spec: dict[str, Any]) -> None:
        here = ns.open_namespace("self", "net")
        ns.unshare(ns.CLONE_NEWNET)
        there = ns.open_namespace("self", "net")
        ns.setns(here, ns.CLONE_NEWNET)
        os.close(here)
        for entry in spec["linux"]["namespaces"]:
            if entry["type"] == "network":
                entry["path"] = f"/proc/{os.getpid()}/fd/{there}"

    spec = moving("ls /sys/class/net", {"rlt0": {"name": "eth7"}})
    assert lab.run(spec, inside=host(other)).output.split() == ["eth7", "lo"]


@pytest.mark.parametrize(
    ("devices", "text"),
    [
        ({"no0": {}}, "linux.netDevices.no0): there is no such device"),
        ({"rlt0": {"name": "lo"}}, "linux.netDevices.rlt0): File exists"),
        ({"lo": {"name": "lo1"}}, "linux.netDevices.lo)"),
    ],
)
def test_what_cannot_move(lab: Lab, devices: dict[str, Any], text: str) -> None:
    error = lab.run(moving("true", devices), inside=host()).error
    assert error is not None and text in error.message and error.hint, error


def test_without_rights_on_the_host(any_lab: Lab) -> None:
    """A device of the machine's own network, as a user: nothing moves and the error says why."""
    if any_lab.shared is False:
        pytest.skip("real root may")
    error = any_lab.run(moving("true", {"lo": {"name": "x"}})).error
    assert error is not None and "linux.netDevices" in error.message and "CAP_NET_ADMIN" in error.hint


@pytest.mark.parametrize(
    "namespace", [None, {"type": "network", "path": "/proc/self/ns/net"}], ids=["none", "the host's own"]
)
def test_only_with_a_network_namespace_of_its_own(lab: Lab, namespace: dict[str, str] | None) -> None:
    spec = moving("true", {"rlt0": {}})
    kinds = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "network"]
    spec["linux"]["namespaces"] = [*kinds, *([namespace] if namespace else [])]
    error = lab.run(spec, inside=host()).error
    assert error is not None and "linux.netDevices needs a network namespace" in error.message


@pytest.mark.parametrize(
    ("devices", "path"),
    [
        ({"": {}}, "linux.netDevices."), ({"a/b": {}}, "netDevices.a/b"), ({"eth%d": {}}, "netDevices.eth%d"),
        ({"eth0": {"name": "x" * 16}}, "netDevices.eth0.name"), ({"eth0": {"name": "a b"}}, "netDevices.eth0.name"),
        ({"eth0": {"name": "%s"}}, "netDevices.eth0.name"), ({"eth0": {"name": "%d%d"}}, "netDevices.eth0.name"),
        ({"eth0": {"name": ".."}}, "netDevices.eth0.name"), ({"eth0": {"name": "a:1"}}, "netDevices.eth0.name"),
        ({"eth0": {"name": "x"}, "eth1": {"name": "x"}}, "netDevices.eth1.name"),
    ],
)
def test_bad_names(devices: dict[str, Any], path: str) -> None:
    setup = Setup({"linux": {"netDevices": devices}}, {}, Io(), None)  # type: ignore[arg-type]
    setup.flags = ns.CLONE_NEWNET
    with pytest.raises(UsageError) as caught:
        netdevices.check(setup)
    assert path in caught.value.message and isinstance(caught.value, RlError)
