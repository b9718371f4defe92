"""--network in all its forms."""

from __future__ import annotations

import pytest

from rl.errors import UsageError
from rl.network import flag, pasta
from rl.network.ports import parse_publish


@pytest.mark.parametrize(
    ("values", "mode", "options"),
    [
        ([], "default", []),
        (["default"], "default", []),
        (["private"], "private", []),
        (["host"], "host", []),
        (["none"], "none", []),
        (["pasta"], "pasta", []),
        (["pasta:-T,5432,--mtu,1400"], "pasta", ["-T", "5432", "--mtu", "1400"]),
        (["pasta:--map-gw"], "pasta", ["--map-gw"]),
        (["slirp4netns"], "slirp4netns", []),
        (["slirp4netns:cidr=10.9.0.0/16,mtu=1400"], "slirp4netns", ["cidr=10.9.0.0/16", "mtu=1400"]),
        (["container:db"], "container:db", []),
        (["ns:/proc/1/ns/net"], "ns:/proc/1/ns/net", []),
    ],
)
def test_good(values: list[str], mode: str, options: list[str]) -> None:
    assert flag.parse_network_flag(values) == {"mode": mode, "options": options}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["mynet"], "network not found"),
        ([""], "network not found"),
        (["bridge"], "not a network mode"),
        (["bridge:ip=10.88.0.10"], "not a network mode"),
        (["mynet:alias=x"], "not a network mode"),
        (["host", "none"], "was given 2 times"),
        (["host:x"], "takes no options"),
        (["none:"], "takes no options"),
        (["container:"], "must follow the colon"),
        (["container"], "must follow the colon"),
        (["ns:"], "must follow the colon"),
        (["ns:relative"], "absolute"),
        (["pasta:--netns,/proc/1/ns/net"], "set by rl itself"),
        (["pasta:--netns=/proc/1/ns/net"], "set by rl itself"),
        (["pasta:--netn,/x"], "set by rl itself"),
        (["pasta:-P/tmp/x"], "set by rl itself"),
        (["pasta:--runas,1"], "set by rl itself"),
        (["pasta:5432"], "options begin with -"),
        (["slirp4netns:nonsense=1"], "unknown or without a value"),
        (["slirp4netns:mtu"], "unknown or without a value"),
        (["slirp4netns:mtu=67"], "not a number from 68"),
        (["slirp4netns:mtu=65522"], "not a number from 68"),
        (["slirp4netns:enable_ipv6=perhaps"], "neither true nor false"),
        (["slirp4netns:cidr=10.0.2.1/24"], "must be a network address"),
        (["slirp4netns:cidr=10.0.2.0/26"], "must be a network address"),
        (["slirp4netns:cidr=fd00::/64"], "not an IPv4 network"),
        (["slirp4netns:cidr=10.0.2.0"], "not an IPv4 network"),
        (["slirp4netns:port_handler=rootlesskit"], "no such forwarder"),
        (["slirp4netns:port_handler=x"], "unknown"),
        (["slirp4netns:outbound_addr=no-such-interface"], "neither an address nor an interface"),
        (["slirp4netns:outbound_addr=../../x"], "neither an address nor an interface"),
        (["slirp4netns:outbound_addr6=192.0.2.1"], "neither an address nor an interface"),
    ],
)
def test_bad(values: list[str], reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        flag.parse_network_flag(values)
    assert reason in caught.value.message
    assert caught.value.hint


def test_slirp4netns_values() -> None:
    options = [
        "allow_host_loopback=true",
        "enable_ipv6=false",
        "mtu=1400",
        "outbound_addr=192.0.2.1",
        "outbound_addr=lo",
    ]
    assert flag.slirp4netns_options(options) == {
        "allow_host_loopback": True, "enable_ipv6": False, "mtu": 1400, "outbound_addr": "lo",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("specs", "options", "expected"),
    [
        ([], [], "-t none -u none -T none -U none"),
        (["8080:80"], [], "-t 8080:80 -u none -T none -U none"),
        (["127.0.0.1:8080-8090:80-90"], [], "-t 127.0.0.1/8080-8090:80-90 -u none -T none -U none"),
        (["[::1]:53:53/udp"], [], "-t none -u ::1/53:53 -T none -U none"),
        (["8080:80"], ["-T", "5432"], "-t 8080:80 -u none -U none"),
        ([], ["-t", "auto", "--udp-ports=53", "-Uauto"], "-T none"),
        (["8080:80"], ["-t", "9000"], "-t 8080:80 -u none -T none -U none"),
    ],
)
def test_pasta_ports(specs: list[str], options: list[str], expected: str) -> None:
    assert " ".join(pasta.port_arguments(parse_publish(specs), options)) == expected


def test_new_pasta_maps_an_address_to_the_host() -> None:
    can = frozenset(["--map-guest-addr", "--dns-forward", "--no-netns-quit"])
    plan = pasta.plan([], [], can, True, False)
    text = " ".join(plan.arguments)
    assert "--map-guest-addr 169.254.1.2" in text and "--dns-forward 169.254.1.1" in text
    assert "--no-map-gw" in text and "--runas" not in text and "-a" not in plan.arguments
    assert plan.network["host_containers_internal"] == "169.254.1.2"
    assert plan.network["dns"] == ["169.254.1.1"]


def test_options_of_the_configuration_file_are_checked_too() -> None:
    with pytest.raises(UsageError, match="set by rl itself"):
        pasta.plan(["--netns", "/proc/1/ns/net"], [], frozenset(), False, False)


def test_the_users_words_win() -> None:
    can = frozenset(["--map-guest-addr", "--dns-forward"])
    options = ["--map-guest-addr", "192.0.2.77", "--dns-forward=192.0.2.53", "--map-gw"]
    plan = pasta.plan(options, [], can, True, True)
    assert "--no-map-gw" not in plan.arguments and "--map-gw" not in plan.arguments
    assert "--no-netns-quit" not in plan.arguments
    assert plan.arguments.count("--map-guest-addr") == 1
    assert plan.network["dns"] == ["192.0.2.53"]
    assert plan.arguments[plan.arguments.index("--runas") + 1] == "0:0"
