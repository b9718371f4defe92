"""The command line's half of a launch, shared by run and start: which streams, which message, attaching."""

from __future__ import annotations

import os

from rl.engine import cgroups, events
from rl.errors import UsageError
from rl.runtime import userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from rl.config.model import ContainerConfig
    from rl.engine.context import Engine
    from rl.engine.trace import Trace


class Streams:
    """Which of the container's streams the command line is attached to."""

    __slots__ = ("detach_keys", "sig_proxy", "stderr", "stdin", "stdout")

    def __init__(self, stdin: bool, stdout: bool, stderr: bool, detach_keys: str, sig_proxy: bool = True) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.detach_keys = detach_keys
        self.sig_proxy = sig_proxy

    @property
    def any(self) -> bool:
        """Whether the command line stays."""
        return self.stdin or self.stdout or self.stderr

    @classmethod
    def of_run(cls, config: ContainerConfig, options: dict[str, Any]) -> Streams:
        """-d, -a, -i and -t of `rl run`."""
        named = [name.lower() for name in options.get("attach", [])]
        for name in named:
            if name not in ("stdin", "stdout", "stderr"):
                raise UsageError(f"--attach: {name!r} is not a stream", "use stdin, stdout or stderr")
        keys, proxy = config["detach_keys"], bool(options.get("sig_proxy", True))
        if options.get("detach"):
            return cls(False, False, False, keys)
        if named:
            return cls("stdin" in named and config["stdin_open"], "stdout" in named, "stderr" in named, keys, proxy)
        return cls(config["stdin_open"], True, True, keys, proxy)


class Progress:
    """Takes what the monitor reports while it launches: steps for the trace, notes, warnings for the end."""

    __slots__ = ("engine", "monitor", "trace", "warnings")

    def __init__(self, engine: Engine, monitor: int, trace: Trace | None = None) -> None:
        self.engine = engine
        self.monitor = monitor
        self.trace = trace
        self.warnings: list[str] = []

    def __call__(self, report: dict[str, Any]) -> None:
        if "warning" in report:
            self.warnings.append(report["warning"])
        elif "note" in report:
            self.engine.warn(report["note"])
        elif report.get("ids") == "single":
            self._tell_single()
        elif "step" in report and self.trace is not None:
            self.trace.add(report["step"], report["start"], report["end"], self.monitor)

    def _tell_single(self) -> None:
        """Which rung of the ladder this is, and what is missing for a better one; once a boot."""
        stamp = f"{self.engine.paths.run}/told-single-id"
        try:
            os.close(os.open(stamp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except OSError:
            return
        why = userns.wanted_maps().why or "newuidmap or newgidmap failed"
        self.warnings.append(f"containers have a single user id here: {why}")

    def done(self) -> None:
        """It runs: say what the user should know."""
        for warning in self.warnings:
            self.engine.warn(warning)


def launch_message(engine: Engine, streams: Streams) -> dict[str, Any]:
    """What the forked monitor is told; everything else it reads from the container's record."""
    return {
        "attach": streams.any,
        "streams": {"stdin": streams.stdin, "stdout": streams.stdout, "stderr": streams.stderr},
        "limits": engine.options.get("limits", ""),
        "events": events.log(engine.paths),
        "cgroup_manager": engine.options.get("cgroup_manager") or cgroups.configured(engine.paths.run),
        "uid": os.getuid(),
    }


def checked_keys(text: str) -> str:
    """*text*, of --detach-keys: an error in it is told before anything is made or runs. Raises UsageError."""
    from rl.monitor import terminal

    terminal.parse_detach_keys(text)
    return text


def attach_streams(engine: Engine, config: ContainerConfig, sock: _socket.socket, streams: Streams, pid: int) -> int:
    """Relay between the caller's stdio and the container until it ends; its exit code.

    Detaching by keys leaves the container running and gives 0, as Podman does.
    """
    from rl.monitor import client

    if config["terminal"] and streams.stdin and not os.isatty(0):
        engine.warn("standard input is not a terminal: --tty and --interactive may not work as they should")
    return client.relay(
        sock.detach(),
        stdin=0 if streams.stdin else -1,
        stdout=1 if streams.stdout else -1,
        stderr=2 if streams.stderr else -1,
        tty=config["terminal"],
        detach_keys=streams.detach_keys,
        sig_proxy=streams.sig_proxy,
        pid=pid,
    )
