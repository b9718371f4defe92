"""/etc/hosts, /etc/resolv.conf and /etc/hostname as text."""

from __future__ import annotations

from typing import Any

import pytest

from rl.errors import UnsupportedError, UsageError
from rl.network import files

PASTA = {"mode": "pasta", "ip": "10.0.2.100", "dns": [], "host_containers_internal": "192.0.2.9"}


@pytest.fixture
def host(tmp_path: Any, monkeypatch: Any) -> Any:
    """The host's files, in a directory of the test."""
    monkeypatch.setattr(files, "HOSTS", str(tmp_path / "hosts"))
    monkeypatch.setattr(files, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(files, "RESOLVED_CONF", str(tmp_path / "resolved.conf"))
    (tmp_path / "hosts").write_text(
        "127.0.0.1 localhost  # me\n\n::1\tlocalhost\n192.0.2.5 db db.example host.docker.internal\n"
    )
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    return tmp_path


def hosts(
    request: dict[str, Any], network: dict[str, Any] = PASTA, config: dict[str, Any] | None = None, image: str = ""
) -> list[str]:
    text = files.render(request, network, "0123456789ab", "web", config or {}, image)["hosts"]  # type: ignore[arg-type]
    return text.replace("\t", " ").splitlines()


def test_hosts(host: Any) -> None:
    assert hosts({}) == [
        "127.0.0.1 localhost",
        "::1 localhost",
        "192.0.2.5 db db.example",
        "192.0.2.9 host.containers.internal host.docker.internal",
        "10.0.2.100 0123456789ab web",
    ]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["cache:192.0.2.7"], "192.0.2.7 cache"),
        (["one;two:192.0.2.7"], "192.0.2.7 one two"),
        (["six:fd00::7"], "fd00::7 six"),
        (["six:[fd00::7]"], "fd00::7 six"),
        (["cache=192.0.2.7"], "192.0.2.7 cache"),
        (["gate:host-gateway"], "192.0.2.9 gate"),
    ],
)
def test_added_hosts_come_first(given: list[str], line: str, host: Any) -> None:
    assert hosts({"add_hosts": given})[0] == line


def test_an_added_name_is_not_said_twice(host: Any) -> None:
    lines = hosts({"add_hosts": ["web:192.0.2.7", "host.docker.internal:192.0.2.8"]})
    assert lines[-2:] == ["192.0.2.9 host.containers.internal", "10.0.2.100 0123456789ab"]


@pytest.mark.parametrize(
    "value", ["", "x", "x:", ":192.0.2.1", "a;:192.0.2.1", "a b:192.0.2.1", "x:192.0.2", "x:gateway", "#:192.0.2.1"]
)
def test_bad_added_hosts(value: str) -> None:
    with pytest.raises(UsageError) as caught:
        files.parse_add_host(value)
    assert repr(value) in caught.value.message and caught.value.hint


def test_host_gateway_where_there_is_none(host: Any) -> None:
    with pytest.raises(UnsupportedError, match="no address of the host"):
        hosts({"add_hosts": ["gate:host-gateway"]}, {"mode": "none"})
    assert hosts({"add_hosts": ["gate:host-gateway"]}, {"mode": "host"})[0] == "127.0.0.1 gate"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"containers.base_hosts_file": "none"}, ["127.0.0.1 localhost", "::1 localhost"]),
        ({"containers.base_hosts_file": "image"}, ["192.0.2.99 fromimage", "127.0.0.1 localhost", "::1 localhost"]),
        ({"containers.base_hosts_file": "FILE"}, ["192.0.2.98 fromfile", "127.0.0.1 localhost", "::1 localhost"]),
        ({"containers.base_hosts_file": "/no/such/file"}, ["127.0.0.1 localhost", "::1 localhost"]),
    ],
)
def test_the_base_file(config: dict[str, str], expected: list[str], host: Any) -> None:
    (host / "other").write_text("192.0.2.98 fromfile\n")
    config = {key: str(host / "other") if value == "FILE" else value for key, value in config.items()}
    assert hosts({}, PASTA, config, "192.0.2.99 fromimage\n")[:-2] == expected


def test_configured_host_address(host: Any) -> None:
    assert "192.0.2.44 host.containers.internal host.docker.internal" in hosts(
        {}, PASTA, {"containers.host_containers_internal_ip": "192.0.2.44"}
    )
    assert not any(
        "host.containers" in line for line in hosts({}, PASTA, {"containers.host_containers_internal_ip": "none"})
    )


def test_own_name_without_a_network(host: Any) -> None:
    assert hosts({}, {"mode": "none"})[-1] == "127.0.0.1 0123456789ab web"


def test_both_address_families(host: Any) -> None:
    assert hosts({}, {**PASTA, "ipv6": "fd00::2"})[-2:] == ["10.0.2.100 0123456789ab web", "fd00::2 0123456789ab web"]


def test_files_that_are_not_wanted(host: Any) -> None:
    assert set(files.render({}, PASTA, "h", "n", {})) == {"hosts", "resolv.conf", "hostname"}
    assert set(files.render({"no_hosts": True, "no_resolv": True}, PASTA, "h", "n", {})) == {"hostname"}
    assert set(files.render({"dns": ["none"]}, PASTA, "h", "n", {})) == {"hosts", "hostname"}
    assert set(files.render({}, PASTA, "h", "n", {"containers.no_hosts": True})) == {"resolv.conf", "hostname"}
    assert files.render({}, PASTA, "box", "n", {})["hostname"] == "box\n"


HOST = "search corp.example\nnameserver 192.0.2.53\nnameserver 127.0.0.1\noptions ndots:2 # why\n"


@pytest.mark.parametrize(
    ("resolv", "resolved", "asked", "network", "expected"),
    [
        (HOST, "", {}, PASTA, "search corp.example\nnameserver 192.0.2.53\noptions ndots:2\n"),
        (HOST, "", {}, {"mode": "host"},
         "search corp.example\nnameserver 192.0.2.53\nnameserver 127.0.0.1\noptions ndots:2\n"),
        (HOST, "", {"dns": ["192.0.2.1", "fd00::1"]}, PASTA,
         "search corp.example\nnameserver 192.0.2.1\nnameserver fd00::1\noptions ndots:2\n"),
        (HOST, "", {"dns_search": ["."]}, PASTA, "nameserver 192.0.2.53\noptions ndots:2\n"),
        (HOST, "", {"dns_search": ["a", "b"], "dns_options": ["edns0", "rotate"]}, PASTA,
         "search a b\nnameserver 192.0.2.53\noptions edns0 rotate\n"),
        ("domain x.example\nnameserver 192.0.2.53", "", {}, PASTA, "search x.example\nnameserver 192.0.2.53\n"),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.54\n", {}, PASTA, "nameserver 192.0.2.54\n"),
        ("nameserver 127.0.0.53\n", "", {}, {**PASTA, "dns": ["169.254.1.1"]}, "nameserver 169.254.1.1\n"),
        ("nameserver fe80::1%eth0\nnameserver 192.0.2.53\n", "", {}, PASTA, "nameserver 192.0.2.53\n"),
        ("nameserver 192.0.2.53\n", "", {}, {"mode": "slirp4netns", "dns": ["10.0.2.3"]},
         "nameserver 10.0.2.3\nnameserver 192.0.2.53\n"),
        ("", "", {}, PASTA, ""),
        ("; a comment\nnameserver\nnonsense\n", "", {}, PASTA, ""),
    ],
)  # fmt: skip
def test_resolv_conf(
    resolv: str, resolved: str, asked: dict[str, Any], network: dict[str, Any], expected: str, host: Any
) -> None:
    (host / "resolv.conf").write_text(resolv)
    (host / "resolved.conf").write_text(resolved)
    assert files.render(asked, network, "h", "n", {})["resolv.conf"] == expected  # type: ignore[arg-type]


def test_resolvers_of_containers_conf(host: Any) -> None:
    config = {
        "containers.dns_servers": ["192.0.2.1"],
        "containers.dns_searches": ["a"],
        "containers.dns_options": ["b"],
    }
    assert files.render({}, PASTA, "h", "n", config)["resolv.conf"] == "search a\nnameserver 192.0.2.1\noptions b\n"
    assert files.render({"dns": ["192.0.2.2"]}, PASTA, "h", "n", config)["resolv.conf"].count("nameserver") == 1


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("nameserver 192.0.2.1\n", False),
        ("nameserver 127.0.0.1\nnameserver ::1\n", True),
        ("nameserver fe80::1%eth0\n", True),
        ("", True),
    ],
)
def test_only_loopback_resolvers(text: str, only: bool, host: Any) -> None:
    (host / "resolv.conf").write_text(text)
    assert files.only_loopback_resolvers() is only


def test_dns_flags() -> None:
    files.check_dns(["192.0.2.1", "fd00::1", "fe80::1%eth0"])
    files.check_dns(["none"])
    for bad in (["none", "192.0.2.1"], ["dns.example"], [""]):
        with pytest.raises(UsageError):
            files.check_dns(bad)
