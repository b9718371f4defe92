"""slirp4netns: a TCP/IP stack in user space behind a tap device; ports by its API socket.

Slower than pasta and without the clients' addresses (they appear as 10.0.2.2), but it runs where
pasta is missing and on hosts without any network.

Called by setup.py. Source: slirp4netns(1).
"""

from __future__ import annotations

import os
import time

from rl.config.jsonio import dumps, loads
from rl.errors import RlError, UnsupportedError
from rl.network import flag, host, udp
from rl.network.helper import Helper, Pending
from rl.network.namespace import Pinned, pin_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence
    from typing import Any

    from rl.config.model import PortMapping

TIMEOUT_MS = 15_000
_OPTIONAL = ("--enable-sandbox", "--enable-seccomp", "--disable-host-loopback")


def plan(options: Sequence[str], can: frozenset[str]) -> tuple[list[str], dict[str, Any]]:
    """(arguments, what the container's network will look like). Raises UsageError."""
    chosen = flag.slirp4netns_options(list(options))
    cidr = str(chosen.get("cidr", "10.0.2.0/24"))
    first, prefix = flag.network(cidr)
    arguments = ["--configure", f"--mtu={chosen.get('mtu', 65520)}", f"--cidr={cidr}"]
    loopback = bool(chosen.get("allow_host_loopback", False))
    unwanted = "--disable-host-loopback" if loopback else ""
    arguments += [option for option in _OPTIONAL if option in can and option != unwanted]
    if chosen.get("enable_ipv6"):
        arguments.append("--enable-ipv6")
    for name in ("outbound_addr", "outbound_addr6"):
        option = "--" + name.replace("_", "-")
        if name in chosen and option not in can:
            raise UnsupportedError(f"slirp4netns option {name}: this slirp4netns lacks it", "install a newer one")
        if name in chosen:
            arguments.append(f"{option}={chosen[name]}")
    gateway = flag.dotted(first + 2)
    own = host.ipv4()
    network: dict[str, Any] = {
        "ip": flag.dotted(first + 100), "prefix": prefix, "gateway": gateway, "interface": "tap0",
        "dns": [flag.dotted(first + 3)],
        # The host's own address leads out of the stack and into the host; its loopback only where allowed.
        "host_containers_internal": gateway if loopback else own.ip if own else "",
    }  # fmt: skip
    return arguments, network


def start(
    executable: str, arguments: Sequence[str], network: dict[str, Any], mappings: Sequence[PortMapping],
    net_fd: int, run_dir: str,
) -> Pending:  # fmt: skip
    """Start slirp4netns on the namespace *net_fd* holds. ``ready()`` adds the ports, and raises RlError."""
    pinned = Pinned(net_fd, pin_path(run_dir))
    path = f"{run_dir}/slirp.{os.getpid()}"
    _unlink(path)
    api = path
    if not path.startswith("/run/") or len(path) > 107:
        # In its sandbox slirp4netns sees only /run and /etc of the host, and only there can it make its
        # socket; a long path must be given relative to its working directory, which the sandbox changes too.
        arguments = [argument for argument in arguments if argument != "--enable-sandbox"]
        api = os.path.basename(path)
    argv = [executable, *arguments, f"--api-socket={api}", "--netns-type=path", pinned.path, "tap0"]
    datagrams = [mapping for mapping in mappings if mapping["protocol"] == "udp"]
    mappings = [mapping for mapping in mappings if mapping["protocol"] != "udp"]
    relay = None
    try:
        program = Helper(argv, run_dir, _ready_fd)
        relay = udp.start(udp.everywhere(datagrams), net_fd)
    except BaseException:
        pinned.release()
        raise

    def finish() -> dict[str, Any]:
        try:
            if not program.wait(TIMEOUT_MS):
                complaints = program.complaints() or f"no answer within {TIMEOUT_MS // 1000} s"
                raise UnsupportedError(f"slirp4netns: {complaints}", "use --network=none or --network=host")
            helpers = [program.pid, *udp.wait(relay)]
            _publish(path, mappings, network["ip"])
        except BaseException:
            cancel()
            raise
        pinned.release()
        _unlink(path)
        program.release()
        return {**network, "mode": "slirp4netns", "pids": helpers, "warnings": []}

    def cancel() -> None:
        program.kill()
        if relay is not None:
            relay.kill()
        pinned.release()
        _unlink(path)

    return Pending(finish=finish, cancel=cancel, expected={**network, "mode": "slirp4netns"})


def _ready_fd() -> list[str]:
    """In the child: what is our stdout pipe becomes the ready fd; its chatter on stdout goes to stderr.

    It may chatter later too, when nobody reads any more: that must not end it.
    """
    import _signal

    _signal.signal(_signal.SIGPIPE, _signal.SIG_IGN)
    ready = os.dup(1)
    os.set_inheritable(ready, True)
    os.dup2(2, 1)
    return [f"--ready-fd={ready}"]


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _publish(path: str, mappings: Sequence[PortMapping], guest: str) -> None:
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        address = f"/proc/self/fd/{directory}/{os.path.basename(path)}"
        for mapping in mappings:
            for offset in range(mapping["range"]):
                arguments = {
                    "proto": mapping["protocol"], "host_addr": mapping["host_ip"] or "0.0.0.0",
                    "host_port": mapping["host_port"] + offset, "guest_addr": guest,
                    "guest_port": mapping["container_port"] + offset,
                }  # fmt: skip
                answer = _ask(address, {"execute": "add_hostfwd", "arguments": arguments})
                if "error" in answer:
                    where = f"{arguments['host_addr']}:{arguments['host_port']}/{arguments['proto']}"
                    reason = answer["error"].get("desc", "refused")
                    hint = "publish another host port, or use --network=pasta"
                    raise RlError(f"publish port {where}: slirp4netns: {reason}", hint)
    finally:
        os.close(directory)


def _connect(sock: _socket.socket, address: str) -> None:
    """Connect, waiting for the socket to appear: slirp4netns makes it shortly after it said that it is ready."""
    deadline = time.monotonic() + 5
    while True:
        try:
            sock.connect(address)
            return
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def _ask(address: str, request: dict[str, Any]) -> dict[str, Any]:
    """One request of slirp4netns's API: JSON, one connection each."""
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(5)
        _connect(sock, address)
        sock.sendall(dumps(request).encode())
        sock.shutdown(_socket.SHUT_WR)
        data = b""
        while chunk := sock.recv(4096):
            data += chunk
        answer = loads(data.decode())
    except (OSError, ValueError) as error:
        raise RlError(f"talk to slirp4netns: {error}") from None
    finally:
        sock.close()
    return answer if isinstance(answer, dict) else {}
