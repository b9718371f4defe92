"""A process that launches a plain command and hands over to the real monitor, as the engine does with a container."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from rl.config.jsonio import loads, read_json, write_json
from rl.monitor import handover

ID = "c0ffee" + "0" * 58


class Monitored:
    """One monitored command below *base*; ``client`` is the launcher's end of the first client's socket pair."""

    def __init__(
        self,
        base: str,
        command: list[str] | Callable[[], None],
        *,
        container_id: str = ID,
        terminal: bool = False,
        stdin: bool = False,
        attach: bool = False,
        log: dict[str, Any] | None = None,
        linger: float = 1.0,
        name: str = "",
        config: dict[str, Any] | None = None,
        **params: Any,
    ) -> None:
        self.id = container_id
        self.data, self.run = f"{base}/data/containers/{self.id}", f"{base}/run/containers/{self.id}"
        self.trash = f"{base}/data/trash"
        for path in (self.data, self.run, self.trash):
            os.makedirs(path, exist_ok=True)
        self.log = f"{self.data}/ctr.log"
        log = {"driver": "k8s-file", "path": self.log, **(log or {})}
        self.config = {
            "id": self.id, "name": name or f"c{self.id[:6]}", "created": "2026-01-01T00:00:00Z", "log": log,
            "terminal": terminal, "stdin_open": stdin, "stop_signal": 15, "stop_timeout": 10, **(config or {}),
        }  # fmt: skip
        write_json(f"{self.data}/config.json", self.config)
        self.client, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.client.settimeout(30)
        ready_r, ready_w = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                self.client.close()
                handover.LINGER = linger
                self._launch(command, terminal, stdin, theirs if attach else None, log, ready_w, params)
            finally:
                os._exit(99)
        theirs.close()
        os.close(ready_w)
        self.init = int(os.read(ready_r, 20) or b"0")
        os.close(ready_r)
        assert self.init, "the launcher failed"

    def _launch(
        self, command: Any, terminal: bool, stdin: bool, client: Any, log: Any, ready: int, params: Any
    ) -> None:
        from rl.kernel import process

        os.setsid()
        process.prctl(process.PR_SET_CHILD_SUBREAPER, 1)
        lock = os.open(f"{self.run}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        fds = {"master_fd": -1, "stdout_fd": -1, "stderr_fd": -1, "stdin_fd": -1}
        if terminal:
            fds["master_fd"], slave = os.openpty()
            theirs = (slave, slave, slave)
        else:
            fds["stdout_fd"], out = os.pipe()
            fds["stderr_fd"], err = os.pipe()
            source, fds["stdin_fd"] = os.pipe() if stdin else (os.open("/dev/null", os.O_RDONLY), -1)
            theirs = (source, out, err)
        init = os.fork()
        if not init:
            try:
                os.setsid()
                process.prctl(process.PR_SET_PDEATHSIG, 9)
                signal.alarm(60)  # a test that fails leaves nothing behind for long
                for target, fd in enumerate(theirs):
                    os.dup2(fd, target)
                process.close_range(3)
                if terminal:
                    fcntl.ioctl(0, 0x540E, 0)  # TIOCSCTTY
                if callable(command):
                    command()
                    os._exit(0)
                os.execvp(command[0], command)
            finally:
                os._exit(127)
        for fd in set(theirs):
            os.close(fd)
        listener = handover.listen(self.run)
        state = {
            "status": "running", "pid": init, "pid_start": process.start_time(init), "boot_id": process.boot_id(),
            "exit_code": 0,
        }  # fmt: skip
        write_json(f"{self.data}/state.json", state)
        os.write(ready, str(init).encode())
        os.close(ready)
        handover.become_monitor(
            {
                "id": self.id,
                "container_dir": self.data,
                "run_dir": self.run,
                "trash_dir": self.trash,
                "lock_fd": lock,
                "pid": init,
                "pidfd": os.pidfd_open(init),
                "terminal": terminal,
                "stdin_open": stdin,
                "listen_fd": listener,
                "client_fd": client.detach() if client else -1,
                "client": {"stdin": stdin, "stdout": True, "stderr": True},
                "log": log,
                "cgroup": "",
                "remove": False,
                "state": state,
                **fds,
                **params,
            }
        )

    def attach(self, *, stdin: bool = False, output: bool = True) -> socket.socket:
        """A further client."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(30)
        directory = os.open(self.run, os.O_PATH)
        sock.connect(f"/proc/self/fd/{directory}/attach")
        os.close(directory)
        word = {True: "true", False: "false"}
        hello = f'{{"stdin": {word[stdin]}, "stdout": {word[output]}, "stderr": {word[output]}}}'
        sock.send(b"\5" + hello.encode())
        return sock

    def wait(self, timeout: float = 20) -> dict[str, Any]:
        """Until the monitor has ended; the container's last state ({} when it is gone)."""
        pidfd = os.pidfd_open(self.pid)
        assert select.select([pidfd], [], [], timeout)[0], "the monitor does not end"
        os.close(pidfd)
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code >= 0, f"the monitor was killed: {code}"
        try:
            state = dict(read_json(f"{self.data}/state.json"))
        except FileNotFoundError:
            return {}
        assert state["status"] == "exited" and code == state["exit_code"] & 0xFF, f"the monitor failed: {code}, {state}"
        return state

    def log_text(self) -> bytes:
        with open(self.log, "rb") as file:
            return file.read()

    def log_records(self) -> list[tuple[str, str, bytes]]:
        """(stream, tag, text) of a k8s-file log, oldest first, rotated files too."""
        found = []
        for path in [*(f"{self.log}.{n}" for n in range(50, 0, -1)), self.log]:
            if os.path.exists(path):
                with open(path, "rb") as file:
                    for line in file.read().splitlines():
                        _, stream, tag, text = line.split(b" ", 3)
                        found.append((stream.decode(), tag.decode(), text))
        return found

    def logged(self, stream: str = "stdout") -> bytes:
        """What a reader of the log puts together."""
        return b"".join(
            text + (b"\n" if tag == "F" else b"") for name, tag, text in self.log_records() if name == stream
        )


def receive(sock: socket.socket) -> tuple[dict[int, bytes], dict[str, Any] | None]:
    """Everything until the monitor closes: bytes by stream, and the exit packet."""
    streams: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    info = None
    while True:
        try:
            packet = sock.recv(1 << 17)
        except ConnectionResetError:
            continue
        if not packet:
            return {kind: bytes(data) for kind, data in streams.items()}, info
        if packet[0] == 4:
            info = loads(packet[1:].decode())
        else:
            streams[packet[0]] += packet[1:]


def read_until(sock: socket.socket, text: bytes, timeout: float = 10) -> bytes:
    """Output of either stream up to *text*."""
    seen = b""
    sock.settimeout(timeout)
    while text not in seen:
        packet = sock.recv(1 << 17)
        assert packet, f"closed after {seen!r}"
        seen += packet[1:]
    return seen


def resize(sock: socket.socket, rows: int, columns: int) -> None:
    sock.send(b"\3" + struct.pack("=HH", rows, columns))


def eventually(check: Callable[[], bool], timeout: float = 30) -> None:
    """Wait until *check* holds."""
    deadline = time.monotonic() + timeout
    while not check():
        assert time.monotonic() < deadline, "never became true"
        time.sleep(0.01)
