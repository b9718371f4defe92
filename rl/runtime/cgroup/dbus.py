"""The little of D-Bus that talking to systemd takes: marshalling, one connection, calls, the signals that answer.

Called by :mod:`rl.runtime.cgroup.systemd` on the way of `rl run`. That is why it is written here: importing jeepney,
the library for it, costs 16 ms (typing, enum, re, socket), this less than one. The tests hold both to the same bytes.

Two kinds of peer: systemd's own socket, where every signal is sent unasked and nobody has a name, and a bus, where one
says Hello and asks for signals. Nothing here waits longer than the time given.

Source: D-Bus Specification 0.43, "Type System", "Marshaling", "Message Protocol", "Authentication Protocol".
"""

from __future__ import annotations

import _socket
import select
import struct
import time

from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_FIXED = {
    "y": ("B", 1), "b": ("I", 4), "n": ("h", 2), "q": ("H", 2), "i": ("i", 4), "u": ("I", 4), "x": ("q", 8),
    "t": ("Q", 8), "d": ("d", 8), "h": ("I", 4),
}  # fmt: skip
_ALIGN = {"s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8, **{code: size for code, (_, size) in _FIXED.items()}}
_LARGEST = 1 << 24  # bytes of a message; the specification allows 128 MiB, systemd's answers are small
_DEEPEST = 32
CALL, REPLY, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8


class DBusError(RlError):
    """A call was refused, or the peer does not speak as it should; ``name`` is the error's D-Bus name, if any."""

    name = ""

    def __init__(self, message: str, hint: str = "", name: str = "") -> None:
        super().__init__(message, hint)
        self.name = name


class Message:
    """One message received: its header fields by number, its body's values."""

    __slots__ = ("body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: list[Any]) -> None:
        self.kind = kind
        self.fields = fields
        self.body = body


# --- marshalling -------------------------------------------------------------------------------------


def split(signature: str) -> list[str]:
    """A signature's single complete types."""
    found = []
    start = 0
    while start < len(signature):
        end = _end_of_type(signature, start)
        found.append(signature[start:end])
        start = end
    return found


def _end_of_type(signature: str, start: int) -> int:
    code = signature[start : start + 1]
    if code == "a":
        return _end_of_type(signature, start + 1)
    if code in ("(", "{"):
        closing = ")" if code == "(" else "}"
        end = start + 1
        while signature[end : end + 1] != closing:
            end = _end_of_type(signature, end)
        return end + 1
    if code not in _ALIGN:
        raise DBusError(f"D-Bus signature {signature!r} is not valid")
    return start + 1


def marshal(signature: str, values: Sequence[Any]) -> bytes:
    """*values* as little-endian bytes. A variant is (signature, value), an array a list, a struct a tuple."""
    out = bytearray()
    for one, value in zip(split(signature), values, strict=True):
        _put(out, one, value)
    return bytes(out)


def _pad(out: bytearray, size: int) -> None:
    out += bytes(-len(out) % size)


def _put(out: bytearray, signature: str, value: Any) -> None:
    code = signature[0]
    _pad(out, _ALIGN[code])
    if code in _FIXED:
        out += struct.pack("<" + _FIXED[code][0], value)
    elif code in "so":
        data = value.encode()
        out += struct.pack("<I", len(data)) + data + b"\0"
    elif code == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif code == "v":
        _put(out, "g", value[0])
        _put(out, value[0], value[1])
    elif code == "a":
        _put_array(out, signature[1:], value)
    else:
        for one, item in zip(split(signature[1:-1]), value, strict=True):
            _put(out, one, item)


def _put_array(out: bytearray, item: str, values: Sequence[Any]) -> None:
    at = len(out)
    out += bytes(4)
    _pad(out, _ALIGN[item[0]])  # not counted in the length
    start = len(out)
    for value in values:
        _put(out, item, value)
    struct.pack_into("<I", out, at, len(out) - start)


class _Reader:
    """Unmarshals from *data* in byte order *order* ("<" or ">"). Raises DBusError where it is cut short."""

    __slots__ = ("at", "data", "depth", "order")

    def __init__(self, data: bytes, order: str, at: int = 0) -> None:
        self.data = data
        self.order = order
        self.at = at
        self.depth = 0

    def values(self, signature: str) -> list[Any]:
        return [self.value(one) for one in split(signature)]

    def _take(self, size: int) -> bytes:
        data = self.data[self.at : self.at + size]
        if len(data) != size:
            raise DBusError("D-Bus message is cut short")
        self.at += size
        return data

    def value(self, signature: str) -> Any:
        code = signature[0]
        self.at += -self.at % _ALIGN[code]
        if code in _FIXED:
            letter, size = _FIXED[code]
            number = struct.unpack(self.order + letter, self._take(size))[0]
            return bool(number) if code == "b" else number
        if code in "sog":
            size = self.value("y") if code == "g" else self.value("u")
            return self._take(size + 1)[:-1].decode(errors="replace")
        return self._container(code, signature)

    def _container(self, code: str, signature: str) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise DBusError("D-Bus message is nested too deeply")
        try:
            if code == "v":
                inner = self.value("g")
                if len(split(inner)) != 1:
                    raise DBusError(f"D-Bus variant with signature {inner!r}")
                return self.value(inner)
            if code == "a":
                size = self.value("u")
                self.at += -self.at % _ALIGN[signature[1]]
                end = self.at + size
                if end > len(self.data):
                    raise DBusError("D-Bus message is cut short")
                items = []
                while self.at < end:
                    items.append(self.value(signature[1:]))
                return items
            return tuple(self.value(one) for one in split(signature[1:-1]))
        finally:
            self.depth -= 1


def unmarshal(signature: str, data: bytes, order: str = "<") -> list[Any]:
    """The values of *data*."""
    return _Reader(data, order).values(signature)


def message(
    serial: int, destination: str, path: str, interface: str, member: str, signature: str = "",
    values: Sequence[Any] = (),
) -> bytes:
    """A method call."""
    body = marshal(signature, values)
    fields: list[tuple[int, tuple[str, Any]]] = [
        (_PATH, ("o", path)), (_INTERFACE, ("s", interface)), (_MEMBER, ("s", member)),
        (_DESTINATION, ("s", destination)),
    ]  # fmt: skip
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    out = bytearray(marshal("yyyyuua(yv)", (ord("l"), CALL, 0, 1, len(body), serial, fields)))
    _pad(out, 8)
    return bytes(out) + body


def parse(data: bytes) -> tuple[Message, int] | None:
    """The first message of *data* and its length; None when it is not complete yet. Raises DBusError."""
    if len(data) < 16:
        return None
    order = {ord("l"): "<", ord("B"): ">"}.get(data[0])
    if order is None or data[3] != 1:
        raise DBusError("the peer does not speak D-Bus")
    body_size, _, fields_size = struct.unpack_from(order + "III", data, 4)
    start = 16 + fields_size + -fields_size % 8
    if start + body_size > _LARGEST:
        raise DBusError(f"D-Bus message of {start + body_size} bytes is too large")
    if len(data) < start + body_size:
        return None
    fields = dict(_Reader(data[:start], order, 12).value("a(yv)"))
    body = unmarshal(fields.get(_SIGNATURE, ""), data[start : start + body_size], order)
    return Message(data[1], fields, body), start + body_size


# --- a connection ------------------------------------------------------------------------------------


class Connection:
    """Talks to the peer at one socket. Raises OSError where there is none, DBusError for all that goes wrong later."""

    __slots__ = ("_buffer", "_serial", "deadline", "is_bus", "sock")

    def __init__(self, address: str | bytes, timeout: float, is_bus: bool = False) -> None:
        self._buffer = b""
        self._serial = 0
        self.is_bus = is_bus
        self.deadline = time.monotonic() + timeout
        self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            self.sock.settimeout(timeout)
            self.sock.connect(address)
            self._authenticate()
        except BaseException:
            self.sock.close()
            raise

    def close(self) -> None:
        self.sock.close()

    def _authenticate(self) -> None:
        """EXTERNAL without a name: whom the socket says we are. Our own uid would be 0 in the user namespace.

        The answer is waited for: a call that systemd 252 reads together with the login lies there until the next one.
        """
        self._send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        while self._buffer.count(b"\r\n") < 2:
            self._receive()
        first, second, self._buffer = self._buffer.split(b"\r\n", 2)
        if first != b"DATA" or not second.startswith(b"OK"):
            raise DBusError(f"log in to D-Bus: {second.decode(errors='replace')}")

    def _send(self, data: bytes) -> None:
        try:
            self.sock.sendall(data)
        except OSError as error:
            raise DBusError(f"send to D-Bus: {error.strerror or error}") from None

    def _receive(self) -> None:
        left = self.deadline - time.monotonic()
        poll = select.poll()
        poll.register(self.sock.fileno(), select.POLLIN)
        if left <= 0 or not poll.poll(left * 1000):
            raise DBusError("no answer over D-Bus in time", "does systemd answer at all? systemctl --user status")
        try:
            data = self.sock.recv(65536)
        except OSError as error:
            raise DBusError(f"receive from D-Bus: {error.strerror or error}") from None
        if not data:
            raise DBusError("the D-Bus connection was closed by the other side")
        self._buffer += data

    def next(self) -> Message:
        """The next message, whatever it is."""
        while True:
            found = parse(self._buffer)
            if found is not None:
                self._buffer = self._buffer[found[1] :]
                return found[0]
            self._receive()

    def send(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", values: Sequence[Any] = ()
    ) -> int:
        """Send a call; its serial number, for :meth:`answer`."""
        self._serial += 1
        self._send(message(self._serial, destination, path, interface, member, signature, values))
        return self._serial

    def answer(self, serial: int) -> list[Any]:
        """The values of the reply to call *serial*; what comes before it is passed over. Raises DBusError."""
        while True:
            found = self.next()
            if found.fields.get(_REPLY_SERIAL) != serial:
                continue
            if found.kind == ERROR:
                text = str(found.body[0]) if found.body else found.fields.get(_ERROR_NAME, "")
                raise DBusError(text, name=found.fields.get(_ERROR_NAME, ""))
            return found.body

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", values: Sequence[Any] = ()
    ) -> list[Any]:
        """Send a call and wait for its reply."""
        return self.answer(self.send(destination, path, interface, member, signature, values))

    def signal(self, member: str) -> list[Any]:
        """The values of the next signal *member*."""
        while True:
            found = self.next()
            if found.kind == SIGNAL and found.fields.get(_MEMBER) == member:
                return found.body
