"""-p, -P, --expose and how they are shown: tables of good and bad values."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from rl.engine import port as port_verb
from rl.errors import UnsupportedError, UsageError
from rl.network import ports


def mapping(ip: str, host: int, container: int, count: int = 1, protocol: str = "tcp") -> dict[str, Any]:
    return {"host_ip": ip, "host_port": host, "container_port": container, "range": count, "protocol": protocol}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("8080:80", [mapping("", 8080, 80)]),
        ("8080:80/tcp", [mapping("", 8080, 80)]),
        ("5353:53/UDP", [mapping("", 5353, 53, 1, "udp")]),
        ("5353:53/tcp,udp", [mapping("", 5353, 53), mapping("", 5353, 53, 1, "udp")]),
        ("127.0.0.1:8080:80", [mapping("127.0.0.1", 8080, 80)]),
        ("[::1]:8080:80", [mapping("::1", 8080, 80)]),
        ("[fd00::2]:8080-8082:80-82/udp", [mapping("fd00::2", 8080, 80, 3, "udp")]),
        ("8000-8010:9000-9010", [mapping("", 8000, 9000, 11)]),
        ("80", [mapping("", 0, 80)]),
        ("80/udp", [mapping("", 0, 80, 1, "udp")]),
        ("80-82", [mapping("", 0, 80), mapping("", 0, 81), mapping("", 0, 82)]),
        ("127.0.0.1::80", [mapping("127.0.0.1", 0, 80)]),
        ("[::1]::80", [mapping("::1", 0, 80)]),
        ("[::1]:80", [mapping("::1", 0, 80)]),
        ("0:80", [mapping("", 0, 80)]),
        ("65535:1", [mapping("", 65535, 1)]),
    ],
)
def test_good(spec: str, expected: list[dict[str, Any]]) -> None:
    assert ports.parse(spec) == expected


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "not a number"),
        ("http", "not a number"),
        ("8080:", "not a number"),
        ("8080:80:90:100", "too many colons"),
        ("::1:8080:80", "too many colons"),
        ("localhost:8080:80", "not an IP address"),
        ("256.0.0.1:8080:80", "not an IP address"),
        ("[::1:8080:80", "no ]"),
        ("[127.0.0.1.1]:80:80", "not an IP address"),
        ("8080:0", "not between 1 and 65535"),
        ("70000:80", "not between 1 and 65535"),
        ("8080:70000", "not between 1 and 65535"),
        ("-1:80", "not a number"),
        ("8080:80/icmp", "neither tcp nor udp"),
        ("8080:80/", "neither tcp nor udp"),
        ("8080:80/sctp", "SCTP"),
        ("8080-8082:80-81", "differ in length"),
        ("8080-8082:80", "differ in length"),
        ("8082-8080:80-82", "ends before it begins"),
        ("8080:80-", "not a number"),
        ("٨٠:80", "not a number"),
        ("80 :80", "not a number"),
    ],
)
def test_bad(spec: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        ports.parse(spec)
    assert reason in caught.value.message
    assert repr(spec) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("specs", "clash"),
    [
        (["8080:80", "8080:81"], True),
        (["8080:80", "127.0.0.1:8080:81"], True),
        (["0.0.0.0:8080:80", "127.0.0.1:8080:80"], True),
        (["8000-8010:1-11", "8005:80"], True),
        (["[::]:8080:80", "[::1]:8080:80"], True),
        (["8080:80", "[::1]:8080:80"], True),
        (["8080:80", "8080:80"], False),
        (["8080:80", "8080:80/udp"], False),
        (["127.0.0.1:8080:80", "127.0.0.2:8080:80"], False),
        (["127.0.0.1:8080:80", "[::1]:8080:80"], False),
        (["0.0.0.0:8080:80", "[::]:8080:80"], False),
        (["8000-8010:1-11", "8011:80"], False),
    ],
)
def test_overlap(specs: list[str], clash: bool) -> None:
    if clash:
        with pytest.raises(UsageError, match="conflicting port mappings"):
            ports.parse_publish(specs)
    else:
        assert len(ports.parse_publish(specs)) == len(set(specs))


def test_random_ports_are_free_and_different() -> None:
    found = ports.parse_publish(["127.0.0.1::80", "127.0.0.1::81", "127.0.0.1::82-90"])
    numbers = {one["host_port"] for one in found}
    assert len(numbers) == len(found) == 11
    for one in found:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", one["host_port"]))


def test_a_random_port_on_a_foreign_address() -> None:
    with pytest.raises(UnsupportedError, match=r"choose a free port on 198\.51\.100\.77"):
        ports.parse_publish(["198.51.100.77::80"])


def test_publish_all_leaves_out_what_is_published() -> None:
    found = ports.parse_publish(["8080:80"], ["80/tcp", "443", "53/udp", "7000-7001", "443/tcp"], publish_all=True)
    shown = [(one["container_port"], one["protocol"]) for one in found]
    assert sorted(shown) == [(53, "udp"), (80, "tcp"), (443, "tcp"), (7000, "tcp"), (7001, "tcp")]
    assert all(one["host_port"] for one in found)
    assert ports.parse_publish([], ["80"]) == []


@pytest.mark.parametrize("spec", ["", "x", "80/xyz", "8080:80", "0", "5-4"])
def test_bad_expose(spec: str) -> None:
    with pytest.raises(UsageError):
        ports.parse_expose([spec])


@pytest.mark.parametrize(
    ("specs", "exposed", "text"),
    [
        ([], [], ""),
        (["8080:80"], [], "0.0.0.0:8080->80/tcp"),
        (["8080:80", "8081:81", "9000:90"], [], "0.0.0.0:8080-8081->80-81/tcp, 0.0.0.0:9000->90/tcp"),
        (["8080:80", "8081:82"], [], "0.0.0.0:8080->80/tcp, 0.0.0.0:8081->82/tcp"),
        (["8080:80", "8081:81/udp"], [], "0.0.0.0:8080->80/tcp, 0.0.0.0:8081->81/udp"),
        (["[::1]:8080:80", "127.0.0.1:8080:80"], [], "127.0.0.1:8080->80/tcp, [::1]:8080->80/tcp"),
        (["8080:80"], ["80", "443/tcp"], "0.0.0.0:8080->80/tcp, 443/tcp"),
    ],
)
def test_shown_as_podman_does(specs: list[str], exposed: list[str], text: str) -> None:
    assert ports.format_ports(ports.parse_publish(specs), ports.parse_expose(exposed)) == text


def test_formatting_changes_nothing() -> None:
    mappings = ports.parse_publish(["8080:80", "8081:81"])
    before = [one.copy() for one in mappings]
    ports.format_ports(mappings)
    assert mappings == before


class Container:
    """A container's record in a state directory, running or not; the engine reads it as it always does."""

    def __init__(self, base: Any, monkeypatch: Any) -> None:
        from rl.engine.context import Engine

        monkeypatch.setenv("XDG_DATA_HOME", str(base / "data"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        base.chmod(0o700)
        self.engine = Engine.from_environment()
        self.locks: list[Any] = []

    def add(self, letter: str, name: str, published: list[str], running: bool = True) -> str:
        import fcntl
        import os

        from rl.config.jsonio import write_json
        from rl.engine import naming

        paths, container_id = self.engine.paths, letter * 64
        os.mkdir(paths.container(container_id))
        config = {"id": container_id, "name": name, "network": {"ports": ports.parse_publish(published)}}
        write_json(f"{paths.container(container_id)}/config.json", config)
        state = {"status": "running" if running else "exited", "pid": 0}
        write_json(f"{paths.container(container_id)}/state.json", state)
        naming.take_name(paths, name, container_id)
        if running:
            os.makedirs(paths.container_run(container_id))
            lock = open(f"{paths.container_run(container_id)}/lock", "w")
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("1")
            lock.flush()
            self.locks.append(lock)
        return container_id


def test_the_verb(tmp_path: Any, monkeypatch: Any) -> None:
    from rl.errors import NoSuchContainerError, NotFoundError

    box = Container(tmp_path, monkeypatch)
    first = box.add("a", "web", ["8080-8081:80-81", "127.0.0.1:5353:53/udp"])
    box.add("b", "old", ["9090:90"], running=False)
    engine = box.engine
    assert port_verb.lines(port_verb.port(engine, "web")) == [
        "80/tcp -> 0.0.0.0:8080", "81/tcp -> 0.0.0.0:8081", "53/udp -> 127.0.0.1:5353",
    ]  # fmt: skip
    assert port_verb.lines(port_verb.port(engine, "web", "81"), "81") == ["0.0.0.0:8081"]
    assert port_verb.lines(port_verb.port(engine, "web", "53/udp"), "53/udp") == ["127.0.0.1:5353"]
    assert port_verb.port(engine, "old") == []
    assert port_verb.lines(port_verb.port(engine, all=True), all=True)[:2] == [first, "80/tcp -> 0.0.0.0:8080"]
    with pytest.raises(NotFoundError, match='failed to find published port "82"'):
        port_verb.port(engine, "web", "82")
    with pytest.raises(NotFoundError, match="published port"):
        port_verb.port(engine, "web", "53/tcp")
    with pytest.raises(NoSuchContainerError):
        port_verb.port(engine, "none")
    for bad in ("x", "0", "80/icmp", "80/"):
        with pytest.raises(UsageError):
            port_verb.port(engine, "web", bad)
    with pytest.raises(UsageError, match="--all"):
        port_verb.port(engine, "web", all=True)
