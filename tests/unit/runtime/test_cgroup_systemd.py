"""D-Bus as jeepney speaks it, byte by byte; what peers can do wrong; names of scopes and slices."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jeepney
import pytest
from jeepney.low_level import HeaderFields, MessageFlag, MessageType, Parser

from rl.errors import RlError, UnsupportedError, UsageError
from rl.runtime import cgroup
from rl.runtime.cgroup import dbus, systemd

MANAGER = "org.freedesktop.systemd1.Manager"
ADDRESS = jeepney.DBusAddress("/org/freedesktop/systemd1", bus_name="org.freedesktop.systemd1", interface=MANAGER)

PROPERTIES = [
    ("Description", ("s", "rl container ünïcode")), ("Delegate", ("b", True)), ("TimeoutStopUSec", ("t", 20_000_000)),
    ("PIDs", ("au", [1, 2, 1 << 31])), ("KillSignal", ("i", -23)),
]  # fmt: skip
CASES: list[tuple[str, tuple[Any, ...]]] = [
    ("", ()),
    ("s", ("",)),
    ("ss", ("a", "bc" * 200)),
    ("ssa(sv)a(sa(sv))", ("rl-x.scope", "fail", PROPERTIES, [])),
    ("ssa(sv)a(sa(sv))", ("x", "y", [], [("aux", [("A", ("y", 7))])])),
    ("ssau", ("rl-x.scope", "/container", [42])),
    ("yqut", (1, 2, 3, 4)),
    ("ya{sv}", (9, {"k": ("d", 1.5)})),
    ("vog", (("ax", [1, -1]), "/a/b", "a(ii)")),
    ("a(ya(ys))", ([(1, [(2, "x")]), (3, [])],)),
]


def plain(value: Any) -> Any:
    """jeepney gives variants as (signature, value) and dictionaries; ours are values and pairs."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and value[0] in ("s", "b", "t", "au", "i", "y", "d", "ax"):
        return plain(value[1])
    if isinstance(value, dict):
        return [(key, plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value)(plain(item) for item in value)
    return value


@pytest.mark.parametrize(("signature", "values"), CASES)
def test_calls_are_what_jeepney_reads(signature: str, values: tuple[Any, ...]) -> None:
    ours = [list(v.items()) if isinstance(v, dict) else v for v in values]
    data = dbus.message(7, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", MANAGER, "StartTransientUnit", signature, ours)
    parser = Parser()
    parser.add_data(data)
    message = parser.get_next_message()
    assert message is not None and message.header.message_type is MessageType.method_call and message.header.serial == 7
    fields = message.header.fields
    assert fields[HeaderFields.member] == "StartTransientUnit" and fields[HeaderFields.interface] == MANAGER
    assert fields[HeaderFields.path] == "/org/freedesktop/systemd1" and fields[HeaderFields.destination] == "org.freedesktop.systemd1"
    assert fields.get(HeaderFields.signature, "") == signature
    assert plain(message.body) == plain(values)
    # Body for body the same bytes.
    theirs = jeepney.new_method_call(ADDRESS, "StartTransientUnit", signature or None, values).serialise(serial=7)
    size = struct.unpack_from("<I", data, 4)[0]
    assert size == struct.unpack_from("<I", theirs, 4)[0] and data[len(data) - size :] == theirs[len(theirs) - size :]


@pytest.mark.parametrize(("signature", "values"), CASES)
def test_what_jeepney_writes_is_read(signature: str, values: tuple[Any, ...]) -> None:
    call = jeepney.new_method_call(ADDRESS, "X", signature or None, values)
    reply = jeepney.new_method_return(jeepney.Message(call.header, call.body), signature or None, values)
    reply.header.fields[HeaderFields.reply_serial] = 5
    data = reply.serialise(serial=9)
    found = dbus.parse(data + b"more")
    assert found is not None and found[1] == len(data)
    assert found[0].kind == dbus.REPLY and found[0].fields[5] == 5
    assert plain(tuple(found[0].body)) == plain(values)
    assert all(dbus.parse(data[:size]) is None for size in range(0, len(data), 7))


def test_noise_gives_errors_of_ours_only() -> None:
    """A peer that sends anything at all: DBusError, or more is waited for; never an exception of Python's."""
    good = dbus.message(1, "a.b", "/c", "d.e", "F", *CASES[3])
    dice = random.Random(3)
    outcomes = set()
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        try:
            outcomes.add("complete" if dbus.parse(bytes(data)) else "wait")
        except dbus.DBusError:
            outcomes.add("refused")
    assert outcomes == {"complete", "wait", "refused"}


@pytest.mark.parametrize("signature", ["(", "a", "{s", "z", "(s", "a{sv", "((((", "v)"])
def test_bad_signatures(signature: str) -> None:
    with pytest.raises(dbus.DBusError):
        dbus.split(signature)


def test_too_deep_and_too_large() -> None:
    nested: Any = ("y", 1)
    for _ in range(40):
        nested = ("v", nested)
    with pytest.raises(dbus.DBusError, match="nested"):
        dbus.unmarshal("v", dbus.marshal("v", [nested]))
    with pytest.raises(dbus.DBusError, match="too large"):
        dbus.parse(b"l\1\0\1" + struct.pack("<III", 1 << 30, 1, 0))


# --- peers that are not as they should be ------------------------------------------------------------


class Peer:
    """A server at a socket that logs one client in and then does what *behave* says."""

    def __init__(self, path: Path, behave: Callable[[socket.socket], None], accept: bytes = b"DATA\r\nOK 00\r\n") -> None:
        self.path = str(path)
        self.said = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, args=(behave, accept), daemon=True)
        self._thread.start()

    def _serve(self, behave: Callable[[socket.socket], None], accept: bytes) -> None:
        connection, _ = self._socket.accept()
        with connection:
            while not self.said.endswith(b"BEGIN\r\n"):
                self.said += connection.recv(4096)
            connection.sendall(accept)
            behave(connection)


def call(path: str, timeout: float = 5) -> list[Any]:
    connection = dbus.Connection(path, timeout)
    try:
        return connection.call("a.b", "/c", "d.e", "F")
    finally:
        connection.close()


def test_logging_in_names_nobody(tmp_path: Path) -> None:
    """In the user namespace our uid is 0: the peer must go by the socket's credentials."""
    peer = Peer(tmp_path / "s", lambda connection: None)
    with pytest.raises(dbus.DBusError):  # closed, reset or a broken pipe, as it happens
        call(peer.path)
    assert peer.said == b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"


def test_refused_login(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "s", lambda connection: None, b"DATA\r\nREJECTED EXTERNAL\r\n")
    with pytest.raises(dbus.DBusError, match="REJECTED"):
        call(peer.path)


def test_silence_ends(tmp_path: Path) -> None:
    peer = Peer(tmp_path / "s", lambda connection: time.sleep(5))
    began = time.monotonic()
    with pytest.raises(dbus.DBusError, match="no answer over D-Bus in time"):
        call(peer.path, 0.3)
    assert 0.25 < time.monotonic() - began < 3


def test_errors_have_their_name(tmp_path: Path) -> None:
    def refuse(connection: socket.socket) -> None:
        parser = Parser()
        while not (message := parser.get_next_message()):
            parser.add_data(connection.recv(4096))
        signal = jeepney.new_signal(ADDRESS, "JobRemoved", "uoss", (1, "/job", "unit", "done"))
        error = jeepney.new_error(message, "org.freedesktop.systemd1.UnitExists", "s", ("it is there",))
        error.header.fields[HeaderFields.reply_serial] = message.header.serial
        connection.sendall(signal.serialise(serial=1) + error.serialise(serial=2))

    peer = Peer(tmp_path / "s", refuse)
    with pytest.raises(dbus.DBusError, match="it is there") as caught:
        call(peer.path)
    assert caught.value.name == "org.freedesktop.systemd1.UnitExists"
    assert MessageFlag.no_reply_expected.value == 1  # the flags byte we send is 0: an answer is wanted


def test_a_signal_that_came_before_is_not_mistaken_for_the_reply(tmp_path: Path) -> None:
    def answer(connection: socket.socket) -> None:
        parser = Parser()
        while not (message := parser.get_next_message()):
            parser.add_data(connection.recv(4096))
        signal = jeepney.new_signal(ADDRESS, "UnitNew", "so", ("x", "/x")).serialise(serial=1)
        reply = jeepney.new_method_return(message, "o", ("/job/1",))
        reply.header.fields[HeaderFields.reply_serial] = message.header.serial
        data = signal + reply.serialise(serial=2)
        for at in range(0, len(data), 50):  # in pieces
            connection.sendall(data[at : at + 50])
            time.sleep(0.002)

    assert call(Peer(tmp_path / "s", answer).path) == ["/job/1"]


# --- names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "uid", "expected"),
    [
        ("", 0, ("system.slice", "rl-id.scope")),
        ("", 1000, ("user.slice", "rl-id.scope")),
        ("user.slice:libpod:abc", 1000, ("user.slice", "libpod-abc.scope")),
        ("a-b.slice::name", 0, ("a-b.slice", "name.scope")),
        (":runc:x", 1000, ("user.slice", "runc-x.scope")),
    ],
)
def test_cgroups_path(path: str, uid: int, expected: tuple[str, str]) -> None:
    assert systemd.parse_path(path, "id", uid) == expected


@pytest.mark.parametrize("path", ["/a/b", "a:b", "a.slice:b:", "x:y:z", "a.slice:b:c/d", "a.slice:b/:c", "a.slice:b:c.slice", "/a.slice:b:c"])
def test_cgroups_path_refused(path: str) -> None:
    with pytest.raises(UsageError):
        systemd.parse_path(path, "id", 0)


def test_slices() -> None:
    for good in ("", "-.slice", "a.slice", "a-b.slice"):
        systemd.check_slice(good)
    for bad in ("a", ".slice", "-a.slice", "a-.slice", "a--b.slice", "a/b.slice", "/a.slice"):
        with pytest.raises(UsageError):
            systemd.check_slice(bad)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:path=/run/user/1/bus", "/run/user/1/bus"),
        ("unix:path=/a%20b,guid=12", "/a b"),
        ("tcp:host=x;unix:path=/c", "/c"),
        ("unix:abstract=/tmp/d,guid=1", b"\0/tmp/d"),
    ],
)
def test_bus_addresses(monkeypatch: pytest.MonkeyPatch, address: str, expected: str | bytes) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    assert systemd._bus_address(1000) == expected


def test_nobody_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setattr(systemd, "outer_uid", lambda: 1000)
    assert not systemd.is_there()
    with pytest.raises(RlError, match="No such file") as caught:
        systemd.connect()
    assert "user@1000.service" in caught.value.hint
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        with pytest.raises(UnsupportedError, match="no systemd manages this user"):
            cgroup.manager("systemd", "", "x")
