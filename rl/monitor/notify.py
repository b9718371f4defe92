"""sd_notify(3) between a container, its monitor and the service manager (``--sdnotify``).

Imported only where NOTIFY_SOCKET is set. Modes, as params["notify"]["mode"]:

- ``container``: the container has a socket of its own (made by the launch, rl.runtime.activation); what it says there
  is passed on, as far as :data:`PASSED` allows: a container must not name another main process, or have the
  manager keep descriptors. With READY=1 the main process is named: this monitor.
- ``conmon``: the monitor itself says READY=1, when the command runs.
- ``healthy``: the monitor says READY=1 at the first :func:`healthy`.

Source: sd_notify(3), systemd.service(5), podman-run(1).
"""

from __future__ import annotations

import _socket
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rl.monitor.loop import Monitor

MODES = ("container", "conmon", "healthy", "ignore")
#: What a container may say; of the variables of systemd's protocol those that are about itself alone.
PASSED = (
    b"READY=1", b"RELOADING=1", b"STOPPING=1", b"STATUS=", b"ERRNO=", b"BUSERROR=", b"EXIT_STATUS=", b"WATCHDOG=",
    b"WATCHDOG_USEC=", b"EXTEND_TIMEOUT_USEC=", b"MONOTONIC_USEC=",
)  # fmt: skip
_LARGEST = 4096  # bytes of a message; systemd takes no more
_MESSAGES = 100  # in one go: who sends without end must not keep the log waiting


def send(address: str, message: bytes) -> None:
    """Tell the service manager at *address* (NOTIFY_SOCKET); that it is gone or refuses us changes nothing."""
    name: str | bytes = b"\0" + address[1:].encode("utf-8", "surrogateescape") if address.startswith("@") else address
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        sock.sendto(message, _socket.MSG_DONTWAIT, name)
    except OSError:
        pass
    finally:
        sock.close()


def ready(monitor: Monitor) -> None:
    """Say READY=1, and that this monitor is the main process."""
    send(monitor.params["notify"]["address"], b"READY=1\nMAINPID=%d" % posix.getpid())


def started(monitor: Monitor) -> None:
    """The command runs, in this process for the first time."""
    if monitor.params["notify"]["mode"] == "conmon":
        ready(monitor)


def healthy(monitor: Monitor) -> None:
    """A health check has found the container healthy. To be called each time; the first one counts."""
    notify = monitor.params.get("notify")
    if notify and notify["mode"] == "healthy":
        notify["mode"] = "ignore"
        ready(monitor)


def relay(monitor: Monitor, fd: int) -> None:
    """Pass on what the container has said on its socket *fd*."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM, 0, fd)
    try:
        for _ in range(_MESSAGES):
            try:
                message = sock.recv(_LARGEST, _socket.MSG_DONTWAIT)
            except OSError:
                break
            lines = allowed(message)
            if b"READY=1" in lines:
                lines.append(b"MAINPID=%d" % posix.getpid())
            if lines:
                send(monitor.params["notify"]["address"], b"\n".join(lines))
    finally:
        sock.detach()


def allowed(message: bytes) -> list[bytes]:
    """The lines of *message* that are passed on."""
    return [
        line for line in message.split(b"\n")
        if any(line.startswith(word) if word[-1:] == b"=" else line == word for word in PASSED)
    ]  # fmt: skip
