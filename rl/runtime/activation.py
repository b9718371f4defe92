"""What systemd gives to a service, passed on into the container: sockets (LISTEN_FDS) and readiness (NOTIFY_SOCKET).

For a runtime that is started by a unit itself or by an engine in one. The runtime's program calls :func:`adapt` on
the specification before it creates, and :class:`Notify`, made by whoever starts the container, carries its messages to
the service manager. Imported only where one of these variables is set.
The container gets a socket of its own, bind mounted at ``/run/notify``: the manager's is not reachable from in there,
and a message of another process would not be believed.
Source: sd_listen_fds(3), sd_notify(3).
"""

from __future__ import annotations

import _socket
import os
import select
import time

from rl.errors import RlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

FIRST = 3  # SD_LISTEN_FDS_START
DIRECTORY = "/run/notify"
NAME = "notify.sock"
_LARGEST = 4096  # bytes of a message; systemd takes no more
_MESSAGES = 1000  # in one go


def listen_fds(environ: Mapping[str, str]) -> int:
    """How many sockets the service manager gave us; 0 when they are for another process, or for none.

    Raises RlError for descriptors that are announced and not there.
    """
    text = environ.get("LISTEN_FDS", "")
    if not text or environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        return 0
    if not (text.isascii() and text.isdigit()) or int(text) > 1 << 16:
        raise RlError(f"LISTEN_FDS={text} is not a number of descriptors", "unset it")
    for fd in range(FIRST, FIRST + int(text)):
        try:
            os.fstat(fd)
        except OSError as error:
            raise RlError(f"LISTEN_FDS={text}: descriptor {fd}: {error.strerror}", "unset it") from None
    return int(text)


def adapt(spec: dict[str, Any], environ: Mapping[str, str], directory: str = "") -> list[int]:
    """Change *spec* (config.json) so that the container gets what *environ* offers us; the descriptors to preserve.

    *directory* is the container's state directory, which exists: the place for the readiness socket is made below it.
    Without one (exec), readiness is left out. The descriptors come before those of ``--preserve-fds``.
    """
    process = spec.get("process") or {}
    count = listen_fds(environ)
    if count:
        # 1: the container's first process. As other runtimes, also where the pid namespace is not new.
        given = {"LISTEN_FDS": str(count), "LISTEN_PID": "1", "LISTEN_FDNAMES": environ.get("LISTEN_FDNAMES", "")}
        _set_environment(process, {name: value for name, value in given.items() if value})
    if environ.get("NOTIFY_SOCKET") and directory:
        source = f"{directory}/notify"
        os.makedirs(source, 0o755, exist_ok=True)
        options = ["bind", "ro", "nosuid", "noexec", "nodev"]  # a socket can be spoken to all the same
        mount = {"destination": DIRECTORY, "type": "bind", "source": source, "options": options}
        spec["mounts"] = [*(spec.get("mounts") or []), mount]
        _set_environment(process, {"NOTIFY_SOCKET": f"{DIRECTORY}/{NAME}"})
    return list(range(FIRST, FIRST + count))


def _set_environment(process: dict[str, Any], values: dict[str, str]) -> None:
    kept = [item for item in process.get("env") or [] if item.partition("=")[0] not in values]
    process["env"] = [*kept, *(f"{name}={value}" for name, value in values.items())]


class Notify:
    """The container's notification socket, and the way from there to the service manager.

    ``fd`` is readable when a message waits. A runtime that leaves after the start calls :meth:`wait_ready`, one that
    stays polls ``fd`` and calls :meth:`relay`. The directory of the socket is what is mounted: it may be made later.
    """

    __slots__ = ("address", "path", "sock")

    def __init__(self, directory: str, address: str) -> None:
        self.address = address
        self.path = f"{directory}/notify/{NAME}"
        self.sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        parent = os.open(f"{directory}/notify", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                os.unlink(NAME, dir_fd=parent)
            except FileNotFoundError:
                pass
            # By the directory's descriptor: a socket's path may have 107 bytes only.
            self.sock.bind(f"/proc/self/fd/{parent}/{NAME}")
            os.chmod(self.path, 0o777)  # whatever user the container's process is
        except OSError as error:
            self.sock.close()
            raise RlError(f"make the socket {self.path} for NOTIFY_SOCKET: {error.strerror}") from None
        finally:
            os.close(parent)

    @classmethod
    def of(cls, directory: str, environ: Mapping[str, str]) -> Notify | None:
        """The socket for the container of this state *directory*; None where nobody wants to know, or :func:`adapt`
        has prepared nothing.
        """
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(directory, address) if address and os.path.isdir(f"{directory}/notify") else None

    @property
    def fd(self) -> int:
        """The descriptor to poll."""
        return self.sock.fileno()

    def relay(self, pid: int) -> bool:
        """Pass on the messages that wait; true when one of them said READY=1. *pid* is the container's process.

        Its own number means nothing outside of its namespace: MAINPID is left out and said by us.
        """
        ready = False
        for _ in range(_MESSAGES):
            try:
                message = self.sock.recv(_LARGEST)
            except BlockingIOError:
                break
            lines = [line for line in message.split(b"\n") if line and not line.startswith(b"MAINPID=")]
            if b"READY=1" in lines:
                ready = True
                lines.append(b"MAINPID=%d" % pid)
            if lines:
                self._send(b"\n".join(lines))
        return ready

    def _send(self, message: bytes) -> None:
        address: str | bytes = self.address
        if self.address.startswith("@"):
            address = b"\0" + os.fsencode(self.address[1:])
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            sock.sendto(message, address)
        except OSError:
            pass  # the service manager is gone or refuses us: the container is not to suffer
        finally:
            sock.close()

    def wait_ready(self, pid: int, pidfd: int, seconds: float = 0) -> bool:
        """Relay until the container says READY=1; false when its process (*pidfd*) ends, or after *seconds*, if any."""
        deadline = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(pidfd, select.POLLIN)
        while True:
            left = (deadline - time.monotonic()) * 1000 if seconds else None
            if left is not None and left <= 0:
                return False
            ended = pidfd in [fd for fd, _ in poll.poll(left)]
            if self.relay(pid):
                return True
            if ended:
                return False

    def close(self) -> None:
        """Let go of the socket; its file goes with the state directory."""
        self.sock.close()
