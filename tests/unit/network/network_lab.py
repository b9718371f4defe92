"""A host of its own for network tests: user, mount and network namespaces made by the test itself.

The function under test runs in a forked child that is root there, with one interface (192.0.2.9) and a
default route that lead nowhere, so no test can reach or disturb anything outside; ports are all free.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from rl.errors import RlError
from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.network import namespace, setup
from rl.runtime import userns

HOST_IP = "192.0.2.9"


class Lab:
    """What the function gets: a runtime directory, and ways into a container's network namespace."""

    def __init__(self, run: str) -> None:
        self.run = run

    def network(
        self, mode: str, mappings: list[Any] = (), options: list[str] = (), maps: Any = None
    ) -> tuple[int, dict[str, Any]]:
        """(network namespace fd, what setup reported)."""
        _, net = namespace.create(maps)
        request = {"mode": mode, "options": list(options), "ports": list(mappings)}
        return net, setup.start(request, net, run_dir=self.run).ready()

    def inside(self, net: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of *function* in a child that joined *net*."""
        return _forked(lambda: (ns.setns(net, ns.CLONE_NEWNET), function(*arguments))[1])

    def serve(self, net: int, *servers: tuple[Callable[..., None], str, int]) -> None:
        """Start *servers* (function, address, port) in a child in *net*; they end with the lab."""
        ready_r, ready_w = os.pipe()
        if os.fork() == 0:
            try:
                from rl.kernel import process

                process.prctl(process.PR_SET_PDEATHSIG, 9)
                if net >= 0:
                    ns.setns(net, ns.CLONE_NEWNET)
                events = []
                for function, address, port in servers:
                    event = threading.Event()
                    events.append(event)
                    threading.Thread(target=function, args=(address, port, event), daemon=True).start()
                if all(event.wait(5) for event in events):
                    os.write(ready_w, b"x")
                time.sleep(30)
            finally:
                os._exit(0)
        os.close(ready_w)
        assert os.read(ready_r, 1) == b"x", "the servers did not start"
        os.close(ready_r)


def _forked(function: Callable[[], Any]) -> Any:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                answer = {"result": function()}
            except RlError as error:
                answer = {"error": [type(error).__name__, error.message, error.hint]}
            except pytest.skip.Exception as error:
                answer = {"skip": str(error)}
            except BaseException:
                answer = {"failure": traceback.format_exc()}
            with open(write_end, "w") as pipe:
                json.dump(answer, pipe)
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text) if text else {"failure": "the child died"}
    if "skip" in answer:
        pytest.skip(answer["skip"])
    if "error" in answer:
        raise LabError(*answer["error"])
    if "failure" in answer:
        pytest.fail(answer["failure"], pytrace=False)
    return answer["result"]


class LabError(Exception):
    """An RlError from inside the lab: class name, message, hint."""

    def __init__(self, name: str, message: str, hint: str) -> None:
        super().__init__(f"{name}: {message} ({hint})")
        self.name, self.message, self.hint = name, message, hint


def run(tmp_path: Any, function: Callable[[Lab], Any], *, interface: bool = True, resolver: str = "192.0.2.53") -> Any:
    """The result of ``function(lab)`` in a new lab. *interface* false: a host without any network."""
    needed = shutil.which("ip", path=os.environ["PATH"] + ":/sbin:/usr/sbin")
    if needed is None:
        pytest.skip("ip (package iproute2) is missing")
    directory = tmp_path / "run"
    (directory / "containers").mkdir(parents=True)
    (tmp_path / "resolv.conf").write_text(f"nameserver {resolver}\n")

    def inside() -> Any:
        try:
            userns.enter(str(directory))
        except RlError as error:
            pytest.skip(f"no user namespaces here: {error.message}")
        ns.unshare(ns.CLONE_NEWNET)
        ns.loopback_up()
        m.mount(str(tmp_path / "resolv.conf"), "/etc/resolv.conf", None, m.MS_BIND)
        if interface:
            for line in (
                "link add eth7 type veth peer name eth8", f"addr add {HOST_IP}/24 dev eth7", "link set eth7 up",
                "link set eth8 up", "route add default via 192.0.2.1",
            ):  # fmt: skip
                subprocess.run([needed, *line.split()], check=True)
        return function(Lab(str(directory)))

    return _forked(inside)


def need(*programs: str) -> None:
    """Skip the test where one of *programs* cannot work."""
    for program in programs:
        if not userns.find_program(program):
            pytest.skip(f"{program} is not installed")
    if setup.tun_problem():
        pytest.skip(setup.tun_problem())


# Servers and clients


def _socket(address: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.settimeout(3)
    return sock


def tcp_echo(address: str, port: int, ready: threading.Event) -> None:
    listener = _socket(address, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    listener.settimeout(None)
    ready.set()
    while True:
        connection, peer = listener.accept()
        connection.settimeout(3)
        connection.sendall(connection.recv(100) + f" {port} {peer[0]}".encode())
        connection.close()


def udp_echo(address: str, port: int, ready: threading.Event) -> None:
    sock = _socket(address, socket.SOCK_DGRAM)
    sock.bind((address, port))
    sock.settimeout(None)
    ready.set()
    while True:
        data, peer = sock.recvfrom(2000)
        sock.sendto(data + f" {port}".encode(), peer)


def tcp_ask(address: str, port: int, timeout: float = 3) -> str:
    """The answer to "hi", or the error's class name."""
    try:
        with _socket(address, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect((address, port))
            sock.sendall(b"hi")
            data = b""
            while chunk := sock.recv(100):
                data += chunk
            return data.decode()
    except OSError as error:
        return type(error).__name__


def udp_ask(address: str, port: int) -> str:
    try:
        with _socket(address, socket.SOCK_DGRAM) as sock:
            sock.connect((address, port))
            sock.send(b"hi")
            return sock.recv(100).decode()
    except OSError as error:
        return type(error).__name__
