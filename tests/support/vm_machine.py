"""A virtual machine that runs: QEMU without acceleration, and two channels for commands, as root and as the user.

Every wait has an end, and QEMU gets a parent-death signal: nothing is left when the tests are over, however they end.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.vm_image import Base

#: Emulated: slower than KVM by 10 and more, and there everywhere. RL_TEST_VM_ACCEL=kvm where that works.
ACCELERATION = os.environ.get("RL_TEST_VM_ACCEL", "tcg")
_QUIET = "quiet loglevel=4 mitigations=off random.trust_cpu=on console=ttyS0 panic=-1 net.ifnames=0"


class MachineError(AssertionError):
    """The machine did not do what it should; the message ends with its console."""


class Channel:
    """One agent in the machine (tests/vm/guest/agent.py): lines of JSON both ways."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._changed = threading.Condition()
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self.boots: list[str] = []  # boot ids of the agents that said hello
        self.reports: list[dict[str, Any]] = []  # what the guest sent unasked
        self.closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        rest = b""
        try:
            while data := self._socket.recv(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)
        except OSError:
            pass
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            return  # cut off by a reset
        with self._changed:
            if "hello" in message:
                self.boots.append(message["hello"])
            elif "id" in message:
                self._answers[message["id"]] = message
            else:
                self.reports.append(message)
            self._changed.notify_all()

    def wait(self, condition: Any, seconds: float) -> bool:
        """Until *condition()* is true; False when the time is over or the machine is gone."""
        end = time.monotonic() + seconds
        with self._changed:
            while not condition():
                left = end - time.monotonic()
                if left <= 0 or self.closed:
                    return False
                self._changed.wait(min(left, 1.0))
        return True

    def call(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The answer to *request*; None when there is none within *seconds*."""
        with self._changed:
            self._number += 1
            number = self._number
        self._socket.sendall(json.dumps({**request, "id": number}).encode() + b"\n")
        return self._answers.pop(number) if self.wait(lambda: number in self._answers, seconds) else None

    def send(self, message: dict[str, Any]) -> None:
        """A line that is no request; it waits for who opens the port."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def close(self) -> None:
        self._socket.close()


@dataclass
class Done:
    """A command that has ended in the machine."""

    returncode: int
    stdout: str
    stderr: str


class Machine:
    """One machine on one disk, from power on to power off; *init* takes systemd's place."""

    def __init__(self, directory: Path, base: Base, disk: Path, lab: Path, init: str = "", memory: int = 1536, cpus: int = 2) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.console = directory / "console.log"
        words = f"{_QUIET} {f'lab.init={init}' if init else ''}"
        sockets = {name: directory / name for name in ("qmp", "root", "user")}
        command = [
            "qemu-system-x86_64", "-accel", ACCELERATION, "-cpu", "host" if ACCELERATION == "kvm" else "max",
            "-machine", "q35,usb=off", "-m", str(memory), "-smp", str(cpus), "-nodefaults", "-display", "none", "-nic", "none",
            "-kernel", str(base.kernel), "-initrd", str(base.initrd), "-append", words, "-serial", f"file:{self.console}",
            "-drive", f"if=virtio,format=qcow2,file={disk}", "-drive", f"if=virtio,format=raw,readonly=on,file={lab}",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-qmp", f"unix:{sockets['qmp']},server=on,wait=off",
        ]  # fmt: skip
        for name in ("root", "user"):
            command += ["-chardev", f"socket,id={name},path={sockets[name]},server=on,wait=off"]
            command += ["-device", f"virtserialport,chardev={name},name=lab.{name}"]
        self._errors = open(directory / "qemu.log", "wb")
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=self._errors, stderr=self._errors
        )
        try:
            self.root_channel = Channel(self._connect(sockets["root"]))
            self.user_channel = Channel(self._connect(sockets["user"]))
            self._monitor = self._connect(sockets["qmp"])
            self._monitor.settimeout(60)
            self._lines = self._monitor.makefile("rb")
            self._lines.readline()  # its greeting
            self.qmp("qmp_capabilities")
        except BaseException:
            self.kill()
            raise

    def _connect(self, path: Path) -> socket.socket:
        """To a socket that QEMU makes while it starts."""
        end = time.monotonic() + 30
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                connection.connect(str(path))
                return connection
            except OSError as error:  # not there yet; there, and nobody listens yet
                if self._process.poll() is not None or time.monotonic() > end:
                    connection.close()
                    said = (path.parent / "qemu.log").read_text(errors="replace")
                    raise MachineError(f"qemu did not start: {path.name}: {error.strerror}\n{said}") from None
            time.sleep(0.05)

    def qmp(self, command: str) -> None:
        """A command to QEMU itself: system_reset is the reset button, quit pulls the plug."""
        self._monitor.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while line := self._lines.readline():
            answer = json.loads(line)
            if "return" in answer:
                return
            if "error" in answer:
                raise MachineError(f"qemu: {command}: {answer['error']}")

    def wait_boot(self, number: int = 1, seconds: float = 180) -> None:
        """Until both agents have said hello *number* times."""
        for channel in (self.root_channel, self.user_channel):
            channel.wait(lambda channel=channel: len(channel.boots) >= number or self._panicked(), seconds)
            if len(channel.boots) < number:
                raise MachineError(f"the machine has not started within {seconds} s\n{self.tail()}")

    def _panicked(self) -> bool:
        return not self.running or "Kernel panic" in self.tail()

    def tail(self) -> str:
        """The end of what the machine's console shows."""
        text = self.console.read_text(errors="replace") if self.console.exists() else ""
        return f"-- console --\n{text[-3000:]}"

    def user(self, *argv: str, timeout: float = 90, input: str = "", env: Mapping[str, str] | None = None) -> Done:
        """Run a command in the user's login session."""
        return self._run(self.user_channel, argv, timeout, input, env)

    def root(self, *argv: str, timeout: float = 90, input: str = "", env: Mapping[str, str] | None = None) -> Done:
        """Run a command as root."""
        return self._run(self.root_channel, argv, timeout, input, env)

    def _run(self, channel: Channel, argv: tuple[str, ...], timeout: float, input: str, env: Mapping[str, str] | None) -> Done:
        request = {"argv": argv, "timeout": timeout, "input": input, "env": dict(env or {})}
        answer = channel.call(request, timeout + 15)
        if answer is None or answer["code"] == "timeout":
            said = f"{answer['out']}{answer['err']}" if answer else ""
            raise MachineError(f"{' '.join(argv)}: no end within {timeout} s\n{said}\n{self.tail()}")
        return Done(answer["code"], answer["out"], answer["err"])

    def ok(self, *argv: str, root: bool = False, timeout: float = 90, input: str = "") -> str:
        """stdout of a command that must succeed, without the final newline."""
        done = (self.root if root else self.user)(*argv, timeout=timeout, input=input)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout.removesuffix("\n")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Power off at once: what the machine had not written to its disk is lost."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(20)
        for name in ("root_channel", "user_channel", "_monitor"):
            if hasattr(self, name):
                getattr(self, name).close()
        self._errors.close()
